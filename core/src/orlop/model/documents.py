"""Stored documents and wire messages: JSON with a version, strict about types, generous about nothing.

Every document carries `v`, see `versions`. A reader that meets a newer version than it knows refuses, naming both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import attrs
import cattrs
import orjson
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.versions import FIRST, VERSIONS

T = TypeVar("T")

#: Of messages, and of documents that are none of a class.
VERSION: Final = 1


class DocumentError(ValueError):
    """A document that cannot be read; the text names what and why."""


class NewerVersion(DocumentError):
    """A document written by a later version than this program knows. It is left as it is."""

    def __init__(self, what: str, found: int, known: int, program: str = "this program") -> None:
        super().__init__(
            f"{what} has version {found}, and {program} knows up to {known}: a newer one has written it. "
            f"Start that one, or go back to a backup from before"
        )


def make_converter() -> cattrs.Converter:
    """A converter for attrs classes: defaults are left out, types are checked strictly."""
    converter = cattrs.Converter(detailed_validation=True, forbid_extra_keys=False)
    _register_strict_scalars(converter)
    converter.register_unstructure_hook(Resources, dict)
    converter.register_structure_hook(Resources, lambda value, _: Resources.of(value))
    converter.register_unstructure_hook(PortSet, str)
    converter.register_structure_hook(PortSet, lambda value, _: PortSet.parse(value))
    converter.register_unstructure_hook_factory(
        attrs.has,
        lambda cls: make_dict_unstructure_fn(cls, converter, _cattrs_omit_if_default=True, **_overrides(cls)),
    )
    converter.register_structure_hook_factory(
        attrs.has, lambda cls: make_dict_structure_fn(cls, converter, **_overrides(cls))
    )
    return converter


def _overrides(cls: type) -> dict[str, Any]:
    """Payload-like `Mapping[str, Any]` fields pass through untouched, for the sake of faithfulness."""
    passed = {}
    for field in attrs.fields(attrs.resolve_types(cls)):
        if field.type == Mapping[str, Any]:
            passed[field.name] = override(unstruct_hook=lambda value: value, struct_hook=_json_object)
    return passed


def _json_object(value: object, _: object = None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return value


def _register_strict_scalars(converter: cattrs.Converter) -> None:
    def strict(kind: type, accepted: tuple[type, ...]) -> None:
        def structure(value: Any, cls: type) -> Any:
            if cls is not kind:  # enums that derive from str or int arrive here through their bases
                return cls(value)
            if type(value) not in accepted:
                raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
            return value

        converter.register_structure_hook(kind, structure)

    strict(int, (int,))
    strict(float, (int, float))
    strict(str, (str,))
    strict(bool, (bool,))


CONVERTER: Final = make_converter()


def to_plain(value: object) -> Any:
    """Plain JSON values of an attrs instance, without a version."""
    return CONVERTER.unstructure(value)


def to_bytes(value: object) -> bytes:
    """The stored form: one JSON object with `v`, the last version of its class."""
    return plain_to_bytes(CONVERTER.unstructure(value), VERSIONS.of(type(value)))


def plain_to_bytes(plain: Mapping[str, Any], version: int) -> bytes:
    """The stored form of what is plain JSON already."""
    return orjson.dumps({"v": version, **plain})


def from_bytes(data: bytes, cls: type[T], what: str) -> T:
    """Reads a stored form of any version so far. `what` names it in errors. Raises DocumentError, NewerVersion."""

    def upgrade(document: dict[str, Any], found: int) -> dict[str, Any]:
        return VERSIONS.upgraded(cls, document, found)

    return from_plain(parse_versioned(data, what, upgrade, VERSIONS.of(cls)), cls, what)


def parse_versioned(
    data: bytes,
    what: str,
    migrate: Callable[[dict[str, Any], int], dict[str, Any]] | None = None,
    version: int = VERSION,
    program: str = "this program",
) -> dict[str, Any]:
    """The JSON object without its `v`, brought to `version`. program: who reads it. Raises DocumentError, NewerVersion.

    migrate: brings an object of an earlier version there.
    """
    found, document = split_version(data, what)
    if found > version:
        raise NewerVersion(what, found, version, program)
    if found == version:
        return document
    if migrate is None or found < FIRST:
        raise DocumentError(f"{what} has version {found}, and nothing migrates it to {version}")
    try:
        return migrate(document, found)
    except DocumentError:
        raise
    except Exception as error:
        raise DocumentError(
            f"{what} cannot be brought from version {found} to {version}: {type(error).__name__}: {error}"
        ) from error


_WRITTEN: Final = re.compile(rb'\{"v":([0-9]{1,9})[,}]')


def version_of(data: bytes, what: str) -> int:
    """The document's version alone: at once for what this program or another version of it has written.

    Raises DocumentError.
    """
    found = _WRITTEN.match(data)
    return int(found[1]) if found is not None else split_version(data, what)[0]


def split_version(data: bytes, what: str) -> tuple[int, dict[str, Any]]:
    """The document's version, and its JSON object without it. Raises DocumentError."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DocumentError(f"{what} is not JSON: {error}") from error
    if not isinstance(document, dict) or type(document.get("v")) is not int:
        raise DocumentError(f"{what} is not a versioned document")
    return document.pop("v"), document


def from_plain(plain: Mapping[str, Any], cls: type[T], what: str) -> T:
    """An attrs instance of plain JSON values. Raises DocumentError."""
    try:
        return CONVERTER.structure(plain, cls)
    except (cattrs.BaseValidationError, ValueError, TypeError, KeyError) as error:
        detail = "; ".join(cattrs.transform_error(error)) if isinstance(error, cattrs.BaseValidationError) else error
        raise DocumentError(f"{what} cannot be read: {detail}") from error
