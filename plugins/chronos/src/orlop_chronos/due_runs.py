"""Which runs are due, by time or by what has become of a job's parents, and what becomes of those that were missed."""

from __future__ import annotations

from typing import Final

import attrs

from orlop_chronos.desk import Desk
from orlop_chronos.documents import Cause, JobRecord, RunState
from orlop_chronos.ending import end, rule_is_met
from orlop_chronos.model import CatchUp, Job
from orlop_chronos.reading import period_ms
from orlop_chronos.schedules import Moment
from orlop_chronos.starting import create_run, new_run
from orlop_chronos.triggers import Due

#: A run that starts later than this after it was due is one that was missed. In milliseconds.
LATE_MS: Final = 5_000
#: How late a run may be that must not be made up for, where the job does not say. In milliseconds.
IN_TIME_MS: Final = 60_000
#: As late as this no run is too late, whatever the job says: it takes some time to make one. In milliseconds.
NEVER_TOO_LATE_MS: Final = 1_000
_NOT_MADE_UP_FOR: Final = "missed, and missed runs are not made up for"
#: Runs of one job that are made in one call: the more of them are open, the longer takes each.
AT_ONCE: Final = 50
#: Of missed due times of crontab lines, which must be counted one by one.
MOST_COUNTED: Final = 1_000


def fire_by_time(desk: Desk, record: JobRecord) -> None:
    """Makes the runs that are due by time, or says why not, and moves the job on to its next due time."""
    job = record.job
    progress = desk.progress(job.name)
    due, upcoming = Due.of(record), progress.upcoming
    if due is None or upcoming is None or job.disabled or desk.paused or progress.left == 0:
        return
    if due.starts_ms(upcoming) > desk.now_ms:
        return
    last = due.last_until(desk.now_ms, upcoming)
    if due.starts_ms(last) > desk.now_ms and last != upcoming:
        last = due.last_until(last.at_ms - 1, upcoming)
    most = desk.settings.most_catch_up_runs if job.catch_up is CatchUp.ALL else 1
    left, used = progress.left, 0
    if left is not None and job.epsilon:
        # Each due time uses up one, run or not: there are no more than that.
        last = due.nth(left, upcoming, last)
    first = _first_in_time(desk, job, due, upcoming, last)
    if first is None or first.at_ms > upcoming.at_ms:
        until = last if first is None else due.last_until(first.at_ms - 1, upcoming)
        too_late = due.count(upcoming, until, MOST_COUNTED)
        _pass_over(desk, record, upcoming, too_late, _why_too_late(job))
        used = too_late if job.epsilon else 0
    chosen: list[Moment] = []
    if first is not None and left != used:
        chosen = _latest(due, first, last, most)[: None if left is None else left - used][:AT_ONCE]
        # Nothing is due after the last of so many runs; or it is due still, and made in the next call.
        last = chosen[-1]
        replaced = due.count(first, last, MOST_COUNTED) - len(chosen)
        if replaced > 0:
            _pass_over(desk, record, first, replaced, _why_not_made_up_for(job, most))
            used += replaced if job.epsilon else 0
    _move_on(desk, job, due, last, used + len(chosen))
    for moment in chosen:
        late = desk.now_ms - due.starts_ms(moment) > LATE_MS
        create_run(desk, record, Cause.CATCH_UP if late else Cause.TIME, moment.at_ms, most_queued=most)


def fire_by_parents(desk: Desk, record: JobRecord, because_of: str) -> None:
    """Makes the run that is due by the job's parents, if its rule is met. because_of: see `Run`."""
    job = record.job
    progress = desk.progress(job.name)
    if not job.parents or desk.paused or not rule_is_met(job.trigger_rule, job.parents, progress.edges):
        return
    desk.put_progress(job.name, attrs.evolve(progress, edges={}))
    if not job.disabled:
        create_run(desk, record, Cause.PARENT, desk.now_ms, because_of=because_of)


def _first_in_time(desk: Desk, job: Job, due: Due, upcoming: Moment, last: Moment) -> Moment | None:
    """The first due time from `upcoming` to `last` that a run may still be made for, as late as it is."""
    limit_ms, _ = _latest_allowed(job)
    if limit_ms is None or desk.now_ms - due.starts_ms(upcoming) <= limit_ms:
        return upcoming
    found = due.from_time(desk.now_ms - limit_ms, upcoming)
    if found is not None and found.at_ms <= last.at_ms:
        return found
    # With jitter a run may start in time that was due too long ago.
    return last if desk.now_ms - due.starts_ms(last) <= limit_ms else None


def _latest_allowed(job: Job) -> tuple[int | None, str]:
    """How late a run may be made, in milliseconds, None for any time, and which of the job's members says so."""
    limits = [(limit, text) for text in (job.epsilon, job.catch_up_window) if (limit := period_ms(text)) is not None]
    if limits:
        limit_ms, text = min(limits)
        return max(limit_ms, NEVER_TOO_LATE_MS), text
    return (IN_TIME_MS if job.catch_up is CatchUp.NONE else None), ""


def _latest(due: Due, first: Moment, last: Moment, most: int) -> list[Moment]:
    """The latest due times from `first` to `last`, `most` at most, in order."""
    found = [last]
    while len(found) < most and found[-1].at_ms > first.at_ms:
        found.append(due.last_until(found[-1].at_ms - 1, first))
    return found[::-1]


def _why_too_late(job: Job) -> str:
    _, text = _latest_allowed(job)
    return f"missed, and too late to be made up for ({text})" if text else _NOT_MADE_UP_FOR


def _why_not_made_up_for(job: Job, most: int) -> str:
    if job.catch_up is CatchUp.ALL:
        return f"missed, and no more than {most} are made up for"
    if job.catch_up is CatchUp.NONE and not _latest_allowed(job)[1]:
        return _NOT_MADE_UP_FOR
    return "missed, and one later run stands for all"


def _pass_over(desk: Desk, record: JobRecord, first: Moment, count: int, reason: str) -> None:
    run = new_run(desk, record, Cause.CATCH_UP, first.at_ms, RunState.WAITING, count=count)
    end(desk, record, run, RunState.SKIPPED, reason)


def _move_on(desk: Desk, job: Job, due: Due, last: Moment, used: int) -> None:
    progress = desk.progress(job.name)
    left = progress.left if progress.left is None else max(progress.left - used, 0)
    upcoming = due.following(last) if left != 0 else None
    desk.put_progress(job.name, attrs.evolve(progress, upcoming=upcoming, left=left))


def start_children(desk: Desk) -> None:
    """Makes the runs of the jobs that are due by what they have just been told of their parents."""
    while desk.told and not desk.is_full:
        name, because_of = desk.told.pop(0)
        record = desk.job(name)
        if record is not None:
            fire_by_parents(desk, record, because_of)
