"""Jobs and their history as JSON, in the order and with the types that Chronos' clients know."""

from __future__ import annotations

import enum
import operator
from collections.abc import Mapping, Sequence
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
_MEMBERS: Final = dict(members(Job))
#: Chronos' own members that are lists.
_LISTS: Final = tuple(
    (name, field.name)
    for name, field in _MEMBERS.items()
    if isinstance(field.default, tuple) and not field.metadata.get(ADDED)
)
_lists: Final = operator.attrgetter(*(member for _, member in _LISTS))
_NO_LISTS: Final = ((),) * len(_LISTS)
_ADDED: Final = tuple(name for name, field in _MEMBERS.items() if field.metadata.get(ADDED))
_added_values: Final = operator.attrgetter(*(_MEMBERS[name].name for name in _ADDED))
_ADDED_DEFAULTS: Final = tuple(_MEMBERS[name].default for name in _ADDED)


def job(record: JobRecord, progress: Progress) -> dict[str, Any]:
    """A job as `/job/<name>` and `/jobs` show it."""
    shown = _own_members(record.job, progress.counters)
    _add_optional(shown, record, progress)
    if _lists(record.job) != _NO_LISTS:
        for name, member in _LISTS:
            if value := getattr(record.job, member):
                shown[name] = _plain(value)
    added = _added_values(record.job)
    if added != _ADDED_DEFAULTS:
        for name, value, default in zip(_ADDED, added, _ADDED_DEFAULTS, strict=True):
            if value != default:
                shown[name] = _plain(value)
    return shown


def _own_members(job: Job, counters: Counters) -> dict[str, Any]:
    """In Chronos' order, from the first to the last that is always there; lists are empty.

    Written out, because a list of very many jobs spends most of its time here: looking each member up by its name
    takes twice as long.
    """
    return {
        "name": job.name,
        "command": job.command,
        "shell": job.shell,
        "epsilon": job.epsilon,
        "executor": job.executor,
        "executorFlags": job.executor_flags,
        "taskInfoData": job.task_info_data,
        "retries": job.retries,
        "owner": job.owner,
        "ownerName": job.owner_name,
        "description": job.description,
        "async": job.asynchronous,
        "successCount": counters.success_count,
        "errorCount": counters.error_count,
        "lastSuccess": instant(counters.last_success),
        "lastError": instant(counters.last_error),
        "cpus": job.cpus,
        "disk": job.disk,
        "mem": job.mem,
        "disabled": job.disabled,
        "softError": job.soft_error,
        "dataProcessingJobType": job.data_processing_job_type,
        "errorsSinceLastSuccess": counters.errors_since_last_success,
        "fetch": [],
        "uris": [],
        "environmentVariables": [],
        "arguments": [],
        "highPriority": job.high_priority,
        "runAsUser": job.run_as_user,
        "concurrent": job.concurrent,
        "maxCompletionTime": job.max_completion_time,
    }


def _add_optional(shown: dict[str, Any], record: JobRecord, progress: Progress) -> None:
    """The members after those, which are left out when they say nothing, and `constraints`, which is not."""
    job = record.job
    if job.container is not None:
        shown["container"] = _plain(job.container)
    shown["constraints"] = []
    if job.parents:
        shown["parents"] = []
    else:
        shown["schedule"] = schedule(record, progress)
    if job.schedule_time_zone or not job.parents:
        shown["scheduleTimeZone"] = job.schedule_time_zone


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
