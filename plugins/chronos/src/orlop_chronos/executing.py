"""Carries out orders on the desk. What cannot be done raises ChronosError before anything is written."""

from __future__ import annotations

from typing import Any, Final

import attrs

from orlop.framework import Emit
from orlop_chronos import documents, graph, notices, schedules
from orlop_chronos.attending import told
from orlop_chronos.desk import Desk
from orlop_chronos.documents import Cause, Control, JobRecord, Progress, Stop
from orlop_chronos.due_runs import start_children
from orlop_chronos.ending import SUCCEEDED, count_success, tell_children
from orlop_chronos.errors import bad_request, unknown_job, unknown_run
from orlop_chronos.model import Job
from orlop_chronos.orders import (
    Backfill,
    Children,
    DeleteJob,
    KillRuns,
    MarkSucceeded,
    Order,
    Pause,
    PutJob,
    ReportTask,
    SetDisabled,
    SettleNotice,
    StartJob,
    TakeNotices,
)
from orlop_chronos.reading import check_name
from orlop_chronos.schedules import Moment, Repeating
from orlop_chronos.specs import task_name
from orlop_chronos.starting import create_run, stop
from orlop_chronos.triggers import Due, trigger_of

#: Jobs and runs that one order deletes. More would hold up all that is due meanwhile.
MOST_DELETED_TOGETHER: Final = 20_000


def execute(order: Order, desk: Desk) -> Any:
    """What the order is answered with. Raises ChronosError."""
    match order:
        case PutJob():
            return _put(order, desk)
        case DeleteJob():
            return _delete(order, desk)
        case StartJob():
            record = _job(desk, order.name)
            return create_run(desk, record, Cause.MANUAL, desk.now_ms, arguments=order.arguments or None).number
        case KillRuns():
            return _kill(order, desk)
        case MarkSucceeded():
            return _mark_succeeded(order, desk)
        case SetDisabled():
            return _set_disabled(desk, _job(desk, order.name), order.disabled)
        case Pause():
            return _pause(order, desk)
        case Backfill():
            return _backfill(order, desk)
        case ReportTask():
            return _report(order, desk)
        case TakeNotices():
            return notices.take(desk, order.channels)
        case SettleNotice():
            return notices.settle(desk, order.id, order.error, order.hopeless)


def _job(desk: Desk, name: str) -> JobRecord:
    record = desk.job(name)
    if record is None:
        raise unknown_job(name)
    return record


def _put(order: PutJob, desk: Desk) -> None:
    job, counters = order.definition.job, order.definition.counters
    name = job.name
    known = desk.job(name)
    if known is None:
        check_name(name, order.names)
    graph.check_parents(desk, name, job.parents)
    graph.set_parents(desk, {name: (known.job.parents if known is not None else (), job.parents)})
    if known is not None and _goes_on(desk, known, job):
        job = attrs.evolve(job, schedule=known.job.schedule)
    same_schedule = known is not None and _schedule_of(known.job) == _schedule_of(job)
    record = JobRecord(
        job=job,
        uid=known.uid if known is not None else desk.view.unique("job", name).hex[:8],
        created_ms=known.created_ms if known is not None else desk.now_ms,
        since_ms=known.since_ms if known is not None and same_schedule else desk.now_ms,
        schedule_version=known.schedule_version + (not same_schedule) if known is not None else 0,
    )
    progress = attrs.evolve(desk.progress(name), counters=counters, watched_from_ms=desk.now_ms, alerted=False)
    if not same_schedule:
        due = Due.of(record)
        progress = attrs.evolve(
            progress,
            upcoming=due.first() if due is not None else None,
            left=due.trigger.repeats if due is not None else None,
        )
    elif known is not None and known.job.exclude != job.exclude:
        progress = attrs.evolve(progress, upcoming=_among_other_days(desk, record, progress))
    if known is None or set(known.job.parents) != set(job.parents):
        progress = attrs.evolve(progress, edges={})
    desk.put_job(name, record)
    desk.put_progress(name, progress)
    desk.do(Emit("job.changed" if known is not None else "job.created", subject=name, details={"job": name}))


def _schedule_of(job: Job) -> tuple[object, ...]:
    """What decides when a job is due, but for days without runs. An unchanged one keeps its place, where Chronos began
    anew."""
    return bool(job.parents), job.schedule, job.schedule_time_zone


def _among_other_days(desk: Desk, record: JobRecord, progress: Progress) -> Moment | None:
    """The next due time of a job that excludes other days than before: what is past was run, or was excluded then.

    What was missed, and is still to be made up for, is so also on the days that are left.
    """
    due = Due.of(record)
    start = due.trigger.moment(0) if due is not None else None
    if due is None or start is None or progress.left == 0:
        return progress.upcoming
    at_ms = desk.now_ms + 1
    if progress.upcoming is not None:
        at_ms = min(at_ms, progress.upcoming.at_ms)
    return due.from_time(at_ms, start)


def _goes_on(desk: Desk, known: JobRecord, job: Job) -> bool:
    """Does the definition name the schedule as it was shown to its client (`schedules.render`)?

    Clients change one member of a job by writing back what they have read. If it has become due meanwhile, its start is
    a due time that was run already, and must not be run again.
    """
    trigger, progress = trigger_of(known), desk.progress(job.name)
    written_back = attrs.evolve(job, schedule=known.job.schedule)
    if not isinstance(trigger, Repeating) or progress.upcoming is None or "//" in job.schedule:
        return False
    if _schedule_of(written_back) != _schedule_of(known.job):
        return False
    given = schedules.parse(job.schedule, job.schedule_time_zone, desk.now_ms)
    return trigger.shows(given, progress.upcoming, progress.left)


def _delete(order: DeleteJob, desk: Desk) -> None:
    record = _job(desk, order.name)
    children = desk.children(order.name)
    if children and order.children is Children.REFUSE:
        raise bad_request(f"Job '{order.name}' has children: {', '.join(children[:10])}")
    if order.children is Children.DELETE:
        _forget(desk, _with_descendants(desk, record))
        return
    left = [child for name in children if (child := desk.job(name)) is not None]
    parents = {child.job.name: _leave_parent(desk, child, record, order.children) for child in left}
    graph.set_parents(desk, {child.job.name: (child.job.parents, parents[child.job.name]) for child in left})
    _forget(desk, {order.name: record})


def _with_descendants(desk: Desk, record: JobRecord) -> dict[str, JobRecord]:
    """The job and all that wait for it, directly or not, by name. Raises ChronosError when there are too many to delete
    at once."""
    found = {record.job.name: record}
    unseen, deleted = [record.job.name], 0
    while unseen:
        name = unseen.pop()
        deleted += 1 + len(desk.run_numbers(name))
        if deleted > MOST_DELETED_TOGETHER:
            raise bad_request(
                f"children: expected jobs with at most {MOST_DELETED_TOGETHER} jobs and runs in all; delete the "
                "children first"
            )
        for child in desk.children(name):
            known = desk.job(child)
            if known is not None and child not in found:
                found[child] = known
                unseen.append(child)
    return found


def _forget(desk: Desk, jobs: dict[str, JobRecord]) -> None:
    """Deletes the jobs, by name, with all that is known of them; those that come later first."""
    for name, record in reversed(jobs.items()):
        for run in list(desk.open_runs(name)):
            stop(desk, record, run, Stop.KILLED, "its job was deleted")
        notices.tell(desk, record, notices.Happening.DELETED, "it was deleted")
        desk.delete_job(name)
        desk.do(Emit("job.deleted", subject=name, details={"job": name}))
    graph.set_parents(desk, {name: (record.job.parents, ()) for name, record in jobs.items()})


def _leave_parent(desk: Desk, child: JobRecord, parent: JobRecord, children: Children) -> tuple[str, ...]:
    """Chronos: children inherit the parents or the schedule, of which only a child without other parents has need.

    Answers with its parents from now on, which the lists of children do not know yet.
    """
    name = child.job.name
    others = tuple(one for one in child.job.parents if one != parent.job.name)
    job = attrs.evolve(child.job, parents=others)
    if children is Children.INHERIT and parent.job.parents:
        job = attrs.evolve(job, parents=tuple(dict.fromkeys((*others, *parent.job.parents))))
    elif not others and children is Children.INHERIT:
        zone = parent.job.schedule_time_zone
        job = attrs.evolve(job, schedule=parent.job.schedule, schedule_time_zone=zone)
    elif not others:
        job = attrs.evolve(job, schedule="R0//P1D", disabled=True)
    version = child.schedule_version + 1
    record = attrs.evolve(child, job=job, since_ms=parent.since_ms, schedule_version=version)
    progress = attrs.evolve(desk.progress(name), edges={})
    if not job.parents:
        inherited = desk.progress(parent.job.name) if children is Children.INHERIT else Progress(left=0)
        progress = attrs.evolve(progress, upcoming=_from_now_on(desk, record, inherited), left=inherited.left)
    desk.put_job(name, record)
    desk.put_progress(name, progress)
    return job.parents


def _from_now_on(desk: Desk, record: JobRecord, inherited: Progress) -> Moment | None:
    """The first due time of an inherited schedule that is not past, and on no day that the heir excludes.

    What its parent has missed, for it was disabled or the cluster was paused, is not the heir's to make up for.
    """
    due = Due.of(record)
    if due is None or inherited.upcoming is None:
        return None
    return due.from_time(desk.now_ms, inherited.upcoming)


def _kill(order: KillRuns, desk: Desk) -> list[int]:
    record = _job(desk, order.name)
    if order.number is not None and desk.run(order.name, order.number) is None:
        raise unknown_run(order.name, order.number)
    found = [run for run in desk.open_runs(order.name) if order.number in (None, run.number)]
    for run in found:
        stop(desk, record, run, Stop.KILLED, "killed by a user")
    start_children(desk)
    return [run.number for run in found]


def _mark_succeeded(order: MarkSucceeded, desk: Desk) -> bool:
    if desk.job(order.name) is None:
        return False
    count_success(desk, order.name)
    desk.put_progress(order.name, attrs.evolve(desk.progress(order.name), edges={}))
    tell_children(desk, order.name, SUCCEEDED, "")
    start_children(desk)
    return True


def _set_disabled(desk: Desk, record: JobRecord, disabled: bool) -> None:
    if record.job.disabled == disabled:
        return
    name = record.job.name
    desk.put_job(name, attrs.evolve(record, job=attrs.evolve(record.job, disabled=disabled)))
    if not disabled:
        # Nobody expected a success of it until now.
        desk.put_progress(name, attrs.evolve(desk.progress(name), watched_from_ms=desk.now_ms, alerted=False))


def _pause(order: Pause, desk: Desk) -> None:
    if desk.paused != order.paused:
        desk.put_control(Control(paused=order.paused))
        desk.do(Emit("paused" if order.paused else "resumed"))
        desk.touched |= set(desk.stored(documents.JOB))


def _report(order: ReportTask, desk: Desk) -> None:
    # The name may hold no colon, arguments may.
    parts = order.task.split(":", 4)
    record = desk.job(parts[3]) if len(parts) == 5 and parts[0] == "ct" else None
    if record is None:
        raise bad_request(f"Task '{order.task[:200]}' not found")
    going_on = [run for run in desk.open_runs(record.job.name) if run.going_on]
    named = [(task_name(record.job, run, len(run.attempts) - 1), run) for run in going_on]
    run = next((run for name, run in named if name == order.task), None)
    if run is None:
        # What comes before the arguments says which it is: those of the job may have been changed since.
        run = next((run for name, run in named if name.split(":", 4)[:4] == parts[:4]), None)
    if run is None:
        raise bad_request(f"Task '{order.task[:200]}' does not run")
    told(desk, record, run, order.code)
    start_children(desk)


def _backfill(order: Backfill, desk: Desk) -> int:
    record = _job(desk, order.name)
    due = Due.of(record)
    if due is None:
        raise bad_request(f"Job '{order.name}' has parents and no schedule to go by")
    if order.until_ms < order.from_ms:
        raise bad_request("until: expected a time after from")
    moments = _due_times(due.reaching_back(order.from_ms), order, desk.settings.most_queued_runs)
    for moment in moments:
        create_run(desk, record, Cause.BACKFILL, moment.at_ms, most_queued=desk.settings.most_queued_runs)
    return len(moments)


def _due_times(due: Due, order: Backfill, most: int) -> list[Moment]:
    """Those that the schedule has: of `R3/...` the first three, run or not. Raises ChronosError."""
    first = due.first()
    if first is None or first.at_ms > order.until_ms or due.trigger.repeats == 0:
        return []
    last = due.last_until(order.until_ms, first)
    if due.trigger.repeats is not None:
        last = due.nth(due.trigger.repeats, first, last)
    found: list[Moment] = []
    moment = due.from_time(order.from_ms, first)
    while moment is not None and moment.at_ms <= last.at_ms:
        if len(found) == most:
            raise bad_request(f"expected a stretch with at most {most} due times")
        found.append(moment)
        moment = due.following(moment)
    return found
