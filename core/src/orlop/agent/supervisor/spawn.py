"""Fork, wait for the journal, become the task.

The child talks to its parent through two pipes. On `go` it waits until it is journalled; if the pipe breaks instead,
it exits. On `fault`, which closes by itself when the program is executed, it says in words why it could not be.

After a fork each page that the child touches is copied, and so is each that the parent touches meanwhile, which costs
more than what is done there. So the parent opens the files and makes the lists, before; the child goes through a list
of calls, and does as little as possible by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from os import _exit, closerange, execve, read  # so that a child need not look them up
from signal import set_wakeup_fd

FAULT_BYTES_MAX = 4096
#: What a shell answers for a program that it cannot run.
CANNOT_EXECUTE = 127
_DESCRIPTORS_MAX = os.sysconf("SC_OPEN_MAX")

#: What to write, and where, so that this process is spared when memory runs out; None where that is not allowed.
_protection: tuple[int, bytes] | None = None


class Start:
    """A request to start: what the child needs, as bytes, checked. Raises ValueError naming the member."""

    __slots__ = (
        "arguments", "directory", "environment", "folder", "gid", "groups", "incarnation", "stderr", "stdout",
        "supplementary", "task", "uid",
    )  # fmt: skip

    def __init__(self, message: dict) -> None:
        self.task = _text(message, "task")
        self.incarnation = _number(message, "incarnation")
        self.folder = _text(message, "folder")
        self.arguments = [_bytes("arguments", value) for value in _list(message, "arguments")]
        if not self.arguments:
            raise ValueError("arguments: expected at least one")
        environment = message.get("environment", {})
        if not isinstance(environment, dict):
            raise ValueError("environment: expected an object")
        self.environment = {
            _bytes("environment", name): _bytes(f"environment.{name}", value) for name, value in environment.items()
        }
        self.directory = _bytes("directory", message.get("directory"))
        self.stdout = _bytes("stdout", message.get("stdout"))
        self.stderr = _bytes("stderr", message.get("stderr"))
        self.groups = [_group(value) for value in _list(message, "groups")]
        user = message.get("user")
        self.uid = _number(user, "uid") if isinstance(user, dict) else None
        self.gid = _number(user, "gid") if isinstance(user, dict) else None
        self.supplementary = _list(user, "groups") if isinstance(user, dict) else []


def _text(message: dict, name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected text, got {value!r}")
    return value


def _number(message: dict, name: str) -> int:
    value = message.get(name)
    if type(value) is not int or value < 0:
        raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")
    return value


def _list(message: dict, name: str) -> list:
    value = message.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f"{name}: expected an array, got {value!r}")
    return value


def _bytes(name: str, value: object) -> bytes:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{name}: expected text without NUL, got {value!r}")
    return value.encode()


def _group(value: object) -> str:
    """All that is in a control group is killed with its task, so it had better be one of ours."""
    path = _bytes("groups", value).decode()
    if "/orlop/" not in path or "/../" in path:
        raise ValueError(f"groups: expected control groups below one named orlop, got {path}")
    return path


class Child:
    """A forked child that waits. `release` lets it become the task, `abandon` makes it exit. `fault` is to be read."""

    __slots__ = ("_go", "fault", "pid")

    def __init__(self, pid: int, go: int, fault: int) -> None:
        self.pid = pid
        self._go = go
        self.fault = fault

    def release(self) -> None:
        try:
            os.write(self._go, b"!")
        except BrokenPipeError:
            pass  # it has been killed already; its exit will tell
        os.close(self._go)

    def abandon(self) -> None:
        os.close(self._go)
        os.close(self.fault)
        os.waitpid(self.pid, 0)


def settle() -> None:
    """Once, before the first child: nothing is blocked, and what is to be ignored is handled by doing nothing. Handlers
    fall back to the default when a program is executed, so that no child needs to see to that: after a fork, each page
    that it touches is copied first."""
    for number in signal.valid_signals():
        if number in (signal.SIGHUP, signal.SIGINT) or signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def protect(adjustment: str) -> None:
    """Makes this process the one that goes last when memory runs out, if that is allowed."""
    global _protection
    file = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, adjustment.encode())
        _protection = file, adjustment.encode()
    except OSError:
        os.close(file)


def _ignore(*_: object) -> None:
    """Not SIG_IGN, which programs inherit."""


def fork_all(starts: list[Start]) -> list[Child | OSError]:
    """A child for each, or why there can be no more processes."""
    plans = [_plan(start) for start in starts]
    if _protection is not None:
        os.write(_protection[0], b"0")  # which the children inherit: they are to be judged by what they are
    pids = [_fork(plan) if isinstance(plan, _Plan) else plan for plan in plans]
    if _protection is not None:
        with contextlib.suppress(OSError):
            os.write(*_protection)
    return [_settled(plan, pid) if isinstance(plan, _Plan) else plan for plan, pid in zip(plans, pids, strict=True)]


class _Plan:
    """All that a child needs and does.

    go, fault: pipes, the end to read and the end to write. opened: the descriptors that are the child's alone.
    closed: the others, as ranges, with the last one exclusive. calls: what it does, with what. steps: what it fails at,
    in words, if a call fails. programs: where its program may be.
    """

    __slots__ = ("arguments", "calls", "closed", "environment", "fault", "go", "opened", "programs", "steps")

    def __init__(self, start: Start, go: tuple[int, int], fault: tuple[int, int]) -> None:
        self.go = go
        self.fault = fault
        self.opened = [go[0], fault[1]]
        self.calls: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self.steps: list[str] = []
        try:
            self._add_all(start)
        except OSError as error:
            self.calls = [(_fail, (error,))]  # it is the child's to tell
            del self.steps[:-1]
        self.closed = _all_but(self.opened)
        self.programs = _programs(start)
        self.arguments = start.arguments
        self.environment = start.environment

    def _add_all(self, start: Start) -> None:
        """The files of its output are opened before the user changes: they are the node's, in a folder where the task's
        user cannot write. Raises OSError for what cannot be opened, of which the last step tells."""
        self._add("cannot begin a session", os.setsid)
        for group in start.groups:
            self.steps.append(f"cannot join the control group {group}")
            self.calls.append((os.write, (self._keep(_open_group(group)), b"0")))
        self.steps.append("cannot open /dev/null")
        self.calls.append((os.dup2, (self._keep(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)), 0)))
        for path, descriptor in ((start.stdout, 1), (start.stderr, 2)):
            self.steps.append(f"cannot open {path.decode()}")
            self.calls.append((os.dup2, (self._keep(open_output(path)), descriptor)))
        if start.uid is not None and start.gid is not None:
            step = f"cannot become user {start.uid}"
            self._add(step, os.setgroups, start.supplementary)
            self._add(step, os.setgid, start.gid)
            self._add(step, os.setuid, start.uid)
        self._add(f"cannot enter the directory {start.directory.decode()}", os.chdir, start.directory)

    def _add(self, step: str, call: Callable[..., object], *values: object) -> None:
        self.steps.append(step)
        self.calls.append((call, values))

    def _keep(self, descriptor: int) -> int:
        self.opened.append(descriptor)
        return descriptor


def _plan(start: Start) -> _Plan | OSError:
    try:
        go, fault = _open_pipes()
    except OSError as error:
        return error
    return _Plan(start, go, fault)


def _fork(plan: _Plan) -> int | OSError:
    try:
        pid = os.fork()
    except OSError as error:
        return error
    if pid == 0:
        _child(plan)
    return pid


def _settled(plan: _Plan, pid: int | OSError) -> Child | OSError:
    for descriptor in plan.opened:
        os.close(descriptor)
    if isinstance(pid, OSError):
        os.close(plan.go[1])
        os.close(plan.fault[0])
        return pid
    os.set_blocking(plan.fault[0], False)
    return Child(pid, plan.go[1], plan.fault[0])


def _open_pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    """go and fault, each its end to read and its end to write. Raises OSError."""
    go = os.pipe()
    try:
        return go, os.pipe()
    except OSError:
        for descriptor in go:
            os.close(descriptor)
        raise


def _fail(error: OSError) -> None:
    raise error


def _open_group(group: str) -> int:
    """Version 1 has a file for single threads, which spares the kernel a lock against all forks. Raises OSError."""
    try:
        return os.open(f"{group}/tasks", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(f"{group}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


def open_output(path: bytes) -> int:
    """A file for what a task writes, made if it is not there.

    Raises OSError, also if it has become a pipe that nobody reads: it is not waited for.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(path, flags, 0o640)
    os.set_blocking(file, True)
    return file


def _all_but(kept: list[int]) -> list[tuple[int, int]]:
    """The supervisor's lock and sockets must not live on in a child that hangs before it is executed: first and last
    but one of all descriptors that are not among these."""
    ranges = []
    low = 3
    for descriptor in sorted(kept):
        if low < descriptor:
            ranges.append((low, descriptor))
        low = descriptor + 1
    return [*ranges, (low, _DESCRIPTORS_MAX)]


def _programs(start: Start) -> list[bytes]:
    """Where it may be."""
    program = start.arguments[0]
    if b"/" in program:
        return [program]
    folders = start.environment.get(b"PATH", os.defpath.encode()).split(b":")
    return [os.path.join(folder, program) for folder in folders]


def _child(plan: _Plan) -> None:
    """Never returns."""
    done = 0
    try:
        set_wakeup_fd(-1)
        for low, high in plan.closed:
            closerange(low, high)
        if read(plan.go[0], 1):
            for call, values in plan.calls:
                call(*values)
                done += 1
            _execute(plan.programs, plan.arguments, plan.environment)
    except OSError as error:
        _say(plan, f"{plan.steps[done]}: {_reason(error)}")
    except _NotExecuted as error:
        _say(plan, str(error))
    except BaseException as error:  # noqa: BLE001  nothing may unwind into the parent's code
        _say(plan, f"a bug of the supervisor: {error!r}")
    finally:
        _exit(CANNOT_EXECUTE)


def _say(plan: _Plan, fault: str) -> None:
    os.write(plan.fault[1], fault.encode(errors="replace")[:FAULT_BYTES_MAX])


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


class _NotExecuted(Exception):
    """Why the program cannot be executed, in words."""


def _execute(programs: list[bytes], arguments: list[bytes], environment: dict[bytes, bytes]) -> None:
    """As `os.execvpe` does, which imports modules, and a child had better not. Raises _NotExecuted."""
    refused: OSError | None = None
    for program in programs:
        try:
            execve(program, arguments, environment)  # noqa: S606  no shell is wanted
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.lexists(program):  # the interpreter that its first line names is missing
                refused = refused or error
        except OSError as error:
            refused = refused or error
    name = arguments[0].decode(errors="replace")
    if refused is None:
        raise _NotExecuted(f"no such file: {name}{'' if b'/' in arguments[0] else ' in any folder of PATH'}")
    raise _NotExecuted(f"cannot execute {name}: {_reason(refused)}")
