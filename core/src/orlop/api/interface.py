"""What the operator API needs of a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from orlop.kernel.events import DrainNode, ForgetNode, KillTask, Logged
from orlop.kernel.state import State
from orlop.model.asks import Explanation
from orlop.model.log_entries import LogEntry
from orlop.model.nodes import Node
from orlop.model.tasks import Task
from orlop.server.framework_host import FrameworkStatus
from orlop.server.node_clocks import Clocks
from orlop.server.role import Role

__all__ = ["FrameworkStatus", "OperatorServer", "PluginHost"]


class PluginHost(Protocol):
    """The plugins of a server, refused and broken ones included."""

    def describe(self) -> Sequence[Mapping[str, Any]]:
        """One JSON object each: at least `name`, `version`, `state` and `error`; `frameworks`: names, where known."""


class OperatorServer(Protocol):
    """A server as its operators see it.

    started_utc_ms: when this process started. address: "host:port" of this API. store_url: may hold credentials.
    """

    cluster_name: str
    address: str
    version: str
    started_utc_ms: int
    store_url: str
    metrics: CollectorRegistry

    @property
    def plugins(self) -> PluginHost:
        """What is installed."""

    def role(self) -> Role:
        """Whether it leads, who does, and how old its knowledge may be."""

    def state(self) -> State:
        """The newest committed state that it knows. Raises orlop.framework.NotAvailable before it knows any."""

    def framework_status(self) -> Mapping[str, FrameworkStatus]:
        """By the framework's name."""

    def read_only_reason(self) -> str:
        """Empty normally; otherwise why writes are refused."""

    def store_trouble(self) -> str:
        """Empty normally; otherwise what the store lacks room for, or soon will."""

    def clocks(self) -> Clocks:
        """How far nodes' clocks are from the leader's; nothing is known on a standby."""

    def explain(self, task: Task) -> Explanation:
        """Why the task waits. Called on other threads than the loop's, for it looks at every node."""

    async def submit(self, event: DrainNode | ForgetNode | KillTask) -> Any:
        """Answers after the commit. Raises orlop.framework.NotAvailable."""

    async def backup(self) -> bytes:
        """A backup's file. Raises orlop.framework.NotAvailable."""

    async def log_entries(
        self, *, after: tuple[int, int] | None, limit: int, subject: str | None = None
    ) -> tuple[list[tuple[int, int, LogEntry]], bool]:
        """(version, index, entry) in ascending order, and whether entries between `after` and them were dropped.

        The first `limit` entries after `after`; without it the newest `limit` ones.
        """

    def follow_log(self) -> AbstractContextManager[asyncio.Queue[Logged | None]]:
        """A bounded queue of what is logged from now on; None: the follower was too slow and gets no more."""

    def task_output(self, task: Task, stream: str, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        """What the task has written. Raises orlop.framework.NotAvailable, LookupError (there is none)."""

    def kept_output(self, node: Node, task: str, stream: str, *, tail: int | None) -> AsyncIterator[bytes]:
        """What a node keeps of a task that the state has forgotten. Raises as `task_output`."""
