"""Regular expressions in the language of Go's package `regexp`, which classic Swarm used, in linear time.

Users write them, and the kernel's thread looks with them at what other users named. Python's own engine may take time
that is exponential in the text, and reads some of the language otherwise (`(?i)` in the middle, `a*+`, `\\1`). So this
is a Thompson automaton whose steps are remembered: after a few texts, a character costs one look into a dictionary.

Left out, since nothing shows what was matched: captures, laziness. Refused: `\\p`, `\\Q`. Counted repetition, names of
groups and the like need characters that expressions may not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Parentheses within parentheses. Go's own limit is 1,000.
NESTING_MAX: Final = 100
#: A state of the automaton is a set of positions; so many steps are remembered, then all are forgotten.
STEPS_REMEMBERED: Final = 10_000
#: Names of a cluster differ in their last characters: what came before these is looked at once.
TAIL: Final = 2
HEADS_REMEMBERED: Final = 100
HEAD_MAX: Final = 250

_WORD: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_DIGITS: Final = frozenset("0123456789")
_SPACE: Final = frozenset("\t\n\f\r ")
_CLASSES: Final = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROL: Final = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_POSIX: Final = {
    "alnum": _WORD - {"_"}, "alpha": _WORD - {"_"} - _DIGITS, "digit": _DIGITS, "word": _WORD,
    "lower": frozenset("abcdefghijklmnopqrstuvwxyz"), "upper": frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "space": _SPACE | {"\v"}, "blank": frozenset(" \t"), "xdigit": _DIGITS | frozenset("abcdefABCDEF"),
    "punct": frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
}  # fmt: skip

Test = Callable[[str], bool]
#: A position of the program: ("char", test, next), ("split", next, next), ("at", place, next) or ("match",).
_State = tuple


class PatternError(ValueError):
    """The text is no expression of the language."""


class _Moment(dict[str, "_Moment | bool"]):
    """The automaton between two characters: where it may be, and of which kind the last character was. As a dict: the
    next moment by the next character, or whether the text matches when that is decided."""

    __slots__ = ("before", "positions")

    def __init__(self, positions: frozenset[int], before: str) -> None:
        super().__init__()
        self.positions = positions
        self.before = before


class Pattern:
    """A compiled expression. Raises PatternError."""

    def __init__(self, text: str) -> None:
        self._program: list[_State] = [("match",)]
        node = _Parser(text).parse()
        self._start = self._compile(node, 0)
        self._first = frozenset((self._start,))
        #: Where a match may begin later on: nowhere, if it must begin with the text.
        self._again = frozenset() if self._program[self._start][:2] == ("at", "begin") else self._first
        self._moments: dict[tuple[frozenset[int], str], _Moment] = {}
        self._heads: dict[str, _Moment | bool] = {}
        self._steps = 0

    def search(self, text: str) -> bool:
        """Does any part of the text match?"""
        head = text[:-TAIL]
        moment = self._heads.get(head)
        if moment is None:
            moment = self._follow(self._moment(self._first, "begin"), head)
            if len(head) <= HEAD_MAX:
                if len(self._heads) >= HEADS_REMEMBERED:
                    self._heads.clear()
                self._heads[head] = moment
        moment = self._follow(moment, text[-TAIL:])
        if moment is True or moment is False:
            return moment
        end = moment.get("")
        return (self._step(moment, "") if end is None else end) is True

    def _follow(self, moment: _Moment | bool, text: str) -> _Moment | bool:
        """After this much of the text, or what is decided by then."""
        if moment is True or moment is False:
            return moment
        for character in text:
            onward = moment.get(character)
            if onward is None:
                onward = self._step(moment, character)
            if onward is True or onward is False:
                return onward
            moment = onward
        return moment

    def _moment(self, positions: frozenset[int], before: str) -> _Moment:
        found = self._moments.get((positions, before))
        if found is None:
            found = self._moments[positions, before] = _Moment(positions, before)
        return found

    def _step(self, moment: _Moment, character: str) -> _Moment | bool:
        """After one more character, or what is decided then. Empty: the end of the text."""
        if self._steps >= STEPS_REMEMBERED:
            self._steps = 0
            self._moments.clear()
            self._heads.clear()
        positions, matched = self._take_step(moment.positions, moment.before, character)
        undecided = positions and character and not matched
        onward = self._moment(positions, _kind(character)) if undecided else matched
        moment[character] = onward
        self._steps += 1
        return onward

    def _take_step(self, positions: frozenset[int], before: str, character: str) -> tuple[frozenset[int], bool]:
        after = _kind(character) if character else "end"
        reached = set(self._again)
        todo, seen = list(positions), set(positions)
        while todo:
            state = self._program[todo.pop()]
            if state[0] == "match":
                return frozenset(), True
            if state[0] == "char":
                if character and state[1](character):
                    reached.add(state[2])
                continue
            onward = state[1:] if state[0] == "split" else state[2:] if _holds(state[1], before, after) else ()
            for one in onward:
                if one not in seen:
                    seen.add(one)
                    todo.append(one)
        return frozenset(reached), False

    def _add(self, *state: object) -> int:
        self._program.append(state)
        return len(self._program) - 1

    def _compile(self, node: tuple, onward: int) -> int:
        """Where the node begins, which goes on to the position `onward`."""
        match node:
            case ("char", test):
                return self._add("char", test, onward)
            case ("at", place):
                return self._add("at", place, onward)
            case ("all", parts):
                for part in reversed(parts):
                    onward = self._compile(part, onward)
                return onward
            case ("any", parts):
                begins = [self._compile(part, onward) for part in parts]
                return self._add("split", *begins)
            case ("?", inner):
                return self._add("split", self._compile(inner, onward), onward)
            case ("*", inner):
                loop = self._add("split", onward)
                self._program[loop] = ("split", self._compile(inner, loop), onward)
                return loop
        kind, inner = node
        assert kind == "+"
        loop = self._add("split", onward)
        begin = self._compile(inner, loop)
        self._program[loop] = ("split", begin, onward)
        return begin


def _kind(character: str) -> str:
    if character in _WORD:
        return "word"
    return "line" if character == "\n" else "other"


def _holds(place: str, before: str, after: str) -> bool:
    match place:
        case "begin":
            return before == "begin"
        case "end":
            return after == "end"
        case "line begin":
            return before in ("begin", "line")
        case "line end":
            return after in ("end", "line")
    return ((before == "word") != (after == "word")) == (place == "edge")


def _one(character: str, fold: bool) -> Test:
    same = {character, character.lower(), character.upper()} if fold else {character}
    return lambda found: found in same


class _Parser:
    """Recursive descent over the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> tuple:
        node = self._alternatives(frozenset())
        if self._at < len(self._text):
            raise PatternError("unexpected )")
        return node

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _alternatives(self, flags: frozenset[str]) -> tuple:
        branches = []
        branch: list[tuple] = []
        while self._at < len(self._text) and self._next() != ")":
            if self._take("|"):
                branches.append(("all", branch))
                branch = []
            elif self._take("("):
                node, flags = self._group(flags)
                if node is not None:
                    branch.append(self._repeated(node))
            else:
                branch.append(self._repeated(self._atom(flags)))
        branches.append(("all", branch))
        return ("any", branches) if len(branches) > 1 else branches[0]

    def _group(self, flags: frozenset[str]) -> tuple[tuple | None, frozenset[str]]:
        """A group, or flags for the rest of this one."""
        inner = flags
        if self._take("?"):
            inner = self._flags(flags)
            if self._take(")"):
                return None, inner
            if not self._take(":"):
                raise PatternError("invalid or unsupported Perl syntax")
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise PatternError("expression nests too deeply")
        node = self._alternatives(inner)
        self._depth -= 1
        if not self._take(")"):
            raise PatternError("missing closing )")
        return node, flags

    def _flags(self, flags: frozenset[str]) -> frozenset[str]:
        found, off, any_after = set(flags), False, True
        while (flag := self._next()) and flag not in ":)":
            self._at += 1
            if flag == "-" and not off:
                off, any_after = True, False
            elif flag in "imsU":
                found = found - {flag} if off else found | {flag}
                any_after = True
            else:
                raise PatternError("invalid or unsupported Perl syntax")
        if not any_after:
            raise PatternError("missing argument to flag")
        return frozenset(found)

    def _repeated(self, node: tuple) -> tuple:
        repeated = False
        while (sign := self._next()) and sign in "*+?":
            if repeated:
                raise PatternError("invalid nested repetition operator")
            self._at += 1
            self._take("?")  # lazy: the same texts match
            node, repeated = (sign, node), True
        return node

    def _atom(self, flags: frozenset[str]) -> tuple:
        character = self._next()
        self._at += 1
        match character:
            case "*" | "+" | "?":
                raise PatternError("missing argument to repetition operator")
            case "^":
                return ("at", "line begin" if "m" in flags else "begin")
            case "$":
                return ("at", "line end" if "m" in flags else "end")
            case ".":
                return ("char", (lambda _: True) if "s" in flags else (lambda found: found != "\n"))
            case "[":
                return ("char", self._set("i" in flags))
            case "\\":
                return self._escape("i" in flags)
        return ("char", _one(character, "i" in flags))

    def _escape(self, fold: bool) -> tuple:
        character = self._next()
        for sign, place in (("A", "begin"), ("z", "end"), ("b", "edge"), ("B", "no edge")):
            if self._take(sign):
                return ("at", place)
        if character.lower() in _CLASSES:
            self._at += 1
            return ("char", _members(_CLASSES[character.lower()], character.isupper()))
        return ("char", _one(self._escaped_character(), fold))

    def _escaped_character(self) -> str:
        """After a backslash."""
        character = self._next()
        self._at += 1
        if character in _CONTROL:
            return _CONTROL[character]
        if character == "x":
            digits = self._text[self._at : self._at + 2]
            if len(digits) == 2 and all(digit in _POSIX["xdigit"] for digit in digits):
                self._at += 2
                return chr(int(digits, 16))
        elif character and character.isascii() and not character.isalnum():
            return character
        raise PatternError("invalid escape sequence")

    def _set(self, fold: bool) -> Test:
        """After an opening bracket."""
        negated = self._take("^")
        tests: list[Test] = []
        while not self._take("]") or not tests:
            if not tests and self._text[self._at - 1 : self._at] == "]":
                self._at -= 1  # a bracket that comes first is a member
            if not self._next():
                raise PatternError("missing closing ]")
            tests.append(self._member(fold))
        return (
            (lambda found: not any(test(found) for test in tests))
            if negated
            else (lambda found: any(test(found) for test in tests))
        )

    def _member(self, fold: bool) -> Test:
        if self._text.startswith("[:", self._at) and (end := self._text.find(":]", self._at + 2)) >= 0:
            name = self._text[self._at + 2 : end]
            if name.removeprefix("^") not in _POSIX:
                raise PatternError("invalid character class range")
            self._at = end + 2
            return _members(_POSIX[name.removeprefix("^")], name.startswith("^"))
        if self._next() == "\\" and (name := self._text[self._at + 1 : self._at + 2]).lower() in _CLASSES:
            self._at += 2
            return _members(_CLASSES[name.lower()], name.isupper())
        low = self._set_character()
        if self._next() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return _one(low, fold)
        self._at += 1
        high = self._set_character()
        if high < low:
            raise PatternError("invalid character class range")
        if not fold:
            return lambda found: low <= found <= high
        return lambda found: any(low <= one <= high for one in (found, found.lower(), found.upper()))

    def _set_character(self) -> str:
        if self._take("\\"):
            return self._escaped_character()
        character = self._next()
        if not character:
            raise PatternError("missing closing ]")
        self._at += 1
        return character


def _members(members: frozenset[str], negated: bool) -> Test:
    return (lambda found: found not in members) if negated else (lambda found: found in members)
