"""What members of actions are, for attrs: validators that raise a TypeError which names the member.

What is of another type would be written down, and no server could read it again. mypy tells it earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def is_a(kind: type, or_none: bool = False) -> Validator:
    """It is of this type."""
    expected = f"{'None or ' * or_none}{'a text' if kind is str else kind.__name__}"
    return _that(lambda value: isinstance(value, kind) or (or_none and value is None), expected)


def is_whole(or_none: bool = False) -> Validator:
    """It is a whole number, of 64 bits as in documents."""

    def is_right(value: Any) -> bool:
        if value is None:
            return or_none
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63

    return _that(is_right, f"{'None or ' * or_none}a whole number of 64 bits")


def are(kind: type) -> Validator:
    """It is None, or several of this type."""

    def is_right(value: Any) -> bool:
        return value is None or (isinstance(value, tuple | list) and all(isinstance(one, kind) for one in value))

    return _that(is_right, f"None or a tuple of {kind.__name__}")


def are_texts(action: Any, member: attrs.Attribute[Any], value: Any) -> None:
    """It is name → text."""
    if wrong := no_texts(value):
        raise _wrong(action, member, wrong)


def no_texts(value: Any) -> str:
    """Why it is not name → text: what was expected, and what it is. Empty when it is."""
    if not isinstance(value, Mapping):
        return f"expected a mapping of texts, got {value!r}"
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            return f"expected texts, got {name!r}: {text!r}"
    return ""


def _that(is_right: Callable[[Any], bool], expected: str) -> Validator:
    def check(action: Any, member: attrs.Attribute[Any], value: Any) -> None:
        if not is_right(value):
            raise _wrong(action, member, f"expected {expected}, got {value!r}")

    return check


def _wrong(action: Any, member: attrs.Attribute[Any], wrong: str) -> TypeError:
    return TypeError(f"{type(action).__name__}.{member.name}: {wrong}")
