"""The output of process tasks: files that the processes themselves append to, bounded and read by the agent.

Nothing stands between a process and its file, so nothing can die there or block it. The price: a file can only be
bounded from outside, by *copying* its end to `stdout.1` and *truncating* it, in a check every second. What is written
between the copy and the truncation (microseconds) is lost, and a process that writes fast exceeds its bound until the
next check. Since the file is open for appending, the process goes on at its new end. What the first rotation takes
the beginning from is kept as `stdout.head`.

A reader who follows must not stumble over that. Each stream therefore has positions that only grow: `_base` is the
position of the file's first byte, counted from the agent's start. One lock per stream keeps readers and the rotation
apart. Methods here block; call them in a thread.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import BinaryIO, Final

from orlop.agent.runtimes.outputs import EXCERPT_BYTES, Excerpt

CHUNK_BYTES: Final = 64 * 1024
#: How much of what is written during a rotation is still copied.
LATE_BYTES_MAX: Final = 16 * CHUNK_BYTES


class LogStream:
    """One output stream of one task: `path` and, after a rotation, `path.1`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._old = path.with_name(path.name + ".1")
        self._head = path.with_name(path.name + ".head")
        self._lock = threading.Lock()
        self._base = 0

    def rotate(self, bytes_max: int) -> bool:
        """Moves what is there to the old file if it is more than `bytes_max`; of that at most `bytes_max` is kept."""
        if _size(self._path) <= bytes_max:
            return False
        with self._lock, self._path.open("r+b") as file:
            self._keep_head()
            start = max(0, os.fstat(file.fileno()).st_size - bytes_max)
            fresh = self._old.with_name(self._old.name + ".new")
            with open(fresh, "wb", opener=_private) as copy:
                copied = start + _copy(file, start, copy, bytes_max)
            file.truncate(0)
            fresh.rename(self._old)
            self._base += copied
        return True

    def position_of_tail(self, lines: int | None) -> int:
        """Where the last `lines` lines begin; None: where all that is kept begins; 0: the end."""
        with self._lock:
            first = self._base - _size(self._old)
            end = self._base + _size(self._path)
            if lines is None:
                return first
            return self._search(first, end, lines) if lines > 0 else end

    def _search(self, first: int, end: int, lines: int) -> int:
        """Backwards from the end, block by block; the newline that ends the last line does not begin another."""
        wanted = lines
        position = end
        while position > first:
            start = max(first, position - CHUNK_BYTES)
            block = self._read(start, position - start)
            cursor = len(block)
            if position == end and block.endswith(b"\n"):
                cursor -= 1
            while (cursor := block.rfind(b"\n", 0, cursor)) >= 0:
                wanted -= 1
                if wanted == 0:
                    return start + cursor + 1
            position = start
        return first

    def read(self, position: int) -> tuple[bytes, int]:
        """Up to a chunk from there, and the position after it. What is not kept any more is passed over."""
        with self._lock:
            position = max(position, self._base - _size(self._old))
            data = self._read(position, CHUNK_BYTES)
            return data, position + len(data)

    def excerpt(self) -> Excerpt:
        """Of all that was ever written to it."""
        with self._lock:
            first = self._base - _size(self._old)
            end = self._base + _size(self._path)
            if _size(self._head):
                begin = max(first, end - EXCERPT_BYTES)
                return Excerpt(_read_at(self._head, 0, EXCERPT_BYTES), self._read(begin, end - begin), None)
            head = self._read(first, EXCERPT_BYTES)
            begin = max(first + len(head), end - EXCERPT_BYTES)
            return Excerpt(head, self._read(begin, end - begin), begin - first - len(head))

    def _keep_head(self) -> None:
        if not _size(self._head):
            fresh = self._head.with_name(self._head.name + ".new")
            with open(fresh, "wb", opener=_private) as copy:
                copy.write(_read_at(self._path, 0, EXCERPT_BYTES))
            fresh.rename(self._head)

    def _read(self, position: int, count: int) -> bytes:
        """Across both files."""
        data = b""
        if position < self._base:
            old_size = _size(self._old)
            data = _read_at(self._old, position - (self._base - old_size), min(count, self._base - position))
            position += len(data)
        if len(data) < count and position >= self._base:
            data += _read_at(self._path, position - self._base, count - len(data))
        return data


def _copy(source: BinaryIO, start: int, target: BinaryIO, bytes_max: int) -> int:
    """All from `start`, and what comes meanwhile, but not for ever: a process may write as fast as this copies."""
    source.seek(start)
    copied = 0
    while copied < bytes_max + LATE_BYTES_MAX and (block := source.read(CHUNK_BYTES)):
        target.write(block)
        copied += len(block)
    return copied


def _read_at(path: Path, offset: int, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(count)
    except FileNotFoundError:
        return b""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o640)
