"""The JSON Schema of the configuration file, from the same attrs classes that check it."""

from __future__ import annotations

import collections.abc
import enum
import types
from collections.abc import Mapping
from typing import Any, Final, Literal, Union, get_args, get_origin

import attrs

from orlop.checked_tables import FILE_SUFFIX, expected, keys_of
from orlop.configuration import Tables

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_SCALARS: Final = {str: "string", int: "integer", float: "number", bool: "boolean"}


def json_schema(plugins: Mapping[str, type | None]) -> dict[str, Any]:
    """The schema of `orlop.toml` with the tables of these plugins: name → attrs class, None for one without."""
    tables = {name: _table(field.type) for name, field in keys_of(Tables).items() if name != "plugins"}
    own = {
        name: _table(cls) if cls is not None else {"type": "object", "maxProperties": 0}
        for name, cls in plugins.items()
    }
    tables["plugins"] = {"type": "object", "properties": own}
    return {"$schema": DIALECT, "title": "Orlop", "type": "object", "additionalProperties": False, "properties": tables}


def _table(cls: Any) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required = []
    for key, field in keys_of(cls).items():
        schema = _value(field.type if field.converter is None else Any)
        if "about" in field.metadata:
            schema["description"] = field.metadata["about"]
        if field.default is attrs.NOTHING:
            required.append(key)
        elif not isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
            schema |= _default(field.default)
        properties[key] = schema
        if schema.get("type") == "string" and not key.endswith(FILE_SUFFIX) and f"{key}{FILE_SUFFIX}" not in properties:
            properties[f"{key}{FILE_SUFFIX}"] = {"type": "string", "description": f"The file that holds {key}."}
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    if (cls.__doc__ or "").strip():
        schema["description"] = cls.__doc__.strip().splitlines()[0]
    # a required key may stand in a file of its own
    either = [{"anyOf": [{"required": [key]}, {"required": [key + FILE_SUFFIX]}]} for key in required]
    return schema | ({"allOf": either} if either else {})


def _default(default: object) -> dict[str, Any]:
    if isinstance(default, enum.Enum):
        default = default.value
    if isinstance(default, tuple | frozenset | set):
        default = list(default)
    return {"default": default} if isinstance(default, str | int | float | bool | list) else {}


def _value(kind: Any) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _SCALARS:
        return {"type": _SCALARS[kind]}
    if kind is Any:
        return {}
    if isinstance(kind, type) and attrs.has(kind):
        return _table(kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [member.value for member in kind]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        arms = [_value(arm) for arm in arguments if arm is not type(None)]
        return arms[0] if len(arms) == 1 else {"anyOf": arms}
    if origin in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        return {"type": "object", "additionalProperties": _value(arguments[1])}
    if origin is tuple and Ellipsis not in arguments:
        return {"type": "array", "prefixItems": [_value(one) for one in arguments], "minItems": len(arguments)}
    if origin in (list, tuple, set, frozenset, collections.abc.Sequence):
        return {"type": "array", "items": _value(arguments[0])}
    return {"description": f"Expected: {expected(kind)}."}
