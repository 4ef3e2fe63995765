"""What a job needs now: its open runs looked after, what is due started. Level-triggered, a pure function of the desk.

`attend` may be called at any time and as often as one likes; what it finds already done it does not do again. A run is
made in the same transaction that moves the job on and asks for the task, so that a due time has exactly one run
whatever dies when.
"""

from __future__ import annotations

from typing import Final

import attrs

from orlop.framework import Emit, Outcome, Task, stopped_by_drain
from orlop_chronos.attempts import closed, kept, may_retry, retry_delay_ms
from orlop_chronos.desk import Desk
from orlop_chronos.documents import Attempt, JobRecord, Progress, Run, RunState, Stop
from orlop_chronos.due_runs import fire_by_parents, fire_by_time, start_children
from orlop_chronos.ending import end, forget_at_ms, forget_too_old
from orlop_chronos.model import Job
from orlop_chronos.notices import Happening, tell
from orlop_chronos.reading import period_ms
from orlop_chronos.starting import kill, start_if_due, stop, task_of
from orlop_chronos.triggers import Due

#: A task that was asked for so long ago and is not to be seen is lost. In milliseconds.
UNSEEN_MS: Final = 1_000


def attend(desk: Desk, name: str) -> int | None:
    """Does what the job needs now. When it must be attended again (UTC milliseconds); None: when something changes."""
    record = desk.job(name)
    if record is None:
        return None
    for run in list(desk.open_runs(name)):
        _look_after(desk, record, run)
        start_children(desk)
    record = desk.job(name) or record
    fire_by_time(desk, record)
    fire_by_parents(desk, record, "")
    for run in list(desk.open_runs(name)):
        start_if_due(desk, record, run)
    _watch(desk, record)
    return _next_time(desk, record)


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
    task = task_of(desk, run)
    if task is None:
        # What was asked for in this very call is not to be seen yet.
        if run.attempts[-1].asked_ms + UNSEEN_MS <= desk.now_ms:
            _attempt_ended(desk, record, run, None)
    elif not task.live:
        _attempt_ended(desk, record, run, task)
    elif run.stop is not None:
        kill(desk, run)
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


# --- what time alone brings about ---


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
            task = task_of(desk, run)
            if task is None:
                times.append(run.attempts[-1].asked_ms + UNSEEN_MS)
            elif run.stop is None and (deadline_ms := _deadline_ms(job, task.started_utc_ms)) is not None:
                times.append(deadline_ms)
    return min(times, default=None)
