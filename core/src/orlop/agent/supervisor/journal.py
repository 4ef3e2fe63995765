"""The supervisor's journal: every start, exit and forgetting, one JSON object a line, appended.

The table of entries is a fold over the lines (`replay`), so that a supervisor which comes back knows what the last
one knew. Lines are not synced one by one: the file must survive the supervisor, and the page cache does; when the
machine itself goes down, so do the tasks, and the boot id tells. A line that a full disk has cut short is taken back
at once; a torn last line is not read.
"""

from __future__ import annotations

import json
import os

VERSION = 1
#: Compact when there are more lines than this beyond twice the table.
SPARE_LINES = 1000


class NewerJournal(Exception):
    """The journal was written by a later version than this program knows."""


class Exit:
    """How a start ended. `lost`: why nobody knows. `error`: why it never ran. `oom`: the kernel killed for memory."""

    __slots__ = ("code", "error", "lost", "oom", "signal")

    def __init__(
        self,
        code: int | None = None,
        signal: int | None = None,
        oom: bool = False,
        error: str = "",
        lost: str = "",
    ) -> None:
        self.code = code
        self.signal = signal
        self.oom = oom
        self.error = error
        self.lost = lost

    def to_json(self) -> dict:
        return {"code": self.code, "error": self.error, "lost": self.lost, "oom": self.oom, "signal": self.signal}

    @classmethod
    def from_json(cls, plain: dict) -> Exit:
        return cls(**{name: plain[name] for name in cls.__slots__ if name in plain})


class Entry:
    """One start of one task, and its exit once there is one.

    (boot, pid, ticks) is the process's identity: ticks is its start time in clock ticks since the boot.
    folder: the task's, for the agent. groups: its control groups' folders.
    running: it has become the program it shall be (not journalled: whatever a new supervisor finds has).
    """

    __slots__ = ("boot", "exit", "folder", "groups", "incarnation", "pid", "running", "task", "ticks")

    def __init__(
        self, task: str, incarnation: int, pid: int, ticks: int, boot: str, folder: str, groups: list[str]
    ) -> None:
        self.task = task
        self.incarnation = incarnation
        self.pid = pid
        self.ticks = ticks
        self.boot = boot
        self.folder = folder
        self.groups = groups
        self.running = True
        self.exit: Exit | None = None

    def to_json(self) -> dict:
        plain: dict = {
            "boot": self.boot, "folder": self.folder, "groups": self.groups, "incarnation": self.incarnation,
            "pid": self.pid, "running": self.running, "task": self.task, "ticks": self.ticks,
        }  # fmt: skip
        if self.exit is not None:
            plain["exit"] = self.exit.to_json()
        return plain

    @classmethod
    def from_json(cls, plain: dict) -> Entry:
        entry = cls(
            plain["task"], plain["incarnation"], plain["pid"], plain["ticks"], plain["boot"], plain["folder"],
            list(plain["groups"]),
        )  # fmt: skip
        entry.running = plain.get("running", True)
        if plain.get("exit"):
            entry.exit = Exit.from_json(plain["exit"])
        return entry


def started(entry: Entry) -> dict:
    return {"start": entry.to_json()}


def exited(entry: Entry) -> dict:
    assert entry.exit is not None
    return {"exit": entry.exit.to_json(), "task": entry.task, "incarnation": entry.incarnation}


def forgotten(entry: Entry) -> dict:
    return {"forget": entry.task, "incarnation": entry.incarnation}


def replay(data: bytes) -> dict[str, Entry]:
    """The table that the lines amount to, by task. Lines that cannot be read are passed over: each stands for itself.
    Raises NewerJournal."""
    table: dict[str, Entry] = {}
    for line in data.split(b"\n")[:-1]:
        try:
            record = json.loads(line)
            _apply(table, record)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return table


def _apply(table: dict[str, Entry], record: dict) -> None:
    if "v" in record:
        if record["v"] > VERSION:
            raise NewerJournal(f"the journal has version {record['v']}, and this supervisor knows up to {VERSION}")
    elif "start" in record:
        entry = Entry.from_json(record["start"])
        entry.running = True
        table[entry.task] = entry
    elif "exit" in record:
        known = table.get(record["task"])
        if known is not None and known.incarnation == record["incarnation"]:
            known.exit = Exit.from_json(record["exit"])
    elif "forget" in record:
        known = table.get(record["forget"])
        if known is not None and known.incarnation == record["incarnation"]:
            del table[known.task]


def _line(record: dict) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


class Journal:
    """The file. Every method raises OSError when the disk does; the file then is as it was."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1
        self._lines = 0

    def read(self) -> dict[str, Entry]:
        """What the file holds; nothing when there is none. Raises NewerJournal."""
        try:
            with open(self._path, "rb") as file:
                return replay(file.read())
        except FileNotFoundError:
            return {}

    def rewrite(self, table: dict[str, Entry]) -> None:
        """Replaces the file by the shortest one that amounts to the table."""
        fresh = self._path + ".new"
        with open(fresh, "wb", opener=_private) as file:
            file.write(_line({"v": VERSION}))
            file.writelines(_line(started(entry)) for entry in table.values())
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, self._path)
        self.close()
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._lines = 1 + len(table)

    def append(self, records: list[dict]) -> None:
        """All of them or none."""
        lines = b"".join(map(_line, records))
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, lines)
            if written < len(lines):
                raise OSError("a line was cut short: is the disk full?")
        except OSError:
            os.ftruncate(self._file, size)
            raise
        self._lines += len(records)

    def wants_rewrite(self, table: dict[str, Entry]) -> bool:
        return self._lines > SPARE_LINES + 2 * len(table)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
