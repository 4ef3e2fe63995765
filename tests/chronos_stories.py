"""Histories of one job of Chronos as they should be, for tests of the checker, which spoil them."""

from __future__ import annotations

from typing import Any

import attrs
from chaos.checker import check
from chaos.evidence import Attempt, Evidence, Job, Kind, Limits, Order, PowerFailure, Program, Run

BEGAN = 1_000_000
EVERY = 10_000
PAUSED = BEGAN + 95_000
LIMITS = Limits(late_ms=5_000, undecided_ms=20_050)


def program(run: Run, number: int = 0, **members: Any) -> Program:
    """What a run's attempt looks like from the node: it takes 2 s."""
    attempt = run.attempts[number]
    started_ms = attempt.started_ms or 0
    told = {"job": "a", "run": run.number, "attempt": number, "nominal_ms": run.nominal_ms, "cause": run.cause}
    seen = {"node": attempt.node, "task": attempt.task, "start_ms": started_ms, "end_ms": started_ms + 2_000}
    every: dict[str, Any] = {**told, **seen, "code": attempt.code, **members}
    return Program(**every)


def run(number: int, at_ms: int, **members: Any) -> Run:
    """One that succeeds at once."""
    attempt = Attempt(
        task=f"t{number}-{members.get('cause', 'time')}",
        asked_ms=at_ms + 20,
        started_ms=at_ms + 50,
        ended_ms=at_ms + 2_050,
        node="n1",
        outcome="finished",
        code=0,
    )
    well: dict[str, Any] = {"cause": "time", "state": "succeeded", "ended_ms": at_ms + 2_100, "attempts": (attempt,)}
    return Run(number=number, nominal_ms=at_ms, **(well | members))


def skipped(number: int, at_ms: int, reason: str, decided_ms: int, **members: Any) -> Run:
    return run(number, at_ms, state="skipped", reason=reason, ended_ms=decided_ms, attempts=(), **members)


def order(kind: Kind, sent_ms: int, *, job: str = "a", known: bool = True, **members: Any) -> Order:
    return Order(kind=kind, job=job, sent_ms=sent_ms, answered_ms=sent_ms + 10 if known else None, **members)


@attrs.define
class Story:
    """Of one job, as it should be: ten due times and a run for each. To be spoilt."""

    job: Job = attrs.field(factory=lambda: Job(name="a", start_ms=BEGAN, interval_ms=EVERY))
    runs: list[Run] = attrs.field(factory=lambda: [run(number, BEGAN + number * EVERY) for number in range(10)])
    programs: list[Program] = attrs.field(factory=list)
    orders: list[Order] = attrs.field(factory=lambda: [order(Kind.CREATE, BEGAN - 5_000)])
    failures: list[PowerFailure] = attrs.field(factory=list)
    deleted: bool = False

    def __attrs_post_init__(self) -> None:
        self.programs = [program(one) for one in self.runs]

    def have(self, **members: Any) -> None:
        """The job is another one."""
        self.job = attrs.evolve(self.job, **members)

    def put(self, *runs: Run) -> None:
        """In place of those with their numbers; their programs are left to the test."""
        for one in runs:
            self.runs[one.number] = one
            self.programs = [other for other in self.programs if other.run != one.number]

    def reasons(self) -> str:
        evidence = Evidence(
            jobs={"a": self.job},
            orders=tuple(self.orders),
            programs=tuple(self.programs),
            histories={} if self.deleted else {"a": tuple(self.runs)},
            paused_ms=(PAUSED, PAUSED + 10),
            limits=LIMITS,
            power_failures=tuple(self.failures),
        )
        (verdict,) = check(evidence)
        return "; ".join(verdict.reasons)


def at(number: int) -> int:
    return BEGAN + number * EVERY
