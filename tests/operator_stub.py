"""A stub of the server behind the operator API, whose states are the real kernel's, and a client of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import attrs
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from orlop.api.application import make_application, mount_plugin_routes
from orlop.api.interface import FrameworkStatus
from orlop.framework import (
    Action,
    Ask,
    Framework,
    Kill,
    Node,
    NotAvailable,
    PortRequest,
    Process,
    Resources,
    Task,
    View,
)
from orlop.hookspecs import Routes
from orlop.kernel import records
from orlop.kernel.events import DrainNode, Effect, ForgetNode, KillTask, Logged
from orlop.kernel.state import State
from orlop.model.asks import Explanation
from orlop.model.log_entries import LogEntry
from orlop.server.event_log import EventLog
from orlop.server.node_clocks import Clocks
from orlop.server.role import Role
from orlop.store.interface import Put
from orlop.store.memory import MemoryStore
from orlop.testing.harness import Cluster

DEADLINE_S = 30


@attrs.frozen
class Config:
    copies: int = 3
    cpus: float = 0.5


class KeepAlive(Framework):
    name = "keepalive"
    config = Config

    def reconcile(self, view: View) -> Iterator[Action]:
        wanted = {f"copy-{number}" for number in range(self.settings.copies)}
        for key in sorted(wanted - view.live.keys()):
            needs = Resources(cpus=self.settings.cpus, mem="32MiB")
            run = Process("sleep 1000")
            yield Ask(key, run=run, needs=needs, ports=(PortRequest(),), group="/my/app", name=f"app.{key}")
        for key in sorted(view.live.keys() - wanted):
            yield Kill(key)


class LoggedCluster(Cluster):
    """The harness, with the server's event log beside it."""

    def __init__(self, *frameworks: Framework, log_kept: int = 10_000) -> None:
        self.store = MemoryStore()
        self.event_log = EventLog(self.store, log_kept)
        super().__init__(*frameworks)

    def _release(self, effect: Effect) -> None:
        if isinstance(effect, Logged):
            key = records.log_key(effect.version)
            self.store.transact([Put(key, self.documents[key])])
            self.event_log.add(effect)
        super()._release(effect)


class Plugins:
    """others: beside the one whose framework runs."""

    def __init__(self) -> None:
        self.others: list[dict[str, Any]] = []

    def describe(self) -> list[dict[str, Any]]:
        return [{"name": "keepalive", "version": "1.0", "state": "loaded", "error": ""}, *self.others]


class StubServer:
    """An `OperatorServer` whose writes commit at once."""

    cluster_name = "blue"
    address = "127.0.0.1:5050"
    version = "0.1"
    store_url = "etcd://root:secret@10.0.0.1:2379"

    def __init__(self, cluster: LoggedCluster) -> None:
        self.cluster = cluster
        self.started_utc_ms = round(time.time() * 1000) - 5000
        self.metrics = CollectorRegistry()
        self.plugins = Plugins()
        self.read_only = ""
        self.trouble = ""
        self.known_clocks = Clocks()
        self.status = FrameworkStatus(name="keepalive", plugin="keepalive", state="running", runs=7, last_run_ms=1.5)
        self.output: list[bytes | Exception] = []
        self.kept: set[str] = set()
        self.output_ends = True

    def role(self) -> Role:
        return Role(leads=True, leader_url=f"http://{self.address}")

    def state(self) -> State:
        return self.cluster.state

    def framework_status(self) -> Mapping[str, FrameworkStatus]:
        return {self.status.name: self.status}

    def read_only_reason(self) -> str:
        return self.read_only

    def store_trouble(self) -> str:
        return self.trouble

    def clocks(self) -> Clocks:
        return self.known_clocks

    def explain(self, task: Task) -> Explanation:
        return self.cluster.explain(task)

    async def submit(self, event: DrainNode | ForgetNode | KillTask) -> Any:
        if self.read_only:
            raise NotAvailable(f"nothing was changed: {self.read_only}")
        if isinstance(event, KillTask):
            return self.cluster.kill_task(event.task, event.reason)
        if isinstance(event, ForgetNode):
            return self.cluster.forget_node(event.node, event.cause)
        self.cluster.step(event)
        return True

    async def backup(self) -> bytes:
        return b"backup"

    async def log_entries(
        self, *, after: tuple[int, int] | None, limit: int, subject: str | None = None
    ) -> tuple[list[tuple[int, int, LogEntry]], bool]:
        return await self.cluster.event_log.entries(
            after=after,
            limit=limit,
            wanted=lambda entry: subject in (None, entry.subject),
            version=self.state().version,
        )

    def follow_log(self) -> AbstractContextManager[asyncio.Queue[Logged | None]]:
        return self.cluster.event_log.follow()

    async def kept_output(self, node: Node, task: str, stream: str, *, tail: int | None) -> AsyncIterator[bytes]:
        if task not in self.kept:
            raise LookupError(f"{task} has no output on this node, or has none any more")
        yield f"{stream} of {task} kept by {node.info.name}\n".encode()

    async def task_output(self, task: Task, stream: str, *, follow: bool, tail: int | None) -> AsyncIterator[bytes]:
        yield f"{stream} follow={follow} tail={tail}\n".encode() if not self.output else b""
        for piece in self.output:
            if isinstance(piece, Exception):
                raise piece
            yield piece
        if not self.output_ends:
            await asyncio.Event().wait()


def make_server(copies: int = 3, cpus: float = 0.5, nodes: int = 2, log_kept: int = 10_000) -> StubServer:
    cluster = LoggedCluster(KeepAlive(Config(copies=copies, cpus=cpus)), log_kept=log_kept)
    for number in range(nodes):
        cluster.add_node(f"n{number}", rack=f"r{number}")
    cluster.settle()
    return StubServer(cluster)


def with_client(work: Callable[[TestClient[Any, Any]], Awaitable[None]], server: StubServer, *mounted: Routes) -> None:
    """Runs `work` with a client of the API."""

    async def run() -> None:
        application = make_application(server)
        mount_plugin_routes(application, mounted)
        async with asyncio.timeout(DEADLINE_S), TestClient(TestServer(application)) as client:
            await work(client)

    asyncio.run(run())


async def read(client: TestClient[Any, Any], path: str, status: int = 200, **options: Any) -> Any:
    async with client.get(path, **options) as response:
        document = await response.json()
        assert response.status == status, document
        return document


async def problem(response_of: Any, status: int) -> dict[str, str]:
    async with response_of as response:
        assert response.content_type == "application/json"
        document = await response.json()
        assert response.status == status, document
        assert document.keys() <= {"error", "message", "hint", "path"}
        assert document["error"]
        return document
