"""Runs are made, started when nothing of their job is in the way, and stopped."""

from __future__ import annotations

import attrs

from orlop.framework import Ask, Kill, Outcome, Task, TaskState
from orlop_chronos import specs
from orlop_chronos.attempts import OF_THEMSELVES
from orlop_chronos.desk import Desk
from orlop_chronos.documents import Attempt, Cause, JobRecord, Run, RunState, Stop, identity_of, is_task_of, task_key
from orlop_chronos.ending import end
from orlop_chronos.model import Overlap


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
    run = new_run(desk, record, cause, nominal_ms, RunState.WAITING, arguments=arguments, because_of=because_of)
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
    start_if_due(desk, record, run)
    return desk.run(job.name, run.number) or run


def _waits(desk: Desk, run: Run, policy: Overlap) -> bool:
    """For an earlier run, or where none waits for another, for a node or for somebody to say how it has ended."""
    if policy is not Overlap.ALLOW:
        return run.state is RunState.QUEUED
    if run.state is RunState.AWAITING:
        return True
    task = task_of(desk, run) if run.state is RunState.ACTIVE else None
    return task is not None and task.state is TaskState.PENDING


def stop(desk: Desk, record: JobRecord, run: Run, why: Stop, reason: str) -> None:
    """Ends a run: at once if nothing of it runs, else when its task has stopped."""
    if run.state is not RunState.ACTIVE:
        if not run.final:
            end(desk, record, run, RunState.KILLED, reason)
        return
    task = task_of(desk, run)
    if task is not None and task.state is TaskState.PENDING:
        attempt = attrs.evolve(run.attempts[-1], task=task.id, ended_ms=desk.now_ms, outcome=Outcome.WITHDRAWN.value)
        run = attrs.evolve(run, attempts=(*run.attempts[:-1], attempt), stop=why)
        desk.do(Kill(task.key, reason))
        end(desk, record, run, RunState.KILLED, reason)
        return
    if run.stop is None:
        run = attrs.evolve(run, stop=why, reason=reason)
        desk.put_run(run)
    kill(desk, run)


def task_of(desk: Desk, run: Run) -> Task | None:
    """Of the run's last attempt; None when it is not to be seen, as in the very call that asked for it."""
    return desk.view.tasks.get(task_key(run, len(run.attempts) - 1))


def kill(desk: Desk, run: Run) -> None:
    """Asks for the stop of the run's task, unless that goes on already."""
    task = task_of(desk, run)
    if task is not None and task.live and not task.stopping:
        desk.do(Kill(task.key, run.reason))


def new_run(
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
    """The job's next run, which the caller stores or ends. count: how many due times it stands for."""
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


def start_if_due(desk: Desk, record: JobRecord, run: Run) -> None:
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
