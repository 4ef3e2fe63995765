"""Jobs with parents: a child is due when all its parents have succeeded since it was last due, and not before."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator

from chaos.evidence import Kind
from chaos.records import Case


def check(case: Case) -> Iterator[str]:
    """What is wrong with the starts of a job that has parents."""
    if not case.job.parents:
        return
    successes = {parent: _recorded_successes(case, parent) for parent in case.job.parents}
    due = sorted(run.nominal_ms for run in case.history or () if run.cause == "parent")
    for parent, times in successes.items():
        yield from _too_often(parent, times, due)
    yield from _missed(case, successes, due)
    yield from _too_early(case)


def _too_often(parent: str, successes: list[int], due: list[int]) -> Iterator[str]:
    """Due times that use up what was used up before.

    Several successes may be known in the same millisecond, and one in which the child was due may be from after that.
    """
    left, before_ms = deque(successes), 0
    for at_ms in due:
        earlier = 0
        while left and left[0] < at_ms:
            left.popleft()
            earlier += 1
        if not earlier:
            if left and left[0] == at_ms:
                left.popleft()
            else:
                yield f"due at {at_ms}, and {parent} had not succeeded since {before_ms}"
        before_ms = at_ms


def _recorded_successes(case: Case, parent: str) -> list[int]:
    """When the parent's successes were known, in order. A soft error is one to its children."""
    soft = case.evidence.jobs[parent].soft_error
    states = ("succeeded", "failed") if soft else ("succeeded",)
    history = case.evidence.histories.get(parent, ())
    return sorted(run.ended_ms for run in history if run.state in states and run.ended_ms is not None)


def _missed(case: Case, successes: dict[str, list[int]], due: list[int]) -> Iterator[str]:
    """All parents had succeeded since it was last due, and it was not due until later, or never."""
    created = [order.answered_ms for order in case.orders(Kind.CREATE) if order.answered_ms is not None]
    if not created or case.orders(Kind.DISABLE, Kind.DELETE):
        return
    edges = [created[0], *due]
    for before_ms, until_ms in zip(edges, [*due, case.cut_off_ms], strict=True):
        first = [next((one for one in times if one > before_ms), None) for times in successes.values()]
        complete = [one for one in first if one is not None]
        if len(complete) == len(first) and max(complete) < until_ms:
            yield f"all parents had succeeded at {max(complete)}, and it was not due"


def _too_early(case: Case) -> Iterator[str]:
    """By the programs alone: before a child's nth run each parent has ended n times."""
    starts = sorted(one.start_ms for one in case.programs if one.cause == "parent" and one.attempt == 0)
    for parent in case.job.parents:
        if case.evidence.jobs[parent].soft_error:
            continue  # it may have failed with its node, before its program had said a word
        ends = sorted(
            one.end_ms
            for one in case.evidence.programs_of(parent)
            if one.complete and one.end_ms is not None and one.code == 0
        )
        for number, start_ms in enumerate(starts, 1):
            if bisect_right(ends, start_ms) < number:
                yield f"run {number} by parents began at {start_ms}, and {parent} had not ended so often"
                break
