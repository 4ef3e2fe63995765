"""What follows when a run has ended: counters, children, history, and what is told to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from orlop.framework import Emit
from orlop_chronos import rendering
from orlop_chronos.desk import Desk
from orlop_chronos.documents import JobRecord, Progress, Run, RunState, Stop
from orlop_chronos.model import Counters, TriggerRule
from orlop_chronos.notices import Happening, tell

SUCCEEDED = "succeeded"
FAILED = "failed"
#: Neither of them: only who waits for any end at all is due by it.
KILLED = "killed"
_AWAITED = {
    TriggerRule.ALL_SUCCESS: SUCCEEDED,
    TriggerRule.ONE_SUCCESS: SUCCEEDED,
    TriggerRule.ALL_FAILED: FAILED,
    TriggerRule.ONE_FAILED: FAILED,
}
DAY_MS = 86_400_000
#: Old runs that are deleted when one ends, or is old enough.
MOST_DELETED = 20
#: Numbers that are looked at for it.
MOST_LOOKED_AT = 1_000


def end(desk: Desk, record: JobRecord, run: Run, state: RunState, reason: str) -> Run:
    """Makes the run final, with all that follows. Children that are due are left to their own `attend`."""
    run = attrs.evolve(run, state=state, reason=reason, ended_ms=desk.now_ms)
    desk.put_run(run)
    name = run.job
    progress = desk.progress(name)
    left_open = tuple(number for number in progress.open_runs if number != run.number)
    desk.put_progress(name, attrs.evolve(progress, open_runs=left_open))
    if state is RunState.SUCCEEDED:
        _succeeded(desk, record, run)
    elif state is RunState.FAILED:
        _failed(desk, record, run)
    elif state is RunState.KILLED and run.stop is not Stop.REPLACED:
        tell_children(desk, name, KILLED, run.id)
    details = {"job": name, "run": str(run.number), "cause": run.cause.value, "reason": reason}
    desk.do(Emit(f"run.{state.value}", subject=name, details={key: value for key, value in details.items() if value}))
    if _is_old(desk, desk.progress(name), run):
        # It has gone on for long itself, and may be behind another one that still does.
        desk.delete_run(name, run.number)
    _forget_old(desk, name)
    return run


def count_success(desk: Desk, name: str) -> None:
    """As after a successful run."""
    progress = desk.progress(name)
    counters = attrs.evolve(
        progress.counters,
        success_count=progress.counters.success_count + 1,
        errors_since_last_success=0,
        last_success=desk.now_ms,
    )
    desk.put_progress(name, attrs.evolve(progress, counters=counters, alerted=False))


def tell_children(desk: Desk, name: str, result: str, because_of: str) -> None:
    """Notes the result with every child; whether they are due by it is for `due_runs.start_children` to see."""
    for child in desk.children(name):
        record = desk.job(child)
        if record is not None:
            progress = desk.progress(child)
            # What the child waits for has happened, whatever comes after it.
            if progress.edges.get(name) != _AWAITED.get(record.job.trigger_rule, ""):
                desk.put_progress(child, attrs.evolve(progress, edges={**progress.edges, name: result}))
            desk.told.append((child, because_of))


def _succeeded(desk: Desk, record: JobRecord, run: Run) -> None:
    name = run.job
    count_success(desk, name)
    tell_children(desk, name, SUCCEEDED, run.id)
    progress = desk.progress(name)
    current = desk.job(name) or record
    if progress.left == 0 and not progress.open_runs and not record.job.parents and not current.job.disabled:
        _disable(desk, record, "it has run as often as it should")


def _failed(desk: Desk, record: JobRecord, run: Run) -> None:
    name = run.job
    progress = desk.progress(name)
    counters: Counters = attrs.evolve(
        progress.counters,
        error_count=progress.counters.error_count + 1,
        errors_since_last_success=progress.counters.errors_since_last_success + 1,
        last_error=desk.now_ms,
    )
    desk.put_progress(name, attrs.evolve(progress, counters=counters))
    tell_children(desk, name, SUCCEEDED if record.job.soft_error else FAILED, run.id)
    limit = desk.settings.disable_after_failures
    if limit and counters.errors_since_last_success >= limit:
        _disable(desk, record, f"{counters.errors_since_last_success} runs in a row have failed")
    else:
        tell(desk, record, Happening.FAILED, _story(run), run)


def _story(run: Run) -> str:
    """Of a failed run, for people."""
    last = run.attempts[-1] if run.attempts else None
    where = f" on {last.node}" if last is not None and last.node else ""
    due = rendering.instant(run.nominal_ms)
    return f"run {run.number}, due {due}, failed after {len(run.attempts)} attempts, the last{where}: {run.reason}"


def _disable(desk: Desk, record: JobRecord, reason: str) -> None:
    current = desk.job(record.job.name) or record
    job = attrs.evolve(current.job, disabled=True)
    desk.put_job(job.name, attrs.evolve(current, job=job))
    desk.do(Emit("job.disabled", subject=job.name, details={"job": job.name, "reason": reason}))
    tell(desk, record, Happening.DISABLED, reason)


def forget_too_old(desk: Desk, name: str) -> None:
    """Deletes what has been kept long enough. `MOST_DELETED` runs; then there is more to be done for the job."""
    at_ms = forget_at_ms(desk, name)
    if at_ms is not None and at_ms <= desk.now_ms:
        _forget_old(desk, name)


def forget_at_ms(desk: Desk, name: str) -> int | None:
    """When the oldest of the runs that have ended has been kept long enough. None: there is none."""
    oldest = next(_ended(desk, name), None)
    return None if oldest is None else (oldest.ended_ms or 0) + _kept_ms(desk) + 1


def _forget_old(desk: Desk, name: str) -> None:
    """Deletes the oldest runs, as far as they are ended and too many or too old."""
    progress = desk.progress(name)
    for deleted, run in enumerate(_ended(desk, name)):
        if deleted == MOST_DELETED or not _is_old(desk, progress, run):
            break
        desk.delete_run(name, run.number)
    oldest = progress.oldest_run
    until = min(oldest + MOST_LOOKED_AT, progress.next_run)
    while oldest < until and desk.run(name, oldest) is None:
        oldest += 1
    if oldest != progress.oldest_run:
        desk.put_progress(name, attrs.evolve(progress, oldest_run=oldest))


def _is_old(desk: Desk, progress: Progress, run: Run) -> bool:
    """Is an ended run one too many, or kept for too long?"""
    too_many = run.number < progress.next_run - desk.settings.history_count
    return too_many or (run.ended_ms or 0) < desk.now_ms - _kept_ms(desk)


def _kept_ms(desk: Desk) -> int:
    days: float = desk.settings.history_days
    return round(days * DAY_MS)


def _ended(desk: Desk, name: str) -> Iterator[Run]:
    """Runs that have ended, the oldest first."""
    progress = desk.progress(name)
    number, end = progress.oldest_run, progress.next_run
    until = min(number + MOST_LOOKED_AT, end)
    while number < until:
        run = desk.run(name, number)
        if run is not None and not run.final:
            break
        number += 1
        if run is not None:
            yield run
    # Behind one that goes on for long they grow too many as well, one with each run: there are gaps until these.
    latest = max(end - desk.settings.history_count - MOST_DELETED, number)
    for number in range(latest, min(latest + MOST_LOOKED_AT, end)):
        run = desk.run(name, number)
        if run is not None and run.final:
            yield run


def rule_is_met(rule: TriggerRule, parents: tuple[str, ...], edges: Mapping[str, str]) -> bool:
    """Is a job due by what its parents' last runs have come to?"""
    results = [edges.get(parent) for parent in parents]
    match rule:
        case TriggerRule.ALL_SUCCESS:
            return all(result == SUCCEEDED for result in results)
        case TriggerRule.ALL_FAILED:
            return all(result == FAILED for result in results)
        case TriggerRule.ALL_DONE:
            return all(result is not None for result in results)
        case TriggerRule.ONE_SUCCESS:
            return SUCCEEDED in results
        case TriggerRule.ONE_FAILED:
            return FAILED in results
