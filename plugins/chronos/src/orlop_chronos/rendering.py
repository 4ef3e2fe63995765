"""Jobs and their history as JSON, in the order and with the types that Chronos' clients know."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from orlop_chronos import instants, schedules
from orlop_chronos.documents import JobRecord, Progress, RunState
from orlop_chronos.model import ADDED, Counters, Job
from orlop_chronos.reading import json_name, members
from orlop_chronos.triggers import trigger_of

#: Members of Chronos that are left out when they say nothing.
OPTIONAL: Final = frozenset(
    {"container", "parents", "schedule", "schedule_time_zone", "output_file", "network_name", "host_path", "mode",
     "external", "protocol"}
)  # fmt: skip
#: Numbers that Chronos prints as texts.
_AS_TEXT: Final = frozenset({"host_port", "container_port"})
#: Counters stand before the members that follow them in Chronos' JSON.
_COUNTERS_BEFORE: Final = {
    "cpus": ("successCount", "errorCount", "lastSuccess", "lastError"),
    "fetch": ("errorsSinceLastSuccess",),
}


def _in_order() -> Iterator[str]:
    """Names in JSON of Chronos' own members."""
    for name, field in members(Job):
        if not field.metadata.get(ADDED):
            yield from _COUNTERS_BEFORE.get(field.name, ())
            yield name


# A list of all jobs must not cost a look at each attribute of each of them: the values of a job are read at once, and
# only those are looked at that are not plain already.
_MEMBERS: Final = dict(members(Job))
_ORDER: Final[dict[str, Any]] = dict.fromkeys(_in_order())
_OWN: Final = tuple(name for name in _ORDER if name in _MEMBERS)
_own_values: Final = operator.attrgetter(*(_MEMBERS[name].name for name in _OWN))
_LISTS: Final = tuple(name for name in _OWN if isinstance(_MEMBERS[name].default, tuple))
_LEFT_OUT: Final = tuple(name for name in _OWN if _MEMBERS[name].name in OPTIONAL)
_ADDED: Final = tuple(name for name, field in _MEMBERS.items() if field.metadata.get(ADDED))
_added_values: Final = operator.attrgetter(*(_MEMBERS[name].name for name in _ADDED))
_ADDED_DEFAULTS: Final = tuple(_MEMBERS[name].default for name in _ADDED)


def job(record: JobRecord, progress: Progress) -> dict[str, Any]:
    """A job as `/job/<name>` and `/jobs` show it."""
    shown = _ORDER.copy()
    shown.update(zip(_OWN, _own_values(record.job), strict=True))
    shown.update(_counters(progress.counters))
    for name in _LISTS:
        shown[name] = _plain(shown[name]) if shown[name] else []
    if shown["container"] is not None:
        shown["container"] = _plain(shown["container"])
    if not record.job.parents:
        shown["schedule"] = schedule(record, progress)
    always = ("schedule", "scheduleTimeZone") if not record.job.parents else ()
    for name in _LEFT_OUT:
        if not shown[name] and name not in always:
            del shown[name]
    added = _added_values(record.job)
    if added != _ADDED_DEFAULTS:
        for name, value, default in zip(_ADDED, added, _ADDED_DEFAULTS, strict=True):
            if value != default:
                shown[name] = _plain(value)
    return shown


def schedule(record: JobRecord, progress: Progress) -> str:
    """With the next start and the runs that are left; empty for a job with parents."""
    trigger = trigger_of(record)
    if trigger is None:
        return ""
    text = record.job.schedule
    if progress.left == 0 and trigger.repeats != 0:
        last = progress.upcoming or trigger.moment(max((trigger.repeats or 1) - 1, 0))
        return schedules.render(text, trigger, last, 0)
    return schedules.render(text, trigger, progress.upcoming, progress.left)


def summary(record: JobRecord, progress: Progress, states: Sequence[RunState]) -> dict[str, Any]:
    """A row of `/jobs/summary`. states: of the job's open runs."""
    return {
        "name": record.job.name,
        "status": status(progress.counters),
        "state": state(states),
        "schedule": schedule(record, progress),
        "parents": list(record.job.parents),
        "disabled": record.job.disabled,
    }


def status(counters: Counters) -> str:
    """`fresh`, `success` or `failure`: of success and error, the later one (Chronos: success only if later)."""
    if counters.last_success is None and counters.last_error is None:
        return "fresh"
    return "success" if (counters.last_success or 0) > (counters.last_error or 0) else "failure"


def state(states: Sequence[RunState]) -> str:
    """`idle`, `queued` or `<n> running`."""
    running = sum(one in (RunState.ACTIVE, RunState.AWAITING) for one in states)
    if running:
        return f"{running} running"
    return "queued" if RunState.QUEUED in states else "idle"


def instant(at_ms: int | None) -> str:
    """As Chronos prints it, in UTC; such texts can be compared. Empty for never."""
    return instants.format_instant(instants.wall_at(at_ms, instants.UTC)) if at_ms is not None else ""


def _counters(counters: Counters) -> dict[str, Any]:
    return {
        "successCount": counters.success_count,
        "errorCount": counters.error_count,
        "errorsSinceLastSuccess": counters.errors_since_last_success,
        "lastSuccess": instant(counters.last_success),
        "lastError": instant(counters.last_error),
    }


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return {
            json_name(field): str(member) if field.name in _AS_TEXT else _plain(member)
            for field in attrs.fields(type(value))
            if (member := getattr(value, field.name)) or field.name not in OPTIONAL
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(member) for member in value]
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    return value
