"""From a client's JSON to a `Job`, as leniently as Chronos' clients need, and no further.

`null` is a member that is not there; texts of numbers are numbers, `"true"` is true, numbers and truth values are
texts where texts are expected; unknown members are of no account. What is wrong is told by its path, all at once.
"""

from __future__ import annotations

import enum
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs
import orjson

from orlop import docker_options
from orlop.framework import Pattern, PatternError
from orlop_chronos import instants, schedules
from orlop_chronos.errors import ChronosError, bad_request, not_valid
from orlop_chronos.model import JSON_NAME, Counters, Job, Overlap
from orlop_chronos.periods import Period, PeriodError

#: Chronos 2 takes blanks and `#` too; 3 does not. It took ends of lines as well, which break the lines of its graph.
NAMES_V2: Final = re.compile(r"[\w .#-]+", re.ASCII)
NAMES_V3: Final = re.compile(r"[\w.-]+", re.ASCII)
LONGEST_NAME: Final = 255
LONGEST_TEXT: Final = 256 * 1024
#: What Linux takes as one argument or one variable of a program, in bytes.
LONGEST_WORD_BYTES: Final = 131_071
MOST_ELEMENTS: Final = 10_000
#: Of what a task's spec says in more words than a client does, so that one fits into a store whose job does.
MOST_CONSTRAINTS: Final = 200
#: As many as an agent takes.
MOST_FETCHED: Final = 100
MOST: Final = 2**31 - 1
OPERATORS: Final = frozenset({"EQUALS", "LIKE", "UNLIKE"})
WEEKDAYS: Final = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")

_TIMESTAMPS: Final = frozenset({"last_success", "last_error"})
_AT_LEAST_ONE: Final = frozenset({"retry_backoff"})


@attrs.frozen(kw_only=True)
class Defaults:
    """What fills gaps. epsilon: of Chronos 2's clients only; empty for none. extract: of what is fetched, which Chronos
    2 left as it was. cpus; mem, disk: MiB. retry_delay: s."""

    epsilon: str = ""
    extract: bool = True
    cpus: float = 0.1
    mem: float = 128.0
    disk: float = 256.0
    retry_delay: float = 60.0


@attrs.frozen(kw_only=True)
class Definition:
    """What a client has sent."""

    job: Job
    counters: Counters


def load_json(body: bytes) -> Mapping[str, Any]:
    """The body's object. Raises ChronosError."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"expected JSON: {error}") from error
    if not isinstance(document, dict):
        raise bad_request("expected a JSON object")
    return document


def read_job(document: Mapping[str, Any], now_ms: int, defaults: Defaults) -> Definition:
    """The definition, with every gap filled. now_ms: what an empty start of a schedule means. Raises ChronosError.

    Not looked at: whether the name is one that may be created, and whether the parents exist.
    """
    problems: list[str] = []
    reader = _Reader(problems)
    gaps = {"epsilon": defaults.epsilon, "retryDelay": defaults.retry_delay}
    filled = gaps | {name: value for name, value in document.items() if value is not None}
    for name in ("cpus", "mem", "disk"):
        if filled.get(name) in (None, 0, "", "0"):
            filled[name] = getattr(defaults, name)
    if isinstance(fetched := filled.get("fetch"), list):
        filled["fetch"] = [{"extract": defaults.extract, **one} if isinstance(one, dict) else one for one in fetched]
    if filled.get("scheduleTimeZone") == "null":
        # What Chronos made of a zone that was null, and shows: GMT.
        filled["scheduleTimeZone"] = "GMT"
    if isinstance(container := filled.get("container"), dict) and not container.get("image"):
        del filled["container"]
    job = reader.record(Job, filled, "")
    counters = reader.record(Counters, document, "")
    if job is None or counters is None or problems:
        raise not_valid(problems)
    assert isinstance(job, Job)
    assert isinstance(counters, Counters)
    _check(job, now_ms, problems)
    if problems:
        raise not_valid(problems)
    # A parent that is named twice is one; with parents, a schedule is of no account (Chronos).
    job = attrs.evolve(job, parents=tuple(dict.fromkeys(job.parents)), schedule="" if job.parents else job.schedule)
    if _is_mirrored(job):
        job = attrs.evolve(job, uris=())
    return Definition(job=job, counters=counters)


def check_name(name: str, dialect: re.Pattern[str]) -> None:
    """May a job of this name be created? Raises ChronosError."""
    if len(name) > LONGEST_NAME:
        raise bad_request(f"name: expected at most {LONGEST_NAME} characters, got {len(name)}")
    if name in (".", ".."):
        # No client can name it in a path: to URLs these are folders.
        raise bad_request(f"name: expected more than dots, got {name!r}")
    if not dialect.fullmatch(name) or name != name.strip():
        allowed = "letters, digits, '_', '-' and '.'" + (", blanks and '#'" if dialect is NAMES_V2 else "")
        raise bad_request(f"name: expected {allowed}, got {name!r}")


def period_ms(text: str) -> int | None:
    """The mean length of a period, which the definition's check has seen; None for an empty one. In milliseconds."""
    return Period.parse(text).mean_ms if text else None


def read_instant(text: str) -> int | None:
    """UTC milliseconds of a time as Chronos prints it; None for an empty text. Raises ChronosError."""
    if not text:
        return None
    try:
        wall, offset = instants.parse_wall(text)
    except instants.InstantError as error:
        raise bad_request(str(error)) from error
    return instants.utc_ms(wall, offset or instants.UTC)


# --- the rules ---


def _check(job: Job, now_ms: int, problems: list[str]) -> None:
    for name, rule in _RULES.items():
        try:
            rule(job, now_ms)
        except (ChronosError, schedules.ScheduleError, PeriodError, ValueError) as error:
            problems.append(f"{name}: {error}")


def _schedule(job: Job, now_ms: int) -> None:
    if not job.parents:
        zone = job.schedule_time_zone
        schedules.parse(job.schedule, zone, now_ms)
        if zone and not instants.is_known_everywhere(zone):
            raise ValueError(f"expected a time zone that each server has, such as Europe/Paris, got {zone!r}")


def _parents(job: Job, _: int) -> None:
    if job.name in job.parents:
        raise ValueError("a job cannot be its own parent")


def _is_period(field: str) -> Callable[[Job, int], None]:
    def check(job: Job, _: int) -> None:
        if text := getattr(job, field):
            Period.parse(text)

    return check


def _fetch(job: Job, _: int) -> None:
    if (count := max(len(job.fetch), len(job.uris))) > MOST_FETCHED:
        raise ValueError(f"expected at most {MOST_FETCHED} artefacts, got {count}")
    if job.fetch and job.uris and not _is_mirrored(job):
        raise ValueError("expected either fetch or uris, not both")


def _is_mirrored(job: Job) -> bool:
    """As in the list of all jobs, from which clients write back."""
    return bool(job.uris) and job.uris == tuple(one.uri for one in job.fetch)


def _overlap(job: Job, _: int) -> None:
    if job.concurrent and job.overlap not in (None, Overlap.ALLOW):
        raise ValueError(f"contradicts concurrent: true, got {job.overlap}")


def _constraints(job: Job, _: int) -> None:
    if len(job.constraints) > MOST_CONSTRAINTS:
        raise ValueError(f"expected at most {MOST_CONSTRAINTS}, got {len(job.constraints)}")
    for position, constraint in enumerate(job.constraints):
        if len(constraint) != 3:
            raise ValueError(f"[{position}]: expected an attribute, an operator and a value, got {list(constraint)}")
        if constraint[1] not in OPERATORS:
            raise ValueError(f"[{position}]: expected EQUALS, LIKE or UNLIKE, got {constraint[1]!r}")
        if constraint[1] != "EQUALS":
            try:
                Pattern(constraint[2])
            except PatternError as error:
                raise ValueError(
                    f"[{position}]: expected a regular expression of RE2, got {constraint[2][:80]!r}: {error}"
                ) from error


def _exclude(job: Job, _: int) -> None:
    if not job.parents and {day.upper() for day in job.exclude}.issuperset(WEEKDAYS):
        raise ValueError("expected a day of the week that is not excluded, got all seven")
    for position, day in enumerate(job.exclude):
        if day.upper() not in WEEKDAYS and not _is_date(day):
            raise ValueError(f"[{position}]: expected a date such as 2026-12-25 or a day such as SAT, got {day!r}")


def _is_date(text: str) -> bool:
    try:
        return re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII) is not None and bool(instants.parse_wall(text))
    except instants.InstantError:
        return False


def _parameters(job: Job, _: int) -> None:
    for position, parameter in enumerate(job.container.parameters if job.container is not None else ()):
        if wrong := docker_options.problem(parameter.key, parameter.value):
            raise ValueError(f"[{position}]: {wrong}")


def _volumes(job: Job, _: int) -> None:
    for position, volume in enumerate(job.container.volumes if job.container is not None else ()):
        if volume.external is not None and not volume.external.name:
            raise ValueError(f"[{position}].external.name: expected the volume's name, but missing")
        if not volume.container_path.startswith("/") or ":" in volume.container_path:
            expected = "expected an absolute path without a colon"
            raise ValueError(f"[{position}].containerPath: {expected}, got {volume.container_path!r}")
        if volume.host_path is not None and ":" in volume.host_path:
            expected = "expected a path without a colon"
            raise ValueError(f"[{position}].hostPath: {expected}, got {volume.host_path!r}")


def _command(job: Job, _: int) -> None:
    """A container has a program of its own. A shell runs the arguments after the command (Chronos)."""
    if job.container is None:
        if not job.shell and not job.command:
            raise ValueError("expected the executable, since shell is false")
        if job.shell and not job.command.strip() and not "".join(job.arguments).strip():
            raise ValueError("expected what the shell runs, since there is no container, but missing")
    _check_size(" ".join((job.command, *job.arguments)) if job.shell else job.command, LONGEST_WORD_BYTES)


def _arguments(job: Job, _: int) -> None:
    for position, one in enumerate(job.arguments):
        try:
            _check_size(one, LONGEST_WORD_BYTES)
        except ValueError as error:
            raise ValueError(f"[{position}]: {error}") from None


def _owner(job: Job, _: int) -> None:
    """Any text, as Chronos took it."""
    _check_size(job.owner, LONGEST_WORD_BYTES - len("CHRONOS_JOB_OWNER="))


def _variables(job: Job, _: int) -> None:
    for position, one in enumerate(job.environment_variables):
        if not one.name or "=" in one.name:
            raise ValueError(f"[{position}].name: expected a name without '=', got {one.name[:80]!r}")
        try:
            _check_size(f"{one.name}={one.value}", LONGEST_WORD_BYTES)
        except ValueError as error:
            raise ValueError(f"[{position}]: {error}") from None


def _check_size(text: str, most: int) -> None:
    """Raises ValueError for a text with which nothing could be started."""
    if len(text) * 4 > most and (size := len(text.encode())) > most:
        raise ValueError(f"expected at most {most} bytes, got {size}")


_RULES: Final[Mapping[str, Callable[[Job, int], None]]] = {
    "schedule": _schedule,
    "parents": _parents,
    "epsilon": _is_period("epsilon"),
    "catchUpWindow": _is_period("catch_up_window"),
    "alertAfter": _is_period("alert_after"),
    "fetch": _fetch,
    "overlap": _overlap,
    "constraints": _constraints,
    "exclude": _exclude,
    "command": _command,
    "arguments": _arguments,
    "owner": _owner,
    "environmentVariables": _variables,
    "container.parameters": _parameters,
    "container.volumes": _volumes,
}


# --- the types ---


def json_name(field: attrs.Attribute[Any]) -> str:
    """The field's name in JSON."""
    if JSON_NAME in field.metadata:
        return str(field.metadata[JSON_NAME])
    first, *rest = field.name.split("_")
    return first + "".join(word.capitalize() for word in rest)


class _Reader:
    """Reads values by the types of attrs classes. What is wrong goes to `problems`; the value is None then."""

    def __init__(self, problems: list[str]) -> None:
        self._problems = problems

    def record(self, cls: type, value: object, path: str) -> object | None:
        if not isinstance(value, Mapping):
            return self._wrong(path, "an object", value)
        members = {}
        for name, field, kind in _members(cls):
            given = value.get(name)
            if given is None:
                if field.default is attrs.NOTHING:
                    self._problems.append(f"{path}{name}: expected, but missing")
                continue
            members[field.name] = self._value(kind, given, path + name, field.name)
        return None if self._problems else cls(**members)

    def _value(self, kind: Any, value: object, path: str, field: str) -> object | None:
        if isinstance(kind, types.UnionType):
            kind = next(member for member in typing.get_args(kind) if member is not types.NoneType)
        if field in _TIMESTAMPS:
            return self._instant(value, path)
        if typing.get_origin(kind) is tuple:
            return self._elements(typing.get_args(kind)[0], value, path, field)
        if attrs.has(kind):
            return self.record(kind, value, f"{path}.")
        if issubclass(kind, enum.StrEnum):
            return self._literal(kind, value, path)
        return self._scalar(kind, value, path, field)

    def _elements(self, kind: Any, value: object, path: str, field: str) -> tuple[object, ...] | None:
        if not isinstance(value, list):
            return self._wrong(path, "an array", value)
        if len(value) > MOST_ELEMENTS:
            self._problems.append(f"{path}: expected at most {MOST_ELEMENTS} elements, got {len(value)}")
            return None
        return tuple(self._value(kind, one, f"{path}[{at}]", field) for at, one in enumerate(value))

    def _literal(self, kind: type[enum.StrEnum], value: object, path: str) -> enum.StrEnum | None:
        for member in kind:
            if isinstance(value, str) and value.lower() == member.value.lower():
                return member
        return self._wrong(path, f"one of {', '.join(kind)}", value)

    def _instant(self, value: object, path: str) -> int | None:
        try:
            return read_instant(value if isinstance(value, str) else repr(value))
        except ChronosError as error:
            self._problems.append(f"{path}: {error}")
            return None

    def _scalar(self, kind: type, value: object, path: str, field: str) -> object | None:
        if kind is str:
            return self._text(value, path)
        if kind is bool:
            truth = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
            return truth if isinstance(truth, bool) else self._wrong(path, "true or false", value)
        number = self._number(value)
        if number is None or (kind is int and number != int(number)):
            return self._wrong(path, "a whole number" if kind is int else "a number", value)
        least = 1 if field in _AT_LEAST_ONE else 0
        if not least <= number <= MOST:
            self._problems.append(f"{path}: expected a number from {least} to {MOST}, got {number:g}")
            return None
        return kind(number)

    def _text(self, value: object, path: str) -> str | None:
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, (int, float)):
            value = str(value)
        if not isinstance(value, str):
            return self._wrong(path, "a text", value)
        if len(value) > LONGEST_TEXT:
            self._problems.append(f"{path}: expected at most {LONGEST_TEXT} characters, got {len(value)}")
            return None
        if "\0" in value:
            self._problems.append(f"{path}: expected a text without NUL characters")
            return None
        return value

    @staticmethod
    def _number(value: object) -> float | None:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            return None
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None

    def _wrong(self, path: str, expected: str, value: object) -> Any:
        """Notes it; the value is None."""
        shown = orjson.dumps(value, default=str).decode() if not isinstance(value, float) else repr(value)
        self._problems.append(f"{path.rstrip('.') or 'body'}: expected {expected}, got {shown[:80]}")


_KNOWN_MEMBERS: dict[type, tuple[tuple[str, attrs.Attribute[Any], Any], ...]] = {}


def _members(cls: type) -> Iterable[tuple[str, attrs.Attribute[Any], Any]]:
    """(name in JSON, field, type) of each field."""
    if cls not in _KNOWN_MEMBERS:
        attrs.resolve_types(cls)
        _KNOWN_MEMBERS[cls] = tuple((json_name(field), field, field.type) for field in attrs.fields(cls))
    return _KNOWN_MEMBERS[cls]


def members(cls: type) -> Iterator[tuple[str, attrs.Attribute[Any]]]:
    """(name in JSON, field) of each field of an attrs class."""
    return ((name, field) for name, field, _ in _members(cls))
