"""The settings of `[plugins.swarm]`."""

from __future__ import annotations

from typing import Any, Final

import attrs

from orlop_swarm.placement import filters, strategies

CPU_UNITS: Final = ("engine", "shares")
REPEATED: Final = ("all", "last")
NAMES: Final = ("plain", "node")


def _strategy(_: object, field: attrs.Attribute[str], value: str) -> None:
    try:
        strategies.strategy(value)
    except ValueError as error:
        raise ValueError(f"{field.name}: {error}; known: {', '.join(strategies.STRATEGIES)}") from None


def _filters(_: object, field: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    try:
        filters.named(value)
    except ValueError as error:
        raise ValueError(f"{field.name}: {error}") from None


def _above_minus_one(_: object, field: attrs.Attribute[float], value: float) -> None:
    if not value > -1:
        raise ValueError(f"{field.name}: swarm.overcommit should be larger than -1, {value:f} is invalid")


def _one_of(*values: str) -> Any:
    return attrs.validators.in_(values)


@attrs.frozen(kw_only=True)
class Config:
    """How containers find their places; classic Swarm's own flags where they have its names.

    strategy: "spread", "binpack" or "random", for what says nothing itself. filters: those in use, in this order.
    overcommit: so much more than nodes have counts as theirs where fullness is reckoned; classic Swarm's is 0.05.
    cpu_units: "engine": cpus are what `--cpus` says; "shares": N `--cpu-shares` are N whole cpus (classic Swarm).
    repeated_constraints: of several `-e constraint:` with the same key "all" count, or the "last" one alone.
    names: "plain": containers are listed by the names that one engine shows; "node": as `/node/name` (classic Swarm).
    """

    strategy: str = attrs.field(default="spread", validator=_strategy)
    filters: tuple[str, ...] = attrs.field(default=tuple(filters.FILTERS), validator=_filters)
    overcommit: float = attrs.field(default=0.0, validator=_above_minus_one)
    cpu_units: str = attrs.field(default="engine", validator=_one_of(*CPU_UNITS))
    repeated_constraints: str = attrs.field(default="all", validator=_one_of(*REPEATED))
    names: str = attrs.field(default="plain", validator=_one_of(*NAMES))
