"""When a job is due next, or would be if it were stored now."""

from __future__ import annotations

import re
from typing import Any, Final

import attrs
from aiohttp import web

from orlop_chronos import instants, orders, rendering
from orlop_chronos.attending import attend
from orlop_chronos.desk import Desk
from orlop_chronos.documents import JobRecord, Progress
from orlop_chronos.errors import bad_request
from orlop_chronos.executing import execute
from orlop_chronos.http.calls import Call, Jobs, answer
from orlop_chronos.http.jobs import read_definition
from orlop_chronos.triggers import Due

MOST_UPCOMING: Final = 1_000
#: Of a draft that has no name, which no stored job can have.
_NO_NAME: Final = "/"


@attrs.frozen
class _Prospect:
    """What is known of a job. starting_ms: due times (UTC milliseconds) that are run as soon as it is stored."""

    record: JobRecord
    progress: Progress
    starting_ms: tuple[int, ...] = ()


async def upcoming(call: Call) -> web.StreamResponse:
    """Next due times of a job, or with a definition as the body of one that is not stored. None of a disabled one.

    Those of a draft are what storing it now would come to: what it would make up for at once, too.
    """
    jobs = await call.jobs()
    most = min(call.number("count", 10), MOST_UPCOMING)
    if call.request.method == "POST":
        prospect = await _stored_now(call, jobs)
    else:
        prospect = _Prospect(jobs.record(call.name), jobs.progress(call.name))
    due = Due.of(prospect.record)
    if due is None:
        raise bad_request("the job has parents and no schedule of its own")
    now_ms = jobs.view.now.utc_ms
    rows = [_row(due, at_ms, now_ms) for at_ms in prospect.starting_ms[:most]]
    if not prospect.record.job.disabled:
        rows += _by_time(due, prospect.progress, now_ms, most - len(rows))
    return answer(rows)


async def _stored_now(call: Call, jobs: Jobs) -> _Prospect:
    """Stores the draft on a desk whose changes nobody carries out. Raises ChronosError."""
    document = dict(await call.json())
    names = call.dialect.names
    if document.get("name") is None:
        document["name"] = _NO_NAME
        names = re.compile(_NO_NAME)
    # When a job is due does not depend on what it runs, which need not be known yet.
    document["command"] = document.get("command") or "draft"
    definition = await read_definition(call, document)
    name = definition.job.name
    desk = Desk(jobs.view, call.settings)
    first_run = desk.progress(name).next_run
    execute(orders.PutJob(definition=definition, names=names), desk)
    attend(desk, name)
    runs = [run for run in desk.open_runs(name) if run.number >= first_run]
    record = desk.job(name)
    assert record is not None
    return _Prospect(record, desk.progress(name), tuple(run.nominal_ms for run in runs))


def _by_time(due: Due, progress: Progress, now_ms: int, most: int) -> list[dict[str, Any]]:
    """Of what was missed, for everything is paused, nothing: that is made up for as the job says when it goes on."""
    moment, left = progress.upcoming, progress.left
    if moment is not None and due.starts_ms(moment) < now_ms:
        moment = due.from_time(now_ms, moment)
    found: list[dict[str, Any]] = []
    while moment is not None and len(found) < most and (left is None or len(found) < left):
        found.append(_row(due, moment.at_ms, due.starts_ms(moment)))
        moment = due.following(moment)
    return found


def _row(due: Due, at_ms: int, starts_ms: int) -> dict[str, Any]:
    return {
        "nominalTime": rendering.instant(at_ms),
        "localTime": instants.format_instant(instants.wall_at(at_ms, due.trigger.where)),
        "startTime": rendering.instant(starts_ms),
    }
