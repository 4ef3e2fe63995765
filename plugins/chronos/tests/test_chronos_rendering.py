"""Jobs as JSON: the quick way of the code against a slow, obvious one that goes by the model's own members."""

from __future__ import annotations

from typing import Any

import attrs
import hypothesis.strategies as st
from hypothesis import given

from orlop_chronos import rendering
from orlop_chronos.documents import JobRecord, Progress
from orlop_chronos.model import (
    ADDED,
    CatchUp,
    Container,
    Counters,
    Fetch,
    Job,
    NodeLoss,
    Overlap,
    Parameter,
    TriggerRule,
    Variable,
)
from orlop_chronos.reading import members
from orlop_chronos.triggers import trigger_of

_TEXTS = st.text('ab ü"', max_size=3)
_NUMBERS = st.integers(0, 3)
_PARAMETERS = (Parameter(key="a", value="b"),)
_INSTANTS = st.one_of(st.none(), st.integers(0, 4_000_000_000_000))
#: Of members whose values are not texts, numbers or truth values.
_OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "fetch": st.lists(st.builds(Fetch, uri=_TEXTS), max_size=2).map(tuple),
    "environment_variables": st.lists(st.builds(Variable, name=_TEXTS, value=_TEXTS), max_size=2).map(tuple),
    "constraints": st.sampled_from([(), (("rack", "EQUALS", "1"),)]),
    "container": st.one_of(st.none(), st.builds(Container, image=_TEXTS, parameters=st.just(_PARAMETERS))),
    "schedule": st.sampled_from(["", "R5/2030-01-01T00:00:00Z/PT1H", "@daily"]),
    "schedule_time_zone": st.sampled_from(["", "Europe/Paris"]),
    "catch_up": st.sampled_from(CatchUp),
    "overlap": st.one_of(st.none(), st.sampled_from(Overlap)),
    "node_loss": st.sampled_from(NodeLoss),
    "trigger_rule": st.sampled_from(TriggerRule),
}  # fmt: skip
_RESULTS = {"successCount": "success_count", "errorCount": "error_count",
            "lastSuccess": "last_success", "lastError": "last_error"}  # fmt: skip


def _values(field: attrs.Attribute[Any]) -> st.SearchStrategy[Any]:
    if field.name in _OTHERS:
        return _OTHERS[field.name]
    if isinstance(field.default, tuple):
        return st.lists(_TEXTS, max_size=2).map(tuple)
    return {bool: st.booleans(), int: _NUMBERS, float: _NUMBERS.map(float)}.get(type(field.default), _TEXTS)


def _job(given_: dict[str, Any]) -> Job:
    return Job(**given_)


_JOBS = st.fixed_dictionaries(
    {"name": _TEXTS}, optional={f.name: _values(f) for f in attrs.fields(Job) if f.name != "name"}
).map(_job)
_COUNTERS = st.builds(
    Counters,
    success_count=_NUMBERS,
    error_count=_NUMBERS,
    errors_since_last_success=_NUMBERS,
    last_success=_INSTANTS,
    last_error=_INSTANTS,
)


def _slowly(record: JobRecord, progress: Progress) -> list[tuple[str, Any]]:
    """Member by member, in the model's order; counters stand where Chronos has them."""
    shown: list[tuple[str, Any]] = []
    added: list[tuple[str, Any]] = []
    for name, field in members(Job):
        value = getattr(record.job, field.name)
        if field.metadata.get(ADDED):
            if value != field.default:
                added.append((name, rendering._plain(value)))
            continue
        if name == "cpus":
            for result, member in _RESULTS.items():
                found = getattr(progress.counters, member)
                shown.append((result, rendering.instant(found) if result.startswith("last") else found))
        if name == "fetch":
            shown.append(("errorsSinceLastSuccess", progress.counters.errors_since_last_success))
        if name == "schedule" and record.job.parents:
            continue
        if name == "schedule":
            value = rendering.schedule(record, progress)
        says_nothing = field.name in rendering.OPTIONAL and not value
        if not says_nothing or (name in ("schedule", "scheduleTimeZone") and not record.job.parents):
            shown.append((name, rendering._plain(value)))
    return shown + added


@given(job=_JOBS, counters=_COUNTERS, started=st.booleans())
def test_a_job_is_shown_with_each_of_its_members_in_the_models_order(job: Job, counters: Counters, started: bool):
    record = JobRecord(job=job, uid="u", created_ms=0, since_ms=1_700_000_000_000)
    trigger = trigger_of(record)
    first = trigger.moment(0) if trigger is not None else None
    upcoming = trigger.following(first) if started and trigger is not None and first is not None else first
    progress = Progress(counters=counters, upcoming=upcoming, left=4 if started else 5)
    assert list(rendering.job(record, progress).items()) == _slowly(record, progress)
