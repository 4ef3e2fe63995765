"""A run's attempts: how one has ended, and whether another one follows."""

from __future__ import annotations

from typing import Final

import attrs

from orlop.framework import Outcome, Task
from orlop_chronos import specs
from orlop_chronos.desk import Desk
from orlop_chronos.documents import Attempt, Cause, JobRecord, Run
from orlop_chronos.model import Job, NodeLoss

#: Of one run. They are one document, of which a store takes 1.5 MB.
MOST_ATTEMPTS: Final = 1_000
#: Attempts whose reasons are kept whole; those of later ones are cut, for the same cause. In characters.
WHOLE_REASONS: Final = 20
CUT_REASON: Final = 200
#: Causes of runs that a disabled job has not, and none while everything is paused; by hand it may be run.
OF_THEMSELVES: Final = frozenset({Cause.TIME, Cause.CATCH_UP, Cause.PARENT})


def closed(desk: Desk, attempt: Attempt, task: Task | None) -> Attempt:
    """The attempt as its task has ended; None for a task of which nothing is known."""
    if task is None:
        reason = "nothing is known of its task any more"
        return attrs.evolve(attempt, ended_ms=desk.now_ms, outcome=Outcome.LOST.value, reason=reason)
    ended = task.status.exit
    return attrs.evolve(
        attempt,
        task=task.id,
        started_ms=task.started_utc_ms,
        ended_ms=task.ended_utc_ms or desk.now_ms,
        node=specs.node_name(desk.view, task),
        node_id=task.node or "",
        outcome=(ended.outcome if ended is not None else Outcome.LOST).value,
        code=ended.code if ended is not None else None,
        signal=ended.signal if ended is not None else None,
        reason=_reason(task),
    )


def _reason(task: Task) -> str:
    ended = task.status.exit
    if ended is None:
        return task.desired_reason or task.status.message
    if ended.reason:
        return ended.reason
    if ended.code is not None:
        return f"exit code {ended.code}"
    if ended.signal is not None:
        return f"signal {ended.signal}"
    return task.desired_reason or ended.outcome.value


def kept(attempts: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """As they are stored."""
    later = (attrs.evolve(one, reason=one.reason[:CUT_REASON]) for one in attempts[WHOLE_REASONS:])
    return (*attempts[:WHOLE_REASONS], *later)


def may_retry(desk: Desk, record: JobRecord, run: Run, attempt: Attempt) -> bool:
    """Is a run tried again whose last attempt has failed like this?"""
    job = record.job
    if (job.disabled and run.cause in OF_THEMSELVES) or len(run.attempts) >= min(job.retries + 1, MOST_ATTEMPTS):
        return False
    if attempt.outcome == Outcome.LOST and job.node_loss is NodeLoss.AT_MOST_ONCE:
        return False
    if desk.settings.retry_only_after_success:
        counters = desk.progress(job.name).counters
        return counters.last_error is None or (counters.last_success or 0) >= counters.last_error
    return True


def retry_delay_ms(job: Job, failures: int) -> int:
    """How long the next attempt waits after so many that have failed."""
    delay_s, longest_s = job.retry_delay, max(job.max_retry_delay, job.retry_delay)
    for _ in range(failures - 1):
        delay_s = min(delay_s * job.retry_backoff, longest_s)
    return round(delay_s * 1000)
