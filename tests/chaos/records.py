"""One job's case: its due times, its programs and its history, and whether the latter two tell the same.

A record that says that something was not run is believed only where what else is known bears it out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from chaos.evidence import Attempt, Evidence, Kind, Order, Program, Run

BY_TIME: Final = ("time", "catch-up")
FOREVER_MS: Final = 1 << 62
_TOO_LATE: Final = "too late to be made up for"
_STANDS_FOR_ALL: Final = "one later run stands for all"
_NOT_MADE_UP_FOR: Final = "missed runs are not made up for"
#: How late a run may be of a job that says that missed ones are not made up for.
_IN_TIME_MS: Final = 60_000


class Case:
    """Everything that is known of one job. history: None when the job is not there in the end."""

    def __init__(self, evidence: Evidence, name: str) -> None:
        self.evidence = evidence
        self.job = evidence.jobs[name]
        self.programs = evidence.programs_of(name)
        self.history = evidence.histories.get(name)
        self.by_number = {run.number: run for run in self.history or ()}
        self.program_of = {(program.run, program.attempt): program for program in self.programs}
        self._disabled = list(self._possibly_disabled())

    def orders(self, *kinds: Kind) -> list[Order]:
        return self.evidence.of_kind(self.job.name, *kinds)

    def by_time(self) -> list[Run]:
        return [run for run in self.history or () if run.cause in BY_TIME]

    @property
    def cut_off_ms(self) -> int:
        """What is due from here on may be run or not."""
        return self.evidence.paused_ms[0] - self.evidence.limits.clock_ms

    # Due times

    def is_due_time(self, at_ms: int) -> bool:
        job = self.job
        return bool(job.interval_ms) and at_ms >= job.start_ms and (at_ms - job.start_ms) % job.interval_ms == 0

    def due_times(self) -> list[int]:
        """All until the end, as far as the job's count reaches."""
        job = self.job
        if not job.interval_ms:
            return []
        return list(range(job.start_ms, min(self.cut_off_ms, self.last_due_ms + 1), job.interval_ms))

    def due_within(self, from_ms: int, until_ms: int) -> list[int]:
        """All due times of a stretch, both ends included, whether they are past or not."""
        job = self.job
        last_ms = until_ms if job.count is None else min(until_ms, job.start_ms + (job.count - 1) * job.interval_ms)
        first_ms = job.start_ms + max(0, -(-(from_ms - job.start_ms) // job.interval_ms)) * job.interval_ms
        return list(range(first_ms, last_ms + 1, job.interval_ms))

    @property
    def last_due_ms(self) -> int:
        """With epsilon each due time uses up one of the job's count; else what a later run stands for does not."""
        if self.job.count is None:
            return FOREVER_MS
        stood_for = (run.count for run in self.by_time() if self._stood_for(run))
        not_counted = 0 if self.job.epsilon_ms is not None else sum(stood_for)
        return self.job.start_ms + (self.job.count + not_counted - 1) * self.job.interval_ms

    def owed(self) -> Iterator[int]:
        """Due times while the job was there and enabled, for certain."""
        if self.history is None or not any(order.acknowledged for order in self.orders(Kind.CREATE)):
            return
        undecided_ms = self.evidence.limits.undecided_ms
        recorded = {run.nominal_ms for run in self.by_time()}
        for target in self.due_times():
            until_ms = target if target in recorded else target + undecided_ms
            if not any(first_ms <= until_ms and target <= last_ms for first_ms, last_ms in self._disabled):
                yield target

    def _possibly_disabled(self) -> Iterator[tuple[int, int]]:
        enabled = [order for order in self.orders(Kind.ENABLE) if order.answered_ms is not None]
        for order in self.orders(Kind.DISABLE, Kind.DELETE):
            ends = [one.answered_ms or 0 for one in enabled if one.sent_ms > order.sent_ms]
            yield order.sent_ms, min(ends, default=FOREVER_MS)

    def maybe_disabled(self, at_ms: int) -> bool:
        return any(first_ms <= at_ms <= last_ms for first_ms, last_ms in self._disabled)

    def known_since_ms(self, at_ms: int) -> int:
        """When somebody could decide what is due at this time: then, or when the job was created or enabled."""
        orders = self.orders(Kind.CREATE, Kind.ENABLE)
        return max([at_ms, *(order.answered_ms or FOREVER_MS for order in orders)])

    # What the history says of them

    def covered(self, run: Run) -> list[int]:
        """The due times that the record stands for."""
        return [run.nominal_ms + number * self.job.interval_ms for number in range(run.count)]

    def is_passed_over(self, run: Run) -> bool:
        return run.state == "skipped" and run.reason.startswith("missed")

    def _stood_for(self, run: Run) -> bool:
        return self.is_passed_over(run) and _TOO_LATE not in run.reason

    def is_excused(self, target: int) -> bool:
        """Need nothing have run? Whether the record is right to say so, `check` says."""
        for run in self.by_time():
            if target in self.covered(run):
                return run.state == "skipped" or run.held_by_pause or self._never_began(run)
        return False

    def _never_began(self, run: Run) -> bool:
        """It was stopped, or lost with its node, before its program had said a word."""
        if not run.attempts:
            return run.state in ("killed", "failed")
        return (run.number, 0) not in self.program_of and run.attempts[0].outcome in ("killed", "lost", "withdrawn")

    def late_at_ms(self, target: int) -> int:
        """Until when something must have begun that is due at this time."""
        limits = self.evidence.limits
        free_ms = target
        for run in self.by_time():
            if run.nominal_ms == target:
                free_ms = max(target, self.free_at_ms(run))
        return free_ms + (self.job.epsilon_ms or 0) + limits.late_ms

    def free_ms(self, program: Program) -> int:
        """When it could begin at the earliest."""
        run = self.by_number.get(program.run)
        return self.free_at_ms(run) if run is not None else program.nominal_ms

    def free_at_ms(self, run: Run) -> int:
        """When it was due and nothing was in the run's way any more."""
        if self.job.overlap == "allow" or not run.attempts:
            return run.nominal_ms
        free_ms = run.nominal_ms
        for other in self.history or ():
            for number, attempt in enumerate(other.attempts):
                if other.number != run.number and attempt.asked_ms <= run.attempts[0].asked_ms:
                    free_ms = max(free_ms, self._known_over_ms(other.number, number, attempt))
        return free_ms

    def may_go_on_ms(self, run: Run) -> int:
        """When nothing was in the way any more of one that still waits."""
        times = [run.nominal_ms]
        if run.attempts:
            times.append((run.attempts[-1].ended_ms or 0) + self.job.retry_delay_ms)
        if self.job.overlap != "allow":
            for other in self.history or ():
                if other.number != run.number:
                    times += [self._known_over_ms(other.number, at, one) for at, one in enumerate(other.attempts)]
        return max(times)

    def _known_over_ms(self, run: int, number: int, attempt: Attempt) -> int:
        """When an attempt had ended; of one that was lost nobody knew before it was given up."""
        program = self.program_of.get((run, number))
        if program is None or program.end_ms is None or attempt.outcome == "lost":
            return attempt.ended_ms or 0
        return program.end_ms

    # Programs

    def attempt_of(self, program: Program) -> Attempt | None:
        run = self.by_number.get(program.run)
        return run.attempts[program.attempt] if run is not None and program.attempt < len(run.attempts) else None

    def died_rightly(self, program: Program) -> bool:
        """It was stopped, or its node had no power any more."""
        return program.stopped or self.lost_at_ms(program) is not None

    def lost_at_ms(self, program: Program) -> int | None:
        """When it died with its node."""
        for failure in self.evidence.power_failures:
            if failure.node == program.node and program.start_ms <= failure.killed_ms and program.end_ms is None:
                return failure.killed_ms
        return None

    def over_ms(self, program: Program) -> int:
        """From when on it surely ran no more."""
        if program.end_ms is not None:
            return program.end_ms
        lost_at_ms = self.lost_at_ms(program)
        return lost_at_ms if lost_at_ms is not None else FOREVER_MS


def check(case: Case) -> Iterator[str]:
    """What is wrong with the history, by itself and against the programs."""
    yield from _accounts(case)
    for run in case.history or ():
        what = f"run {run.number} ({run.cause}, due at {run.nominal_ms}, {run.state})"
        for reason in (*_run(case, run), *_attempts(case, run)):
            yield f"{what}: {reason}"
    for program in case.programs:
        if case.attempt_of(program) is None:
            yield f"run {program.run}, attempt {program.attempt}, ran on {program.node} and is not recorded"


def _accounts(case: Case) -> Iterator[str]:
    """Each due time stands in the history exactly once, and nothing else does."""
    numbers = sorted(case.by_number)
    if numbers != list(range(len(numbers))) or len(numbers) != len(case.history or ()):
        yield f"runs are missing in the history: there are {numbers}"
    counted = Counter(target for run in case.by_time() for target in case.covered(run))
    for target, count in sorted(counted.items()):
        if not case.is_due_time(target):
            yield f"{target} is recorded, and no due time"
        elif count > 1:
            yield f"due at {target}, and recorded {count} times"
        elif target > case.last_due_ms:
            yield f"{target} is recorded, and it was due only until {case.last_due_ms}"
    for target in case.owed():
        if target not in counted:
            yield f"due at {target}, and not recorded"


def _run(case: Case, run: Run) -> Iterator[str]:
    """Is its end one that it could come to?"""
    last = run.attempts[-1] if run.attempts else None
    match run.state:
        case "skipped":
            yield from _skipped(case, run)
        case "succeeded":
            if last is None or last.outcome != "finished" or last.code != 0:
                yield f"its last attempt is {last}"
        case "failed":
            yield from _failed(case, run, last)
        case "killed":
            found = re.fullmatch(r"replaced by run (\d+)", run.reason)
            if found is None or case.job.overlap != "replace" or int(found[1]) not in case.by_number:
                yield f"nobody has stopped it: {run.reason!r}"
        case _ if run.held_by_pause:
            waited_ms = case.evidence.paused_ms[0] - case.may_go_on_ms(run)
            if waited_ms > _slack_ms(case, run):
                yield f"it did not go on for {waited_ms} ms before everything was paused"
        case _:
            yield "it never ended"
    program = case.program_of.get((run.number, 0))
    backfilled = run.cause == "backfill"  # its due time says nothing of when it may begin
    if program is not None and not backfilled and program.start_ms > case.free_at_ms(run) + _slack_ms(case, run):
        yield f"it began {program.start_ms - run.nominal_ms} ms after it was due"


def _slack_ms(case: Case, run: Run) -> int:
    limits = case.evidence.limits
    enabled = [order.answered_ms or 0 for order in case.orders(Kind.CREATE, Kind.ENABLE)]
    waited_ms = max(0, max(enabled, default=0) - run.nominal_ms) if run.cause in BY_TIME else 0
    return (case.job.epsilon_ms or 0) + limits.late_ms + waited_ms


def _failed(case: Case, run: Run, last: Attempt | None) -> Iterator[str]:
    if last is None or last.outcome not in ("failed", "lost"):
        yield f"its last attempt is {last}"
        return
    final = last.outcome == "lost" and case.job.node_loss == "at-most-once"
    if not final and len(run.attempts) <= case.job.retries and not case.maybe_disabled(run.ended_ms or 0):
        yield f"it was given up after {len(run.attempts)} attempts of {case.job.retries + 1}"


def _skipped(case: Case, run: Run) -> Iterator[str]:
    decided_ms = run.ended_ms or 0
    last_ms = case.covered(run)[-1]
    if run.attempts:
        yield "it was skipped, and tried"
    if case.is_passed_over(run):
        if run.cause not in BY_TIME:
            yield f"only due times can be missed: {run.reason!r}"
        yield from _passed_over(case, run, decided_ms, last_ms)
    elif run.reason == "its job was disabled":
        if not case.maybe_disabled(decided_ms):
            yield "its job was not disabled"
    elif found := re.fullmatch(r"run (\d+) was still going on", run.reason):
        other = case.by_number.get(int(found[1]))
        if case.job.overlap != "forbid" or other is None or not _open_at(other, run.number, decided_ms):
            yield f"nothing was in its way: {run.reason!r}"
    elif found := re.fullmatch(r"(\d+) runs were waiting already", run.reason):
        waiting = [one for one in case.by_number.values() if _queued_at(one, run.number, decided_ms)]
        if case.job.overlap != "queue" or len(waiting) < int(found[1]):
            yield f"so many did not wait: {run.reason!r}"
    else:
        yield f"that is no reason: {run.reason!r}"


def _passed_over(case: Case, run: Run, decided_ms: int, last_ms: int) -> Iterator[str]:
    limits, job = case.evidence.limits, case.job
    if decided_ms - case.known_since_ms(run.nominal_ms) > limits.undecided_ms:
        yield f"nobody has looked at it for {decided_ms - run.nominal_ms} ms"
    if _TOO_LATE in run.reason:
        if job.epsilon_ms is None or decided_ms - last_ms <= job.epsilon_ms:
            yield f"it was not too late: {decided_ms - last_ms} ms"
    elif _NOT_MADE_UP_FOR in run.reason:
        if job.catch_up != "none" or decided_ms < min(last_ms + job.interval_ms, last_ms + _IN_TIME_MS):
            yield f"it was not missed: {run.reason!r}"
    elif _STANDS_FOR_ALL in run.reason:
        following = last_ms + job.interval_ms
        stands = any(one.nominal_ms == following for one in case.by_time() if not case.is_passed_over(one))
        if job.catch_up == "all" or decided_ms < following or not stands:
            yield f"no later run stands for it: {run.reason!r}"
    else:
        yield f"that is no reason: {run.reason!r}"


def _open_at(run: Run, before: int, at_ms: int) -> bool:
    return run.number < before and (run.ended_ms is None or run.ended_ms >= at_ms)


def _queued_at(run: Run, before: int, at_ms: int) -> bool:
    """Did it exist, and wait for its first attempt?"""
    return _open_at(run, before, at_ms) and (not run.attempts or run.attempts[0].asked_ms >= at_ms)


def _attempts(case: Case, run: Run) -> Iterator[str]:
    for number, attempt in enumerate(run.attempts):
        program = case.program_of.get((run.number, number))
        if program is None:
            if attempt.outcome not in ("killed", "lost", "withdrawn"):
                yield f"attempt {number} is recorded as {attempt.outcome or 'open'}, and no program ran"
        else:
            yield from (f"attempt {number}: {reason}" for reason in _program(case, run, attempt, program))
        if attempt.outcome == "lost" and not _power_failed(case, attempt):
            yield f"attempt {number} is recorded as lost, and {attempt.node or 'its node'} was not"
        if number:
            yield from (f"attempt {number}: {reason}" for reason in _retry(case, run.attempts[number - 1], attempt))


def _power_failed(case: Case, attempt: Attempt) -> bool:
    """It takes a time until a node without power is known to be one."""
    return any(
        failure.node == attempt.node
        and attempt.asked_ms <= failure.until_ms
        and failure.from_ms <= (attempt.ended_ms or FOREVER_MS)
        for failure in case.evidence.power_failures
    )


def _retry(case: Case, before: Attempt, attempt: Attempt) -> Iterator[str]:
    if before.outcome != "failed" and not (before.outcome == "lost" and case.job.node_loss == "at-least-once"):
        yield f"after one that was {before.outcome or 'open'} there is no other"
    due_ms = (before.ended_ms or 0) + case.job.retry_delay_ms - case.evidence.limits.clock_ms
    if attempt.asked_ms < due_ms:
        yield f"it was made {due_ms - attempt.asked_ms} ms too early"


def _program(case: Case, run: Run, attempt: Attempt, program: Program) -> Iterator[str]:
    if (attempt.task, attempt.node) != (program.task, program.node):
        yield f"recorded is task {attempt.task} on {attempt.node}, and {program.task} ran on {program.node}"
    if (program.nominal_ms, program.cause) != (run.nominal_ms, run.cause):
        yield f"the program was told {program.cause} at {program.nominal_ms}"
    if program.start_ms < attempt.asked_ms - case.evidence.limits.clock_ms:
        yield f"it began {attempt.asked_ms - program.start_ms} ms before it was asked for"
    match attempt.outcome:
        case "finished" | "failed":
            if not program.complete or program.code != attempt.code:
                yield f"recorded is code {attempt.code}, and the program ended with {program.code}"
        case "killed":
            # It may have ended by itself, with the order to stop under way.
            if not program.stopped and not program.complete:
                yield "it was killed, and never heard of it"
        case "lost":
            if program.end_ms is None and not case.died_rightly(program):
                yield "it has vanished"
        case _:
            yield f"its outcome is {attempt.outcome!r}"
