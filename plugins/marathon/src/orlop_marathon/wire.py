"""JSON from and to clients: strict about types, forgiving about unknown members, exact about where a fault lies.

Reading accepts what play-json accepts (Marathon 1.11): unknown members are ignored, an explicit `null` is an absent
member, literals of enumerations may be in any case, a whole number may be written `2.0`. Every fault is collected
with its path, `/container/portMappings(0)/hostPort`, and play-json's name for it.

Writing follows the rules of Marathon's replies: unset members are left out, empty collections only where the
attribute says so (`OMITTED_WHEN_EMPTY`), and whole floats lose their point.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, get_args, get_origin

import attrs
import cattrs
import orjson
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from orlop_marathon import checks, members, model
from orlop_marathon.errors import MarathonError, Problem, invalid_json, no_json, not_valid, wrong_type

T = TypeVar("T")

#: How deep the free-form parts of a document may be nested.
MOST_LEVELS: Final = 16

PATH_MISSING: Final = "error.path.missing"
EXPECTED_STRING: Final = "error.expected.jsstring"
EXPECTED_NUMBER: Final = "error.expected.jsnumber"
EXPECTED_INTEGER: Final = "error.expected.int"
EXPECTED_BOOLEAN: Final = "error.expected.jsboolean"
EXPECTED_ARRAY: Final = "error.expected.jsarray"
EXPECTED_OBJECT: Final = "error.expected.jsobject"
UNKNOWN_LITERAL: Final = "error.unknown.enum.literal"


class Mistyped(ValueError):
    """A value that is not what was expected; the text is play-json's name for it."""


class Illegal(ValueError):
    """A value of the right type that breaks a rule; the text says which."""


@attrs.frozen
class Faults:
    """What is wrong with one document, collected while it is read.

    types: wrong types. rules: broken rules. They are told apart because Marathon answers them differently.
    """

    types: list[Problem] = attrs.field(factory=list)
    rules: list[Problem] = attrs.field(factory=list)

    def __bool__(self) -> bool:
        return bool(self.types or self.rules)

    def add(self, error: Exception, path: str) -> None:
        """Takes up what the converter raised at `path`."""
        for where, fault in _walk(error, path):
            if isinstance(fault, Illegal):
                self.rules.append(Problem(where, str(fault)))
            elif isinstance(fault, Mistyped):
                self.types.append(Problem(where, str(fault)))
            elif isinstance(fault, KeyError):
                self.types.append(Problem(where, PATH_MISSING))
            else:
                raise fault  # ours to mend

    def error(self) -> MarathonError | None:
        """The answer; None when nothing is wrong."""
        if self.types:
            return wrong_type(self.types)
        return not_valid(self.rules) if self.rules else None

    def raise_any(self) -> None:
        """Raises MarathonError when something is wrong."""
        if error := self.error():
            raise error


def load_json(body: bytes) -> Any:
    """The JSON value of a request's body. Raises MarathonError (400)."""
    text = body.strip(b" \t\r\n")
    if not text:
        raise no_json("No content to map due to end-of-input")
    if text[:1] not in b'{["-0123456789tfn':
        raise no_json(f"Unrecognized token {text[:20].decode(errors='replace')!r}")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid_json(str(error)) from None


def camel_case(name: str) -> str:
    """`ignore_http1xx` → `ignoreHttp1xx`."""
    head, *tail = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in tail)


def read(cls: type[T], document: object) -> T:
    """An instance of an attrs class. Raises MarathonError (422)."""
    faults = Faults()
    value = collect(cls, document, faults)
    faults.raise_any()
    assert value is not None
    return value


def collect(cls: type[T], document: object, faults: Faults, path: str = "") -> T | None:
    """Like `read`, but faults go to `faults`, beneath `path`, and the result is None."""
    try:
        return READER.structure(document, cls)
    except (cattrs.BaseValidationError, Mistyped, Illegal) as error:
        faults.add(error, path)
        return None


def write(value: object) -> Any:
    """The JSON form of a value of the model."""
    return WRITER.unstructure(value)


def whole(number: float) -> int | float:
    """`1.0` → `1`: play-json prints whole doubles without a point."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


# --- reading ---


def _walk(error: Exception, path: str) -> Iterator[tuple[str, Exception]]:
    """Each fault with its JSON path, out of cattrs' tree of exceptions."""
    if not isinstance(error, (cattrs.ClassValidationError, cattrs.IterableValidationError)):
        yield path, error
        return
    for inner in error.exceptions:
        where = path
        for note in getattr(inner, "__notes__", ()):
            if isinstance(note, cattrs.AttributeValidationNote):
                where = f"{path}/{camel_case(note.name)}"
            elif isinstance(note, cattrs.IterableValidationNote):
                where = f"{path}({note.index})" if isinstance(note.index, int) else f"{path}/{note.index}"
        yield from _walk(inner, where)


def _text(value: object, _: object = None) -> str:
    if not isinstance(value, str):
        raise Mistyped(EXPECTED_STRING)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # a lone surrogate: it can be neither stored nor sent
            raise Mistyped(EXPECTED_STRING) from None
    return value


def _boolean(value: object, _: object = None) -> bool:
    if not isinstance(value, bool):
        raise Mistyped(EXPECTED_BOOLEAN)
    return value


def _integer(value: object, _: object = None) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Mistyped(EXPECTED_NUMBER)
    if isinstance(value, float):
        if not value.is_integer():
            raise Mistyped(EXPECTED_INTEGER)
        value = int(value)
    if abs(value) > 2**53:
        raise Mistyped(EXPECTED_INTEGER)
    return value


def _number(value: object, _: object = None) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Mistyped(EXPECTED_NUMBER)
    try:
        number = float(value)
    except OverflowError:
        raise Mistyped("error.max") from None
    if not math.isfinite(number):
        raise Mistyped(EXPECTED_NUMBER)
    return number


def _literals(cls: type[enum.StrEnum]) -> Callable[[object, object], enum.StrEnum]:
    by_text = {member.value.casefold(): member for member in cls}

    def literal(value: object, _: object = None) -> enum.StrEnum:
        found = by_text.get(_text(value).casefold())
        if found is None:
            raise Mistyped(UNKNOWN_LITERAL)
        return found

    return literal


def _constraint(value: object, _: object = None) -> model.Constraint:
    if not isinstance(value, (list, tuple)):
        raise Mistyped(EXPECTED_ARRAY)
    parts = [_text(part) for part in value]
    if not 2 <= len(parts) <= 3:
        raise Illegal("Each constraint must have either 2 or 3 fields")
    return model.Constraint(field=parts[0], operator=parts[1].upper(), value=parts[2] if parts[2:] else None)


def _limits(value: object, _: object = None) -> model.ResourceLimits:
    if not isinstance(value, dict):
        raise Mistyped(EXPECTED_OBJECT)
    limits: dict[str, float] = {}
    for name in ("cpus", "mem"):
        given = value.get(name)
        if given == "unlimited":
            limits[name] = model.UNLIMITED
        elif isinstance(given, str):
            text = f"'{_text(given)}' is an invalid resource limit. It must be 'unlimited' or a number"
            raise Illegal(text)
        elif given is not None:
            limits[name] = _number(given)
            if limits[name] < 0:
                raise Mistyped("error.min")
    return model.ResourceLimits(**limits)


def free_form(value: object, _: object = None, levels: int = MOST_LEVELS) -> Any:
    """A copy of any JSON that can be stored: bounded in depth, its texts and numbers sound."""
    if levels == 0:
        raise Illegal(f"may be nested at most {MOST_LEVELS} levels deep")
    if isinstance(value, dict):
        return {_text(name): free_form(inner, None, levels - 1) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [free_form(inner, None, levels - 1) for inner in value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool) or value is None:
        return value
    return _integer(value) if isinstance(value, int) else _number(value)


def _free_object(value: object, _: object = None) -> Any:
    if not isinstance(value, dict):
        raise Mistyped(EXPECTED_OBJECT)
    return free_form(value)


def environment(value: object, _: object = None) -> dict[str, Any]:
    """`env`: texts, and `{"secret": name}`."""
    if not isinstance(value, dict):
        raise Mistyped(EXPECTED_OBJECT)
    return _each(((_text(name), given) for name, given in value.items() if given is not None), _variable, object)


def _variable(value: object, _: object) -> Any:
    if isinstance(value, dict) and "secret" in value:
        return {"secret": _text(value["secret"])}
    return _text(value)


def _bounded(field: attrs.Attribute[Any], base: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`base`, and the bounds in the attribute's metadata: of the value, or of each item of a list."""
    bounds = field.metadata
    if not bounds.keys() & {members.MINIMUM, members.MAXIMUM, members.MIN_LENGTH, members.MAX_LENGTH, members.PATTERN}:
        return base

    def check(made: Any, _: object = None) -> Any:
        if isinstance(made, (int, float)) and not isinstance(made, bool):
            _check_number(made, bounds)
        elif isinstance(made, str):
            _check_text(made, bounds)
        return made

    def structure(value: Any, cls: Any) -> Any:
        made = base(value, cls)
        if isinstance(made, tuple):
            return tuple(_each(enumerate(made), check, object).values())
        return check(made)

    return structure


def _check_number(made: float, bounds: Mapping[str, Any]) -> None:
    least, most = bounds.get(members.MINIMUM), bounds.get(members.MAXIMUM)
    if least is not None and made < least:
        raise Mistyped("error.min")
    if most is not None and made > most:
        raise Mistyped("error.max")


def _check_text(made: str, bounds: Mapping[str, Any]) -> None:
    if len(made) < bounds.get(members.MIN_LENGTH, 0):
        raise Mistyped("error.minLength")
    longest, pattern = bounds.get(members.MAX_LENGTH), bounds.get(members.PATTERN)
    if longest is not None and len(made) > longest:
        raise Mistyped("error.maxLength")
    if pattern is not None and not pattern.fullmatch(made):
        raise Mistyped("error.pattern")


def _class_reader(converter: cattrs.Converter, cls: type) -> Callable[[Any, Any], Any]:
    """Reads an object: nulls are absent members, members have their camel-case names, bounds are checked."""
    overrides = {}
    for field in attrs.fields(attrs.resolve_types(cls)):
        hook = converter.get_structure_hook(field.type)
        if cls is model.App and field.name == "env":
            hook = environment
        elif field.type == Mapping[str, Any]:
            hook = _free_object
        overrides[field.name] = override(rename=camel_case(field.name), struct_hook=_bounded(field, hook))
    generated: Callable[[Any, Any], Any] = make_dict_structure_fn(cls, converter, **overrides)  # type: ignore[arg-type]

    def structure(value: Any, target: Any) -> Any:
        if not isinstance(value, dict):
            raise Mistyped(EXPECTED_OBJECT)
        return generated({name: member for name, member in value.items() if member is not None}, target)

    return structure


def _items(converter: cattrs.Converter, cls: Any) -> Callable[[Any, Any], Any]:
    """Reads a JSON array into `tuple[X, ...]`."""
    item_type = get_args(cls)[0]
    item = converter.get_structure_hook(item_type)

    def structure(value: Any, _: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise Mistyped(EXPECTED_ARRAY)
        return tuple(_each(enumerate(value), item, item_type).values())

    return structure


def _entries(converter: cattrs.Converter, cls: Any) -> Callable[[Any, Any], Any]:
    """Reads a JSON object into `Mapping[str, X]`."""
    item_type = get_args(cls)[1]
    item = converter.get_structure_hook(item_type)

    def structure(value: Any, _: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Mistyped(EXPECTED_OBJECT)
        given = ((_text(name), member) for name, member in value.items() if member is not None)
        return _each(given, item, item_type)

    return structure


def _each(pairs: Iterable[tuple[Any, Any]], item: Callable[[Any, Any], Any], item_type: Any) -> dict[Any, Any]:
    """The values read, by index or name; all their faults in one exception."""
    found: dict[Any, Any] = {}
    faults: list[Exception] = []
    for index, value in pairs:
        try:
            found[index] = item(value, item_type)
        except (cattrs.BaseValidationError, Mistyped, Illegal) as fault:
            fault.add_note(cattrs.IterableValidationNote(f"at {index!r}", index, item_type))
            faults.append(fault)
    if faults:
        raise cattrs.IterableValidationError("some items are wrong", faults, dict)
    return found


def _has_origin(origin: type) -> Callable[[Any], bool]:
    return lambda cls: get_origin(cls) is origin


def register_literals(cls: type[enum.StrEnum], converter: cattrs.Converter | None = None) -> None:
    """Lets the reader know an enumeration. One by one: a subclass of str is else read by the hook of its base."""
    (converter or READER).register_structure_hook(cls, _literals(cls))


def _make_reader() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(bool, _boolean)
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook_factory(_has_origin(tuple), functools.partial(_items, converter))
    converter.register_structure_hook_factory(_has_origin(Mapping), functools.partial(_entries, converter))
    for cls in (*vars(checks).values(), *vars(model).values()):
        if isinstance(cls, type) and issubclass(cls, enum.StrEnum):
            register_literals(cls, converter)
    converter.register_structure_hook_factory(attrs.has, functools.partial(_class_reader, converter))
    converter.register_structure_hook(model.Constraint, _constraint)
    converter.register_structure_hook(model.ResourceLimits, _limits)
    converter.register_structure_hook(model.UnreachableStrategy, _unreachable(converter))
    converter.register_structure_hook(model.Volume, _volume(converter))
    return converter


def _unreachable(converter: cattrs.Converter) -> Callable[[Any, Any], model.UnreachableStrategy]:
    plain = _class_reader(converter, model.UnreachableStrategy)

    def structure(value: Any, cls: Any) -> model.UnreachableStrategy:
        if isinstance(value, str):
            if value.casefold() != "disabled":
                raise Mistyped(UNKNOWN_LITERAL)
            return model.UnreachableStrategy(disabled=True)
        if isinstance(value, dict):
            # Marathon 1.4 to 1.5 called them unreachableInactiveAfterSeconds and unreachableExpungeAfterSeconds.
            known = {name[:1].lower() + name[1:]: given for name, given in _without_prefix(value, "unreachable")}
            return plain({name: given for name, given in known.items() if name != "disabled"}, cls)
        raise Mistyped(EXPECTED_OBJECT)

    return structure


def _without_prefix(members: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in members.items():
        yield name.removeprefix(prefix), value


def _volume(converter: cattrs.Converter) -> Callable[[Any, Any], model.Volume]:
    plain = _class_reader(converter, model.Volume)

    def structure(value: Any, cls: Any) -> model.Volume:
        volume = plain(value, cls)
        kinds = (volume.host_path, volume.persistent, volume.external, volume.secret)
        if sum(kind is not None for kind in kinds) != 1:
            raise Illegal("expected exactly one of hostPath, persistent, external and secret")
        if volume.secret is None and volume.mode is None:
            return attrs.evolve(volume, mode=model.VolumeMode.READ_WRITE)
        return volume if volume.secret is None else attrs.evolve(volume, mode=None)

    return structure


READER: Final = _make_reader()


# --- writing ---


def _class_writer(converter: cattrs.Converter, cls: type) -> Callable[[Any], dict[str, Any]]:
    overrides = {}
    for field in attrs.fields(attrs.resolve_types(cls)):
        omitted = field.default is None or field.metadata.get(members.OMITTED_WHEN_EMPTY, False)
        hook = (lambda value: value) if field.type == Mapping[str, Any] else None
        overrides[field.name] = override(
            rename=camel_case(field.name), omit_if_default=bool(omitted), unstruct_hook=hook
        )
    return make_dict_unstructure_fn(cls, converter, **overrides)  # type: ignore[arg-type]


def _limit(value: float | None) -> Any:
    return "unlimited" if value == model.UNLIMITED else value


def _make_writer() -> cattrs.Converter:
    converter = cattrs.Converter(unstruct_collection_overrides={tuple: list})
    converter.register_unstructure_hook(float, whole)
    converter.register_unstructure_hook_factory(attrs.has, functools.partial(_class_writer, converter))
    converter.register_unstructure_hook(model.Constraint, model.Constraint.as_list)
    converter.register_unstructure_hook(
        model.ResourceLimits,
        lambda limits: {
            name: _limit(limit) for name in ("cpus", "mem") if (limit := getattr(limits, name)) is not None
        },
    )
    converter.register_unstructure_hook(
        model.UnreachableStrategy,
        lambda strategy: (
            "disabled"
            if strategy.disabled
            else {
                "inactiveAfterSeconds": strategy.inactive_after_seconds,
                "expungeAfterSeconds": strategy.expunge_after_seconds,
            }
        ),
    )
    return converter


WRITER: Final = _make_writer()
