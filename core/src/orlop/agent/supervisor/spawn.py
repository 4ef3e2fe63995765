"""Fork, wait for the journal, become the task.

The child talks to its parent through two pipes. On `go` it waits until it is journalled; if the pipe breaks instead,
it exits. On `fault`, which closes by itself when the program is executed, it says in words why it could not be.
"""

from __future__ import annotations

import os
import signal

FAULT_BYTES_MAX = 4096
#: What a shell answers for a program that it cannot run.
CANNOT_EXECUTE = 127


#: The supervisor's processes are spared when memory runs out; its tasks are to be judged by what they are.
_oom_protected = False


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
    global _oom_protected
    try:
        _write("/proc/self/oom_score_adj", adjustment.encode())
        _oom_protected = True
    except OSError:
        pass


def _ignore(*_: object) -> None:
    """Not SIG_IGN, which programs inherit."""


def fork(start: Start) -> Child:
    """Raises OSError when there can be no more processes."""
    go_read, go_write, fault_read, fault_write = _open_pipes()
    try:
        pid = os.fork()
    except OSError:
        for descriptor in (go_read, go_write, fault_read, fault_write):
            os.close(descriptor)
        raise
    if pid == 0:
        _child(start, go_read, fault_write)
    os.close(go_read)
    os.close(fault_write)
    os.set_blocking(fault_read, False)
    return Child(pid, go_write, fault_read)


def _open_pipes() -> tuple[int, int, int, int]:
    """go and fault, each its end to read and its end to write. Raises OSError."""
    go = os.pipe()
    try:
        return go + os.pipe()
    except OSError:
        for descriptor in go:
            os.close(descriptor)
        raise


def _child(start: Start, go: int, fault: int) -> None:
    """Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        _close_all_but(go, fault)
        if os.read(go, 1):
            _become(start)
    except _Fault as error:
        os.write(fault, str(error).encode(errors="replace")[:FAULT_BYTES_MAX])
    except BaseException as error:  # noqa: BLE001  nothing may unwind into the parent's code
        os.write(fault, f"a bug of the supervisor: {error!r}".encode()[:FAULT_BYTES_MAX])
    finally:
        os._exit(CANNOT_EXECUTE)


class _Fault(Exception):
    """Why the child cannot become the task, in words."""

    def __init__(self, failed: str, error: OSError | None = None) -> None:
        super().__init__(f"{failed}: {(error.strerror or str(error)).lower()}" if error else failed)


def _close_all_but(*kept: int) -> None:
    """The supervisor's lock and sockets must not live on in a child that hangs before it is executed."""
    low = 3
    for descriptor in sorted(kept):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def _become(start: Start) -> None:
    os.setsid()
    for group in start.groups:
        _join(group)
    if _oom_protected:
        _write("/proc/self/oom_score_adj", b"0")
    _redirect(start)
    _take_user(start)
    try:
        os.chdir(start.directory)
    except OSError as error:
        raise _Fault(f"cannot enter the directory {start.directory.decode()}", error) from None
    _execute(start)


def _join(group: str) -> None:
    """Version 1 has a file for single threads, which spares the kernel a lock against all forks."""
    for name in ("tasks", "cgroup.procs"):
        try:
            _write(f"{group}/{name}", b"0")
            return
        except OSError as error:
            refused = error
    raise _Fault(f"cannot join the control group {group}", refused)


def _write(path: str, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, data)
    finally:
        os.close(file)


def _redirect(start: Start) -> None:
    """Opened before the user changes: the files are the node's, in a folder where the task's user cannot write."""
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    for path, descriptor in ((start.stdout, 1), (start.stderr, 2)):
        try:
            file = open_output(path)
        except OSError as error:
            raise _Fault(f"cannot open {path.decode()}", error) from None
        os.dup2(file, descriptor)


def open_output(path: bytes) -> int:
    """A file for what a task writes, made if it is not there.

    Raises OSError, also if it has become a pipe that nobody reads: it is not waited for.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(path, flags, 0o640)
    os.set_blocking(file, True)
    return file


def _take_user(start: Start) -> None:
    if start.uid is None or start.gid is None:
        return
    try:
        os.setgroups(start.supplementary)
        os.setgid(start.gid)
        os.setuid(start.uid)
    except OSError as error:
        raise _Fault(f"cannot become user {start.uid}", error) from None


def _execute(start: Start) -> None:
    """As `os.execvpe` does, which imports modules, and a child had better not."""
    program = start.arguments[0]
    name = program.decode(errors="replace")
    if b"/" in program:
        candidates, where = [program], ""
    else:
        folders = start.environment.get(b"PATH", os.defpath.encode()).split(b":")
        candidates, where = [os.path.join(folder, program) for folder in folders], " in any folder of PATH"
    refused: OSError | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, start.arguments, start.environment)  # noqa: S606  no shell is wanted
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.lexists(candidate):  # the interpreter that its first line names is missing
                refused = refused or error
        except OSError as error:
            refused = refused or error
    if refused is None:
        raise _Fault(f"no such file: {name}{where}")
    raise _Fault(f"cannot execute {name}", refused)
