"""Tasks: one placement of a spec on one node, from the ask to the last status.

A task's life has two halves. *Desired* is what the control plane wants of it; *observed* is what its node
reports, or, before it is placed, what the kernel knows. Observed states only move forward within an
incarnation; `removed` is final. A replacement is always a new task under the same framework key.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Final

import attrs

from orlop.model.resources import Resources


class Desired(enum.StrEnum):
    """What is wanted of a task."""

    PREPARED = "prepared"
    RUNNING = "running"
    STOPPED = "stopped"
    REMOVED = "removed"


class TaskState(enum.StrEnum):
    """What is observed of a task, in the order in which states may follow one another."""

    PENDING = "pending"
    ASSIGNED = "assigned"
    PREPARING = "preparing"
    PREPARED = "prepared"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"
    REMOVED = "removed"


STATE_ORDER: Final = {state: position for position, state in enumerate(TaskState)}


class Outcome(enum.StrEnum):
    """How a task's last incarnation ended."""

    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"
    ERROR = "error"
    LOST = "lost"
    WITHDRAWN = "withdrawn"


@attrs.frozen(kw_only=True)
class PortRequest:
    """One port that a task wants on its node.

    number: this very host port, or None for any free one of the node's ranges.
    container: the port inside, for runtimes that map ports; 0 means the same as the host port.
    environment: names of variables that shall hold the host port; `{port}` in a name stands for its number.
    """

    number: int | None = None
    container: int | None = None
    protocol: str = "tcp"
    name: str = ""
    environment: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Constraint:
    """One demand on a node, e.g. `Constraint(field="rack", operator="IS", value="r1")`.

    field: an attribute's name, or `hostname`, `os`, `arch`. Operators are a filter's business: the kernel's own
    filter knows IS, LIKE and UNLIKE; a plugin's filter may know more. One that nobody knows matches nothing.
    """

    field: str
    operator: str
    value: str = ""


class ProbeKind(enum.StrEnum):
    HTTP = "http"
    HTTPS = "https"
    TCP = "tcp"
    COMMAND = "command"


@attrs.frozen(kw_only=True)
class Probe:
    """A health check that the agent runs against its own task. It counts and reports; it never kills.

    port_index: which of the task's ports to connect to; `port` is a fixed number instead.
    own_address: connect to the task's own address (its container's), which its runtime tells, and not to the node's.
    ipv6: of several own addresses, the first of this version.
    failures ignored during `grace_ms` after the start, until the first success.
    report_after: consecutive failures are reported one by one up to this count, then only the recovery is.
    """

    kind: ProbeKind
    port_index: int | None = None
    port: int | None = None
    own_address: bool = False
    ipv6: bool = False
    path: str = "/"
    command: str = ""
    interval_ms: int = 10_000
    timeout_ms: int = 5_000
    grace_ms: int = 0
    delay_ms: int = 0
    report_after: int = 3
    ignore_1xx: bool = False


@attrs.frozen(kw_only=True)
class PartitionPolicy:
    """What becomes of a task whose node and the servers do not hear of each other.

    replace_after_ms: of its node's silence, until it counts as lost and its framework starts another; at the earliest
    when the node counts as unreachable. None: when the node counts as gone. keep: it never counts as lost; it waits
    for its node. stop_after_ms: without a server, after which its node stops it, so that there are never two of it
    if that is well below replace_after_ms; a node notices within 8 s that it is cut off. None: never.
    """

    replace_after_ms: int | None = None
    keep: bool = False
    stop_after_ms: int | None = None


@attrs.frozen(kw_only=True)
class Policies:
    """How a task is treated at its edges.

    kill_grace_ms: between the polite signal and the certain one.
    keep_ended: the end of a run is not the end of the task, where its runtime can start it again: it is `prepared`, in
    its next incarnation, and holds its resources until what it runs in is removed, by whomever, or it shall be gone.
    stop_signal: the polite one.
    """

    kill_grace_ms: int = 3_000
    keep_ended: bool = False
    stop_signal: str = "SIGTERM"
    partition: PartitionPolicy = attrs.field(factory=PartitionPolicy)


@attrs.frozen(kw_only=True)
class Spec:
    """What to run. Immutable; stored once by content hash.

    runtime: which runtime plugin runs it. payload: JSON that only that plugin reads, passed on faithfully.
    all_ports_variable: name of a variable that shall hold all host ports, comma-separated.
    host_variable: name of a variable that shall hold the node's name.
    """

    runtime: str
    payload: Mapping[str, Any]
    resources: Resources = attrs.field(factory=Resources)
    ports: tuple[PortRequest, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    probes: tuple[Probe, ...] = ()
    policies: Policies = attrs.field(factory=Policies)
    all_ports_variable: str = ""
    host_variable: str = ""


@attrs.frozen(kw_only=True)
class ProbeResult:
    """What one probe has seen of one incarnation. Times are UTC milliseconds of the node's clock, for people."""

    alive: bool | None = None
    consecutive_failures: int = 0
    first_success_utc_ms: int | None = None
    last_success_utc_ms: int | None = None
    last_failure_utc_ms: int | None = None
    last_failure_cause: str = ""


@attrs.frozen(kw_only=True)
class Exit:
    """How an incarnation ended.

    code: the exit code, None when unknown or when a signal ended it. signal: its number.
    reason: one line for people.
    """

    outcome: Outcome
    code: int | None = None
    signal: int | None = None
    reason: str = ""


@attrs.frozen(kw_only=True)
class Status:
    """What a node reports of one task. Later statuses replace earlier ones; see `advances`.

    sequence: grows with each report of this task by its agent.
    addresses: of the task's own network, when it has one.
    at_utc_ms: when the state was entered, by the node's clock; for people, never for decisions.
    """

    task: str
    state: TaskState
    incarnation: int = 1
    sequence: int = 0
    at_utc_ms: int = 0
    exit: Exit | None = None
    message: str = ""
    probes: tuple[ProbeResult, ...] = ()
    addresses: tuple[str, ...] = ()
    external_id: str = ""

    def advances(self, known: Status) -> bool:
        """Is this news after `known`? States move forward per incarnation; `removed` is final."""
        if known.state is TaskState.REMOVED:
            return False
        return (self.incarnation, STATE_ORDER[self.state], self.sequence) > (
            known.incarnation,
            STATE_ORDER[known.state],
            known.sequence,
        )


@attrs.frozen(kw_only=True)
class Placement:
    """Where a task was put, and with which host ports (in the order of the spec's requests)."""

    node: str
    ports: tuple[int, ...] = ()
    at_utc_ms: int = 0


@attrs.frozen(kw_only=True)
class Task:
    """One placement of a spec on one node.

    id: opaque, fixed when asked for. sequence: its place in the order of asking. spec: content hash.
    key: the framework's, survives replacement. name: the external name that clients see, unique per framework.
    group: tasks that belong together, such as an app's. environment: variables of this task alone.
    labels: small facts that the framework wants back, the same ones in every view.
    cause: the event that led to it (an id of the event log, a request), so that a task can tell its story.
    unreachable: its node is not heard of; it may still run there.
    """

    id: str
    framework: str
    key: str
    spec: str
    sequence: int = 0
    group: str = ""
    role: str = "*"
    priority: int = 0
    name: str = ""
    environment: Mapping[str, str] = attrs.field(factory=dict)
    labels: Mapping[str, str] = attrs.field(factory=dict)
    created_utc_ms: int = 0
    not_before_utc_ms: int = 0
    cause: str = ""
    desired: Desired = Desired.RUNNING
    desired_reason: str = ""
    placement: Placement | None = None
    status: Status
    started_utc_ms: int | None = None
    ended_utc_ms: int | None = None
    unreachable: bool = False
    wait_ms: int | None = None

    def changed(self, **changes: Any) -> Task:
        """A copy with other values: what `attrs.evolve` does, in half the time. Raises KeyError for what is no field.

        It writes the slots themselves, while the constructor of a frozen class looks each of them up by its name.
        """
        copy = object.__new__(Task)
        for write, value in zip(_WRITE_SLOT.values(), _read_slots(self), strict=True):
            write(copy, value)
        for name, value in changes.items():
            _WRITE_SLOT[name](copy, value)
        return copy

    def complete(self, placement: Placement, status: Status) -> None:
        """Places the task in this very record. Only for who has just made it and has not shown it to anyone: most
        tasks are placed in the step that makes them, and copying a record takes twice the time of making one."""
        object.__setattr__(self, "placement", placement)
        object.__setattr__(self, "status", status)

    @property
    def state(self) -> TaskState:
        return self.status.state

    @property
    def live(self) -> bool:
        """Not ended: pending, starting, running, or on its way out."""
        return STATE_ORDER[self.status.state] < STATE_ORDER[TaskState.ENDED]

    @property
    def running(self) -> bool:
        return self.status.state is TaskState.RUNNING

    @property
    def node(self) -> str | None:
        return self.placement.node if self.placement else None

    @property
    def ports(self) -> tuple[int, ...]:
        return self.placement.ports if self.placement else ()

    @property
    def stopping(self) -> bool:
        """On its way out by the control plane's wish."""
        return self.desired in (Desired.STOPPED, Desired.REMOVED)

    @property
    def healthy(self) -> bool | None:
        """True when every probe has last succeeded, False when one has failed, None without results or probes."""
        seen = [probe.alive for probe in self.status.probes]
        if any(alive is False for alive in seen):
            return False
        return True if seen and all(seen) else None


_WRITE_SLOT: Final = {field.name: getattr(Task, field.name).__set__ for field in attrs.fields(Task)}
_read_slots: Final = attrgetter(*_WRITE_SLOT)


_DRAINED: Final = "node {} is drained"
_BEFORE_NAME, _AFTER_NAME = _DRAINED.split("{}")


def drain_reason(node: str) -> str:
    """Why a drain stops the tasks of the node of this name: their `desired_reason` from then on."""
    return _DRAINED.format(node)


def stopped_by_drain(task: Task) -> bool:
    """Is the task stopped, or was it, because its node was drained? True also when the drain has been taken back since,
    and false for what somebody else has stopped first."""
    return task.desired_reason.startswith(_BEFORE_NAME) and task.desired_reason.endswith(_AFTER_NAME)
