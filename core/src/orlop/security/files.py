"""Small secret files: for their owner's eyes only from their first byte on, and whole or not there at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

FILE_BYTES_MAX: Final = 2**20


class UnsafeFile(Exception):
    """A secret that others can read, or that cannot be one; the text names the file and what to do."""


def write_private(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replaces the file, durably. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_private(path: Path) -> bytes | None:
    """What is in the file, None when there is none. Raises UnsafeFile, OSError."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode) or len(data) > FILE_BYTES_MAX:
        raise UnsafeFile(f"{path} is not a small file")
    if found.st_mode & 0o077:
        raise UnsafeFile(f"{path} can be read by others: chmod 600 {path}")
    return data


def read_or_make_key(path: Path, fresh: bytes) -> bytes:
    """The key in the file, which is made with `fresh` where there is none. Raises UnsafeFile, OSError."""
    known = read_private(path)
    if known is None:
        write_private(path, fresh.hex().encode() + b"\n")
        return fresh
    try:
        key = bytes.fromhex(known.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != len(fresh):
        raise UnsafeFile(f"{path} does not hold a key of {len(fresh)} bytes as hexadecimal digits")
    return key
