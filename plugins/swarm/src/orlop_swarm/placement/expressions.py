"""The expressions of constraints, affinities and whitelists: `key==value`, `key!=value`, with globs, `/regular
expressions/`, and `~` for those that are wishes only.

A value without slashes is compared as a whole, with `*` for any characters; its other characters mean what they mean in
a regular expression, a `.` any character (classic Swarm).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from operator import eq
from typing import Final

from orlop.framework import Pattern, PatternError

#: The longest expression. Classic Swarm had no limit.
LENGTH_MAX: Final = 4_096
EXPRESSIONS_REMEMBERED: Final = 2_000

_KEY: Final = re.compile(r"[a-z_][a-z0-9\-_.]+", re.ASCII | re.IGNORECASE)
_VALUE: Final = re.compile(r"[=!/]?~?[a-z0-9:\-_\t\n\f\r .*/()?+\[\]\\^$|]+", re.ASCII | re.IGNORECASE)
_LITERAL: Final = re.compile(r"[a-z0-9:\-_/ ]+", re.ASCII | re.IGNORECASE)


class ExpressionError(ValueError):
    """An expression that cannot be read.

    reason: in classic Swarm's words. path: where it stands, such as `Env[2]`; empty where nobody said.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason = reason
        self.path = path


class Expression:
    """One expression. Equal texts give the very same object (see `parse`), so it is compared by identity.

    value: without the `~`. literal: the one text that it is about, None when there may be several. accepts: does the
    value match a text? The operator does not count.
    """

    __slots__ = ("accepts", "equal", "key", "literal", "soft", "value")

    def __init__(self, key: str, equal: bool, value: str, soft: bool) -> None:
        self.key = key
        self.equal = equal
        self.value = value
        self.soft = soft
        self.literal = value if _LITERAL.fullmatch(value) and not _in_slashes(value) else None
        self.accepts: Callable[[str], bool] = partial(eq, value) if self.literal is not None else _matching(value)

    def __str__(self) -> str:
        """As errors show it."""
        return f"{self.key}{'==' if self.equal else '!='}{self.value}"

    @property
    def text(self) -> str:
        """As it was said."""
        return self._said(self.key, self.value)

    def of(self, key: str, value: str) -> Expression:
        """The same said of something else. Raises ExpressionError."""
        return parse(self._said(key, value))

    def _said(self, key: str, value: str) -> str:
        return f"{key}{'==' if self.equal else '!='}{'~' if self.soft else ''}{value}"

    def __repr__(self) -> str:
        return f"Expression({str(self)!r}, soft={self.soft})"

    def matches(self, texts: Iterable[str]) -> bool:
        """`==`: does any of them match? `!=`: does none?"""
        return any(map(self.accepts, texts)) == self.equal


def parse(text: str, path: str = "") -> Expression:
    """Reads an expression. Raises ExpressionError, with `path` for where it stands."""
    try:
        return _parse(text)
    except ExpressionError as error:
        raise ExpressionError(error.reason, path) from None


@lru_cache(EXPRESSIONS_REMEMBERED)
def _parse(text: str) -> Expression:
    if len(text) > LENGTH_MAX:
        raise ExpressionError(f"An expression has at most {LENGTH_MAX} characters")
    # `==` is looked for first, wherever it is.
    operator = next((one for one in ("==", "!=") if one in text), None)
    if operator is None:
        raise ExpressionError("One of operator ==, != is expected")
    key, _, value = text.partition(operator)
    if not _KEY.fullmatch(key):
        raise ExpressionError(f"Key '{key}' is invalid")
    if not _VALUE.fullmatch(value) or not value.lstrip("~"):
        raise ExpressionError(f"Value '{value}' is invalid")
    return Expression(key, operator == "==", value.lstrip("~"), value.startswith("~"))


def _in_slashes(value: str) -> bool:
    return len(value) > 1 and value.startswith("/") and value.endswith("/")


def _matching(value: str) -> Callable[[str], bool]:
    """What is no regular expression never matches."""
    try:
        return Pattern(value[1:-1] if _in_slashes(value) else f"^{value.replace('*', '.*')}$").is_found_in
    except PatternError:
        return lambda _: False
