"""What a node's worker is told, and what it says is to be done about it.

Events beside these are Assignments, Received, Report, Snapshot and Unavailable.
"""

from __future__ import annotations

import attrs

from orlop.agent.runtimes.interface import Report, Snapshot, Unavailable
from orlop.agent.task_record import TaskRecord
from orlop.model.messages import Assignment, Assignments, Epoch, Received
from orlop.model.tasks import ProbeResult, Status


@attrs.frozen(kw_only=True)
class ProbesChanged:
    """News of a task's health checks."""

    task: str
    incarnation: int
    results: tuple[ProbeResult, ...]


@attrs.frozen
class ServerHere:
    """A session with a server has begun."""


@attrs.frozen
class ServerAway:
    """There is no session any more, or none yet."""


@attrs.frozen
class TimerDue:
    """A timer set by `SetTimer` is due."""

    token: str


Event = Assignments | Received | Report | Snapshot | Unavailable | ProbesChanged | ServerHere | ServerAway | TimerDue


# Effects


@attrs.frozen
class Save:
    """Durable before any other effect of the same step."""

    record: TaskRecord


@attrs.frozen
class SaveEpoch:
    epoch: Epoch


@attrs.frozen
class Drop:
    """The record is of no more use."""

    task: str


@attrs.frozen
class Start:
    assignment: Assignment


@attrs.frozen
class Signal:
    runtime: str
    task: str
    signal: str


@attrs.frozen
class KillNow:
    runtime: str
    task: str


@attrs.frozen
class Remove:
    runtime: str
    task: str


@attrs.frozen
class Tell:
    """Statuses for the server, when there is a session."""

    statuses: tuple[Status, ...]


@attrs.frozen
class Watch:
    """Run the task's health checks."""

    assignment: Assignment
    status: Status


@attrs.frozen
class Unwatch:
    task: str


@attrs.frozen
class SetTimer:
    """Replaces the timer of the same token."""

    token: str
    delay_ms: int


Effect = Save | SaveEpoch | Drop | Start | Signal | KillNow | Remove | Tell | Watch | Unwatch | SetTimer
