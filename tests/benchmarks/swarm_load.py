"""The pool over many containers and over many cycles, with engines that are emulated: what the pool itself costs.

The kernel, its store, the agents and the streams to them are real; so are the sockets. Nothing is run.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from .docker_pool import Client, Pool, running_pool
from .figures import Figure
from .processes import cpu_s, memory_mb

WORKERS: Final = 4
#: Of the cycles: before it what is filled once has been filled.
SETTLED: Final = 0.2
BODY: Final = {"Image": "busybox:latest", "Cmd": ["sleep", "1000"], "Labels": {"tier": "front"}}


@attrs.frozen
class Sizes:
    """containers: of all engines together. cycles: of a container that is made and removed."""

    engines: int = 10
    containers: int = 1_000
    lists: int = 40
    cycles: int = 10_000


SMALL: Final = Sizes(engines=2, containers=10, lists=3, cycles=50)


def run(sizes: Sizes = Sizes()) -> Iterator[Figure]:
    """All figures of this module."""
    with emulated_engines(sizes.engines, sizes.containers // sizes.engines) as urls, running_pool(urls) as pool:
        yield from list_figures(pool, urls, sizes)
    with emulated_engines(1, 0) as urls, running_pool(urls) as pool:
        yield from cycle_figures(pool, sizes)


@contextlib.contextmanager
def emulated_engines(count: int, containers: int) -> Iterator[list[str]]:
    """Their addresses. containers: of each."""
    with tempfile.TemporaryDirectory(prefix="orlop-bench-") as folder:
        command = [sys.executable, "-m", f"{__package__}.docker_emulation", folder, str(count), str(containers)]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", "the engines listen"
            yield [f"unix://{folder}/{number}.sock" for number in range(count)]
        finally:
            process.kill()
            process.communicate()


def list_figures(pool: Pool, urls: list[str], sizes: Sizes) -> Iterator[Figure]:
    took_ms: list[float] = []
    own_ms: list[float] = []
    with contextlib.closing(Client(pool.url)) as client, contextlib.ExitStack() as stack:
        engines = [stack.enter_context(contextlib.closing(Client(url))) for url in urls]
        for attempt in range(sizes.lists + 1):
            began = time.perf_counter()
            rows = client.call("GET", "/v1.41/containers/json?all=1")
            between = time.perf_counter()
            assert len(rows) == sizes.containers, "all are listed"
            for engine in engines:
                engine.call("GET", "/v1.41/containers/json?all=1")
            if attempt:  # the first one finds the way
                took_ms.append(1000 * (between - began))
                own_ms.append(1000 * (time.perf_counter() - between))
    what = f"ps -a of {sizes.containers} containers on {sizes.engines} emulated engines"
    yield Figure(f"{what}: median", statistics.median(took_ms), "ms", at_most=50)
    yield Figure(f"{what}: slowest", max(took_ms), "ms")
    yield Figure(f"{what}: the engines asked one after another, median", statistics.median(own_ms), "ms")


def cycle_figures(pool: Pool, sizes: Sizes) -> Iterator[Figure]:
    pids = pool.pids()
    used_s, began = cpu_s(pids), time.perf_counter()
    cycles(pool, round(sizes.cycles * SETTLED))
    before_mb = memory_mb(pids, "Rss")
    rest = sizes.cycles - round(sizes.cycles * SETTLED)
    cycles(pool, rest)
    after_mb = memory_mb(pids, "Rss")
    took_s = time.perf_counter() - began
    what = f"{sizes.cycles} containers made and removed"
    yield Figure(f"{what}: RSS after {SETTLED:.0%} of them", before_mb, "MB")
    yield Figure(f"{what}: growth of RSS with the last {rest}", after_mb - before_mb, "MB", at_most=5)
    yield Figure(f"{what}: {WORKERS} workers", sizes.cycles / took_s, "cycles/s")
    yield Figure(f"{what}: Orlop's processor time for each", 1000 * (cpu_s(pids) - used_s) / sizes.cycles, "ms")


def cycles(pool: Pool, count: int) -> None:
    """So many, by workers at once; each with a name of its own."""

    def work(worker: int) -> None:
        with contextlib.closing(Client(pool.url)) as client:
            for number in range(worker, count, WORKERS):
                made = client.call("POST", f"/containers/create?name=cycle-{count}-{number}", BODY)["Id"]
                client.remove(made)

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as workers:
        list(workers.map(work, range(WORKERS)))
