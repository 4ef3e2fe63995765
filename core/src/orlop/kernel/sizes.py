"""Nodes by their size: what there is of them, what is free, how many tasks and containers they hold.

Scores and checks that look at nothing else (`by_size`, see `placement`) are asked once for all nodes of a size, of
which there are few where nodes and tasks are alike. The index is kept from step to step: it looks again at the nodes
that have changed since, as the state tells (`changed_since`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from orlop.kernel.placement import Moment, changed_since
from orlop.kernel.state import Candidate, Change


class Size:
    """Nodes that have it, by their positions in the order of nodes, in this order. Compared by identity."""

    __slots__ = ("_key", "positions")

    def __init__(self, key: tuple[Any, ...]) -> None:
        self._key = key
        self.positions: list[int] = []

    @property
    def key(self) -> tuple[Any, ...]:
        return self._key

    def rotated(self, start: int) -> Iterator[int]:
        """The positions, from `start` on and round."""
        positions = self.positions
        begin = bisect_left(positions, start)
        return chain(positions[begin:], positions[:begin]) if begin else iter(positions)


def size_key(candidate: Candidate) -> tuple[Any, ...]:
    """Equal for nodes of the same size."""
    facts = candidate.facts
    foreign = len(facts.containers) if facts is not None else 0
    return candidate.node.info.resources, candidate.free, candidate.foreign_use, len(candidate.tasks), foreign


class Sizes:
    """See the module. all: those that any node has. position_of: of each node."""

    def __init__(self) -> None:
        self.all: dict[tuple[Any, ...], Size] = {}
        self.position_of: dict[str, int] = {}
        self._order: tuple[str, ...] = ()
        self._known: list[tuple[Candidate, Size]] = []
        self._mark: Change | None = None

    def of(self, position: int) -> Size:
        return self._known[position][1]

    def follow(self, nodes: Moment) -> None:
        """Makes it true of these nodes."""
        if nodes.node_order is not self._order:
            self._begin(nodes)
            changed: Sequence[str] | None = ()
        else:
            changed = changed_since(nodes.changes, self._mark)
        for node_id in self._order if changed is None else changed:
            self._look_again(self.position_of[node_id], nodes.candidate(node_id))
        self._mark = nodes.changes[-1] if nodes.changes else None

    def _begin(self, nodes: Moment) -> None:
        self._order = nodes.node_order
        self.position_of = {node_id: position for position, node_id in enumerate(self._order)}
        self.all = {}
        self._known = []
        for position, node_id in enumerate(self._order):
            candidate = nodes.candidate(node_id)
            size = self._size(candidate)
            size.positions.append(position)
            self._known.append((candidate, size))

    def _look_again(self, position: int, candidate: Candidate) -> None:
        known, before = self._known[position]
        if known is candidate:
            return
        after = self._size(candidate)
        self._known[position] = candidate, after
        if after is before:
            return
        insort(after.positions, position)
        del before.positions[bisect_left(before.positions, position)]
        if not before.positions:
            del self.all[before.key]

    def _size(self, candidate: Candidate) -> Size:
        key = size_key(candidate)
        found = self.all.get(key)
        if found is None:
            found = self.all[key] = Size(key)
        return found
