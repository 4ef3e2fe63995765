"""What a job needs now: its open runs looked after, what is due started. Level-triggered, a pure function of the desk.

`attend` may be called at any time and as often as one likes; what it finds already done it does not do again. A run is
made in the same transaction that moves the job on and asks for the task, so that a due time has exactly one run
whatever dies when.
"""

from __future__ import annotations

from typing import Final

import attrs

from orlop.framework import Ask, Emit, Kill, Outcome, Task, TaskState, stopped_by_drain
from orlop_chronos import specs
from orlop_chronos.attempts import OF_THEMSELVES, closed, kept, may_retry, retry_delay_ms
from orlop_chronos.desk import Desk
from orlop_chronos.documents import (
    Attempt,
    Cause,
    JobRecord,
    Progress,
    Run,
    RunState,
    Stop,
    identity_of,
    is_task_of,
    task_key,
)
from orlop_chronos.ending import end, forget_at_ms, forget_too_old, rule_is_met
from orlop_chronos.model import CatchUp, Job, Overlap
from orlop_chronos.notices import Happening, tell
from orlop_chronos.reading import period_ms
from orlop_chronos.schedules import Moment
from orlop_chronos.triggers import Due

#: A run that starts later than this after it was due is one that was missed. In milliseconds.
LATE_MS: Final = 5_000
#: A task that was asked for so long ago and is not to be seen is lost. In milliseconds.
UNSEEN_MS: Final = 1_000
#: How late a run may be that must not be made up for, where the job does not say. In milliseconds.
IN_TIME_MS: Final = 60_000
#: As late as this no run is too late, whatever the job says: it takes some time to make one. In milliseconds.
NEVER_TOO_LATE_MS: Final = 1_000
_NOT_MADE_UP_FOR: Final = "missed, and missed runs are not made up for"
#: Runs of one job that are made in one call: the more of them are open, the longer takes each.
AT_ONCE: Final = 50
#: Of missed due times of crontab lines, which must be counted one by one.
MOST_COUNTED: Final = 1_000


def attend(desk: Desk, name: str) -> int | None:
    """Does what the job needs now. When it must be attended again (UTC milliseconds); None: when something changes."""
    record = desk.job(name)
    if record is None:
        return None
    for run in list(desk.open_runs(name)):
        _look_after(desk, record, run)
        start_children(desk)
    record = desk.job(name) or record
    _fire(desk, record)
    _fire_by_parents(desk, record, "")
    for run in list(desk.open_runs(name)):
        _start_if_due(desk, record, run)
    _watch(desk, record)
    return _next_time(desk, record)


def create_run(
    desk: Desk,
    record: JobRecord,
    cause: Cause,
    nominal_ms: int,
    *,
    arguments: str | None = None,
    because_of: str = "",
    most_queued: int = 1,
) -> Run:
    """A run that is due now, and starts if the job's overlap policy allows it.

    most_queued: how many runs of the job may wait for one another; beyond that it is skipped. Runs of a backfill take
    nothing from the others: they are not counted with them, and wait until no other does.
    """
    job = record.job
    is_backfill = cause is Cause.BACKFILL
    open_runs = list(desk.open_runs(job.name))
    alike = [one for one in open_runs if (one.cause is Cause.BACKFILL) is is_backfill]
    before = [one for one in alike if one.going_on or one.state is RunState.QUEUED]
    policy = job.overlap_policy
    run = _new_run(desk, record, cause, nominal_ms, RunState.WAITING, arguments=arguments, because_of=because_of)
    if policy is Overlap.FORBID and before and not is_backfill:
        return _skip(desk, run, f"run {before[0].number} was still going on")
    if policy is Overlap.REPLACE and not is_backfill:
        for earlier in alike:
            stop(desk, record, earlier, Stop.REPLACED, f"replaced by run {run.number}")
    else:
        most = desk.settings.most_queued_runs if policy is Overlap.ALLOW else most_queued
        waiting = sum(_waits(desk, one, policy) for one in alike)
        if waiting >= most:
            return _skip(desk, run, f"{waiting} runs were waiting already")
    if policy is not Overlap.ALLOW and _must_wait(desk, record, run):
        run = attrs.evolve(run, state=RunState.QUEUED)
    desk.put_run(run)
    _start_if_due(desk, record, run)
    return desk.run(job.name, run.number) or run


def _waits(desk: Desk, run: Run, policy: Overlap) -> bool:
    """For an earlier run, or where none waits for another, for a node or for somebody to say how it has ended."""
    if policy is not Overlap.ALLOW:
        return run.state is RunState.QUEUED
    if run.state is RunState.AWAITING:
        return True
    task = _task_of(desk, run) if run.state is RunState.ACTIVE else None
    return task is not None and task.state is TaskState.PENDING


def start_children(desk: Desk) -> None:
    """Makes the runs of the jobs that are due by what they have just been told of their parents."""
    while desk.told and not desk.is_full:
        name, because_of = desk.told.pop(0)
        record = desk.job(name)
        if record is not None:
            _fire_by_parents(desk, record, because_of)


def stop(desk: Desk, record: JobRecord, run: Run, why: Stop, reason: str) -> None:
    """Ends a run: at once if nothing of it runs, else when its task has stopped."""
    if run.state is not RunState.ACTIVE:
        if not run.final:
            end(desk, record, run, RunState.KILLED, reason)
        return
    task = _task_of(desk, run)
    if task is not None and task.state is TaskState.PENDING:
        attempt = attrs.evolve(run.attempts[-1], task=task.id, ended_ms=desk.now_ms, outcome=Outcome.WITHDRAWN.value)
        run = attrs.evolve(run, attempts=(*run.attempts[:-1], attempt), stop=why)
        desk.do(Kill(task.key, reason))
        end(desk, record, run, RunState.KILLED, reason)
        return
    if run.stop is None:
        run = attrs.evolve(run, stop=why, reason=reason)
        desk.put_run(run)
    _kill(desk, run)


def _task_of(desk: Desk, run: Run) -> Task | None:
    """Of the run's last attempt; None when it is not to be seen, as in the very call that asked for it."""
    return desk.view.tasks.get(task_key(run, len(run.attempts) - 1))


def _kill(desk: Desk, run: Run) -> None:
    task = _task_of(desk, run)
    if task is not None and task.live and not task.stopping:
        desk.do(Kill(task.key, run.reason))


def _new_run(
    desk: Desk,
    record: JobRecord,
    cause: Cause,
    nominal_ms: int,
    state: RunState,
    *,
    count: int = 1,
    arguments: str | None = None,
    because_of: str = "",
) -> Run:
    name = record.job.name
    progress = desk.progress(name)
    number = progress.next_run
    open_runs = (*progress.open_runs, number)
    desk.put_progress(name, attrs.evolve(progress, next_run=number + 1, open_runs=open_runs))
    return Run(
        job=name,
        number=number,
        nominal_ms=nominal_ms,
        identity=identity_of(record, cause, number),
        cause=cause,
        state=state,
        created_ms=desk.now_ms,
        count=count,
        arguments=arguments,
        because_of=because_of,
        due_ms=desk.now_ms,
    )


def _skip(desk: Desk, run: Run, reason: str) -> Run:
    record = desk.job(run.job)
    assert record is not None
    return end(desk, record, run, RunState.SKIPPED, reason)


# --- open runs ---


def _look_after(desk: Desk, record: JobRecord, run: Run) -> None:
    """Takes up what has become of the run's task."""
    if run.state is RunState.AWAITING:
        if not record.job.asynchronous:
            # It was when this run began; nobody need say any more how it ended.
            end(desk, record, run, RunState.SUCCEEDED, "")
        elif (deadline_ms := _deadline_ms(record.job, _began_ms(run))) is not None and deadline_ms <= desk.now_ms:
            reason = f"nobody said within {record.job.max_completion_time} s how it ended"
            _attempt_failed(desk, record, run, reason)
        return
    if run.state is not RunState.ACTIVE:
        return
    task = _task_of(desk, run)
    if task is None:
        # What was asked for in this very call is not to be seen yet.
        if run.attempts[-1].asked_ms + UNSEEN_MS <= desk.now_ms:
            _attempt_ended(desk, record, run, None)
    elif not task.live:
        _attempt_ended(desk, record, run, task)
    elif run.stop is not None:
        _kill(desk, run)
    elif (deadline_ms := _deadline_ms(record.job, task.started_utc_ms)) is not None and deadline_ms <= desk.now_ms:
        stop(desk, record, run, Stop.LATE, f"it ran longer than {record.job.max_completion_time} s")


def _deadline_ms(job: Job, began_ms: int | None) -> int | None:
    """When an attempt that began then (None: it has not yet) takes too long. None: never."""
    if not job.max_completion_time or began_ms is None:
        return None
    return began_ms + job.max_completion_time * 1000


def _began_ms(run: Run) -> int:
    """Of a run's last attempt, whose task has ended."""
    attempt = run.attempts[-1]
    return attempt.started_ms or attempt.asked_ms


def _attempt_ended(desk: Desk, record: JobRecord, run: Run, task: Task | None) -> None:
    attempt = closed(desk, run.attempts[-1], task)
    run = attrs.evolve(run, attempts=kept((*run.attempts[:-1], attempt)))
    finished = attempt.outcome == Outcome.FINISHED
    if finished and not record.job.asynchronous:
        end(desk, record, run, RunState.SUCCEEDED, "")
    elif _is_killed(run, attempt, task):
        # However its task has ended meanwhile, with its node, too: nobody wants it any more.
        end(desk, record, run, RunState.KILLED, run.reason or attempt.reason)
    elif finished and run.told is None:
        desk.put_run(attrs.evolve(run, state=RunState.AWAITING))
    elif finished and run.told == 0:
        end(desk, record, run, RunState.SUCCEEDED, "")
    elif finished:
        _attempt_failed(desk, record, run, _reported(run.told))
    else:
        _attempt_failed(desk, record, run, run.reason if run.stop is Stop.LATE else attempt.reason)


def _is_killed(run: Run, attempt: Attempt, task: Task | None) -> bool:
    """By somebody who did not want the run. Whoever empties a node wants it elsewhere."""
    if run.stop is not None:
        return run.stop is not Stop.LATE
    drained = task is not None and stopped_by_drain(task)
    return attempt.outcome in (Outcome.KILLED, Outcome.WITHDRAWN) and not drained


def _reported(code: int | None) -> str:
    return f"it was reported with code {code}"


def told(desk: Desk, record: JobRecord, run: Run, code: int) -> None:
    """Somebody says how the run of an `async` job has ended. Its program may still be about to end."""
    run = attrs.evolve(run, told=code)
    if run.state is not RunState.AWAITING:
        desk.put_run(run)
    elif code == 0:
        end(desk, record, run, RunState.SUCCEEDED, "")
    else:
        _attempt_failed(desk, record, run, _reported(code))


def _attempt_failed(desk: Desk, record: JobRecord, run: Run, reason: str) -> None:
    if may_retry(desk, record, run, run.attempts[-1]):
        delay_ms = retry_delay_ms(record.job, len(run.attempts))
        due_ms = desk.now_ms + delay_ms
        waiting = attrs.evolve(run, state=RunState.WAITING, due_ms=due_ms, stop=None, told=None, reason=reason)
        desk.put_run(waiting)
        return
    end(desk, record, run, RunState.FAILED, reason)


def _start_if_due(desk: Desk, record: JobRecord, run: Run) -> None:
    """Starts the run's next attempt, if it is time and nothing of the job is in its way."""
    if run.state not in (RunState.QUEUED, RunState.WAITING):
        return
    if record.job.disabled and run.cause in OF_THEMSELVES:
        _give_up(desk, record, run)
        return
    if run.due_ms > desk.now_ms or (desk.paused and run.cause in OF_THEMSELVES):
        return
    if record.job.overlap_policy is not Overlap.ALLOW and _must_wait(desk, record, run):
        return
    number = len(run.attempts)
    attempt = Attempt(task="", asked_ms=desk.now_ms)
    desk.put_run(attrs.evolve(run, state=RunState.ACTIVE, attempts=(*run.attempts, attempt), stop=None, reason=""))
    desk.do(_ask(desk, record, run, number))


def _give_up(desk: Desk, record: JobRecord, run: Run) -> None:
    """Of a job that was disabled meanwhile."""
    if run.attempts:
        end(desk, record, run, RunState.FAILED, f"{run.reason}; not tried again, its job was disabled")
    else:
        _skip(desk, run, "its job was disabled")


def _must_wait(desk: Desk, record: JobRecord, run: Run) -> bool:
    """Is another run in its way, or what still runs of a job of that name that was removed?"""
    others = (other for other in desk.open_runs(run.job) if other.number != run.number)
    if any(_is_in_the_way(other, run) for other in others):
        return True
    return _is_first(desk, run) and any(
        task.live and not is_task_of(record, key) for key, task in desk.view.group(run.job).items()
    )


def _is_first(desk: Desk, run: Run) -> bool:
    """Has nothing of the job been started yet?"""
    if run.attempts:
        return False
    earlier = (desk.run(run.job, number) for number in range(desk.progress(run.job).oldest_run, run.number))
    return not any(one is not None and one.attempts for one in earlier)


def _is_in_the_way(other: Run, run: Run) -> bool:
    return other.going_on or (other.state is RunState.QUEUED and _turn(other) < _turn(run))


def _turn(run: Run) -> tuple[bool, int]:
    """By which queued runs are ordered."""
    return run.cause is Cause.BACKFILL, run.number


def _ask(desk: Desk, record: JobRecord, run: Run, number: int) -> Ask:
    job = record.job
    name = specs.task_name(job, run, number)
    return Ask(
        task_key(run, number),
        specs.spec_of(job, run.arguments, desk.settings),
        group=job.name,
        name=name,
        priority=1 if job.high_priority else 0,
        environment=specs.run_environment(job, run, number, name),
        labels={specs.JOB_LABEL: job.name, specs.RUN_LABEL: str(run.number)},
        once=True,
        cause=run.because_of,
    )


# --- what is due ---


def _fire(desk: Desk, record: JobRecord) -> None:
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


def _fire_by_parents(desk: Desk, record: JobRecord, because_of: str) -> None:
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
    run = _new_run(desk, record, Cause.CATCH_UP, first.at_ms, RunState.WAITING, count=count)
    end(desk, record, run, RunState.SKIPPED, reason)


def _move_on(desk: Desk, job: Job, due: Due, last: Moment, used: int) -> None:
    progress = desk.progress(job.name)
    left = progress.left if progress.left is None else max(progress.left - used, 0)
    upcoming = due.following(last) if left != 0 else None
    desk.put_progress(job.name, attrs.evolve(progress, upcoming=upcoming, left=left))


def _watch(desk: Desk, record: JobRecord) -> None:
    """What time alone brings about, whatever becomes of runs."""
    forget_too_old(desk, record.job.name)
    _tell_if_overdue(desk, record)


def _tell_if_overdue(desk: Desk, record: JobRecord) -> None:
    """Tells the owners, once, that nothing has succeeded for too long."""
    progress = desk.progress(record.job.name)
    deadline_ms = _alert_ms(record.job, progress)
    if deadline_ms is None or deadline_ms > desk.now_ms:
        return
    desk.put_progress(record.job.name, attrs.evolve(progress, alerted=True))
    message = f"it has not succeeded for {record.job.alert_after}"
    name = record.job.name
    desk.do(Emit("job.overdue", subject=name, details={"job": name, "reason": message}))
    tell(desk, record, Happening.OVERDUE, message)


def _alert_ms(job: Job, progress: Progress) -> int | None:
    """When `alert_after` is over; None when nobody wants to know, or was told already."""
    after_ms = period_ms(job.alert_after)
    if not after_ms or progress.alerted or job.disabled:
        return None
    return max(progress.counters.last_success or 0, progress.watched_from_ms) + after_ms


def _next_time(desk: Desk, record: JobRecord) -> int | None:
    """When something of the job is due, by time alone."""
    job = record.job
    times = []
    progress: Progress = desk.progress(job.name)
    due = Due.of(record)
    if (
        due is not None
        and progress.upcoming is not None
        and not job.disabled
        and not desk.paused
        and progress.left != 0
    ):
        times.append(due.starts_ms(progress.upcoming))
    if (alert_ms := _alert_ms(job, progress)) is not None:
        times.append(alert_ms)
    if (forget_ms := forget_at_ms(desk, job.name)) is not None:
        times.append(forget_ms)
    for run in desk.open_runs(job.name):
        if run.state is RunState.WAITING and run.due_ms > desk.now_ms:
            times.append(run.due_ms)
        elif run.state is RunState.AWAITING:
            if (deadline_ms := _deadline_ms(job, _began_ms(run))) is not None:
                times.append(deadline_ms)
        elif run.state is RunState.ACTIVE:
            task = _task_of(desk, run)
            if task is None:
                times.append(run.attempts[-1].asked_ms + UNSEEN_MS)
            elif run.stop is None and (deadline_ms := _deadline_ms(job, task.started_utc_ms)) is not None:
                times.append(deadline_ms)
    return min(times, default=None)
