"""What happens to a cluster: a list of operations with their times, made from the seed beforehand.

Each operation is plain data, so that a plan can be printed, shortened and kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from orlop.testing.simulation.runtime import RUNTIME
from orlop.testing.simulation.world import START_UTC_MS

#: How long a spell of trouble is.
SPELL_MS: Final = 60_000
HEALING_S: Final = 75.0


@attrs.frozen
class Operation:
    """at_ms: virtual time. what: the name of a method of `Simulation` (after `do_`). arguments: for it."""

    at_ms: int
    what: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at_ms / 1000:7.3f} {self.what}({', '.join(map(repr, self.arguments))})"


Plan = tuple[Operation, ...]


@attrs.frozen
class Shape:
    """How large the cluster is, and how long its history.

    trouble_s: in which there may be trouble, elapsed seconds. healing_s: thereafter, in which all is well. Between the
    last trouble and the end a cluster needs about a minute to come to rest.
    leaps: time in which nothing is under way is leapt over (see `world`), and there are troubles that last hours.
    begins_utc_ms: what right clocks show at the beginning.
    runtime: the name of what nodes run tasks with.
    """

    servers: int = 3
    nodes: int = 5
    trouble_s: float = SPELL_MS / 1000
    healing_s: float = HEALING_S
    leaps: bool = False
    begins_utc_ms: int = START_UTC_MS
    runtime: str = RUNTIME

    @property
    def trouble_ms(self) -> int:
        return round(self.trouble_s * 1000)

    @property
    def end_ms(self) -> int:
        return self.trouble_ms + round(self.healing_s * 1000)

    def server(self, chance: random.Random) -> str:
        return f"server{chance.randrange(self.servers)}"

    def node(self, chance: random.Random) -> str:
        return f"node{chance.randrange(self.nodes)}"

    def nodes_hit(self, chance: random.Random) -> str:
        """One, or all of them: `*`."""
        return chance.choice((self.node(chance), "*"))


def _duration(chance: random.Random) -> int:
    """Milliseconds: from a blink to longer than any time-out."""
    return chance.choice((50, 400, 2_000, 5_000, 9_000, 20_000)) + chance.randrange(500)


def _way(shape: Shape, chance: random.Random) -> tuple[Any, ...]:
    node, server = shape.node(chance), chance.choice((shape.server(chance), "*"))
    return node, server, chance.choice(("both", "to", "from")), _duration(chance)


#: Kind of trouble → (how often beside the others, its arguments).
_TROUBLES: Final[dict[str, tuple[int, Callable[[Shape, random.Random], tuple[Any, ...]]]]] = {
    "kill_server": (4, lambda shape, chance: (shape.server(chance), _duration(chance))),
    "kill_leader": (4, lambda _, chance: (_duration(chance),)),
    "hold_server": (3, lambda shape, chance: (shape.server(chance), _duration(chance))),
    "hold_leader": (3, lambda _, chance: (_duration(chance),)),
    "suspend_leader": (2, lambda _, chance: (_duration(chance),)),
    "cut_store": (3, lambda shape, chance: (shape.server(chance), _duration(chance))),
    "lose_quorum": (2, lambda _, chance: (_duration(chance),)),
    "fill_store": (1, lambda _, chance: (_duration(chance),)),
    "slow_store": (2, lambda _, chance: (chance.choice((20, 200, 1_500)), _duration(chance))),
    "lossy_store": (2, lambda _, chance: (chance.choice((0.02, 0.2)), _duration(chance))),
    "compact": (2, lambda *_: ()),
    "change_store_leader": (2, lambda _, chance: (chance.choice((300, 1_500, 2_500)),)),
    "cut_way": (6, _way),
    "slow_network": (2, lambda _, chance: (chance.choice((50, 500, 3_000)), _duration(chance))),
    "lossy_network": (2, lambda _, chance: (chance.choice((0.01, 0.1)), _duration(chance))),
    "doubling_network": (2, lambda _, chance: (chance.choice((0.1, 0.5)), _duration(chance))),
    "reordering_network": (2, lambda _, chance: (chance.choice((0.1, 0.5)), _duration(chance))),
    "stop_agent": (2, lambda shape, chance: (shape.node(chance), _duration(chance))),
    "kill_agent": (4, lambda shape, chance: (shape.node(chance), _duration(chance))),
    "crash_machine": (2, lambda shape, chance: (shape.node(chance), chance.random() < 0.3, _duration(chance))),
    "restart_runtime": (2, lambda shape, chance: (shape.node(chance), chance.random() < 0.5)),
    "slow_starts": (2, lambda shape, chance: (shape.nodes_hit(chance), _duration(chance))),
    "early_deaths": (2, lambda shape, chance: (shape.nodes_hit(chance), _duration(chance))),
    "name_conflicts": (2, lambda shape, chance: (shape.nodes_hit(chance), _duration(chance))),
    "slow_disk": (1, lambda shape, chance: (shape.nodes_hit(chance), _duration(chance))),
    "skew_clock": (1, lambda shape, chance: (shape.node(chance), chance.choice((-3_600_000, -4_000, 90_000)))),
    "skew_server_clock": (1, lambda shape, chance: (shape.server(chance), chance.choice((-4_000, 4_000)))),
    "drain": (1, lambda shape, chance: (shape.node(chance), _duration(chance))),
}


def _hours(chance: random.Random) -> int:
    """Milliseconds: from ten minutes to days."""
    return chance.choice((600_000, 3_600_000, 4 * 3_600_000, 30 * 3_600_000, 75 * 3_600_000)) + chance.randrange(60_000)


def _step(chance: random.Random) -> int:
    """By how much a clock is wrong after it was set, in milliseconds. Right ones too."""
    return chance.choice((1, -1, 0)) * chance.choice((120_000, 45 * 60_000, 3 * 3_600_000, 26 * 3_600_000))


#: The same, of troubles for which a minute is too short.
_LONG_TROUBLES: Final[dict[str, tuple[int, Callable[[Shape, random.Random], tuple[Any, ...]]]]] = {
    "stop_all_servers": (3, lambda _, chance: (_hours(chance),)),
    "step_server_clock": (3, lambda shape, chance: (shape.server(chance), _step(chance))),
    "step_leader_clock": (5, lambda _, chance: (_step(chance),)),
}


def make_plan(
    seed: int,
    shape: Shape,
    workload: Callable[[random.Random], Operation],
    trouble: float = 1.0,
    spells: Iterable[float] = (0.0,),
) -> Plan:
    """Trouble and work, mixed. workload: one operation of the workload, its time not set. trouble: 0 is none.

    spells: when each minute of trouble begins, elapsed seconds; the work is in the first minute.
    """
    chance = random.Random(f"{seed}/plan")  # noqa: S311
    operations = [
        attrs.evolve(workload(chance), at_ms=chance.randrange(SPELL_MS)) for _ in range(chance.randint(8, 25))
    ]
    troubles = {**_TROUBLES, **(_LONG_TROUBLES if shape.leaps else {})}
    kinds = list(troubles)
    weights = [often for often, _ in troubles.values()]
    for begins_s in spells:
        for _ in range(round(trouble * chance.randint(3, 20))):
            kind = chance.choices(kinds, weights)[0]
            at_ms = round(begins_s * 1000) + chance.randrange(SPELL_MS)
            operations.append(Operation(at_ms, kind, troubles[kind][1](shape, chance)))
    return tuple(sorted((one for one in operations if 0 <= one.at_ms < shape.trouble_ms), key=lambda one: one.at_ms))
