"""What happens to a cluster: a list of operations with their times, made from the seed beforehand.

Each operation is plain data, so that a plan can be printed, shortened and kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import attrs

TROUBLE_MS: Final = 60_000
HEALING_MS: Final = 75_000


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
    """How large the cluster is."""

    servers: int = 3
    nodes: int = 5

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


def make_plan(seed: int, shape: Shape, workload: Callable[[random.Random], Operation], trouble: float = 1.0) -> Plan:
    """Trouble and work, mixed. workload: one operation of the workload, its time not set. trouble: 0 is none."""
    chance = random.Random(f"{seed}/plan")  # noqa: S311
    operations = [
        attrs.evolve(workload(chance), at_ms=chance.randrange(TROUBLE_MS)) for _ in range(chance.randint(8, 25))
    ]
    kinds = list(_TROUBLES)
    weights = [often for often, _ in _TROUBLES.values()]
    for _ in range(round(trouble * chance.randint(3, 20))):
        kind = chance.choices(kinds, weights)[0]
        operations.append(Operation(chance.randrange(TROUBLE_MS), kind, _TROUBLES[kind][1](shape, chance)))
    return tuple(sorted(operations, key=lambda one: one.at_ms))
