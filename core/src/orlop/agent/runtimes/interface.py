"""The contract between the agent and what runs its tasks.

A runtime is level-triggered, like everything here: each time it (re)connects to what it drives (a supervisor, an
engine) it reports a `Snapshot` of all it has, and after that a `Report` for each change. A runtime decides nothing:
when to stop, kill or replace is the worker's business. Its methods return when the request is under way; success
and failure both come back as reports. They run on the agent's event loop and must not block it.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import attrs

from orlop.model.facts import NodeFacts
from orlop.model.messages import Assignment
from orlop.model.streams import Channel, CommandRequest
from orlop.model.tasks import Exit


class Phase(enum.StrEnum):
    """Where a runtime sees a task. `PREPARING` is fetching and creating; `ENDED` carries the exit."""

    PREPARING = "preparing"
    PREPARED = "prepared"
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


@attrs.frozen(kw_only=True)
class Report:
    """What a runtime sees of one task.

    external_id: the runtime's own name for it (a pid, a container's id). addresses: of its own network, if any.
    message: progress or trouble, one line ("pulling busybox:latest").
    remains: it has ended, and what it ran in is there and can be started again, by whomever. Of a kept task
    (`Policies.keep_ended`) alone does this matter.
    """

    task: str
    incarnation: int
    phase: Phase
    exit: Exit | None = None
    external_id: str = ""
    addresses: tuple[str, ...] = ()
    message: str = ""
    remains: bool = False


@attrs.frozen(kw_only=True)
class Snapshot:
    """Everything a runtime has right now. A task that is not in it does not exist there.

    One that is PREPARING may have been left so by an earlier agent: it is started again, which goes on from there.
    """

    runtime: str
    reports: tuple[Report, ...]


@attrs.frozen(kw_only=True)
class Unavailable:
    """What the runtime drives cannot be reached; a Snapshot follows when it can again."""

    runtime: str
    reason: str


RuntimeEvent = Report | Snapshot | Unavailable


@attrs.frozen(kw_only=True)
class Launch:
    """One start. Starting the same (task, incarnation) again must adopt, never start twice.

    environment: from the control plane; the payload's own variables win over it.
    directory: of the task on this node, made by the runtime; what it keeps there is its own business.
    """

    assignment: Assignment
    directory: Path

    @property
    def task(self) -> str:
        return self.assignment.task

    @property
    def environment(self) -> Mapping[str, str]:
        return self.assignment.environment


@attrs.frozen(kw_only=True)
class FetchSettings:
    """What a task may have brought to this node. bytes_max: by one task, unpacked files included. timeout_s: all of it.
    cache_bytes_max: of what is kept for other tasks. local: paths below which the node's own files may be taken.
    """

    bytes_max: int = 10 * 2**30
    timeout_s: float = 600.0
    cache_bytes_max: int = 2 * 2**30
    local: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class RuntimeContext:
    """What a runtime is told of its node when it is made.

    data: a folder of its own that survives restarts. tasks: where the tasks' folders are.
    docker: the engine's address. log_bytes_max: per output stream, before it is rotated (one old file is kept).
    fetch: see `orlop.agent.fetching`.
    """

    cluster_id: str
    node_id: str
    data: Path
    tasks: Path
    docker: str = "unix:///var/run/docker.sock"
    log_bytes_max: int = 10_000_000
    fetch: FetchSettings = FetchSettings()


class UnknownTask(LookupError):
    """The runtime has no such task."""


class InvalidPayload(ValueError):
    """The payload is not one this runtime can run; the text names the path and what was expected."""


class Output(enum.IntEnum):
    """Where a command's output comes from; with a terminal all of it is OUTPUT."""

    OUTPUT = Channel.OUTPUT
    ERROR = Channel.ERROR


class Execution(Protocol):
    """A command that somebody talks to."""

    async def write(self, data: bytes) -> None:
        """Its input. Returns when there is room for more; what comes after its end is dropped."""

    async def end_input(self) -> None:
        """No more input will come."""

    def output(self) -> AsyncIterator[tuple[Output, bytes]]:
        """Its output in pieces, to its end; to be asked for once."""

    async def result(self) -> int | None:
        """Its exit code, 128 + n for signal n, once it has ended; None when that is not known."""

    async def resize(self, rows: int, columns: int) -> None:
        """Its terminal, if it has one, is of this size now."""

    async def close(self) -> None:
        """Lets go of it; what still runs of it is ended, where that is possible."""


#: The most that one read of a connection gives.
READ_BYTES_MAX: Final = 256 * 1024


class Connection(Protocol):
    """Bytes to and from an engine; each direction ends by itself (half-close). Errors say the reason."""

    async def read(self) -> bytes:
        """What has come, at most READ_BYTES_MAX; empty at the end of this direction. Raises ConnectionError, also when
        the engine or its agent went away."""

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more. Raises ConnectionError."""

    async def write_eof(self) -> None:
        """No more will be written; reading goes on. Raises ConnectionError."""

    async def close(self) -> None:
        """Ends both directions at once, whoever still reads or writes. Never raises."""


class Runtime(Protocol):
    """See the module. One that drives a Docker Engine has `connect_engine` besides, see `HasEngine`; one that knows of
    its node more than the tasks has `follow_facts`, see `HasFacts`."""

    name: str

    async def open(self, report: Callable[[RuntimeEvent], None]) -> None:
        """Connects, and keeps connecting. The first event is a Snapshot or Unavailable; returns after it."""

    async def start(self, launch: Launch) -> None:
        """Prepares and starts it, or adopts what an earlier call has started.

        One whose desired state is PREPARED is not started, by a runtime that can prepare.
        """

    async def signal(self, task: str, signal_name: str) -> None:
        """Sends a signal ("SIGTERM") to the task's main process or process group. Unknown tasks are ignored."""

    async def kill(self, task: str) -> None:
        """SIGKILL to all of it. Unknown tasks are ignored."""

    async def remove(self, task: str) -> None:
        """Forgets an ended task; its output and container may be kept for a while. Unknown ones are ignored."""

    async def run_command(self, task: str, command: str, timeout_s: float) -> tuple[int, str]:
        """Runs `sh -c command` beside the task (in its container, or as its user in its folder): the exit code and
        at most 4 kB of output. Raises UnknownTask, TimeoutError."""

    async def execute(self, request: CommandRequest) -> Execution:
        """Runs a command beside the task, as `run_command` does, with somebody who talks to it. Raises UnknownTask,
        ValueError when it cannot be run as it is, OSError when the node cannot run it now."""

    def logs(self, task: str, stream: str, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """Output of `stdout` or `stderr`; the last `tail` lines, then, with `follow`, what comes until the end.
        Raises UnknownTask."""

    async def close(self) -> None:
        """Disconnects. What runs goes on."""


class HasEngine(Protocol):
    """What a runtime has besides that drives a Docker Engine."""

    async def connect_engine(self) -> Connection:
        """A connection to it. Raises ConnectionError while it is away; ValueError when it cannot be had at all."""


class HasFacts(Protocol):
    """What a runtime has besides that knows what else is on its node."""

    def follow_facts(self, tell: Callable[[NodeFacts], None]) -> None:
        """Before `open`: from then on `tell` is called with all facts, at first and whenever they have changed."""
