"""Plain tables (TOML's, JSON's) checked against attrs classes: all that is wrong at once, each with its place.

A table's keys are the class's attributes. Types are strict: a text is no number, a whole number may stand for a
number, a list for a tuple. Each attribute's converter and validators run one by one, so that an error is that key's;
what a class checks as a whole (`__attrs_post_init__`) is the table's. Unknown keys are errors. A key of type text
may also be given as `KEY_file`: the name of a file that holds the value, without its last line break; not one that
is called `…_file` itself.
"""

from __future__ import annotations

import collections.abc
import contextlib
import difflib
import enum
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs

from orlop.model.documents import make_converter
from orlop.model.ports import PortSet
from orlop.model.resources import ResourceError, Resources

T = TypeVar("T")
Place = tuple[str | int, ...]

FILE_SUFFIX: Final = "_file"
SECRET_BYTES_MAX: Final = 64 * 1024
_MISSING: Final = object()
_LISTS: Final = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS: Final = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


@attrs.frozen
class Wrong:
    """One thing that is wrong. place: keys and list positions from the outermost table. text: what was expected."""

    place: Place
    text: str


class InvalidValue(ValueError):
    """For validators that find several things wrong inside one value: (place within the value, text) each."""

    def __init__(self, found: Iterable[tuple[Place, str]]) -> None:
        self.found = tuple(found)
        super().__init__("; ".join(text for _, text in self.found))


@attrs.frozen
class Checked:
    """What reading needs to know besides the table.

    text_at: what was written at a place where a text can stand for another type (an environment variable), or None.
    secrets: filled with the places of values that came from a `KEY_file`.
    """

    text_at: Callable[[Place], str | None] = lambda _: None
    secrets: set[Place] = attrs.field(factory=set)


def read_table(
    table: object, cls: type[T], place: Place = (), checked: Checked | None = None
) -> tuple[T | None, list[Wrong]]:
    """An instance of the attrs class, or None and what is wrong."""
    reader = _Reader(checked or Checked())
    value = reader.table(table, cls, place)
    return (None if reader.wrong else value), reader.wrong


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "listen"?` when one is close, else an empty text."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def keys_of(cls: type) -> dict[str, attrs.Attribute[Any]]:
    """The keys of a class's table, with types resolved. Raises NameError for a type that cannot be found."""
    return {field.alias or field.name: field for field in attrs.fields(attrs.resolve_types(cls)) if field.init}


def expected(kind: Any) -> str:
    """A type in words: `a text`, `a list of texts`, `one of "on", "off"`."""
    if kind in _WORDS:
        return _WORDS[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _one_of(arguments)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _one_of([member.value for member in kind])
    if origin in (Union, types.UnionType):
        return " or ".join(expected(arm) for arm in arguments if arm is not type(None))
    if origin in _LISTS or kind in _LISTS:
        return f"a list of {expected(arguments[0]).removeprefix('a ')}s" if arguments else "a list"
    if origin in _MAPPINGS or kind in _MAPPINGS or (isinstance(kind, type) and attrs.has(kind)):
        return "a table"
    return f"a {getattr(kind, '__name__', kind)}"


_WORDS: Final[Mapping[Any, str]] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    Any: "any value",
    PortSet: 'port ranges such as "31000-32000,8080"',
    Resources: 'a table of resources such as { cpus = 1, mem = "32MiB" }',
}


def _one_of(values: Iterable[Any]) -> str:
    return "one of " + ", ".join(f'"{value}"' for value in values)


def shown(value: object) -> str:
    """A value as it would be written, shortened."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, Mapping):
        text = "a table"
    else:
        text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _make_leaf_converter() -> cattrs.Converter:
    converter = make_converter()
    converter.register_structure_hook(Resources, lambda value, _: Resources(**value))
    return converter


class _Reader:
    """One reading: collects what is wrong, returns `_MISSING` for what could not be read."""

    def __init__(self, checked: Checked) -> None:
        self.checked = checked
        self.wrong: list[Wrong] = []
        self._leaves = _make_leaf_converter()

    def table(self, table: object, cls: type, place: Place) -> Any:
        if not isinstance(table, Mapping):
            return self._refuse(place, f"expected a table, got {shown(table)}")
        fields = keys_of(cls)
        before = len(self.wrong)
        values: dict[str, Any] = {}
        for key, raw in self._with_files(table, fields, place).items():
            if key not in fields:
                self._refuse((*place, key), f"unknown key{did_you_mean(key, fields)}")
            else:
                values[key] = self._attribute(raw, fields[key], (*place, key))
        for key, field in fields.items():
            if key not in values and field.default is attrs.NOTHING and not self._said((*place, key)):
                self._refuse((*place, key), f"is required: expected {expected(field.type)}")
        return self._make(cls, fields, values, place) if len(self.wrong) == before else _MISSING

    def _said(self, place: Place) -> bool:
        return any(wrong.place[: len(place)] == place for wrong in self.wrong)

    def _with_files(self, table: Mapping[str, Any], fields: Mapping[str, Any], place: Place) -> dict[str, Any]:
        """The table with each `KEY_file` replaced by KEY and what the file holds."""
        read = dict(table)
        for key in table:
            target = key.removesuffix(FILE_SUFFIX)
            if key in fields or target == key or target not in fields or not _takes_text(fields[target].type):
                continue
            if target.endswith(FILE_SUFFIX):  # the key names a file already
                continue
            name = read.pop(key)
            if target in table:
                self._refuse((*place, key), f"give either {target} or {key}, not both")
                continue
            try:
                read[target] = _read_secret(name)
                self.checked.secrets.add((*place, target))
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                self._refuse((*place, key), f"expected the name of a readable file, got {shown(name)}: {reason}")
        return read

    def _attribute(self, raw: object, field: attrs.Attribute[Any], place: Place) -> Any:
        """The value for the constructor, after a trial of what the constructor will do with it."""
        converter = field.converter
        value = raw if converter is not None else self.value(raw, Any if field.type is None else field.type, place)
        if value is _MISSING or isinstance(converter, attrs.Converter):  # these may want to see the instance
            return value
        try:
            tried = converter(value) if converter is not None else value
            if field.validator is not None:
                # not the real instance: a validator that looks at other keys is left to the constructor
                with contextlib.suppress(AttributeError):
                    field.validator(types.SimpleNamespace(), field, tried)
        except InvalidValue as error:
            for inner, text in error.found:
                self._refuse((*place, *inner), text)
            return _MISSING
        except Exception as error:  # noqa: BLE001  (a plugin's code: any error is a refusal)
            return self._refuse(place, _validator_text(error, field.name))
        return value

    def _make(self, cls: type, fields: Mapping[str, Any], values: Mapping[str, Any], place: Place) -> Any:
        try:
            return cls(**values)
        except Exception as error:  # noqa: BLE001  (a plugin's code: any error is a refusal)
            named = str(error).split("'")[1] if str(error).startswith("'") else ""
            key = next((key for key, field in fields.items() if field.name == named), None)
            return self._refuse((*place, key) if key else place, _validator_text(error, named))

    def value(self, raw: object, kind: Any, place: Place) -> Any:
        """The value as `kind`; a text from the environment stays one where a text is wanted."""
        text = self.checked.text_at(place)
        if text is not None and kind is str and not isinstance(raw, str):
            raw = text
        origin, arguments = get_origin(kind), get_args(kind)
        if kind is Any:
            return raw
        if isinstance(kind, type) and attrs.has(kind):
            return self.table(raw, kind, place)
        if origin in (Union, types.UnionType):
            return self._one_of_several(raw, kind, place)
        if origin in _LISTS:
            return self._list(raw, kind, place)
        if origin in _MAPPINGS:
            return self._mapping(raw, arguments, place)
        if origin is Literal or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
            return self._choice(raw, kind, place)
        return self._leaf(raw, kind, place)

    def _leaf(self, raw: object, kind: Any, place: Place) -> Any:
        try:
            if kind is Path and not isinstance(raw, str):
                raise TypeError
            return self._leaves.structure(raw, kind)
        except ResourceError as error:
            return self._refuse((*place, error.name), error.expected)
        except Exception:  # noqa: BLE001  (cattrs raises many kinds; the expectation says it better)
            return self._refuse(place, f"expected {expected(kind)}, got {shown(raw)}")

    def _choice(self, raw: object, kind: Any, place: Place) -> Any:
        choices = get_args(kind) or [member.value for member in kind]
        if not any(choice == raw and type(choice) is type(raw) for choice in choices):
            hint = did_you_mean(str(raw), map(str, choices))
            return self._refuse(place, f"expected {expected(kind)}, got {shown(raw)}{hint}")
        return raw if get_origin(kind) is Literal else kind(raw)

    def _one_of_several(self, raw: object, kind: Any, place: Place) -> Any:
        arms = [arm for arm in get_args(kind) if arm is not type(None)]
        if len(arms) == 1:
            return self.value(raw, arms[0], place)
        for arm in arms:
            attempt = _Reader(self.checked)
            value = attempt.value(raw, arm, place)
            if not attempt.wrong:
                return value
        return self._refuse(place, f"expected {expected(kind)}, got {shown(raw)}")

    def _list(self, raw: object, kind: Any, place: Place) -> Any:
        if not isinstance(raw, list | tuple):
            return self._refuse(place, f"expected {expected(kind)}, got {shown(raw)}")
        origin, arguments = get_origin(kind), get_args(kind)
        fixed = origin is tuple and Ellipsis not in arguments
        if fixed and len(raw) != len(arguments):
            return self._refuse(place, f"expected a list of {len(arguments)}, got {len(raw)}")
        kinds = arguments if fixed else [arguments[0] if arguments else Any] * len(raw)
        items = [self.value(item, of, (*place, position)) for position, (item, of) in enumerate(zip(raw, kinds))]  # noqa: B905
        made = origin if origin in (list, set, frozenset) else tuple
        return _MISSING if any(item is _MISSING for item in items) else made(items)

    def _mapping(self, raw: object, arguments: tuple[Any, ...], place: Place) -> Any:
        if not isinstance(raw, Mapping):
            return self._refuse(place, f"expected a table, got {shown(raw)}")
        of = arguments[1] if len(arguments) == 2 else Any
        items = {key: self.value(item, of, (*place, key)) for key, item in raw.items()}
        return _MISSING if any(item is _MISSING for item in items.values()) else items

    def _refuse(self, place: Place, text: str) -> Any:
        self.wrong.append(Wrong(place, text))
        return _MISSING


def _takes_text(kind: Any) -> bool:
    return kind is str or (get_origin(kind) in (Union, types.UnionType) and str in get_args(kind))


def _read_secret(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError("expected a text")
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder for {name!r}") from None
    with path.open("rb") as file:
        data = file.read(SECRET_BYTES_MAX + 1)
    if len(data) > SECRET_BYTES_MAX:
        raise ValueError(f"it is larger than {SECRET_BYTES_MAX} bytes")
    return data.decode().removesuffix("\n").removesuffix("\r")


def _validator_text(error: Exception, name: str) -> str:
    """attrs' messages name the attribute first; the place says that already."""
    text = str(error.args[0]) if error.args else ""
    return text.removeprefix(f"'{name}' ") or f"refused with {type(error).__name__}"
