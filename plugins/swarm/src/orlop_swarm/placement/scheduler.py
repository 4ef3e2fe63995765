"""The scheduler of classic Swarm as a pure function: a container, places, and the places that may take it, in order.

Wishes (`~`) are tried as demands first; if that leaves no place, be it by a filter or by the strategy, all of them are
left out together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orlop_swarm.placement.filters import FILTERS, Filter
from orlop_swarm.placement.places import Place
from orlop_swarm.placement.strategies import NO_RESOURCES, Needs, ranked
from orlop_swarm.placement.wanted import Wanted

NO_HEALTHY_NODE: Final = "No healthy node available in the cluster"
NO_NODES: Final = "No nodes available in the cluster"
UNSATISFIED: Final = "Unable to find a node that satisfies the following conditions "


class Unplaceable(Exception):
    """No place; the text is classic Swarm's."""


def schedule(
    wanted: Wanted,
    needs: Needs,
    places: Sequence[Place],
    *,
    strategy: str = "spread",
    filters: Sequence[Filter] = tuple(FILTERS.values()),
    seed: str = "",
) -> list[Place]:
    """The places that can take the container, the best one first. seed: for `random`. Raises Unplaceable."""
    try:
        return _select(wanted, needs, places, strategy, filters, seed, soft=True)
    except Unplaceable:
        return _select(wanted, needs, places, strategy, filters, seed, soft=False)


def _select(
    wanted: Wanted,
    needs: Needs,
    places: Sequence[Place],
    strategy: str,
    filters: Sequence[Filter],
    seed: str,
    *,
    soft: bool,
) -> list[Place]:
    left = list(places)
    for position, one in enumerate(filters):
        check = one.check(wanted, soft)
        if check is None:
            continue
        left = [place for place in left if check(place)]
        if not left and places:
            if one.name == "health":
                raise Unplaceable(NO_HEALTHY_NODE)
            raise Unplaceable(unsatisfied(wanted, filters[: position + 1]))
    if not left:
        raise Unplaceable(NO_NODES)
    found = ranked(strategy, left, needs, seed)
    if not found:
        raise Unplaceable(NO_RESOURCES)
    return found


def unsatisfied(wanted: Wanted, filters: Sequence[Filter]) -> str:
    """The error of the last of these filters: a line for each that has something to explain."""
    lines = [f"[{' '.join(parts)}]" for one in filters if (parts := one.explain(wanted))]
    return "\n".join((UNSATISFIED, *lines))
