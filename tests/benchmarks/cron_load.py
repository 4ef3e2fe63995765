"""Chronos under load: a thousand jobs on one second, a thousand fires every five seconds, a hundred thousand jobs.

A real `orlop server` on a real etcd member, its data on disk, and emulated agents (`emulation`) whose tasks start
nothing: what is measured is the scheduler, and not how fast the machine makes processes (for that, see `cron`). An
emulated agent notes when it is told to start a task. It is told after the commit of the run, the ask and the place,
so that this moment less the nominal time is an upper bound of how late the commit was.

The sustained load runs for two minutes; ORLOP_BENCH_SUSTAINED_S names another time, in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import attrs
from etcd_members import EtcdCluster, EtcdFactory, EtcdMember, missing
from running import wait_until
from servers import ANSWER_WITHIN_S, Servers, call

from . import agents
from .agents import AgentsCluster
from .cron import iso
from .figures import Figure
from .processes import cpu_s, memory_mb

__all__ = ["missing", "run"]

PREFIX: Final = "/chronos/v1/scheduler"
CONNECTIONS: Final = 32
#: Between the last job's being stored and the first second on which jobs are due.
AHEAD_S: Final = 3
PERIOD_S: Final = 5
TASK_RUNS_S: Final = 1.0
ALL_TOLD_WITHIN_S: Final = 60.0
LAST_TOLD_WITHIN_S: Final = 10.0
LISTINGS: Final = 3
SERVES_WITHIN_S: Final = 300.0
FAR: Final = "2090-01-01T00:00:00Z"
NEVER_S: Final = "86400"


@attrs.frozen
class Sizes:
    """together: jobs on one second. fires: jobs that are due every five seconds. loaded: jobs that only lie there.

    idle_s: how long the server is watched with them. settle_s: between the last of them and that.
    """

    agents: int = 50
    together: int = 1_000
    fires: int = 1_000
    sustained_s: float = float(os.environ.get("ORLOP_BENCH_SUSTAINED_S", "120"))
    loaded: int = 100_000
    idle_s: float = 30.0
    settle_s: float = 10.0


SMALL: Final = Sizes(agents=4, together=40, fires=20, sustained_s=6, loaded=300, idle_s=1, settle_s=0.5)


def job(name: str, schedule: str) -> dict[str, Any]:
    return {"name": name, "command": "true", "owner": "me@example.com", "cpus": 0.001, "mem": 1, "disk": 1,
            "schedule": schedule}  # fmt: skip


async def put_all(url: str, jobs: Iterator[dict[str, Any]]) -> None:
    """Stores them, one request each, so many at a time."""
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def put_some() -> None:
            for one in jobs:
                async with http.post(f"{url}{PREFIX}/iso8601", json=one) as answer:
                    assert answer.status == 204, await answer.text()

        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(put_some())


class Starts:
    """What the emulated agents have written down: (nominal, told) UTC milliseconds of each start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def read(self, since_ms: int = 0) -> list[tuple[int, int]]:
        """Of nominal times from `since_ms` on."""
        lines = [line.split() for file in self.folder.iterdir() for line in file.read_text().splitlines()]
        found = [(int(nominal), int(told)) for nominal, told in lines]
        return sorted(one for one in found if one[0] >= since_ms)


@contextlib.contextmanager
def cluster_with(sizes: Sizes) -> Iterator[tuple[AgentsCluster, Starts, EtcdMember]]:
    factory = EtcdFactory()
    try:
        etcd = factory.cluster()
        with (
            tempfile.TemporaryDirectory(prefix="orlop-bench-", ignore_cleanup_errors=True) as folder,
            contextlib.closing(AgentsCluster(Path(folder), etcd.url(), tls=False)) as cluster,
        ):
            starts = Starts(Path(folder) / "starts")
            cluster.start()
            agents_sizes = agents.Sizes(agents=sizes.agents)
            cluster.open(agents_sizes, task_runs_s=TASK_RUNS_S, starts=str(starts.folder))
            yield cluster, starts, etcd.members[0]
    finally:
        factory.close()


def together_figures(cluster: AgentsCluster, starts: Starts, count: int) -> Iterator[Figure]:
    due_s = int(time.time()) + AHEAD_S + count // 100
    asyncio.run(put_all(cluster.url, (job(f"together-{number}", f"R1/{iso(due_s)}/PT1H") for number in range(count))))
    assert time.time() < due_s, "the jobs were stored in time"
    used = cpu_s([cluster.pid])
    wait_until(lambda: len(starts.read(due_s * 1000)) >= count, "all are told to start", ALL_TOLD_WITHIN_S)
    used = cpu_s([cluster.pid]) - used
    late_ms = [told - nominal for nominal, told in starts.read(due_s * 1000)]
    name = f"{count:,} jobs on one second"
    yield Figure(f"{name}: committed and told to start, median late", statistics.median(late_ms), "ms")
    yield Figure(f"{name}: committed and told to start, the last", max(late_ms), "ms", at_most=1000)
    yield Figure(f"{name}: the server's processor time for each", 1000 * used / count, "ms")
    _delete(cluster.url, [f"together-{number}" for number in range(count)])


def _delete(url: str, names: list[str]) -> None:
    async def delete() -> None:
        left = iter(names)
        async with aiohttp.ClientSession() as http:

            async def some() -> None:
                for name in left:
                    async with http.delete(f"{url}{PREFIX}/job/{name}") as answer:
                        assert answer.status == 204, await answer.text()

            await asyncio.gather(*(some() for _ in range(CONNECTIONS)))

    asyncio.run(delete())


def sustained_figures(cluster: AgentsCluster, starts: Starts, member: EtcdMember, sizes: Sizes) -> Iterator[Figure]:
    """A fifth of the jobs is due on each second."""
    first_s = int(time.time()) + AHEAD_S + sizes.fires // 100
    schedules = (f"R/{iso(first_s + number % PERIOD_S)}/PT{PERIOD_S}S" for number in range(sizes.fires))
    asyncio.run(put_all(cluster.url, (job(f"often-{number}", one) for number, one in enumerate(schedules))))
    assert time.time() < first_s, "the jobs were stored in time"
    assert member.process is not None
    pids, etcd_pids = [cluster.pid], [member.process.pid]
    time.sleep(max(0.0, first_s - time.time()))
    used, etcd_used, memory = cpu_s(pids), cpu_s(etcd_pids), memory_mb(pids, "Rss")
    time.sleep(sizes.sustained_s)
    used, etcd_used = cpu_s(pids) - used, cpu_s(etcd_pids) - etcd_used
    grown = memory_mb(pids, "Rss") - memory
    seconds = int(sizes.sustained_s) - 1
    until_ms = (first_s + seconds) * 1000
    expected = sum(len(range(number % PERIOD_S, seconds, PERIOD_S)) for number in range(sizes.fires))
    found = lambda: [one for one in starts.read(first_s * 1000) if one[0] < until_ms]  # noqa: E731
    with contextlib.suppress(AssertionError):  # what is missing then is a figure
        wait_until(lambda: len(found()) >= expected, "all are told to start", LAST_TOLD_WITHIN_S)
    late_ms = sorted(told - nominal for nominal, told in found())
    name = f"{sizes.fires:,} fires every {PERIOD_S} s for {sizes.sustained_s:g} s"
    yield Figure(f"{name}: starts that were expected and are missing", expected - len(late_ms), "", at_most=0)
    yield Figure(f"{name}: committed and told to start, median late", statistics.median(late_ms), "ms")
    p99 = late_ms[min(len(late_ms) - 1, round(0.99 * len(late_ms)))]
    yield Figure(f"{name}: committed and told to start, 99th percentile", p99, "ms", at_most=250)
    yield Figure(f"{name}: committed and told to start, the latest", max(late_ms), "ms")
    yield Figure(f"{name}: the server's processor", 100 * used / sizes.sustained_s, "% of a core")
    yield Figure(f"{name}: etcd's processor", 100 * etcd_used / sizes.sustained_s, "% of a core")
    yield Figure(f"{name}: the server's memory has grown by", grown, "MB")
    yield Figure(f"{name}: the server's memory", memory + grown, "MB")
    yield Figure(f"{name}: etcd's file", member.metric("etcd_mvcc_db_total_size_in_bytes") / 1e6, "MB")
    yield Figure(f"{name}: of it in use", member.metric("etcd_mvcc_db_total_size_in_use_in_bytes") / 1e6, "MB")


# --- many jobs ---


def loaded_figures(etcd: EtcdCluster, folder: Path, sizes: Sizes) -> Iterator[Figure]:
    count = sizes.loaded
    silent = {"ORLOP_CLUSTER__UNREACHABLE_AFTER_S": NEVER_S, "ORLOP_CLUSTER__GONE_AFTER_S": NEVER_S}
    with contextlib.closing(Servers(folder, etcd.url("loaded"), 2, **silent)) as servers:
        first = servers.all[0]
        first.start()
        wait_until(lambda: first.leads, lambda: f"it leads; {servers.logs()}")
        assert first.process is not None
        name = f"{count:,} jobs loaded"
        pids = [first.process.pid]
        used, began = cpu_s(pids), time.perf_counter()
        jobs = (job(f"loaded-{number:06d}", f"R/{FAR}/P1D") for number in range(count))
        asyncio.run(put_all(first.url, jobs))
        took_s = time.perf_counter() - began
        yield Figure(f"{name}: sent one by one, {CONNECTIONS} at a time", count / took_s, "jobs/s")
        yield Figure(f"{name}: the server's processor time for each", 1000 * (cpu_s(pids) - used) / count, "ms")
        yield Figure(f"{name}: the server's memory", memory_mb(pids, "Rss"), "MB")
        yield from _idle_figures(pids, name, sizes)
        yield from _listing_figures(first.url, pids, name, count)
        yield from _takeover_figures(servers, name, count)


def _idle_figures(pids: list[int], name: str, sizes: Sizes) -> Iterator[Figure]:
    time.sleep(sizes.settle_s)
    used, began = cpu_s(pids), time.perf_counter()
    time.sleep(sizes.idle_s)
    percent = 100 * (cpu_s(pids) - used) / (time.perf_counter() - began)
    yield Figure(f"{name}: idle, the server's processor", percent, "% of a core", at_most=1)


def _listing_figures(url: str, pids: list[int], name: str, count: int) -> Iterator[Figure]:
    paths = {
        "GET /jobs": "/jobs",
        "GET /jobs/summary": "/jobs/summary",
        "GET /jobs/search?name=": f"/jobs/search?name={count - 1:06d}",
        "GET /graph/csv": "/graph/csv",
    }
    for encoding in ("gzip", "identity"):
        for what, path in paths.items():
            used = cpu_s(pids)
            took = [asyncio.run(_get(f"{url}{PREFIX}{path}", encoding)) for _ in range(LISTINGS)]
            used = (cpu_s(pids) - used) / LISTINGS
            seconds = statistics.median(seconds for seconds, _ in took)
            yield Figure(f"{name}: {what}, {encoding}", seconds, "s", at_most=1)
            yield Figure(f"{name}: {what}, {encoding}: the server's processor time", used, "s")
            yield Figure(f"{name}: {what}, {encoding}: sent", took[-1][1] / 1e6, "MB")


async def _get(url: str, encoding: str) -> tuple[float, int]:
    """Seconds until all of it is there, and how many bytes came."""
    async with aiohttp.ClientSession(auto_decompress=False, headers={"Accept-Encoding": encoding}) as http:
        began = time.perf_counter()
        async with http.get(url) as answer:
            body = await answer.read()
            assert answer.status == 200, body
        return time.perf_counter() - began, len(body)


def _takeover_figures(servers: Servers, name: str, count: int) -> Iterator[Figure]:
    """From the death of the leader until the other one shows the last job and has stored another one."""
    first, second = servers.all
    second.start()
    wait_until(servers.settled, lambda: f"the second follows; {servers.logs()}", SERVES_WITHIN_S)
    assert second.process is not None
    used, killed = cpu_s([second.process.pid]), time.perf_counter()
    first.kill()
    wait_until(lambda: second.leads, lambda: f"it takes over; {servers.logs()}", SERVES_WITHIN_S)
    wait_until(lambda: _serves(second.url, count), lambda: f"it serves; {servers.logs()}", SERVES_WITHIN_S)
    yield Figure(f"{name}: leader killed, another one lists and stores after", time.perf_counter() - killed, "s")
    used = cpu_s([second.process.pid]) - used
    yield Figure(f"{name}: leader killed, the other one's processor time", used, "s")


def _serves(url: str, count: int) -> bool:
    """Does it show the last job, and take another one?"""
    with contextlib.suppress(OSError):
        if call(f"{url}{PREFIX}/job/loaded-{count - 1:06d}")[0] == 200:
            body = json.dumps(job("after", f"R/{FAR}/P1D")).encode()
            request = urllib.request.Request(f"{url}{PREFIX}/iso8601", body, method="POST")
            with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as answer:
                return bool(answer.status == 204)
    return False


def run(sizes: Sizes = Sizes()) -> Iterator[Figure]:
    """All figures of this module."""
    with cluster_with(sizes) as (cluster, starts, member):
        yield from together_figures(cluster, starts, sizes.together)
        yield from sustained_figures(cluster, starts, member, sizes)
    factory = EtcdFactory()
    try:
        with tempfile.TemporaryDirectory(prefix="orlop-bench-", ignore_cleanup_errors=True) as folder:
            yield from loaded_figures(factory.cluster(), Path(folder), sizes)
    finally:
        factory.close()
