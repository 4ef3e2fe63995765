"""What is left of a task's output when its folder or its container is gone: the first and last 64 kB, as a file.

`<task>.stdout` and `<task>.stderr`, in a folder of the runtime's own; a task that wrote nothing has an empty `stdout`.
All of it together is bounded, the oldest go first. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs

from orlop.agent.runtimes.interface import UnknownTask

EXCERPT_BYTES: Final = 64 * 1024
#: Of all files of a runtime together.
BYTES_MAX: Final = 256 * 1024 * 1024
FILES_MAX: Final = 50_000
#: What is left after files were removed to make room, so that it is not done for each new one.
ROOM: Final = 0.9
STREAMS: Final = ("stdout", "stderr")


@attrs.frozen
class Excerpt:
    """Beginning and end of a stream. left_out: bytes between them; None: some, and nobody knows how many."""

    head: bytes = b""
    tail: bytes = b""
    left_out: int | None = 0

    def __bytes__(self) -> bytes:
        """For people: one after the other, with a line between them that says what is missing."""
        if self.left_out == 0:
            return self.head + self.tail
        missing = f"{self.left_out} bytes are" if self.left_out is not None else "what came between is"
        return self.head + f"\n[... {missing} left out ...]\n".encode() + self.tail


def excerpt_of(pieces: Iterable[bytes]) -> Excerpt:
    """Of a whole stream that comes in pieces; holds no more of it than what it returns, and one piece."""
    head, tail, left_out = b"", b"", 0
    for piece in pieces:
        room = EXCERPT_BYTES - len(head)
        head += piece[:room]
        tail += piece[room:] if room > 0 else piece
        if len(tail) > EXCERPT_BYTES:
            left_out += len(tail) - EXCERPT_BYTES
            tail = tail[-EXCERPT_BYTES:]
    return Excerpt(head, tail, left_out)


class Outputs:
    """See the module."""

    def __init__(self, folder: Path, bytes_max: int = BYTES_MAX, files_max: int = FILES_MAX) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._lock = threading.Lock()
        self._bytes = 0
        self._files = -1  # not counted yet

    def keep(self, task: str, excerpts: Mapping[str, Excerpt]) -> None:
        """Keeps both streams, in place of what is kept of the task. Raises OSError."""
        with self._lock:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._count()
            for stream in STREAMS:
                data = bytes(excerpts.get(stream, Excerpt()))
                if data or stream == STREAMS[0]:
                    self._write(self._folder / f"{task}.{stream}", data)
            if self._bytes > self._bytes_max or self._files > self._files_max:
                self._make_room()

    def read(self, task: str, stream: str, tail: int | None = None) -> bytes:
        """What is kept, of it the last `tail` lines. Raises UnknownTask."""
        if not self.has(task):
            raise UnknownTask(f"{task} has no output on this node, or has none any more")
        try:
            data = (self._folder / f"{task}.{stream}").read_bytes()
        except FileNotFoundError:
            return b""
        return data if tail is None else b"".join(data.splitlines(keepends=True)[-tail:] if tail else [])

    def has(self, task: str) -> bool:
        """Is anything kept of it? A name that is a path leads nowhere."""
        return "/" not in task and "\0" not in task and (self._folder / f"{task}.{STREAMS[0]}").is_file()

    def _write(self, path: Path, data: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._bytes -= path.stat().st_size
            self._files -= 1
        fresh = path.with_name(path.name + ".new")
        with open(fresh, "wb", opener=_private) as file:
            file.write(data)
        fresh.rename(path)
        self._bytes += len(data)
        self._files += 1

    def _count(self) -> None:
        """Once: from then on it is known."""
        if self._files < 0:
            found = self._all()
            self._files, self._bytes = len(found), sum(size for _, size, _ in found)

    def _all(self) -> list[tuple[float, int, str]]:
        """(time of writing, size, path) of each file, oldest first."""
        with os.scandir(self._folder) as entries:
            found = [(entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in entries]
        return sorted(found)

    def _make_room(self) -> None:
        for _, size, path in self._all():
            if self._bytes <= self._bytes_max * ROOM and self._files <= self._files_max * ROOM:
                return
            os.unlink(path)
            self._bytes -= size
            self._files -= 1


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
