"""Thousands of agents at one server, and tasks asked of it at a steady rate: what the server uses, how soon it commits.

One real `orlop server` on one real etcd member, its data on disk, with authentication (TLS, a certificate for each
agent), and a second time without. Agents are emulated (`emulation`): real sockets, the session's real messages, tasks
that run at once.

Heartbeats: the processor time of the server's process while nothing else happens, all that it does included.

Asks: a plugin in the server (`asking`) takes requests for ASKS_PER_REQUEST tasks each and answers after their commit.
Requests leave by the clock, whatever became of the earlier ones; the latency of an ask is from the moment at which its
request was due until the answer is there. The rate is that of all asks, from the first one due to the last answer.
Meanwhile each task is sent to its agent, which says that it runs, and that is committed too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import attrs
from etcd_members import EtcdFactory, EtcdMember, missing
from running import wait_until
from servers import ServerProcess

from orlop.agent.agent import HEARTBEAT_S

from . import asking, emulation
from .figures import Figure
from .processes import cpu_s, memory_mb

__all__ = ["missing", "run"]

ASKS_PER_REQUEST: Final = 10
EMULATORS: Final = 2
OPEN_WITHIN_S: Final = 300.0
RUNNING_WITHIN_S: Final = 120.0
CONNECTIONS: Final = 64
LOG_TAIL_CHARACTERS: Final = 3_000


@attrs.frozen
class Sizes:
    """asks_per_s: how fast tasks are asked for. heartbeats_s: how long heartbeats are measured.

    heartbeat_s: between two of an agent's. settle_s: between the last agent's coming and the measurement.
    """

    agents: int = 5_000
    tasks: int = 10_000
    asks_per_s: int = 1_000
    heartbeats_s: float = 30.0
    heartbeat_s: float = HEARTBEAT_S
    settle_s: float = 5.0


SMALL: Final = Sizes(agents=40, tasks=200, asks_per_s=200, heartbeats_s=1.0, settle_s=0.5)


class Emulation:
    """One process of emulated agents."""

    def __init__(self, orders: emulation.Orders) -> None:
        self.open = 0
        self.acknowledged = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.emulation"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(attrs.asdict(orders)) + "\n")
        self.process.stdin.flush()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.open, self.acknowledged = map(int, line.split())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class AgentsCluster:
    """A server with agents. tls: with authentication, as a cluster of several machines has it."""

    def __init__(self, folder: Path, store_url: str, *, tls: bool) -> None:
        self.tls = tls
        asking.install(folder / "plugins")
        self.server = ServerProcess(
            folder,
            "server",
            store_url,
            PYTHONPATH=str(folder / "plugins"),
            ORLOP_SERVER__AUTH="on" if tls else "off",
            ORLOP_CLUSTER__LEASE_S="5",
            ORLOP_STORE__TIMEOUT_S="5",
        )
        self.emulations: list[Emulation] = []

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.server.address}"

    @property
    def pid(self) -> int:
        assert self.server.process is not None
        return self.server.process.pid

    def file(self, name: str) -> str:
        return (self.server.folder / "data" / name).read_text().strip()

    def start(self) -> None:
        """Returns when it leads."""
        self.server.start()
        wait_until(self._leads, f"the server leads; {self._tail()}")

    def _leads(self) -> bool:
        assert self.server.process is not None
        assert self.server.process.poll() is None, self._tail()
        try:
            return asyncio.run(self._ask("GET", "/health")).get("role") == "leader"
        except (OSError, aiohttp.ClientError):
            return False

    def _tail(self) -> str:
        return self.server.log.read_text()[-LOG_TAIL_CHARACTERS:] if self.server.log.exists() else ""

    def http(self) -> aiohttp.ClientSession:
        headers, context = {}, None
        if self.tls:
            headers = {"Authorization": f"Bearer {self.file('admin.token')}"}
            context = ssl.create_default_context(cafile=str(self.server.folder / "data" / "ca.pem"))
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=context if context is not None else True)
        return aiohttp.ClientSession(self.url, headers=headers, connector=connector)

    async def _ask(self, method: str, path: str, body: object = None) -> dict[str, object]:
        async with self.http() as http, http.request(method, path, json=body) as answer:
            return dict(await answer.json())

    def open(self, sizes: Sizes, **orders: Any) -> None:
        """Returns when all agents have a session. orders: more of `emulation.Orders`."""
        agents = sizes.agents
        host, _, port = self.server.address.rpartition(":")
        token = authority = ""
        if self.tls:
            token = str(asyncio.run(self._ask("POST", "/v1/tokens", {"uses": agents}))["token"])
            authority = self.file("ca.pem")
        each = -(-agents // EMULATORS)
        for first in range(0, agents, each):
            count = min(each, agents - first)
            given = emulation.Orders(host, int(port), first, count, authority, token, sizes.heartbeat_s, **orders)
            self.emulations.append(Emulation(given))
        wait_until(lambda: self._all_open(agents), "all agents have sessions", OPEN_WITHIN_S)

    def _all_open(self, agents: int) -> bool:
        ended = [one for one in self.emulations if one.process.poll() is not None]
        assert not ended, f"an emulation has ended; {self._tail()}"
        return sum(one.open for one in self.emulations) == agents

    @property
    def acknowledged(self) -> int:
        """Tasks that run, as the server knows and the agents know that it does."""
        return sum(one.acknowledged for one in self.emulations)

    async def ask_for(self, sizes: Sizes) -> list[float]:
        """Asks for tasks by the clock. Per request, seconds from when it was due until its answer; and for all."""
        async with self.http() as http:

            async def ask(first: int, due: float) -> float:
                await asyncio.sleep(due - time.perf_counter())
                async with http.post("/asking/", json={"first": first, "count": ASKS_PER_REQUEST}) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
                return time.perf_counter() - due

            began = time.perf_counter() + 0.5
            return await asyncio.gather(
                *(ask(first, began + first / sizes.asks_per_s) for first in range(0, sizes.tasks, ASKS_PER_REQUEST))
            )

    def close(self) -> None:
        for one in self.emulations:
            one.close()
        self.server.close()


def heartbeat_figures(cluster: AgentsCluster, sizes: Sizes, kind: str, empty_mb: float) -> Iterator[Figure]:
    name = f"{sizes.agents:,} agents, {kind}"
    time.sleep(sizes.settle_s)
    used, began = cpu_s([cluster.pid]), time.perf_counter()
    time.sleep(sizes.heartbeats_s)
    percent = 100 * (cpu_s([cluster.pid]) - used) / (time.perf_counter() - began)
    yield Figure(f"{name}: heartbeats, the server's processor", percent, "% of a core", at_most=25)
    resident_mb = memory_mb([cluster.pid], "Rss")
    yield Figure(f"{name}: the server's memory", resident_mb, "MB")
    yield Figure(
        f"{name}: more memory than without agents, for each", 1000 * (resident_mb - empty_mb) / sizes.agents, "kB"
    )


def ask_figures(cluster: AgentsCluster, member: EtcdMember, sizes: Sizes, kind: str) -> Iterator[Figure]:
    assert member.process is not None
    name = f"{sizes.tasks:,} tasks at {sizes.agents:,} agents, {kind}"
    synced = _fsyncs(member)
    used, etcd_used, began = cpu_s([cluster.pid]), cpu_s([member.process.pid]), time.perf_counter()
    took_s = asyncio.run(cluster.ask_for(sizes))
    due_s = [first / sizes.asks_per_s for first in range(0, sizes.tasks, ASKS_PER_REQUEST)]
    span_s = max(due + took for due, took in zip(due_s, took_s, strict=True))
    wait_until(lambda: cluster.acknowledged >= sizes.tasks, "all tasks run", RUNNING_WITHIN_S)
    all_run_s = time.perf_counter() - began
    used, etcd_used = cpu_s([cluster.pid]) - used, cpu_s([member.process.pid]) - etcd_used
    took_ms = sorted(1000 * one for one in took_s)
    yield Figure(f"{name}: asked for at", sizes.asks_per_s, "tasks/s")
    # A rate of exactly what was asked for is not to be had: the last answer comes after the last ask.
    yield Figure(f"{name}: committed at", sizes.tasks / span_s, "tasks/s", at_least=0.98 * min(sizes.asks_per_s, 1_000))
    yield Figure(f"{name}: from ask to commit, median", statistics.median(took_ms), "ms")
    p99 = took_ms[min(len(took_ms) - 1, round(0.99 * len(took_ms)))]
    yield Figure(f"{name}: from ask to commit, 99th percentile", p99, "ms", at_most=250)
    yield Figure(f"{name}: until all are known to run", all_run_s, "s")
    yield Figure(f"{name}: the server's processor time for each", 1000 * used / sizes.tasks, "ms")
    yield Figure(f"{name}: etcd's processor time for each", 1000 * etcd_used / sizes.tasks, "ms")
    seconds, count = (after - before for before, after in zip(synced, _fsyncs(member), strict=True))
    yield Figure(f"{name}: etcd's writes to the disk, mean", 1000 * seconds / count, "ms")
    yield Figure(f"{name}: etcd waits for the disk", 100 * seconds / all_run_s, "% of the time")


def _fsyncs(member: EtcdMember) -> tuple[float, float]:
    """Seconds that it has waited for its log to be on the disk, and how often."""
    name = "etcd_disk_wal_fsync_duration_seconds"
    return member.metric(f"{name}_sum"), member.metric(f"{name}_count")


def measure(sizes: Sizes, *, tls: bool) -> Iterator[Figure]:
    """All figures of one kind of server."""
    kind = "TLS" if tls else "plain"
    factory = EtcdFactory()
    try:
        etcd = factory.cluster()
        with (
            tempfile.TemporaryDirectory(prefix="orlop-bench-", ignore_cleanup_errors=True) as folder,
            contextlib.closing(AgentsCluster(Path(folder), etcd.url(), tls=tls)) as cluster,
        ):
            cluster.start()
            empty_mb = memory_mb([cluster.pid], "Rss")
            used, began = cpu_s([cluster.pid]), time.perf_counter()
            cluster.open(sizes)
            used = cpu_s([cluster.pid]) - used
            name = f"{sizes.agents:,} agents, {kind}"
            yield Figure(f"{name}: all have joined and are welcome", time.perf_counter() - began, "s")
            yield Figure(f"{name}: the server's processor time for each", 1000 * used / sizes.agents, "ms")
            yield from heartbeat_figures(cluster, sizes, kind, empty_mb)
            yield from ask_figures(cluster, etcd.members[0], sizes, kind)
    finally:
        factory.close()


def run(sizes: Sizes = Sizes()) -> Iterator[Figure]:
    """All figures of this module."""
    for tls in (True, False):
        yield from measure(sizes, tls=tls)
