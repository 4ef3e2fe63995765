"""Query parameters: what to embed, which apps to list.

The grammar of label selectors is Marathon's: `name`, `name==value`, `name!=value`, `name in (a,b)`,
`name notin (a,b)`, joined by commas, all of which must hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from orlop_marathon.errors import illegal
from orlop_marathon.model import App

#: How long a selector may be, in characters.
LONGEST_SELECTOR: Final = 4096

Selector = Callable[[Mapping[str, str]], bool]

_EMBEDDABLE: Final = frozenset({"tasks", "counts", "deployments", "readiness", "lastTaskFailure", "taskStats"})
_IMPLIED: Final[Mapping[str, frozenset[str]]] = {
    "tasks": frozenset({"tasks", "deployments"}),
    "failures": frozenset({"tasks", "lastTaskFailure", "deployments"}),
    "count": frozenset({"counts"}),
}
_PREFIXES: Final = ("group.apps.", "apps.", "app.")

_TOKEN: Final = re.compile(r"\s*(?:(?P<word>(?:[A-Za-z0-9_.\-]|\\.)+)|(?P<sign>==|!=|[(),]))", re.DOTALL)


@attrs.frozen(kw_only=True)
class GroupEmbed:
    """Which members of a group are shown. app: what is embedded in its apps."""

    groups: bool = True
    apps: bool = True
    app: frozenset[str] = frozenset()


def parse_embed(values: Iterable[str]) -> frozenset[str]:
    """What to embed in apps: of `tasks`, `counts`, `deployments`, `readiness`, `lastTaskFailure`, `taskStats`.

    Unknown values count for nothing, as in Marathon.
    """
    found: set[str] = set()
    for value in values:
        for prefix in _PREFIXES:
            if value.startswith(prefix):
                value = value.removeprefix(prefix)
                break
        found.update(_IMPLIED.get(value, {value} & _EMBEDDABLE))
    return frozenset(found)


def parse_group_embed(values: Iterable[str]) -> GroupEmbed:
    """What to show of groups: everything, or only what is named when anything is.

    `group.apps.tasks` and the like say what is embedded in apps, not that apps are shown.
    """
    named = frozenset(values)
    if not named:
        return GroupEmbed()
    return GroupEmbed(
        groups="group.groups" in named,
        apps="group.apps" in named,
        app=parse_embed(value for value in named if value.startswith("group.apps.")),
    )


def app_filter(id: str | None, cmd: str | None, label: str | None) -> Callable[[App], bool]:  # noqa: A002
    """The apps to list: parts of the id and of the command, in any case, and a label selector.

    None and empty texts ask for nothing. Raises MarathonError (422) for a bad selector.
    """
    part_of_id, part_of_cmd = (id or "").casefold(), (cmd or "").casefold()
    selected = parse_selector(label) if label else None

    def chosen(app: App) -> bool:
        if part_of_id not in app.id.casefold():
            return False
        if part_of_cmd and (app.cmd is None or part_of_cmd not in app.cmd.casefold()):
            return False
        return selected is None or selected(app.labels)

    return chosen


def parse_selector(text: str) -> Selector:
    """The test that a label selector describes; `!=` and `notin` want the label to be there. Raises MarathonError."""
    if len(text) > LONGEST_SELECTOR:
        raise illegal(f"Can not parse label selector: it is longer than {LONGEST_SELECTOR} characters")
    try:
        terms = _terms(_Tokens(text))
    except ValueError as error:
        raise illegal(f"Can not parse label selector {text}. Reason: {error}") from None
    return lambda labels: all(term(labels) for term in terms)


class _Tokens:
    """The words and signs of a selector, taken from the left."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        text = text.rstrip()
        position = 0
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise ValueError(f"unexpected character at {position + 1}")
            self._tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
            position = found.end()
        self._tokens.reverse()

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def sign_is_next(self, sign: str) -> bool:
        return self._tokens[-1:] == [("sign", sign)]

    def sign(self, *signs: str) -> str | None:
        """Takes one of these signs if it comes next."""
        if self._tokens and self._tokens[-1][0] == "sign" and self._tokens[-1][1] in signs:
            return self._tokens.pop()[1]
        return None

    def word(self) -> str:
        """Takes the word that must come next."""
        if not self._tokens or self._tokens[-1][0] != "word":
            raise ValueError(f"expected a name, got {self._tokens[-1][1] if self._tokens else 'the end'!r}")
        return re.sub(r"\\(.)", r"\1", self._tokens.pop()[1], flags=re.DOTALL)

    def expect(self, sign: str) -> None:
        if self.sign(sign) is None:
            raise ValueError(f"expected {sign!r}, got {self._tokens[-1][1] if self._tokens else 'the end'!r}")


def _terms(tokens: _Tokens) -> list[Selector]:
    terms = [_term(tokens)] if tokens else []
    while tokens:
        tokens.expect(",")
        terms.append(_term(tokens))
    return terms


def _term(tokens: _Tokens) -> Selector:
    name = tokens.word()
    if sign := tokens.sign("==", "!="):
        value = tokens.word()
        if sign == "==":
            return lambda labels: labels.get(name) == value
        return lambda labels: name in labels and labels[name] != value
    if not tokens or tokens.sign_is_next(","):
        return lambda labels: name in labels
    operator = tokens.word()
    if operator not in ("in", "notin"):
        raise ValueError(f"expected '==', '!=', 'in' or 'notin', got {operator!r}")
    values = _values(tokens)
    if operator == "in":
        return lambda labels: labels.get(name) in values
    return lambda labels: name in labels and labels[name] not in values


def _values(tokens: _Tokens) -> frozenset[str]:
    tokens.expect("(")
    if tokens.sign(")"):
        return frozenset()
    values = {tokens.word()}
    while tokens.sign(","):
        values.add(tokens.word())
    tokens.expect(")")
    return frozenset(values)
