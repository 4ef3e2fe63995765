"""A real `orlop up` and processes: start, idle, many at once, and a killed one."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
from running import RunningOrlop, wait_until

from .figures import Figure
from .processes import (
    children,
    command_line,
    cpu_s,
    memory_mb,
    own_processes,
    supervisor,
)

STARTS: Final = 5
SETTLE_S: Final = 3.0
IDLE_S: Final = 10.0
ROUNDS: Final = 5
POLL_S: Final = 0.02
KILLS: Final = 20
BETWEEN_KILLS_S: Final = 0.2
KILL_POLL_S: Final = 0.001
DEADLINE_S: Final = 120.0
LOG_TAIL_CHARACTERS: Final = 5_000
SLEEP: Final = {"cmd": "sleep 1000", "cpus": 0.001, "mem": 1, "backoffSeconds": 0}


class TimedOrlop(RunningOrlop):
    """Its `start` returns as soon as `/v1/cluster` answers."""

    def answers(self) -> bool:
        try:
            return bool(self.get(f"{self.url}/v1/cluster"))
        except OSError:
            return False

    def wait_ready(self) -> None:
        wait_until(super().answers, "orlop up is ready for tasks")


@contextlib.contextmanager
def running_orlop(**options: Any) -> Iterator[TimedOrlop]:
    """One in a folder of its own; it, its tasks and the folder are gone afterwards. Not started yet."""
    with tempfile.TemporaryDirectory(prefix="orlop-bench-", ignore_cleanup_errors=True) as folder:
        orlop = TimedOrlop(Path(folder), **options)
        try:
            yield orlop
        except BaseException:
            print(f"the end of Orlop's log:\n{orlop.log.read_text()[-LOG_TAIL_CHARACTERS:]}", file=sys.stderr)
            raise
        finally:
            orlop.close()


def start_s() -> float:
    """Seconds from the command until it answers."""
    with running_orlop() as orlop:
        began = time.perf_counter()
        orlop.start()
        return time.perf_counter() - began


def tasks_running(orlop: RunningOrlop, app_id: str) -> int:
    """From the list of apps, which does not show each of the tasks: asking shall not be what is measured."""
    listed = orlop.call("GET", f"/v2/apps?id={app_id}")["apps"]
    return next((int(app["tasksRunning"]) for app in listed if app["id"] == app_id), 0)


def seconds_to_run(orlop: RunningOrlop, app: dict[str, Any]) -> float:
    """Seconds from the POST of an app until Marathon's API says that all its instances run."""
    began = time.perf_counter()
    orlop.call("POST", "/v2/apps", app)
    while tasks_running(orlop, app["id"]) < app["instances"]:
        assert time.perf_counter() - began < DEADLINE_S, f"{app['id']}: not all run within {DEADLINE_S:g} s"
        time.sleep(POLL_S)
    return time.perf_counter() - began


def remove(orlop: RunningOrlop, app_id: str) -> None:
    """Deletes the app and waits until its last process has ended."""
    orlop.wait_deployed(DEADLINE_S)
    orlop.call("DELETE", f"/v2/apps{app_id}")
    orlop.wait_deployed(DEADLINE_S)
    wait_until(lambda: not orlop.task_processes(), f"the processes of {app_id} end", DEADLINE_S)


def idle_figures(orlop: RunningOrlop) -> Iterator[Figure]:
    time.sleep(SETTLE_S)
    pids = own_processes(orlop)
    yield Figure("idle: processes of Orlop", len(pids), "")
    yield Figure("idle: PSS", memory_mb(pids, "Pss"), "MB", at_most=80)
    yield Figure("idle: RSS, shared pages counted fully", memory_mb(pids, "Rss"), "MB")
    used, began = cpu_s(pids), time.perf_counter()
    time.sleep(IDLE_S)
    percent = 100 * (cpu_s(pids) - used) / (time.perf_counter() - began)
    yield Figure("idle: processor", percent, "% of a core", at_most=1)


@attrs.define
class Many:
    """What was measured of starts of as many processes: seconds until all ran, Orlop's processor time in seconds."""

    count: int
    took_s: list[float] = attrs.field(factory=list)
    used_s: list[float] = attrs.field(factory=list)

    def measure(self, orlop: RunningOrlop, pids: list[int]) -> str:
        """Starts them once more. Returns the app's id."""
        app = SLEEP | {"id": f"/many-{self.count}-{len(self.took_s)}", "instances": self.count}
        used_s = cpu_s(pids)
        self.took_s.append(seconds_to_run(orlop, app))
        self.used_s.append(cpu_s(pids) - used_s)
        return str(app["id"])

    def figures(self, at_least: float | None = None) -> Iterator[Figure]:
        yield Figure(f"{self.count} processes: slowest round", self.count / max(self.took_s), "tasks/s")
        rate = self.count / statistics.median(self.took_s)
        yield Figure(f"{self.count} processes: median", rate, "tasks/s", at_least=at_least)
        spent_ms = 1000 * statistics.median(self.used_s) / self.count
        yield Figure(f"{self.count} processes: Orlop's processor time for each, median", spent_ms, "ms")


def many_figures(orlop: RunningOrlop) -> Iterator[Figure]:
    """Each round of many lies between two of few, so that both meet the same load."""
    few, many = Many(100), Many(500)
    pids = own_processes(orlop)
    app_id = few.measure(orlop, pids)
    time.sleep(SETTLE_S)
    assert len(orlop.task_processes()) >= few.count, "they are real processes"
    yield Figure("100 processes running: PSS", memory_mb(own_processes(orlop), "Pss"), "MB", at_most=120)
    remove(orlop, app_id)
    ratios = []
    for _ in range(ROUNDS):
        for one in (few, many, few):
            remove(orlop, one.measure(orlop, pids))
        ratios.append(many.count / many.took_s[-1] / (2 * few.count / sum(few.took_s[-2:])))
    yield from few.figures(at_least=150)
    yield from many.figures()
    ratio = statistics.median(ratios)
    yield Figure("500 processes: rate over that of 100, median of the rounds", ratio, "x", at_least=1)


def sleepers(parent: int) -> set[int]:
    """Pids of the `sleep`s of the supervisor's tasks; a shell that does not replace itself is in between."""
    tasks = children(parent)
    below = [child for task in tasks for child in children(task)]
    return {pid for pid in tasks + below if command_line(pid).startswith("sleep ")}


def kill_figures(orlop: RunningOrlop) -> Iterator[Figure]:
    app = SLEEP | {"id": "/killed", "instances": 1}
    seconds_to_run(orlop, app)
    parent = supervisor(orlop)
    took_ms = []
    for _ in range(KILLS):
        wait_until(lambda: orlop.app("/killed")["tasksRunning"] == 1 and sleepers(parent), "it runs")
        time.sleep(BETWEEN_KILLS_S)
        (before,) = sleepers(parent)
        began = time.perf_counter()
        os.kill(before, signal.SIGKILL)
        while not sleepers(parent) - {before}:
            assert time.perf_counter() - began < DEADLINE_S, "a killed process runs again"
            time.sleep(KILL_POLL_S)
        took_ms.append(1000 * (time.perf_counter() - began))
    remove(orlop, "/killed")
    yield Figure("killed process runs again: median", statistics.median(took_ms), "ms", at_most=50)
    yield Figure("killed process runs again: slowest", max(took_ms), "ms")


def run() -> Iterator[Figure]:
    """All figures of this module."""
    yield Figure(
        "up: until /v1/cluster answers, median", statistics.median(start_s() for _ in range(STARTS)), "s", at_most=1.5
    )
    with running_orlop() as orlop:
        orlop.start()
        orlop.wait_ready()
        yield from idle_figures(orlop)
        yield from many_figures(orlop)
        yield from kill_figures(orlop)
