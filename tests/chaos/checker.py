"""Judges what Chronos has done. Pure; after the checker of Jepsen's Chronos tests (2015), and stricter.

Of each job: every due time has a complete run of its own that began in time, or the history says rightly why not; no
program runs without a cause, none twice, none beside another where that is forbidden; no more runs than were asked for;
none after an acknowledged disabling or deletion; children after their parents; and history and programs tell the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from chaos import families, records
from chaos.evidence import Evidence, Kind, Order, Program, Verdict
from chaos.matching import Window, match
from chaos.records import BY_TIME, Case


def check(evidence: Evidence) -> list[Verdict]:
    """A verdict for each job that was sent, by name."""
    return [_judge(evidence, name) for name in sorted(evidence.jobs)]


def _judge(evidence: Evidence, name: str) -> Verdict:
    case = Case(evidence, name)
    reasons = [*_existence(case), *_doubled(case), *_unordered(case), *_overlapping(case), *_too_many(case)]
    reasons += _forbidden(case)
    if case.history is not None:
        reasons += [*records.check(case), *_by_hand(case), *_backfilled(case), *families.check(case)]
    served, owed, excused, missed = _served(case)
    first = [program for program in case.programs if program.attempt == 0 and program.cause in BY_TIME]
    return Verdict(
        job=name,
        reasons=(*reasons, *missed),
        targets=owed,
        excused=excused,
        surplus=len(case.programs) - served,
        doubled=sum(count - 1 for count in _starts(case).values()),
        lateness_ms=tuple(program.start_ms - case.free_ms(program) for program in first),
    )


def _existence(case: Case) -> Iterator[str]:
    created = case.orders(Kind.CREATE)
    deleted = case.orders(Kind.DELETE)
    if case.history is None and any(order.acknowledged for order in created) and not deleted:
        yield "it was acknowledged, and is lost"
    if case.history is not None and any(order.acknowledged for order in deleted):
        yield "its deletion was acknowledged, and it is there"
    if case.history is not None and not created:
        yield "nobody has defined it"


# --- due times ---


def _served(case: Case) -> tuple[int, int, int, list[str]]:
    """(due times that were served, that were owed, that are excused, what is wrong)."""
    owed = list(case.owed())
    excused = [target for target in owed if case.is_excused(target)]
    windows = [Window(target, case.late_at_ms(target)) for target in owed if target not in excused]
    starts = [
        program.start_ms
        for program in case.programs
        if program.attempt == 0 and program.cause in BY_TIME and (program.complete or case.died_rightly(program))
    ]
    found = match(windows, starts)
    missed = [
        f"due at {window.target_ms}, and nothing of its own began until {window.until_ms}"
        for index, window in enumerate(windows)
        if index not in found
    ]
    return len(found), len(owed), len(excused), missed


# --- what must not be ---


def _starts(case: Case) -> Counter[tuple[int, int]]:
    return Counter((program.run, program.attempt) for program in case.programs)


def _doubled(case: Case) -> Iterator[str]:
    for (run, attempt), count in _starts(case).items():
        if count > 1:
            yield f"run {run}, attempt {attempt}, was started {count} times"
    due: dict[int, set[int]] = {}
    for program in case.programs:
        if program.cause in BY_TIME:
            due.setdefault(program.nominal_ms, set()).add(program.run)
    for nominal_ms, runs in due.items():
        if len(runs) > 1:
            yield f"due at {nominal_ms}, and run {len(runs)} times: runs {sorted(runs)}"


def _unordered(case: Case) -> Iterator[str]:
    """Programs that nothing in the job's definition calls for."""
    for program in case.programs:
        what = f"run {program.run}, attempt {program.attempt}"
        if program.cause in BY_TIME:
            if not case.is_due_time(program.nominal_ms):
                yield f"{what}: {program.nominal_ms} is no due time"
            if program.start_ms < program.nominal_ms:
                yield f"{what}: began {program.nominal_ms - program.start_ms} ms too early"
        elif program.cause == "parent":
            if not case.job.parents:
                yield f"{what}: by a parent, and it has none"
        elif program.cause == "backfill":
            if not case.is_due_time(program.nominal_ms):
                yield f"{what}: {program.nominal_ms} is no due time"
        elif program.cause != "manual":
            yield f"{what}: by {program.cause}, which nobody asked for"
        if program.attempt > case.job.retries:
            yield f"{what}: only {case.job.retries} further attempts were allowed"


def _overlapping(case: Case) -> Iterator[str]:
    if case.job.overlap == "allow":
        return
    before: Program | None = None
    for program in case.programs:
        if before is not None and program.start_ms < case.over_ms(before):
            yield f"runs {before.run} and {program.run} overlapped at {program.start_ms}"
        if before is None or case.over_ms(program) > case.over_ms(before):
            before = program


def _too_many(case: Case) -> Iterator[str]:
    most = case.job.count
    if most is None:
        return
    really = {program.run for program in case.programs if program.cause in BY_TIME}
    recorded = {run.number for run in case.by_time() if not case.is_passed_over(run)}
    for runs in (really, recorded):
        if len(runs) > most:
            yield f"{len(runs)} runs, and only {most} were asked for"


def _forbidden(case: Case) -> Iterator[str]:
    """Starts, and decisions to start, after the job was disabled or deleted."""
    limits = case.evidence.limits
    until_ms = (case.job.epsilon_ms or 0) + limits.late_ms
    for order in case.orders(Kind.DISABLE, Kind.DELETE):
        if order.answered_ms is None:
            continue
        for program in case.programs:
            if program.start_ms > order.answered_ms + until_ms and not _allowed_again(
                case, order, program.start_ms, program.cause
            ):
                yield f"run {program.run} began {program.start_ms - order.answered_ms} ms after {order.kind}"
        for run in case.history or ():
            for number, attempt in enumerate(run.attempts):
                if attempt.asked_ms > order.answered_ms + limits.clock_ms and not _allowed_again(
                    case, order, attempt.asked_ms, run.cause
                ):
                    after_ms = attempt.asked_ms - order.answered_ms
                    yield f"run {run.number}, attempt {number}, was asked for {after_ms} ms after {order.kind}"


def _allowed_again(case: Case, order: Order, at_ms: int, cause: str) -> bool:
    """By hand a disabled job may be run, and by a backfill; and somebody may have enabled it since."""
    if order.kind is Kind.DELETE:
        return False
    return cause in ("manual", "backfill") or any(
        order.sent_ms < other.sent_ms <= at_ms for other in case.orders(Kind.ENABLE)
    )


def _by_hand(case: Case) -> Iterator[str]:
    """Each acknowledged start has its run, and each run by hand was asked for."""
    clock_ms = case.evidence.limits.clock_ms
    asked = case.orders(Kind.START)
    made = [run.nominal_ms for run in case.history or () if run.cause == "manual"]
    end_ms = case.evidence.paused_ms[1] + case.evidence.limits.late_ms
    windows = [
        Window(order.sent_ms - clock_ms, (order.answered_ms if order.answered_ms is not None else end_ms) + clock_ms)
        for order in asked
    ]
    certain = [window for window, order in zip(windows, asked, strict=True) if order.acknowledged]
    if lost := len(certain) - len(match(certain, made)):
        yield f"{lost} starts by hand were acknowledged, and are not recorded"
    if ghosts := len(made) - len(match(windows, made)):
        yield f"{ghosts} runs by hand are recorded that nobody asked for"


def _backfilled(case: Case) -> Iterator[str]:
    """Each acknowledged backfill has a run for each due time of its stretch, and no other has one."""
    made = Counter(run.nominal_ms for run in case.history or () if run.cause == "backfill")
    asked, certain = Counter[int](), Counter[int]()
    for order in case.orders(Kind.BACKFILL):
        due = case.due_within(*order.stretch_ms)
        asked.update(due)
        certain.update(due if order.acknowledged else ())
    for at_ms, count in sorted((certain - made).items()):
        yield f"{count} backfills of what was due at {at_ms} were acknowledged, and are not recorded"
    for at_ms, count in sorted((made - asked).items()):
        yield f"{count} backfills of what was due at {at_ms} are recorded that nobody asked for"
