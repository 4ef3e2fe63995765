"""The `filters` of a list: `{"name": ["x"]}`, or as older clients write it, `{"name": {"x": true}}`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import attrs
import orjson

from orlop.framework import Pattern, PatternError

EXPRESSIONS_REMEMBERED: Final = 100


class BadFilters(ValueError):
    """What a client gave as filters is none; an engine's words."""


@attrs.frozen
class Filters:
    """values: by name; an absent name filters nothing."""

    values: Mapping[str, Sequence[str]]

    @classmethod
    def parse(cls, text: str) -> Filters:
        """Raises BadFilters."""
        if not text:
            return cls({})
        value = _decoded(text)
        if value is None:
            return cls({})
        if not isinstance(value, dict):
            raise BadFilters("invalid filter")
        kinds = {type(listed) for listed in value.values()} - {type(None)}
        if len(kinds) > 1:
            raise BadFilters("invalid filter")  # it is one way of writing them, or the other
        return cls({name: _values(listed) for name, listed in value.items()})

    def without(self, names: Iterable[str], more: Mapping[str, Sequence[str]] | None = None) -> str:
        """As JSON, for an engine; empty when nothing is left. more: values that are added."""
        dropped = set(names)
        rest = {name: list(values) for name, values in self.values.items() if name not in dropped}
        for name, values in (more or {}).items():
            rest[name] = [*rest.get(name, ()), *values]
        return orjson.dumps(rest).decode() if rest else ""

    def chooses(self, node: str, node_id: str) -> bool:
        """Does `node=` let this node's things pass? By its name or id, or an expression found in one of them."""
        wanted = self.values.get("node", ())
        return not wanted or any(found_in(value, name) for value in wanted for name in (node, node_id))


def _decoded(text: str) -> Any:
    """Half a pair of surrogates is no character, and replaced, as engines do it. Raises BadFilters."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        lenient = json.dumps(json.loads(text), ensure_ascii=False)
        return orjson.loads(lenient.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except (ValueError, RecursionError):
        raise BadFilters("invalid filter") from None


def _values(listed: Any) -> tuple[str, ...]:
    """Raises BadFilters."""
    if isinstance(listed, dict) and all(isinstance(counts, bool | None) for counts in listed.values()):
        return tuple(value for value, counts in listed.items() if counts)
    if isinstance(listed, list) and all(isinstance(value, str | None) for value in listed):
        return tuple(value or "" for value in listed)
    if listed is None:
        return ()
    raise BadFilters("invalid filter")


def found_in(expression: str, text: str) -> bool:
    """Is it this text, or an expression that finds something in it?"""
    if expression == text:
        return True
    pattern = _pattern(expression)
    return pattern is not None and pattern.is_found_in(text)


@lru_cache(EXPRESSIONS_REMEMBERED)
def _pattern(expression: str) -> Pattern | None:
    """In Go's language, as engines read it. None for what is no expression: it finds nothing."""
    try:
        return Pattern(expression)
    except PatternError:
        return None
