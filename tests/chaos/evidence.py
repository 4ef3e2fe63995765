"""What is known of Chronos after a history of faults: what clients asked for, what programs did, what is recorded.

All times are UTC milliseconds of one clock. Where an answer never came, the outcome is not known: what was asked for
may have been done, and nothing is owed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs


@attrs.frozen(kw_only=True)
class Job:
    """A definition that a client sent. interval_ms: 0 for a job with parents, which has no start either.

    count: runs in all; None without end. epsilon_ms: None: as late as it gets. overlap, catch_up, node_loss: as in the
    job's JSON. retries: further attempts of a run. retry_delay_ms: before each of them.
    """

    name: str
    start_ms: int = 0
    interval_ms: int = 0
    count: int | None = None
    epsilon_ms: int | None = None
    overlap: str = "queue"
    catch_up: str = "one"
    node_loss: str = "at-most-once"
    retries: int = 0
    retry_delay_ms: int = 0
    soft_error: bool = False
    parents: tuple[str, ...] = ()


class Kind(enum.StrEnum):
    CREATE = "create"
    START = "start"
    DISABLE = "disable"
    ENABLE = "enable"
    DELETE = "delete"
    BACKFILL = "backfill"


@attrs.frozen(kw_only=True)
class Order:
    """What a client sent and was not refused.

    answered_ms: None when the outcome is not known. stretch_ms: of a backfill, from when until when, both included.
    """

    kind: Kind
    job: str
    sent_ms: int
    answered_ms: int | None
    stretch_ms: tuple[int, int] = (0, 0)

    @property
    def acknowledged(self) -> bool:
        return self.answered_ms is not None


@attrs.frozen(kw_only=True)
class Program:
    """A process that was really started, as it told of itself. task: Orlop's id, `cause`: as it was told.

    end_ms: None when it never said that it ends. stopped: it ended because it was asked to.
    """

    job: str
    run: int
    attempt: int
    nominal_ms: int
    cause: str
    node: str
    task: str
    start_ms: int
    end_ms: int | None = None
    code: int | None = None
    stopped: bool = False

    @property
    def complete(self) -> bool:
        """Did it do all that it should, well or not?"""
        return self.end_ms is not None and not self.stopped


@attrs.frozen(kw_only=True)
class Attempt:
    """As Chronos' history tells of it. started_ms: None for one that never ran."""

    task: str
    asked_ms: int
    started_ms: int | None = None
    ended_ms: int | None = None
    node: str = ""
    outcome: str = ""
    code: int | None = None


@attrs.frozen(kw_only=True)
class Run:
    """As Chronos' history tells of it. count: due times that it stands for."""

    number: int
    nominal_ms: int
    cause: str
    state: str
    ended_ms: int | None = None
    count: int = 1
    reason: str = ""
    attempts: tuple[Attempt, ...] = ()

    @property
    def over(self) -> bool:
        return self.state not in ("queued", "waiting", "active", "awaiting")

    @property
    def held_by_pause(self) -> bool:
        """Does it wait, as one that nobody has asked for may when everything is paused?"""
        return self.state in ("queued", "waiting") and self.cause in ("time", "catch-up", "parent")


@attrs.frozen(kw_only=True)
class PowerFailure:
    """All processes of a node were killed between from_ms and killed_ms; its agent was started again at until_ms."""

    node: str
    from_ms: int
    killed_ms: int
    until_ms: int


@attrs.frozen(kw_only=True)
class Limits:
    """How much is forgiven. All in milliseconds.

    late_ms: between when a run should start and when its program really does, for servers that take over and nodes that
    cannot be reached. undecided_ms: the longest time for which nobody decided anything. clock_ms: between two readings
    of the clock that stand for the same event. gone_ms: until a node without power is given up and what it ran is known
    to be lost.
    """

    late_ms: int
    undecided_ms: int
    clock_ms: int = 100
    gone_ms: int = 0


@attrs.frozen(kw_only=True)
class Evidence:
    """histories: of jobs that exist in the end. paused: when nothing more was to be started (sent, answered)."""

    jobs: Mapping[str, Job]
    orders: tuple[Order, ...]
    programs: tuple[Program, ...]
    histories: Mapping[str, tuple[Run, ...]]
    paused_ms: tuple[int, int]
    limits: Limits
    power_failures: tuple[PowerFailure, ...] = ()

    def of_kind(self, job: str, *kinds: Kind) -> list[Order]:
        """The job's orders, in the order in which they were sent."""
        found = [order for order in self.orders if order.job == job and order.kind in kinds]
        return sorted(found, key=lambda order: order.sent_ms)

    def programs_of(self, job: str) -> list[Program]:
        """By their starts."""
        return sorted((one for one in self.programs if one.job == job), key=lambda one: one.start_ms)


@attrs.frozen(kw_only=True)
class Verdict:
    """reasons: what is wrong; empty when all is right. lateness_ms: of runs by time,
    since they were due and nothing of their job was in their way.

    targets: due times that were owed a complete run. excused: due times for which the history says, rightly, why there
    was none. surplus: programs that no due time is owed: further attempts, runs by hand and by parents.
    """

    job: str
    reasons: tuple[str, ...]
    targets: int = 0
    excused: int = 0
    surplus: int = 0
    doubled: int = 0
    lateness_ms: tuple[int, ...] = ()
