"""What the kernel of the operating system says about processes: memory, processor time, children."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path

from running import RunningOrlop, processes_naming, wait_until

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: Where `processor_ticks` has them.
IDLE, IO_WAIT = 3, 4


def own_processes(orlop: RunningOrlop) -> list[int]:
    """Pids of Orlop's server and supervisor, and of what else it runs for itself; no tasks."""
    assert orlop.process is not None
    tasks = set(orlop.task_processes())
    roots = {orlop.process.pid, *processes_naming(str(orlop.data))} - tasks
    found: set[int] = set()
    while roots:
        found |= roots
        roots = {child for pid in roots for child in children(pid)} - tasks - found
    return sorted(found)


def supervisor(orlop: RunningOrlop) -> int:
    """The pid of the supervisor, which is the parent of all tasks that are processes."""
    assert orlop.process is not None
    candidates = [pid for pid in own_processes(orlop) if "supervisor" in command_line(pid)]
    assert len(candidates) == 1, f"one supervisor, not {candidates}"
    return candidates[0]


def command_line(pid: int) -> str:
    """Empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def processes_in(folder: Path) -> list[int]:
    """Pids of all that work in the folder or below: programs write over their environment, to be named as they like."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                found.append(int(entry.name))
    return found


def end_all_in(folder: Path, of_whom: str) -> None:
    """Ends them without asking, and waits until there are none."""

    def ended() -> bool:
        left = processes_in(folder)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_until(ended, f"all processes of {of_whom} end")


def children(pid: int) -> list[int]:
    """Pids of the children of all of its threads."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as listed:
                found += map(int, listed.read().split())
    except OSError:
        return found
    return found


def memory_mb(pids: Iterable[int], measure: str) -> float:
    """Megabytes (10^6 bytes) of all of them; `measure` is a line of smaps_rollup: Pss or Rss."""
    total_kib = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        match = re.search(rf"^{measure}:\s+(\d+) kB", text, re.MULTILINE)
        assert match is not None, f"smaps_rollup of process {pid} has no {measure}"
        total_kib += int(match[1])
    return total_kib * 1024 / 1e6


def cpu_s(pids: Iterable[int]) -> float:
    """Processor time that they have used so far, in seconds."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def processor_ticks() -> list[int]:
    """What all processors of the machine have done since its boot, by kind: see `IDLE` and `IO_WAIT`. Time of virtual
    machines, which counts as a user's too, is left out."""
    return list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
