"""What is stored of a job, and of each of its runs.

A run's number grows by one with each run of its job, and its document is deleted when it is old enough, so that
finding, listing and forgetting runs costs nothing that depends on how many there are. A run is one due time of a job,
with all its attempts; or a stretch of due times that were passed over, with the reason.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import attrs

from orlop_chronos.model import Counters, Job
from orlop_chronos.schedules import Moment

JOB: Final = "job"
PROGRESS: Final = "progress"
RUN: Final = "run"
CHILDREN: Final = "children"
NOTICE: Final = "notice"
CONTROL: Final = "control"
#: The one object of the kind `control`.
CLUSTER: Final = "cluster"


class Cause(enum.StrEnum):
    """Why there is a run."""

    TIME = "time"
    CATCH_UP = "catch-up"
    PARENT = "parent"
    MANUAL = "manual"
    BACKFILL = "backfill"


class RunState(enum.StrEnum):
    """QUEUED: waits for an earlier run to end. WAITING: for its next attempt. ACTIVE: has a live task, placed or not.
    AWAITING: the task of an `async` job has ended well, and somebody will say how the run has.

    All others are final.
    """

    QUEUED = "queued"
    WAITING = "waiting"
    ACTIVE = "active"
    AWAITING = "awaiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    KILLED = "killed"
    SKIPPED = "skipped"


class Stop(enum.StrEnum):
    """Why a run's task is to be stopped. LATE: it took longer than it may, which is a failure."""

    LATE = "late"
    KILLED = "killed"
    REPLACED = "replaced"


FINAL: Final = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.KILLED, RunState.SKIPPED})


@attrs.frozen(kw_only=True)
class JobRecord:
    """A definition. created_ms: UTC milliseconds.

    uid: tells it from others that had or will have its name. since_ms: when its schedule was last changed, which is
    what an empty start means. schedule_version: how many schedules it had before this one.
    """

    job: Job
    uid: str
    created_ms: int
    since_ms: int
    schedule_version: int = 0


@attrs.frozen(kw_only=True)
class Progress:
    """How far a job is.

    upcoming: the next due time; None when there is none, as for jobs with parents. left: runs left, None without end.
    edges: parent → how a run of it ended ("succeeded", "failed", "killed") since this job was last due because of
    them: the last one, or the first that ended as this job waits for.
    next_run: the number of the next run. oldest_run: of the oldest document; where that one goes on for long, there are
    gaps behind it. open_runs: numbers of those not final.
    watched_from_ms: what `alert_after` is counted from, if nothing has succeeded since. alerted: it was told.
    """

    counters: Counters = attrs.field(factory=Counters)
    upcoming: Moment | None = None
    left: int | None = None
    edges: Mapping[str, str] = attrs.field(factory=dict)
    next_run: int = 0
    oldest_run: int = 0
    open_runs: tuple[int, ...] = ()
    watched_from_ms: int = 0
    alerted: bool = False


@attrs.frozen(kw_only=True)
class Attempt:
    """One start of a run. Times are UTC milliseconds; started_ms is None for one that never ran.

    task: its id. node: its node's name; node_id: the same node, should another one take the name. outcome, code,
    signal, reason: how it ended; empty or None while it goes on.
    """

    task: str
    asked_ms: int
    started_ms: int | None = None
    ended_ms: int | None = None
    node: str = ""
    node_id: str = ""
    outcome: str = ""
    code: int | None = None
    signal: int | None = None
    reason: str = ""


@attrs.frozen(kw_only=True)
class Run:
    """nominal_ms: when it was due. count: due times that it stands for; more than one only when they were skipped.

    identity: tells it from all other runs of jobs of its name that were due at that time, see `identity_of`.
    arguments: in place of the job's, for all attempts; None: the job's. due_ms: when the next attempt may start.
    because_of: the parent's run ("job/number") that completed the set. reason: why it ended as it did, for people.
    stop: its task is to be stopped. told: the exit code that somebody has said for an `async` job's run.
    """

    job: str
    number: int
    nominal_ms: int
    identity: str
    cause: Cause
    state: RunState
    created_ms: int
    count: int = 1
    attempts: tuple[Attempt, ...] = ()
    arguments: str | None = None
    due_ms: int = 0
    ended_ms: int | None = None
    because_of: str = ""
    reason: str = ""
    stop: Stop | None = None
    told: int | None = None

    @property
    def id(self) -> str:
        return run_id(self.job, self.number)

    @property
    def going_on(self) -> bool:
        """Is it in the way of others of its job?"""
        return self.state in (RunState.ACTIVE, RunState.AWAITING)

    @property
    def final(self) -> bool:
        return self.state in FINAL


@attrs.frozen(kw_only=True)
class Children:
    """Of the job under whose name it is stored: the jobs that have it for a parent."""

    names: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Control:
    """paused: no job is started by time or by a parent."""

    paused: bool = False


def run_id(job: str, number: int) -> str:
    """Under which a run is stored."""
    return f"{job}/{number}"


def job_and_number(run: str) -> tuple[str, int]:
    """Of a run's id."""
    job, _, number = run.rpartition("/")
    return job, int(number)


def identity_of(record: JobRecord, cause: Cause, number: int) -> str:
    """Of a run that is about to be made; number: its own.

    A schedule has one run for each due time, whatever else was run before: one that is made again, by a cluster that
    was restored from a backup, is the same. Runs of other causes are told apart by their numbers.
    """
    if cause in (Cause.TIME, Cause.CATCH_UP):
        return f"{record.uid}-schedule{record.schedule_version}"
    return f"{record.uid}-run{number}"


def task_key(run: Run, attempt: int) -> str:
    """Of an attempt's task: unique for all time. Attempts are numbered from 0."""
    return f"{run.job}/{run.nominal_ms}/{run.identity}/{attempt}"


def is_task_of(record: JobRecord, key: str) -> bool:
    """Is it a task's key of this very job, and not of one that had its name?"""
    return key.rsplit("/", 2)[1].startswith(f"{record.uid}-")
