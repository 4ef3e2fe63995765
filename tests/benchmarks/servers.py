"""Several real servers on a real etcd: how soon the next one serves when the leader is killed, small state and large;
and how fast the whole way of a leader commits, beside a bare client of the same etcd.

Failover: three members of etcd, three servers with a lease of LEASE_S, an agent with tasks. Each round kills the leader
with SIGKILL at a random moment; a client goes on writing apps through the survivors, one attempt after the other. The
time is from the kill to the first answer of success. Tasks must be the same processes before and after all rounds.

Commits: the kernel, the pipeline and the store's writer as a leader has them (`Core`), in this process, on one member
of etcd: asks of new tasks, then agents' statuses that they run. Counted are the documents at their keys, not what the
store takes beside them. Then the same without the kernel's part, for
statuses that it has decided before. In turns with a bare client that writes as many keys with values as long, in
transactions of 128 operations; the ratio is the median over the turns.

Takeover: a store with many nodes and tasks of Marathon's apps; two servers. The first starts cold; then it is killed,
and the standby takes over. Election is the moment at which the leader's key is in etcd, seen by a watch. Serving is the
later of the first read that is answered with the state of a leader, and the first write that is acknowledged.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from etcd_members import EtcdCluster, EtcdFactory, missing
from running import RunningOrlop, wait_until
from servers import LEASE_S, ServerProcess, Servers, call
from terms import begin

from orlop.agent.agent import read_clock
from orlop.kernel import records
from orlop.kernel.events import AgentHello, AgentStatuses, Event, FrameworkActions
from orlop.kernel.kernel import Kernel
from orlop.model.messages import Hello
from orlop.model.tasks import Status, TaskState
from orlop.processes.collecting import LOOK_S, Collector
from orlop.processes.server import SWITCH_INTERVAL_S
from orlop.server.core import Core
from orlop.server.loading import LEADER_KEY
from orlop.server.pipeline import Pipeline, Submission
from orlop.server.writing import Transaction, Writer
from orlop.store.etcd import EtcdStore
from orlop.store.etcd_address import StoreAccess, parse_address
from orlop.store.interface import Compare, Delete, Put, TransactionResult

from .emulation import node_info
from .etcd import Bare
from .figures import Figure
from .kernel import make_asks
from .population import Populated
from .processes import cpu_s, memory_mb

__all__ = ["missing", "run"]

ATTEMPT_WITHIN_S: Final = 1.0
BETWEEN_ATTEMPTS_S: Final = 0.01
SERVES_WITHIN_S: Final = 120.0
TASKS_OF_THE_AGENT: Final = 5
KEYS_PER_TRANSACTION: Final = 128
#: As when an app is scaled: a framework's handler yields them all at once.
ASKS_PER_EVENT: Final = 1_000
NEVER_S: Final = "86400"


@attrs.frozen
class Sizes:
    """rounds: of failover. commits: keys per turn. turns: of the comparison. nodes, apps, tasks: of the large state."""

    rounds: int = 9
    commits: int = 10_000
    turns: int = 7
    nodes: int = 5_000
    apps: int = 200
    tasks: int = 100_000


SMALL: Final = Sizes(rounds=1, commits=1_000, turns=1, nodes=50, apps=5, tasks=500)


# --- failover ---


class AgentProcess(RunningOrlop):
    """One `orlop agent`, without authentication."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        super().__init__(folder)
        self._joins = [word for server in servers.all for word in ("--join", server.url)]

    def launch(self, *options: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orlop", "agent", "--data", str(self.data), *self._joins, *options],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class Client:
    """Writes apps through servers in turns, until one is acknowledged."""

    def __init__(self) -> None:
        self._numbers = iter(range(10**9))

    def write(self, servers: Sequence[ServerProcess], deadline_s: float = SERVES_WITHIN_S) -> int:
        """How many attempts it took."""
        end = time.monotonic() + deadline_s
        for attempt in self._numbers:
            server = servers[attempt % len(servers)]
            app = {"id": f"/written-{attempt}", "cmd": "true", "cpus": 0.01, "mem": 1, "instances": 0}
            with contextlib.suppress(OSError):
                if call(f"{server.marathon}/v2/apps", "POST", app, ATTEMPT_WITHIN_S)[0] == 201:
                    return attempt
            assert time.monotonic() < end, "no write is acknowledged"
            time.sleep(BETWEEN_ATTEMPTS_S)
        raise AssertionError("there are always more numbers")


def failover_figures(sizes: Sizes, folder: Path) -> Iterator[Figure]:
    factory = EtcdFactory()
    try:
        members = factory.cluster(3)
        with contextlib.closing(Servers(folder, members.url())) as servers:
            servers.start()
            agent = AgentProcess(folder, servers)
            try:
                agent.launch()
                app = {
                    "id": "/steady",
                    "cmd": "exec sleep 1000",
                    "cpus": 0.001,
                    "mem": 1,
                    "instances": TASKS_OF_THE_AGENT,
                }
                wait_until(lambda: call(f"{servers.all[0].url}/v1/nodes")[1].get("nodes"), "the agent has joined")
                call(f"{servers.all[0].marathon}/v2/apps", "POST", app)
                wait_until(lambda: len(agent.task_processes()) == TASKS_OF_THE_AGENT, "its tasks run")
                before = sorted(agent.task_processes())
                took_s = [_failover_s(servers) for _ in range(sizes.rounds)]
                same = sorted(agent.task_processes()) == before
            finally:
                agent.close()
        name = f"leader killed, lease {LEASE_S} s, until the next write is acknowledged"
        yield Figure(f"{name}: median of {sizes.rounds}", statistics.median(took_s), "s", at_most=LEASE_S + 1)
        yield Figure(f"{name}: slowest", max(took_s), "s")
        yield Figure("leader killed: tasks that are not the same processes any more", 0 if same else 1, "", at_most=0)
    finally:
        factory.close()


def _failover_s(servers: Servers) -> float:
    client = Client()
    leader = servers.leader()
    survivors = servers.others(leader)
    call(f"{survivors[0].marathon}/v2/apps", "GET")
    time.sleep(LEASE_S * random.random())  # renewals are due at any moment of the lease
    killed = time.perf_counter()
    leader.kill()
    client.write(survivors)
    took_s = time.perf_counter() - killed
    for name in [one["id"] for one in call(f"{survivors[0].marathon}/v2/apps")[1]["apps"]]:
        if name.startswith("/written-"):
            call(f"{survivors[0].marathon}/v2/apps{name}", "DELETE")
    leader.start()
    wait_until(servers.settled, lambda: f"the killed one follows; {servers.logs()}")
    return took_s


# --- commits ---


class Counting:
    """A store that counts what documents are written to their own keys, and how long they are."""

    def __init__(self, store: EtcdStore) -> None:
        self._store = store
        self.limits = store.limits
        self.keys = 0
        self.bytes = 0

    def transact(self, writes: Sequence[Put | Delete], compares: Sequence[Compare] = ()) -> TransactionResult:
        puts = [one for one in writes if isinstance(one, Put) and not one.key.startswith(records.REDO)]
        self.keys += len(puts)
        self.bytes += sum(len(one.value) for one in puts)
        return self._store.transact(writes, compares)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class LeaderPath:
    """What a leader does between an event and its commit, without its sockets."""

    def __init__(self, members: EtcdCluster, nodes: int) -> None:
        self.store = EtcdStore(parse_address(members.url("path"), StoreAccess()))
        term = self._term = begin(self.store, utc_ms=read_clock().utc_ms)
        self.counted = Counting(self.store)
        self.failed: list[Exception] = []
        self.core = Core(Kernel(), self.counted, term, read_clock, lambda _: None, self.failed.append)
        self.core.start()
        self.handle(AgentHello(session=f"s{one}", hello=Hello(node=node_info(one))) for one in range(nodes))
        self._asked = 0

    def handle(self, events: Iterable[Event]) -> tuple[int, float]:
        """(keys, seconds): until the last of them is durable."""
        events = list(events)
        left = threading.Semaphore(0)
        refused: list[object] = []

        def done(failure: object) -> None:
            if failure is not None:
                refused.append(failure)
            left.release()

        keys, began = self.counted.keys, time.perf_counter()
        for event in events:
            self.core.submit(event, done)
        for _ in events:
            assert left.acquire(timeout=SERVES_WITHIN_S), f"not durable: {self.failed}"
        took_s = time.perf_counter() - began
        assert not refused, refused[0]
        return self.counted.keys - keys, took_s

    def asks(self, count: int) -> list[Event]:
        """Of new tasks, ASKS_PER_EVENT in each event."""
        (ask,) = make_asks(1, different=False, constrained=False)
        found: list[Event] = []
        for first in range(self._asked, self._asked + count, ASKS_PER_EVENT):
            some = range(first, min(first + ASKS_PER_EVENT, self._asked + count))
            asks = tuple(attrs.evolve(ask, key=f"k{number}", name=f"bench.k{number}") for number in some)
            found.append(FrameworkActions(framework="bench", seen=0, asks=asks))
        self._asked += count
        return found

    def statuses(self) -> list[Event]:
        """That each task runs which does not yet, one in each event."""
        placed = [task for task in self.core.committed.tasks.values() if task.state is TaskState.ASSIGNED]
        return [
            AgentStatuses(
                session="s",
                node=task.node or "",
                statuses=(Status(task=task.id, state=TaskState.RUNNING, sequence=1, external_id="1"),),
            )
            for task in placed
        ]

    def write_decided(self, events: Sequence[Event]) -> tuple[int, float]:
        """(keys, seconds): of pipeline, writer and store alone, for what the kernel has decided before.

        `core` has ended by then: it would not know of it.
        """
        self.core.stop()
        state = self.core.committed
        fence = self.store.get(records.META_KEY)
        assert fence is not None
        pipeline = Pipeline(Kernel(), state, self._term.epoch, self.store.limits.operations - 1)
        term = attrs.evolve(self._term, state=state, fence=fence.mod_revision)
        writer = Writer(pipeline, term, self.store.limits, contextlib.nullcontext())
        for event in events:
            pipeline.decide([Submission(event)], read_clock())
        keys, began = self.counted.keys, time.perf_counter()
        while (work := writer.next()) is not None:
            if isinstance(work, Transaction):
                result = self.counted.transact(work.writes, work.compares)
                assert result.applied
                writer.applied(result.revision)
        return self.counted.keys - keys, time.perf_counter() - began

    def close(self) -> None:
        self.core.stop()
        self.store.close()


@contextlib.contextmanager
def interpreter_of_a_server() -> Iterator[None]:
    """Threads give way, and garbage is collected, as in a server."""
    thresholds, interval_s = gc.get_threshold(), sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    collector, ended = Collector(), threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            collector.look()

    collector.begin()
    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
        sys.setswitchinterval(interval_s)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def commit_figures(sizes: Sizes) -> Iterator[Figure]:
    factory = EtcdFactory()
    try:
        members = factory.cluster()
        bare = Bare(members)
        with interpreter_of_a_server(), contextlib.closing(LeaderPath(members, 1_000)) as path:
            path.handle(path.asks(sizes.commits // 10))
            path.handle(path.statuses())
            rates: dict[str, list[tuple[float, float, float]]] = {"asks": [], "statuses": []}
            for turn in range(sizes.turns):
                for kind in rates:
                    events = path.asks(sizes.commits) if kind == "asks" else path.statuses()
                    written = path.counted.bytes
                    used = time.process_time()
                    keys, took_s = path.handle(events)
                    used = time.process_time() - used
                    length = (path.counted.bytes - written) // keys
                    bare_s = _bare_s(bare, keys, length, f"{kind}/{turn}")
                    rates[kind].append((keys / took_s, keys / bare_s, 1e6 * used / keys))
            yield from _writer_alone(path, bare, sizes.commits)
        bare.client.close()
        for kind, found in rates.items():
            name = f"commits of {kind}, whole way of the leader"
            yield Figure(f"{name}", statistics.median(ours for ours, _, _ in found), "keys/s")
            yield Figure(
                f"commits of {kind}: a bare client", statistics.median(theirs for _, theirs, _ in found), "keys/s"
            )
            ratio = statistics.median(ours / theirs for ours, theirs, _ in found)
            yield Figure(f"{name} over the bare client", ratio, "", at_least=0.6)
            yield Figure(f"{name}: processor time", statistics.median(used for _, _, used in found), "us/key")
    finally:
        factory.close()


def _writer_alone(path: LeaderPath, bare: Bare, commits: int) -> Iterator[Figure]:
    path.handle(path.asks(commits))
    written = path.counted.bytes
    events = path.statuses()
    keys, took_s = path.write_decided(events)
    bare_s = _bare_s(bare, keys, (path.counted.bytes - written) // keys, "alone")
    name = "commits of what is decided: pipeline, writer and store"
    yield Figure(name, keys / took_s, "keys/s")
    yield Figure(f"{name}, over the bare client", bare_s / took_s, "", at_least=0.6)


def _bare_s(bare: Bare, keys: int, length: int, name: str) -> float:
    """Seconds for as many keys with values as long, in whole transactions."""
    value = os.urandom(length)
    pairs = [(f"{name}/{number:06}", value) for number in range(keys)]
    began = time.perf_counter()
    for first in range(0, keys, KEYS_PER_TRANSACTION):
        bare.commit(pairs[first : first + KEYS_PER_TRANSACTION])
    return time.perf_counter() - began


# --- takeover ---


class Elections:
    """When leaders' keys came into the store, by `time.perf_counter`."""

    def __init__(self, store: EtcdStore) -> None:
        self._watch = store.watch(LEADER_KEY, after_revision=store.range(LEADER_KEY).revision)
        self.at_s: list[float] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stopping:
            for change in self._watch.next(0.5):
                if change.entry is not None:
                    self.at_s.append(time.perf_counter())

    def close(self) -> None:
        self._stopping = True
        self._thread.join()
        self._watch.close()


def takeover_figures(sizes: Sizes, folder: Path) -> Iterator[Figure]:
    factory = EtcdFactory()
    try:
        members = factory.cluster(1)
        name = f"{sizes.nodes:,} nodes, {sizes.tasks:,} tasks"
        with contextlib.closing(EtcdStore(parse_address(members.url("large"), StoreAccess()))) as store:
            stored = Populated(sizes.nodes, sizes.apps, sizes.tasks).write(store)
            yield Figure(f"{name}: documents in the store", stored / 1e6, "MB")
            # No agents are here: nobody shall be blamed for it.
            silent = {"ORLOP_CLUSTER__UNREACHABLE_AFTER_S": NEVER_S, "ORLOP_CLUSTER__GONE_AFTER_S": NEVER_S}
            servers = Servers(folder, members.url("large"), 2, **silent)
            with contextlib.closing(Elections(store)) as elections, contextlib.closing(servers):
                first, second = servers.all
                first.start()
                yield from _serving_figures(first, elections, f"{name}, a server that starts", None)
                second.start()
                wait_until(servers.settled, lambda: f"the second follows; {servers.logs()}", SERVES_WITHIN_S)
                yield Figure(f"{name}: memory of the leader", memory_mb([_pid(first)], "Rss"), "MB")
                yield Figure(f"{name}: memory of the standby", memory_mb([_pid(second)], "Rss"), "MB")
                killed = time.perf_counter()
                first.kill()
                yield from _serving_figures(second, elections, f"{name}, a standby that takes over", killed)
                yield Figure(f"{name}: its memory then", memory_mb([_pid(second)], "Rss"), "MB")
    finally:
        factory.close()


def _pid(server: ServerProcess) -> int:
    assert server.process is not None
    return server.process.pid


def _serving_figures(server: ServerProcess, elections: Elections, name: str, killed: float | None) -> Iterator[Figure]:
    used, before = cpu_s([_pid(server)]), len(elections.at_s)
    read = threading.Thread(target=lambda: at.append(_first_read(server)))
    at: list[float] = []
    read.start()
    Client().write([server])
    written = time.perf_counter()
    read.join()
    assert at, f"no read was answered; {server.log.read_text()[-3000:]}"
    wait_until(lambda: len(elections.at_s) > before, "the election was seen")
    elected = elections.at_s[before]
    yield Figure(f"{name}: first read after election", at[0] - elected, "s")
    yield Figure(f"{name}: first write acknowledged after election", written - elected, "s")
    yield Figure(f"{name}: serves after election", max(at[0], written) - elected, "s", at_most=10)
    yield Figure(f"{name}: its processor time", cpu_s([_pid(server)]) - used, "s")
    if killed is not None:
        yield Figure(f"{name}: serves after the leader was killed", max(at[0], written) - killed, "s")


def _first_read(server: ServerProcess) -> float:
    """When the list of apps was answered from a leader's own state."""
    end = time.monotonic() + SERVES_WITHIN_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            asked_leads = server.leads
            status, document, headers = call(f"{server.marathon}/v2/apps/apps/app-0")
            if asked_leads and status == 200 and "Orlop-Stale-Ms" not in headers:
                assert document["app"]["tasksRunning"] == document["app"]["instances"]
                return time.perf_counter()
        time.sleep(BETWEEN_ATTEMPTS_S)
    raise AssertionError("no read was answered by the leader")


def run(sizes: Sizes = Sizes()) -> Iterator[Figure]:
    """All figures of this module."""
    for figures in (
        lambda folder: failover_figures(sizes, folder),
        lambda _: commit_figures(sizes),
        lambda folder: takeover_figures(sizes, folder),
    ):
        with tempfile.TemporaryDirectory(prefix="orlop-bench-", ignore_cleanup_errors=True) as folder:
            yield from figures(Path(folder))
