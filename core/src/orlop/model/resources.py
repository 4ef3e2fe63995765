"""Quantities of resources: integers, one unit per kind, so that sums never drift.

cpus and gpus are counted in thousandths, mem and disk in bytes, bandwidth in bit/s, anything else in
thousandths. People write `Resources(cpus=0.5, mem="32MiB")`; the kernel only ever sees the integers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Final

BYTES_KINDS: Final = frozenset({"mem", "disk"})
BITS_KINDS: Final = frozenset({"bandwidth"})
LARGEST_QUANTITY: Final = 2**63 - 1

_BYTE_UNITS: Final = {
    "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "PIB": 2**50,
}  # fmt: skip
_BIT_UNITS: Final = {"BIT/S": 1, "KBIT/S": 10**3, "MBIT/S": 10**6, "GBIT/S": 10**9}
_WITH_UNIT: Final = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/]+)\s*\Z")
_NAME: Final = re.compile(r"^[a-z][a-z0-9_.-]{0,62}\Z")


class ResourceError(ValueError):
    """A quantity that cannot be read. `name` is the resource, the text says what was expected."""

    def __init__(self, name: str, expected: str) -> None:
        super().__init__(f"{name}: {expected}")
        self.name = name
        self.expected = expected


def to_units(name: str, quantity: int | float | str | Decimal) -> int:
    """The quantity in the kind's unit, rounded up. Raises ResourceError."""
    if not _NAME.match(name):
        raise ResourceError(name, "expected a name of lower-case letters, digits, '_', '.' and '-'")
    if isinstance(quantity, bool):
        raise ResourceError(name, "expected a number, got a boolean")
    if name in BYTES_KINDS:
        units = _scaled(name, quantity, _BYTE_UNITS, 'a size with its unit, such as "32MiB"')
    elif name in BITS_KINDS:
        units = _scaled(name, quantity, _BIT_UNITS, 'a rate with its unit, such as "100Mbit/s"')
    else:
        units = _thousandths(name, quantity)
    if units > LARGEST_QUANTITY:
        raise ResourceError(name, f"must be at most {LARGEST_QUANTITY} {unit_of(name)}")
    return units


def _scaled(name: str, quantity: object, scale: Mapping[str, int], expected: str) -> int:
    if quantity == 0 and not isinstance(quantity, str):
        return 0
    found = _WITH_UNIT.match(quantity) if isinstance(quantity, str) else None
    if found is None or found[2].upper() not in scale:
        raise ResourceError(name, f"expected {expected}, got {quantity!r}")
    return int((Decimal(found[1]) * scale[found[2].upper()]).to_integral_value(ROUND_CEILING))


def _thousandths(name: str, quantity: object) -> int:
    try:
        number = Decimal(str(quantity))
    except InvalidOperation:
        raise ResourceError(name, f"expected a number, got {quantity!r}") from None
    if not number.is_finite() or number < 0:
        raise ResourceError(name, f"expected a number of at least 0, got {quantity!r}")
    if number > LARGEST_QUANTITY:
        raise ResourceError(name, f"must be at most {LARGEST_QUANTITY // 1000}")
    return int((number * 1000).to_integral_value(ROUND_CEILING))


def unit_of(name: str) -> str:
    """The unit that quantities of this kind are counted in, in words."""
    if name in BYTES_KINDS:
        return "bytes"
    return "bit/s" if name in BITS_KINDS else "thousandths"


def show(name: str, units: int) -> str:
    """For people: `0.5`, `32MiB`, `1.5GiB`, `100Mbit/s`."""
    if name in BYTES_KINDS:
        return _largest_unit(units, (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)), "B")
    if name in BITS_KINDS:
        return _largest_unit(units, (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3)), "bit/s")
    return f"{Decimal(units) / 1000:f}"


def _largest_unit(units: int, scale: tuple[tuple[str, int], ...], base: str) -> str:
    for suffix, size in scale:
        if units >= size:
            return f"{units / size:.2f}".rstrip("0").rstrip(".") + suffix
    return f"{units}{base}"


class Resources(Mapping[str, int]):
    """An immutable bag of quantities, name → units. A missing name counts as zero.

    The constructor takes what people write: `Resources(cpus=0.5, mem="32MiB", gpus=1)`. It raises
    ResourceError. `Resources.of({"cpus": 500})` takes units.
    """

    __slots__ = ("_hash", "units")
    #: The same as a plain dict, for hot loops; never to be changed.
    units: dict[str, int]
    _hash: int | None

    def __init__(self, **quantities: int | float | str | Decimal) -> None:
        self.units = {name: to_units(name, value) for name, value in quantities.items() if value != 0}
        self._hash = None

    @classmethod
    def of(cls, units: Mapping[str, int]) -> Resources:
        """From units; zero entries are dropped, so that equal bags compare equal."""
        return cls._of_clean({name: amount for name, amount in units.items() if amount})

    @classmethod
    def _of_clean(cls, units: dict[str, int]) -> Resources:
        made = cls.__new__(cls)
        made.units = units
        made._hash = None
        return made

    def __getitem__(self, name: str) -> int:
        return self.units[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.units)

    def __len__(self) -> int:
        return len(self.units)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self.units.items()))
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resources) and self.units == other.units

    def __repr__(self) -> str:
        return f"Resources({', '.join(f'{name}={show(name, units)}' for name, units in self.units.items())})"

    def get(self, name: str, default: int = 0) -> int:  # type: ignore[override]
        """Units of `name`; 0 when it is not named."""
        return self.units.get(name, default)

    def __add__(self, other: Resources) -> Resources:
        total = dict(self.units)
        for name, amount in other.units.items():
            sum_ = total.get(name, 0) + amount
            if sum_:
                total[name] = sum_
            else:
                total.pop(name, None)
        return Resources._of_clean(total)

    def __sub__(self, other: Resources) -> Resources:
        """May go below zero: a node that shrank under its tasks is overcommitted, and says so."""
        rest = dict(self.units)
        for name, amount in other.units.items():
            left = rest.get(name, 0) - amount
            if left:
                rest[name] = left
            else:
                rest.pop(name, None)
        return Resources._of_clean(rest)

    def shortage(self, available: Resources) -> str | None:
        """The first name of which `available` has less than this bag asks for; None when all fits."""
        free = available.units
        for name, amount in self.units.items():
            if free.get(name, 0) < amount:
                return name
        return None
