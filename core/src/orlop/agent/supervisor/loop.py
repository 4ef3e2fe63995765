"""The supervisor's loop: requests and children. See the package for the theory.

One thread, one selector. What it holds: the table of entries (mirrored by the journal), who is connected, the pipes of
children on their way to their program, the pidfds of adopted processes, and control groups still to be removed.
"""

from __future__ import annotations

import functools
import json
import os
import selectors
import signal
import socket
import time

from . import journal, remains, spawn
from .clients import Client, Clients
from .graves import Graves
from .journal import Entry, Exit, Journal
from .logfile import log

TASKS_MAX = 10_000
#: More than a pipe holds.
WAKEUP_BYTES = 2**18

#: So many starts are made in one go; the first of them waits for the last.
TOGETHER_MAX = 8

#: Seconds between attempts to journal what a full disk has refused.
JOURNAL_RETRY_S = 1.0

#: They wait until the next program has its handlers.
PATIENT_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

REBOOTED = "machine rebooted"
UNWATCHED = "it ended while its supervisor was not running"
ADOPTED = "its supervisor was restarted while it ran, so its exit code is unknown"


class Wanted:
    """A start that has been asked for, by whom and with which message."""

    __slots__ = ("client", "message", "start")

    def __init__(self, client: Client, message: dict, start: spawn.Start) -> None:
        self.client = client
        self.message = message
        self.start = start


class Supervisor:
    """See the module. `listener` and `lock` are kept across `reexec`; `options` are those of `__main__`."""

    def __init__(self, options: dict, listener: socket.socket, lock: int) -> None:
        self._version = options["version"]
        self._idle_exit_s = options["idle_exit_s"]
        self._options = options
        self._listener = listener
        self._lock = lock
        self._boot = remains.boot_id()
        self._selector = selectors.DefaultSelector()
        self._clients = Clients(self._selector, listener, self._list, self._on_lines)
        self._table: dict[str, Entry] = {}
        self._children: dict[int, Entry] = {}
        self._adopted: dict[int, Entry] = {}
        self._wanted: dict[str, Wanted] = {}
        self._starting: dict[int, spawn.Child] = {}
        self._faults: dict[int, str] = {}
        self._early_signals: dict[int, list[int]] = {}
        self._graves = Graves()
        self._unwritten: list[dict] = []
        self._next_program: dict | None = None
        self._stop_when_idle = False
        self._idle_since = time.monotonic()
        self._journal = Journal(os.path.join(options["data"], "supervisor.journal"))

    # --- the loop ---

    def open(self) -> None:
        """Takes up what the journal tells. Raises NewerJournal, OSError."""
        wakeup_read, wakeup_write = os.pipe()
        os.set_blocking(wakeup_read, False)
        os.set_blocking(wakeup_write, False)
        self._wakeup = wakeup_write
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_terminate)
        spawn.settle()
        self._watch(wakeup_read, self._on_signal)
        self._clients.listen()
        self._table = self._journal.read()
        self._journal.rewrite(self._table)
        for entry in self._table.values():
            if entry.exit is None:
                self._take_up(entry)
            elif entry.groups:
                self._graves.add(entry.groups)  # the last supervisor may not have come to it

    def run(self) -> None:
        """Until there is nothing to do for long enough."""
        self._reap()
        self._write_rest()
        while not self._is_done():
            for key, events in self._selector.select(self._timeout_s()):
                key.data(key.fileobj, events)
            self._write_rest()
            if left := self._graves.bury(time.monotonic()):
                log(f"control groups that cannot be emptied are left behind: {' '.join(left)}")
            self._clients.flush()
            if self._next_program and not (self._starting or self._unwritten or self._stop_when_idle):
                self._reexec(self._next_program)
        try:
            os.unlink(os.path.join(self._options["data"], "supervisor.sock"))
        except FileNotFoundError:
            pass

    def _timeout_s(self) -> float:
        if self._graves:
            return self._graves.pause_s(time.monotonic())
        return JOURNAL_RETRY_S if self._unwritten else max(0.05, min(self._idle_exit_s, 5.0))

    def _is_done(self) -> bool:
        """Nothing runs, nobody listens: the journal knows the rest, and the agent starts a new supervisor."""
        now = time.monotonic()
        if self._children or self._adopted or self._unwritten or self._graves:
            self._idle_since = now
            return False
        if self._stop_when_idle:
            return True
        if self._clients:
            self._idle_since = now
        return now - self._idle_since >= self._idle_exit_s

    def _watch(self, what: socket.socket | int, callback, events: int = selectors.EVENT_READ) -> None:
        self._selector.register(what, events, callback)

    def _on_terminate(self, *_: object) -> None:
        self._stop_when_idle = True

    def _on_signal(self, wakeup: int, _: int) -> None:
        try:
            os.read(wakeup, WAKEUP_BYTES)
        except BlockingIOError:
            pass
        self._reap()

    # --- requests ---

    def _on_lines(self, client: Client, lines: list[bytes]) -> None:
        for line in lines:
            self._on_request(client, line)
        self._let_go()

    def _on_request(self, client: Client, line: bytes) -> None:
        try:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError("expected an object")
            self._do(client, message)
        except (ValueError, RecursionError) as error:
            client.write({"is": "error", "reason": f"a request that cannot be read: {error}"})
        except Exception as error:  # noqa: BLE001  no request is worth the exit codes of all tasks
            log(f"a bug of the supervisor, in a request: {error!r}")
            client.write({"is": "error", "reason": f"a bug of the supervisor: {error!r}"})

    def _tell(self, kind: str, entry: Entry) -> None:
        self._clients.tell({"is": kind, "task": entry.to_json()})

    def _list(self) -> dict:
        tasks = [entry.to_json() for entry in self._table.values()]
        return {"is": "list", "version": self._version, "pid": os.getpid(), "tasks": tasks}

    def _do(self, client: Client, message: dict) -> None:
        what = message.get("do")
        if what == "start":
            self._start(client, message)
            return
        self._let_go()
        if what == "list":
            client.write(self._list())
        elif what == "version":
            client.write({"is": "version", "version": self._version, "pid": os.getpid()})
        elif what == "reexec":
            self._next_program = _program(message)
        elif what in ("signal", "kill", "forget"):
            task = message.get("task")
            entry = self._table.get(task) if isinstance(task, str) else None
            if entry is None:
                client.write({"is": "error", "reason": f"there is no task {task!r}"})
            elif what == "signal":
                self._signal(entry, message.get("signal"))
            elif what == "kill":
                self._kill(entry)
            else:
                self._forget(client, entry)
        else:
            raise ValueError(f"do: expected a request, got {what!r}")

    def _start(self, client: Client, message: dict) -> None:
        try:
            start = spawn.Start(message)
        except ValueError as error:
            self._refuse(client, message, f"the agent's request is wrong: {error}")
            return
        if start.task in self._wanted or len(self._wanted) >= TOGETHER_MAX:
            self._let_go()
        known = self._table.get(start.task)
        if known is not None and known.incarnation >= start.incarnation:
            client.write({"is": _kind(known), "task": known.to_json()})
        elif known is not None and known.exit is None:
            self._refuse(client, message, f"its incarnation {known.incarnation} is still running")
        elif len(self._table) + len(self._wanted) >= TASKS_MAX:
            self._refuse(client, message, f"the node has {TASKS_MAX} process tasks already")
        else:
            self._wanted[start.task] = Wanted(client, message, start)

    def _let_go(self) -> None:
        """Who is wanted is forked, journalled, and may run. Nothing else is done before, so that all else is about
        tasks of the table."""
        if not self._wanted:
            return
        wanted, self._wanted = list(self._wanted.values()), {}
        # First all forks and nothing else: while a child shares this process's memory, each page that is touched here
        # is copied, and once more after the next fork.
        forked = zip(wanted, spawn.fork_all([one.start for one in wanted]), strict=True)
        entered = []
        for one, child in forked:
            if isinstance(child, OSError):
                self._refuse(one.client, one.message, f"the node cannot start another process: {child.strerror}")
            elif (entry := self._enter(one, child)) is not None:
                entered.append((one, child, entry))
        try:
            self._journal.append(self._unwritten + [journal.started(entry) for _, _, entry in entered])
            self._unwritten = []
        except OSError as error:
            for one, child, _ in entered:
                self._selector.unregister(child.fault)
                child.abandon()
                self._refuse(one.client, one.message, f"the start could not be journalled: {error.strerror or error}")
            return
        for _, child, entry in entered:
            self._table[entry.task] = entry
            self._children[entry.pid] = entry
            self._starting[entry.pid] = child
            child.release()
        self._graves.put_off(time.monotonic())

    def _enter(self, wanted: Wanted, child: spawn.Child) -> Entry | None:
        """None when it has been refused."""
        start = wanted.start
        try:
            ticks = remains.start_ticks(child.pid)
            assert ticks is not None
            entry = Entry(start.task, start.incarnation, child.pid, ticks, self._boot, start.folder, start.groups)
            entry.running = False
            self._watch(child.fault, functools.partial(self._on_fault, entry))
        except OSError as error:
            child.abandon()
            self._refuse(wanted.client, wanted.message, f"the node cannot watch another process: {error.strerror}")
            return None
        return entry

    def _refuse(self, client: Client, message: dict, reason: str) -> None:
        task, incarnation = message.get("task"), message.get("incarnation")
        client.write({"is": "refused", "task": task, "incarnation": incarnation, "reason": reason})

    def _signal(self, entry: Entry, number: object) -> None:
        if type(number) is not int or not 0 < number < signal.NSIG:
            raise ValueError(f"signal: expected a number, got {number!r}")
        if entry.exit is not None:
            return
        if entry.running:
            self._send(entry, number)
        else:  # before it is executed it would be the supervisor's code that handles it
            self._early_signals.setdefault(entry.pid, []).append(number)

    def _send(self, entry: Entry, number: int) -> None:
        """To its process group, whose number is certain as long as the leader has not been reaped."""
        if entry.pid in self._children or remains.start_ticks(entry.pid) == entry.ticks:
            remains.kill_process_group(entry.pid, number)
        else:
            remains.kill_marked_group(entry.pid, entry.task, number)

    def _kill(self, entry: Entry) -> None:
        if entry.exit is not None:
            return
        self._send(entry, signal.SIGKILL)
        if not entry.running:  # it may not have a group of its own yet
            os.kill(entry.pid, signal.SIGKILL)
        remains.kill_control_groups(entry.groups)

    def _forget(self, client: Client, entry: Entry) -> None:
        if entry.exit is None:
            client.write({"is": "error", "reason": f"{entry.task} is still running and cannot be forgotten"})
            return
        del self._table[entry.task]
        self._record(journal.forgotten(entry))
        client.write({"is": "forgotten", "task": entry.task, "incarnation": entry.incarnation})

    # --- children ---

    def _on_fault(self, entry: Entry, _fault: object, _: int) -> None:
        """The pipe has closed, or tells why it will."""
        child = self._starting.get(entry.pid)
        if child is None:
            return
        try:
            told = os.read(child.fault, spawn.FAULT_BYTES_MAX)
        except BlockingIOError:
            return
        del self._starting[entry.pid]
        self._selector.unregister(child.fault)
        os.close(child.fault)
        if told:
            self._faults[entry.pid] = told.decode(errors="replace")
        elif entry.exit is None:
            entry.running = True
            self._tell("started", entry)
            for number in self._early_signals.pop(entry.pid, ()):
                self._send(entry, number)

    def _reap(self) -> None:
        """All who have ended: our tasks, and orphans that have come to us as the subreaper."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            entry = self._children.get(ended.si_pid)
            if entry is not None:
                self._on_child_end(entry)
            os.waitpid(ended.si_pid, 0)
            self._children.pop(ended.si_pid, None)
            if entry is not None:
                self._on_exit(entry, self._exit_of(entry, ended))

    def _on_child_end(self, entry: Entry) -> None:
        """It is still a zombie, so that its group's number is nobody else's."""
        self._on_fault(entry, None, 0)
        self._early_signals.pop(entry.pid, None)
        remains.kill_process_group(entry.pid)

    def _exit_of(self, entry: Entry, ended: os.waitid_result) -> Exit:
        fault = self._faults.pop(entry.pid, "")
        if fault:
            return Exit(error=fault)
        if ended.si_code == os.CLD_EXITED and ended.si_status == 0:
            return Exit(code=0)
        oom = remains.out_of_memory_kills(entry.groups) > 0
        if ended.si_code == os.CLD_EXITED:
            return Exit(code=ended.si_status, oom=oom)
        return Exit(signal=ended.si_status, oom=oom)

    def _on_exit(self, entry: Entry, end: Exit) -> None:
        entry.exit = end
        if remains.are_populated(entry.groups):
            remains.kill_control_groups(entry.groups)
        self._record(journal.exited(entry))
        self._tell("exited", entry)
        if entry.groups:
            self._graves.add(entry.groups)

    def _take_up(self, entry: Entry) -> None:
        """After a restart or a reexec: is it our child, can it be adopted, or is it gone?"""
        if entry.boot != self._boot:
            entry.exit = Exit(lost=REBOOTED)
            self._record(journal.exited(entry))
            return
        if self._is_child(entry):
            self._children[entry.pid] = entry
            return
        handle = remains.open_identical(entry.pid, entry.ticks)
        if handle is None:
            remains.kill_marked_group(entry.pid, entry.task)
            self._on_exit(entry, Exit(lost=UNWATCHED))
            return
        self._adopted[handle] = entry
        self._watch(handle, self._on_adopted_end)

    def _is_child(self, entry: Entry) -> bool:
        try:
            os.waitid(os.P_PID, entry.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return remains.start_ticks(entry.pid) == entry.ticks

    def _on_adopted_end(self, handle: int, _: int) -> None:
        entry = self._adopted.pop(handle)
        self._selector.unregister(handle)
        os.close(handle)
        remains.kill_marked_group(entry.pid, entry.task)
        self._on_exit(entry, Exit(lost=ADOPTED))

    # --- the journal, the graves, the successor ---

    def _record(self, record: dict) -> None:
        """It is journalled before anybody is told: the loop writes first, and sends then. What has happened is told
        even when the disk is full; it is journalled when there is room."""
        self._unwritten.append(record)

    def _write_rest(self) -> None:
        try:
            if self._unwritten:
                self._journal.append(self._unwritten)
                self._unwritten = []
            if self._journal.wants_rewrite(self._table):
                self._journal.rewrite(self._table)
        except OSError as error:
            log(f"the journal cannot be written: {error}")

    def _reexec(self, program: dict) -> None:
        """Does not return, unless it fails: then the old program goes on."""
        self._next_program = None
        inherited = {"listener": self._listener.fileno(), "lock": self._lock}
        options = json.dumps({**self._options, **program["options"], "inherited": inherited})
        for descriptor in inherited.values():
            os.set_inheritable(descriptor, True)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, PATIENT_SIGNALS)
        arguments = [program["executable"], "-I", "-S", program["source"], options]
        try:
            if not self._stop_when_idle:  # a signal that came just before the mask would be lost
                os.execve(program["executable"], arguments, dict(os.environ))  # noqa: S606  the very purpose
        except OSError as error:
            log(f"cannot become {program['executable']} {program['source']}: {error}")
        for descriptor in inherited.values():
            os.set_inheritable(descriptor, False)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self._reap()


def _program(message: dict) -> dict:
    for name in ("executable", "source"):
        path = message.get(name)
        if not isinstance(path, str) or not os.path.isfile(path) or not os.access(path, os.R_OK):
            raise ValueError(f"{name}: expected the path of a readable file, got {path!r}")
    if not isinstance(message.get("options"), dict):
        raise ValueError("options: expected an object")
    return message


def _kind(entry: Entry) -> str:
    return "started" if entry.exit is None else "exited"
