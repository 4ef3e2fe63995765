"""Which containers are made anew elsewhere so that nodes are evenly full. Pure.

A container moves when the node that `spread` would give it, were it made now, would be less full with it than its own
one is. So what the kernel does with it then is what was reckoned here. Each moves once at most, and none that others
want beside them, or to where others do not want it: the kernel asks for that only when these are placed themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs

from orlop_swarm.placement.filters import Affinity, Check, Filter
from orlop_swarm.placement.places import Container, Held, Place
from orlop_swarm.placement.strategies import Needs, fullness
from orlop_swarm.placement.wanted import Wanted


@attrs.frozen(kw_only=True)
class Movable:
    """A container that may be made anew on another node.

    node: the id of its own. container: as it is seen by others on its node. needs: what it takes of it.
    nodes: ids of those that can have it at all, by its image; None: all.
    """

    name: str
    node: str
    container: Container
    needs: Needs = Needs()
    wanted: Wanted = Wanted()
    nodes: Collection[str] | None = None


@attrs.frozen(kw_only=True)
class Move:
    """source, target: names of nodes."""

    container: str
    source: str
    target: str


@attrs.define
class _Node:
    """A node as it will be. others: how many tasks it has beside these containers."""

    place: Place
    containers: dict[str, Container]
    others: int
    images: Sequence[str]

    @property
    def count(self) -> int:
        return len(self.containers) + self.others

    @property
    def now(self) -> Place:
        return attrs.evolve(self.place, held=Held(self.containers.values(), self.images))

    def unhappy(self, neighbours: Mapping[str, Check]) -> set[str]:
        """Ids of the containers here that want others beside them that are not, or the other way round."""
        found = set()
        for container in self.containers.keys() & neighbours.keys():
            others = [one for one in self.containers.values() if one.id != container]
            if not neighbours[container](attrs.evolve(self.place, held=Held(others, self.images))):
                found.add(container)
        return found

    def rank(self, needs: Needs) -> tuple[int, int] | None:
        """How full it would be with one more container, and of how many it would have to take care beside it."""
        place = self.place
        if place.used_cpus + needs.cpus > place.cpus or place.used_mem + needs.mem > place.mem:
            return None  # percents are whole ones, and the kernel is exact
        full = fullness(place, needs)
        return None if full is None else (full, self.count)

    def full(self) -> tuple[float, int, str]:
        cpus = self.place.used_cpus / self.place.cpus if self.place.cpus else 0.0
        mem = self.place.used_mem / self.place.mem if self.place.mem else 0.0
        return cpus + mem, self.count, self.place.name

    def take(self, one: Movable) -> None:
        self.containers[one.container.id] = one.container
        self._change(one.needs, 1)

    def give(self, one: Movable) -> None:
        del self.containers[one.container.id]
        self._change(one.needs, -1)

    def _change(self, needs: Needs, times: int) -> None:
        used_cpus = self.place.used_cpus + times * needs.cpus
        self.place = attrs.evolve(self.place, used_cpus=used_cpus, used_mem=self.place.used_mem + times * needs.mem)


def plan(
    places: Sequence[Place],
    containers: Mapping[str, Sequence[Container]],
    others: Mapping[str, int],
    movable: Sequence[Movable],
    filters: Sequence[Filter],
    images: Mapping[str, Sequence[str]] | None = None,
    said: Mapping[str, Wanted] | None = None,
) -> list[Move]:
    """The moves, one after the other.

    places: nodes that may take containers; what they hold is in `containers`, by node's id. others: how many tasks a
    node has beside them. filters: what else has to hold of a container's place. images: ids and tags, by node's id.
    said: what containers have said, by their ids, whether they are movable or not; their demands are heeded.
    """
    neighbours = _checks_of(said or {})
    nodes = {
        place.id: _Node(
            place,
            {one.id: one for one in containers.get(place.id, ())},
            others.get(place.id, 0),
            (images or {}).get(place.id, ()),
        )
        for place in places
    }
    waiting = sorted((one for one in movable if one.node in nodes), key=lambda one: one.name)
    moves: list[Move] = []
    while found := _next(nodes, waiting, filters, neighbours):
        one, target = found
        source = nodes[one.node]
        source.give(one)
        target.take(one)
        waiting.remove(one)
        moves.append(Move(container=one.name, source=source.place.name, target=target.place.name))
    return moves


def _checks_of(said: Mapping[str, Wanted]) -> dict[str, Check]:
    """What they demand of their neighbours, of those that do."""
    checks = ((container, Affinity().check(one, soft=False)) for container, one in said.items())
    return {container: check for container, check in checks if check is not None}


def _next(
    nodes: Mapping[str, _Node], waiting: Sequence[Movable], filters: Sequence[Filter], neighbours: Mapping[str, Check]
) -> tuple[Movable, _Node] | None:
    """From the fullest node that can give something away."""
    for source in sorted(nodes.values(), key=_Node.full, reverse=True):
        for one in waiting:
            if one.node != source.place.id:
                continue
            for target in _better(nodes, source, one, filters):
                if _are_content(source, target, one, neighbours):
                    return one, target
    return None


def _better(nodes: Mapping[str, _Node], source: _Node, one: Movable, filters: Sequence[Filter]) -> Iterable[_Node]:
    """Where it would rather be than where it is, the best first."""
    source.give(one)
    stays = source.rank(one.needs)
    source.take(one)
    checks = [check for chosen in filters if (check := chosen.check(one.wanted, soft=True)) is not None]
    ranked = []
    for node in nodes.values():
        rank = node.rank(one.needs)
        if node is not source and rank is not None and (stays is None or rank < stays):
            ranked.append((rank, node.place.name, node))
    for _, _, node in sorted(ranked, key=lambda entry: entry[:2]):
        if (one.nodes is None or node.place.id in one.nodes) and _fits(node.now, checks):
            yield node


def _are_content(source: _Node, target: _Node, one: Movable, neighbours: Mapping[str, Check]) -> bool:
    """Does the move leave all others with the neighbours that they demand, as far as they have them now?"""
    if not neighbours:
        return True
    before = source.unhappy(neighbours) | target.unhappy(neighbours)
    source.give(one)
    target.take(one)
    after = source.unhappy(neighbours) | target.unhappy(neighbours)
    target.give(one)
    source.take(one)
    return after - {one.container.id} <= before


def _fits(place: Place, checks: Sequence[Check]) -> bool:
    return all(check(place) for check in checks)
