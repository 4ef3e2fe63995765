"""Processes as the kernel knows them, and what a task leaves behind: its process group and its control groups.

A control group of version 1 may be one of several of a task (one per controller), of version 2 it is the only one;
both list their processes in `cgroup.procs`.
"""

from __future__ import annotations

import os
import signal

#: The variable that marks a task's processes; the agent puts it in every task's environment.
MARK = "ORLOP_TASK"
#: How often a control group is read again after its processes were killed, while they fork faster than that.
KILL_ROUNDS = 10
READ_BYTES = 2**16


def boot_id() -> str:
    """Changes whenever the machine boots."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since the boot; None when there is none of that number."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on: the name before it may hold spaces and brackets."""
    try:
        return _content(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def open_identical(pid: int, ticks: int) -> int | None:
    """A pidfd of the process with this identity; None when it is gone. The pidfd is opened before the start time is
    read, so that the two are of one process."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    if start_ticks(pid) == ticks:
        return handle
    os.close(handle)
    return None


def kill_process_group(leader: int, signal_number: int = signal.SIGKILL) -> None:
    """Only for a leader that is our child and not reaped: its number cannot be anybody else's."""
    try:
        os.killpg(leader, signal_number)
    except (ProcessLookupError, PermissionError):
        pass


def kill_marked_group(leader: int, task: str, signal_number: int = signal.SIGKILL) -> None:
    """What a leader that is gone has left: its number may have been reused, so each member must bear the mark."""
    mark = f"{MARK}={task}".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == leader:
            continue
        fields = _stat(int(name))
        if not fields or int(fields[2]) != leader:
            continue
        handle = open_identical(int(name), int(fields[19]))
        if handle is None:
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    signal.pidfd_send_signal(handle, signal_number)
        except OSError:
            pass
        finally:
            os.close(handle)


def kill_control_groups(groups: list[str]) -> None:
    """SIGKILL to all that is in them. First nothing in them may fork any more, where the kernel can say so."""
    for group in groups:
        _write(f"{group}/pids.max", b"0")
    for group in groups:
        if _write(f"{group}/cgroup.kill", b"1"):
            continue
        for _ in range(KILL_ROUNDS):
            living = _processes(group)
            for pid in living:
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
            if not living:
                break


def are_populated(groups: list[str]) -> bool:
    """Is any process left in them, or below? One of them tells for all: who is in one is in the others, unless somebody
    has moved it by hand. Version 2 says it in a file of its own."""
    if not groups:
        return False
    events = _read(f"{groups[-1]}/cgroup.events")
    return b"populated 1" in events if events else bool(_read(f"{groups[-1]}/cgroup.procs"))


def remove_control_groups(groups: list[str]) -> list[str]:
    """Removes the empty ones; those that are still busy are returned."""
    busy = []
    for group in groups:
        try:
            os.rmdir(group)
        except FileNotFoundError:
            pass
        except OSError:
            busy.append(group)
    return busy


def out_of_memory_kills(groups: list[str]) -> int:
    """How many processes of these control groups the kernel has killed for want of memory."""
    for group in groups:
        for name in ("memory.events", "memory.oom_control"):
            for line in _read(f"{group}/{name}").splitlines():
                key, _, count = line.partition(b" ")
                if key == b"oom_kill" and count.isdigit():
                    return int(count)
    return 0


def _processes(group: str) -> list[int]:
    own = os.getpid()
    return [int(line) for line in _read(f"{group}/cgroup.procs").split() if int(line) not in (0, own)]


def _read(path: str) -> bytes:
    try:
        return _content(path)
    except OSError:
        return b""


def _content(path: str) -> bytes:
    """Without a file object, which costs more than the reading. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while block := os.read(file, READ_BYTES):
            data += block
        return data
    finally:
        os.close(file)


def _write(path: str, data: bytes) -> bool:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(file, data)
        return True
    except OSError:
        return False
    finally:
        os.close(file)
