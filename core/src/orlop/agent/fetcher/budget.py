"""How much one task may bring to its node, and what is said when something goes wrong."""

from __future__ import annotations


class CannotFetch(Exception):
    """An artefact cannot be had as it is wanted; the text says what happened."""


class Budget:
    """Bytes that may still be written."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.left = bytes_max

    def take(self, count: int) -> None:
        """Raises CannotFetch."""
        if count > self.left:
            raise self.too_large()
        self.left -= count

    def too_large(self) -> CannotFetch:
        return CannotFetch(f"too large: a task may bring {in_words(self._bytes_max)} here, unpacked files included")


def in_words(count: int) -> str:
    """`2 GiB`, `1.5 MiB`, `12 bytes`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"
