"""Regular expressions that users write, in the language of RE2, which takes time that is linear in the text.

They are looked at where all others wait, with texts that others have named. Python's own engine may take time that is
exponential in the text, so nobody's expression may reach it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import re2

#: What one expression takes at most when it is compiled, in bytes. A program of about 16,000 steps.
MEMORY_BYTES: Final = 2**20
#: How often a part may be repeated by number (RE2).
MOST_REPEATS: Final = 1_000

#: Steps of a program whose automaton is certain to fit into MEMORY_BYTES.
_SMALL_PROGRAM: Final = 500

#: Texts without any sign, or several with `|` between them: names of nodes. They need no program, however many.
_LITERALS: Final = re.compile(r"(?:[A-Za-z0-9_|-]|\\[ -/:-@\[-`{}~])*")
_ESCAPE: Final = re.compile(r"\\(.)")
#: RE2 takes these for plain text, which nobody who writes them means.
_COUNT: Final = re.compile(r"\{(?:[0-9]+,)?([0-9]{4,})[,}]")
_REASON_LENGTH: Final = 200


class PatternError(ValueError):
    """The text is no expression of RE2. What it says tells why."""


class Pattern:
    """A compiled expression. Raises PatternError.

    Classes such as `\\w` and `\\d` are those of ASCII, as in Java. `.` is any character of Unicode but a line's end.
    """

    __slots__ = ("_compiled", "_literals", "_search")

    def __init__(self, text: str) -> None:
        self._literals: frozenset[str] = frozenset()
        if _LITERALS.fullmatch(text):
            self._literals = frozenset(_ESCAPE.sub(r"\1", one) for one in text.split("|"))
        self._compiled = _compile(text) if not self._literals else None
        self._search = _searching(text, self._compiled) if self._compiled is not None else None

    def matches(self, text: str) -> bool:
        """Does the whole text match?"""
        if self._compiled is None:
            return text in self._literals
        return self._compiled.fullmatch(_encoded(text)) is not None

    def is_found_in(self, text: str) -> bool:
        """Does any part of the text match?"""
        if self._search is None:
            return any(literal in text for literal in self._literals)
        # As `_encoded`, which would be a fifth of the whole: it is asked for each of thousands of names.
        return self._search(text.encode("utf-8", "surrogatepass")) is not None


def _encoded(text: str) -> bytes:
    """Half of a surrogate pair has no UTF-8, but RE2 takes it for a character like any other."""
    return text.encode("utf-8", "surrogatepass")


def _compile(text: str) -> Any:
    """Raises PatternError."""
    for count in _COUNT.findall(text):
        if len(count) > len(str(MOST_REPEATS)) or int(count) > MOST_REPEATS:
            raise PatternError(f"expected at most {MOST_REPEATS} repetitions, got {count[:20]}")
    try:
        return re2.compile(_encoded(text), _options())
    except re2.error as error:
        raise PatternError(_reason(error)) from None


def _searching(text: str, compiled: Any) -> Callable[[bytes], object]:
    """Answers None for bytes in which the expression is not found.

    A set of one expression says so in half the time that `search` takes to make a match. But a set knows only one way
    to look, and finds nothing where that takes more memory than it has.
    """
    if compiled.programsize > _SMALL_PROGRAM:
        search: Callable[[bytes], object] = compiled.search
        return search
    alone = re2.Set.SearchSet(_options())
    alone.Add(_encoded(text))
    alone.Compile()
    found: Callable[[bytes], object] = alone.Match
    return found


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = MEMORY_BYTES
    return options


def _reason(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    hint = ""
    if text.startswith(("invalid perl operator", "invalid escape sequence", "bad repetition operator")):
        hint = " (RE2 has no look-around, back-references or possessive quantifiers)"
    return f"{text[:_REASON_LENGTH]}{hint}"
