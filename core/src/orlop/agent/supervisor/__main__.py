"""`python -I -S __main__.py OPTIONS`: starts the node's supervisor, or takes over from it after `reexec`.

OPTIONS is a JSON object: `data` (its folder), `version` (of its source, as the agent counts it), `idle_exit_s`,
`groups` (control groups to live in). It detaches itself; the starting process ends with 0 when the socket answers,
with 3 when there is a supervisor already, with 1 and a line on stderr when it cannot be.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import json
import os
import signal
import socket
import sys

if __package__ in (None, ""):
    # Started by path and isolated: the folder above is the only one that needs to be found, and the last to be asked.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    __package__ = "supervisor"
    __import__("supervisor")

from . import logfile, loop, spawn
from .journal import NewerJournal

PR_SET_CHILD_SUBREAPER = 36
ANOTHER_ONE = 3
BACKLOG = 16
#: Among all of a node's processes this small one is the last that should go when memory runs out.
OOM_SCORE_ADJUSTMENT = "-900"


def main() -> None:
    options = json.loads(sys.argv[1])
    inherited = options.pop("inherited", None)
    if inherited is None:
        ready = _detach()
        try:
            listener, lock = _settle(options)
        except BlockingIOError:
            _finish(ready, ANOTHER_ONE, "")
            return
        except OSError as error:
            _finish(ready, 1, f"the supervisor cannot start: {error}")
            return
    else:
        ready = -1
        listener = socket.socket(fileno=inherited["listener"])
        lock = inherited["lock"]
        listener.set_inheritable(False)
        os.set_inheritable(lock, False)
    os.umask(0o022)  # which the tasks inherit
    _become_subreaper()
    spawn.protect(OOM_SCORE_ADJUSTMENT)
    supervisor = loop.Supervisor(options, listener, lock)
    try:
        supervisor.open()
    except (NewerJournal, OSError) as error:
        logfile.log(f"the supervisor cannot start: {error}")
        listener.close()
        os.close(lock)
        _finish(ready, 1, f"the supervisor cannot start: {error}")
        sys.exit(1)
    gc.freeze()
    _finish(ready, 0, "")
    supervisor.run()


def _detach() -> int:
    """Forks: the starting process stays to say how it went, and the child goes on, alone, and returns the pipe on which
    it is to tell."""
    told, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        os.setsid()
        return ready
    os.close(ready)
    with open(told, "rb") as file:
        answer = json.loads(file.read() or '[1, "the supervisor ended before it was ready"]')
    os.write(2, answer[1].encode())
    os._exit(answer[0])


def _finish(ready: int, code: int, text: str) -> None:
    if ready >= 0:
        os.write(ready, json.dumps([code, text]).encode())
        os.close(ready)


def _settle(options: dict) -> tuple[socket.socket, int]:
    """Raises BlockingIOError when there is another one, OSError when the folder will not do."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.umask(0o177)  # of the socket too, from its first moment
    os.chdir(options["data"])
    lock = os.open("supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open("supervisor.log", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    for opened, descriptor in ((null, 0), (log, 1), (log, 2)):
        os.dup2(opened, descriptor)
    os.close(null)
    os.close(log)
    for group in options["groups"]:
        try:
            with open(f"{group}/cgroup.procs", "w") as file:
                file.write("0")
        except OSError as error:
            logfile.log(f"stays in the control group of whom it was started by: {error}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.unlink("supervisor.sock")
    except FileNotFoundError:
        pass
    listener.bind("supervisor.sock")  # by its short name: the length of a socket's path is limited
    listener.listen(BACKLOG)
    listener.setblocking(False)
    os.chdir("/")
    return listener, lock


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become the subreaper")


if __name__ == "__main__":
    main()
