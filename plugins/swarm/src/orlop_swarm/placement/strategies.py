"""Strategies: which of the places that may take a container gets it.

A weight is a whole number, with whole percents in it, as classic Swarm reckoned. Where it left the order to chance
(equal weights, equally many containers) names decide here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from math import log
from typing import Final

import attrs

from orlop_swarm.placement.places import Place

STRATEGIES: Final = ("spread", "binpack", "random")
ALIASES: Final = {"binpacking": "binpack"}
#: So much a healthy node is worth more than the fullest one.
HEALTH_FACTOR: Final = 10
THOUSANDTHS: Final = 1_000
NO_RESOURCES: Final = "no resources available to schedule container"


@attrs.frozen
class Needs:
    """cpus: in thousandths. mem: in bytes."""

    cpus: int = 0
    mem: int = 0


def strategy(name: str) -> str:
    """The strategy's own name. Raises ValueError, in classic Swarm's words."""
    found = ALIASES.get(name, name)
    if found not in STRATEGIES:
        raise ValueError("strategy not supported")
    return found


def fullness(place: Place, needs: Needs) -> int | None:
    """From 0 to 200: percents of cpus and of mem, 100 for what is not asked for. None when it does not fit."""
    if place.mem < needs.mem or place.cpus < needs.cpus:
        return None
    cpus = (place.used_cpus + needs.cpus) * 100 // place.cpus if needs.cpus else 100
    mem = (place.used_mem + needs.mem) * 100 // place.mem if needs.mem else 100
    return cpus + mem if cpus <= 100 and mem <= 100 else None


def weight(name: str, place: Place, needs: Needs) -> int | None:
    """The place's weight under spread or binpack; None when the container does not fit."""
    full = fullness(place, needs)
    if full is None:
        return None
    return full + HEALTH_FACTOR * place.health * (1 if name == "binpack" else -1)


def ranked(name: str, places: Iterable[Place], needs: Needs, seed: str = "") -> list[Place]:
    """The places that can take it, the best one first. seed: for `random`. Empty when none can."""
    if name == "random":
        return sorted(places, key=lambda place: (draw(seed, place.id), place.id))
    sign = -1 if name == "binpack" else 1
    rows = [(place_weight, place) for place in places if (place_weight := weight(name, place, needs)) is not None]
    rows.sort(key=lambda row: (sign * row[0], sign * row[1].count, row[1].name, row[1].id))
    return [place for _, place in rows]


def draw(*of: str) -> float:
    """A number between 0 and 1, neither of them, that follows from its arguments as chance would have it."""
    digest = hashlib.blake2b("\0".join(of).encode(errors="surrogatepass"), digest_size=6).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**48


class Arrivals:
    """Chance for a whole group of tasks: a node gets its next one after a time that is drawn for it, and the node
    whose time is up first gets the next task. Such times have no memory, so each task goes to each node with the same
    chance, and only the node that got one draws again."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._times: dict[str, tuple[int, float]] = {}

    def due(self, node_id: str) -> float:
        """When the node gets its next task."""
        return (self._times.get(node_id) or self._draw(node_id, 0, 0.0))[1]

    def arrived(self, node_id: str) -> None:
        """It got one."""
        count, time = self._times.get(node_id) or self._draw(node_id, 0, 0.0)
        self._draw(node_id, count + 1, time)

    def _draw(self, node_id: str, count: int, since: float) -> tuple[int, float]:
        drawn = self._times[node_id] = (count, since - log(draw(self._seed, node_id, str(count))))
        return drawn
