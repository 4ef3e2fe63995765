"""Sets of port numbers: ranges for people, one bit per port inside (set algebra on 64 Ki bits is microseconds)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

HIGHEST_PORT: Final = 65535
_RANGE: Final = re.compile(r"^\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?\Z")


class PortSet:
    """An immutable set of ports, 0 to 65535. Written `"31000-32000,8080"`."""

    __slots__ = ("_bits", "_count")
    _bits: int
    _count: int | None

    def __init__(self, ports: Iterable[int] = ()) -> None:
        bits = 0
        for port in ports:
            if not 0 <= port <= HIGHEST_PORT:
                raise ValueError(f"expected a port from 0 to {HIGHEST_PORT}, got {port}")
            bits |= 1 << port
        self._bits = bits
        self._count = None

    @classmethod
    def _of_bits(cls, bits: int, count: int | None = None) -> PortSet:
        made = cls.__new__(cls)
        made._bits = bits
        made._count = count
        return made

    @classmethod
    def parse(cls, text: str) -> PortSet:
        """From `"31000-32000,8080"`; an empty text is the empty set. Raises ValueError."""
        bits = 0
        for part in filter(str.strip, text.split(",")):
            found = _RANGE.match(part)
            low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
            if not low <= high <= HIGHEST_PORT:
                raise ValueError(f'expected port ranges such as "31000-32000,8080", got {text!r}')
            bits |= ((1 << (high - low + 1)) - 1) << low
        return cls._of_bits(bits)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Inclusive (low, high) pairs in ascending order."""
        bits, base = self._bits, 0
        while bits:
            skip = (bits & -bits).bit_length() - 1
            bits >>= skip
            run = (~bits & (bits + 1)).bit_length() - 1
            yield base + skip, base + skip + run - 1
            bits >>= run
            base += skip + run

    def __str__(self) -> str:
        return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in self.ranges())

    def __repr__(self) -> str:
        return f"PortSet.parse({str(self)!r})"

    def __contains__(self, port: int) -> bool:
        return port >= 0 and bool(self._bits >> port & 1)

    def __iter__(self) -> Iterator[int]:
        for low, high in self.ranges():
            yield from range(low, high + 1)

    def __len__(self) -> int:
        if self._count is None:
            self._count = self._bits.bit_count()
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PortSet) and self._bits == other._bits

    def __hash__(self) -> int:
        return hash(self._bits)

    def __or__(self, other: PortSet) -> PortSet:
        return PortSet._of_bits(self._bits | other._bits)

    def __and__(self, other: PortSet) -> PortSet:
        return PortSet._of_bits(self._bits & other._bits)

    def __sub__(self, other: PortSet) -> PortSet:
        return PortSet._of_bits(self._bits & ~other._bits)

    def without(self, port: int) -> PortSet:
        """The same without this port."""
        return PortSet._of_bits(self._bits ^ (1 << port), len(self) - 1) if port in self else self

    def first_from(self, *starts: int) -> int | None:
        """The lowest port at or above the first start that has one, else the lowest of all; None when empty."""
        for start in (*starts, 0):
            bits = self._bits >> start
            if bits:
                return start + (bits & -bits).bit_length() - 1
        return None
