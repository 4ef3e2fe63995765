"""Chronos on a real `orlop up`, with real processes: how late they start, and how fast jobs are taken and follow.

The first thing that a process does is to make a file, whose time is that of the start: a start is counted when the
program runs, not when the server says so. The file system's clock ticks every 4 ms or so. Nominal times are those of
the schedules.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
from node_groups import remove_groups
from running import RunningOrlop, wait_until

from .figures import Figure
from .furnished import control_groups
from .processes import IDLE, IO_WAIT, cpu_s, processor_ticks, supervisor
from .services import running_orlop

PERIOD_S: Final = 5
TOGETHER: Final = 20
CHAINS: Final = 20
SUBMITTED: Final = 100
AHEAD_S: Final = 3
#: Nothing but a shell's own means: another program would be a second process.
NOTE: Final = ": > {file}@$CHRONOS_JOB_RUN_TIME"


@attrs.frozen
class Sizes:
    """rounds: starts of one job. submitted_rounds: of so many jobs sent one by one. many: jobs on one second."""

    rounds: int = 12
    submitted_rounds: int = 5
    many: int = 1_000


SMALL: Final = Sizes(rounds=2, submitted_rounds=1, many=40)


class Chronos:
    def __init__(self, orlop: RunningOrlop, folder: Path) -> None:
        host, _, port = orlop.chronos_address.rpartition(":")
        #: One connection for all calls: making one for each is work of the client's and the system's, not Orlop's.
        self._http = http.client.HTTPConnection(host, int(port), timeout=60)
        self.folder = folder

    def put(self, name: str, **members: Any) -> None:
        """Its processes note in the file `name` when they start."""
        document = {
            "name": name, "command": NOTE.format(file=self.folder / name), "cpus": 0.001, "mem": 1, "disk": 1, **members
        }  # fmt: skip
        path = "/dependency" if "parents" in members else "/iso8601"
        self._call("POST", path, document)

    def start(self, name: str) -> None:
        self._call("PUT", f"/job/{name}")

    def delete(self, name: str) -> None:
        self._call("DELETE", f"/job/{name}")

    def succeeded(self, name: str) -> int:
        return int(self._call("GET", f"/job/{name}")["successCount"])

    def _call(self, method: str, path: str, document: Any = None) -> Any:
        data = json.dumps(document).encode() if document is not None else None
        self._http.request(method, f"/v1/scheduler{path}", data)
        answer = self._http.getresponse()
        body = answer.read()
        assert answer.status in (200, 204), f"{method} {path}: {answer.status}, {body!r}"
        return json.loads(body) if body else None

    def started(self) -> set[str]:
        """Whose processes have started at all. One look at the folder for all of them: of a thousand jobs, one look
        for each took a second of processor time from what is measured."""
        return {file.partition("@")[0] for file in os.listdir(self.folder)}

    def starts(self, name: str) -> list[tuple[float, float]]:
        """(nominal, real) UTC seconds of each start, in their order."""
        files = self.folder.glob(f"{name}@*")
        return sorted((int(file.name.partition("@")[2]) / 1000, file.stat().st_mtime) for file in files)


def iso(utc_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(utc_s))


def late_ms(starts: list[tuple[float, float]]) -> list[float]:
    return [(real_s - nominal_s) * 1000 for nominal_s, real_s in starts]


def one_job(chronos: Chronos, rounds: int) -> list[float]:
    """Milliseconds by which each start of one job was late."""
    chronos.put("one", schedule=f"R{rounds}/{iso(time.time() + AHEAD_S)}/PT{PERIOD_S}S")
    wait_until(lambda: len(chronos.starts("one")) == rounds, "all runs", PERIOD_S * rounds + 60)
    chronos.delete("one")
    return late_ms(chronos.starts("one"))


def together(chronos: Chronos, count: int) -> list[float]:
    """The same of so many jobs that are due on one second."""
    return together_and_idle(chronos, count)[0]


def together_and_idle(chronos: Chronos, count: int) -> tuple[list[float], float]:
    """Also the percentage of the machine's processors that did nothing from that second to the last start."""
    names = [f"together-{count}-{number}" for number in range(count)]
    due_s = int(time.time() + AHEAD_S + count / 100)
    for name in names:
        chronos.put(name, schedule=f"R1/{iso(due_s)}/PT1H")
    wait_until(lambda: time.time() >= due_s, "they are due", AHEAD_S + count / 100)
    before = processor_ticks()
    wait_until(lambda: chronos.started().issuperset(names), "all have started", 120)
    passed = [after - ticks for after, ticks in zip(processor_ticks(), before, strict=True)]
    late = [late for name in names for late in late_ms(chronos.starts(name))]
    return late, 100 * (passed[IDLE] + passed[IO_WAIT]) / sum(passed)


def chain(chronos: Chronos) -> list[float]:
    """Milliseconds from the start of a parent, which does nothing else, to that of its child."""
    chronos.put("parent", schedule="R0//PT1H")
    chronos.put("child", parents=["parent"])
    found = []
    for number in range(1, CHAINS + 1):
        chronos.start("parent")
        wait_until(lambda number=number: chronos.succeeded("child") == number, "the child has run")
    parents, children = chronos.starts("parent"), chronos.starts("child")
    for (_, parent_s), (_, child_s) in zip(parents, children, strict=True):
        found.append((child_s - parent_s) * 1000)
    for name in ("child", "parent"):
        chronos.delete(name)
    for file in [*chronos.folder.glob("parent@*"), *chronos.folder.glob("child@*")]:
        file.unlink()
    return found


def submitted(chronos: Chronos) -> float:
    """Seconds from the first of so many jobs, sent one by one, to the end of the last one's run. They are deleted."""
    names = [f"noop-{number}" for number in range(SUBMITTED)]
    began = time.perf_counter()
    for name in names:
        chronos.put(name, command="true", schedule="R1//PT1H", owner="")
    for name in names:
        wait_until(lambda name=name: chronos.succeeded(name) == 1, "it has run")
    took_s = time.perf_counter() - began
    for name in names:
        chronos.delete(name)
    return took_s


def processes_per_s(folder: Path, count: int) -> float:
    """How many shells like those of the jobs this machine starts in a second, when nothing schedules them."""
    began = time.perf_counter()
    started = []
    for number in range(count):
        command = NOTE.format(file=folder / f"bare-{number}")
        started.append(subprocess.Popen(["/bin/sh", "-c", command], env={"CHRONOS_JOB_RUN_TIME": "0"}))
    for process in started:
        process.wait()
    return count / (time.perf_counter() - began)


def furnished_per_s(folder: Path, count: int) -> float:
    """The same of such as are given what a task is given; see `furnished`."""
    node_id = f"bench-{os.getpid()}"
    groups = control_groups(node_id)
    command = [sys.executable, "-m", "tests.benchmarks.furnished", str(folder), str(count), node_id]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, stdout=subprocess.PIPE)
    finally:
        if groups is not None:
            remove_groups(Path(path).parent for path in groups.supervisor())
    return float(done.stdout)


def run(sizes: Sizes = Sizes()) -> Iterator[Figure]:
    with running_orlop() as orlop:
        orlop.start()
        orlop.wait_ready()
        folder = orlop.data.parent / "starts"
        folder.mkdir()
        chronos = Chronos(orlop, folder)
        late = one_job(chronos, sizes.rounds)
        yield Figure("one job every 5 s: late, median", statistics.median(late), "ms", at_most=15)
        late = together(chronos, TOGETHER)
        yield Figure(f"{TOGETHER} jobs on one second: late, median", statistics.median(late), "ms", at_most=100)
        yield Figure(f"{TOGETHER} jobs on one second: late, the last", max(late), "ms", at_most=200)
        gaps = chain(chronos)
        yield Figure("parent's start to child's start, median", statistics.median(gaps), "ms", at_most=30)
        took_s = statistics.median(submitted(chronos) for _ in range(sizes.submitted_rounds))
        rate = SUBMITTED * 60 / took_s
        name = f"{SUBMITTED} no-op jobs sent one by one, until all have run, median of {sizes.submitted_rounds} rounds"
        yield Figure(name, rate, "/min", at_least=6000)
        yield from many_figures(orlop, chronos, sizes.many)


def many_figures(orlop: RunningOrlop, chronos: Chronos, count: int) -> Iterator[Figure]:
    """A machine starts processes at most as fast as its own rates say: bare ones, and such as are given what a task is
    given. Orlop's rate is that of the last one's start. Where no processor was idle, the machine is the limit."""
    assert orlop.process is not None
    own, parent = [orlop.process.pid], [supervisor(orlop)]
    used = cpu_s(own), cpu_s(parent)
    late, idle = together_and_idle(chronos, count)
    spent_ms = [1000 * (cpu_s(pids) - before) / count for pids, before in zip((own, parent), used, strict=True)]
    name = f"{count:,} jobs on one second"
    yield Figure(f"{name}: processes start, median late", statistics.median(late), "ms")
    yield Figure(f"{name}: processes start, the last", max(late), "ms")
    yield Figure(f"{name}: processors idle until then, I/O wait included", idle, "%")
    yield Figure(f"{name}: processor time of each, with storing it, server and agent", spent_ms[0], "ms")
    yield Figure(f"{name}: processor time of each, supervisor", spent_ms[1], "ms")
    rate = count / (max(late) / 1000)
    bare = processes_per_s(chronos.folder, count)
    yield Figure(f"{name}: this machine starts such processes at", bare, "/s")
    yield Figure(f"{name}: Orlop's rate over that", rate / bare, "x")
    furnished = furnished_per_s(chronos.folder, count)
    yield Figure(f"{name}: this machine starts them with folders, files and control groups at", furnished, "/s")
    yield Figure(f"{name}: Orlop's rate over that with all that", rate / furnished, "x")
