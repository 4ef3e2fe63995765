"""What is kept on the node for other tasks that want the same URI.

    <key>         the content            key: a hash of the URI, credentials and query included
    <key>.known   by what the server can tell whether it has changed (JSON)
    <key>.part    what is being downloaded
    <key>.lock    held by whoever downloads, renews or removes these

Each use asks the server whether there is a newer content (ETag, Last-Modified); what has neither is downloaded anew.
A content that is here is good enough when the server cannot be asked. Tasks that want the same URI at the same time
wait for one download. What was not used for the longest time goes first when there is too much.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from typing import BinaryIO

from . import transfers
from .budget import Budget

KEY_LENGTH = 64
VERSION = 1


class Cache:
    """folder: made if need be; only its user writes there. bytes_max: of all contents together."""

    def __init__(self, folder: str, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max

    def get(self, uri: str, budget: Budget) -> BinaryIO:
        """The content, newest; it can be read whatever becomes of the cache. Raises CannotFetch, OSError."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        key = hashlib.sha256(uri.encode()).hexdigest()
        content = os.path.join(self._folder, key)
        with self._locked(key):
            try:
                self._renew(uri, content, budget)
            except transfers.Unchanged:
                pass
            except transfers.Unreachable:
                if not os.path.exists(content):
                    os.unlink(content + ".lock")
                    raise
            except BaseException:
                if not os.path.exists(content):
                    os.unlink(content + ".lock")
                raise
            os.utime(content)
            return open(content, "rb")

    def _renew(self, uri: str, content: str, budget: Budget) -> None:
        known = _read(content + ".known") if os.path.exists(content) else {}
        with open(content + ".part", "wb") as part:
            try:
                told = transfers.download(uri, part, budget, known)
            except BaseException:
                os.unlink(part.name)
                raise
        with contextlib.suppress(FileNotFoundError):
            os.unlink(content + ".known")  # it must never say that another content is unchanged
        os.rename(content + ".part", content)
        if told:
            with open(content + ".known", "w") as file:
                json.dump({"v": VERSION, "conditions": told}, file)

    def shrink(self) -> None:
        """Removes what is too much, and what downloads that were killed have left."""
        contents = []
        for name in os.listdir(self._folder):
            path = os.path.join(self._folder, name)
            with contextlib.suppress(FileNotFoundError):
                if len(name) == KEY_LENGTH:
                    found = os.stat(path)
                    contents.append((found.st_mtime_ns, found.st_size, name))
                elif name.endswith(".part") and not os.path.exists(path.removesuffix(".part")):
                    self._remove(name.removesuffix(".part"))
        total = sum(size for _, size, _ in contents)
        for _, size, key in sorted(contents):
            if total <= self._bytes_max:
                break
            if self._remove(key):
                total -= size

    def _remove(self, key: str) -> bool:
        """False while somebody is busy with it."""
        try:
            with self._locked(key, wait=False):
                for suffix in ("", ".known", ".part", ".lock"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(self._folder, key + suffix))
        except BlockingIOError:
            return False
        return True

    @contextlib.contextmanager
    def _locked(self, key: str, *, wait: bool = True) -> Iterator[None]:
        """Raises BlockingIOError when somebody else has it and there is no waiting."""
        path = os.path.join(self._folder, key + ".lock")
        while True:
            with open(path, "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_still(lock.fileno(), path):
                    continue  # it was removed with its content while this one waited
                yield
                return


def _is_still(descriptor: int, path: str) -> bool:
    try:
        return os.fstat(descriptor).st_ino == os.stat(path).st_ino
    except FileNotFoundError:
        return False


def _read(path: str) -> dict[str, str]:
    try:
        with open(path) as file:
            document = json.load(file)
        conditions: dict[str, str] = document["conditions"] if document["v"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return conditions
