"""The best of all nodes for one task, without looking at all of them.

Theory of operation. Among the scores that depend on a node's size alone the one that weighs most leads: the sizes are
taken in its order, the best one first, and within a size the nodes in the order of the search. What all other scores
could still add is known from their weights, for a score is at most 1; as soon as no node of the sizes to come could
reach the best one found, that one it is (Fagin's threshold algorithm, with one sorted list). Checks and scores that can
tell beforehand which few nodes may matter to them (`among`) are taken at their word. What is found is what looking at
every node would have found, equal scores included, to the last bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from heapq import heapify, heappop
from math import isqrt
from typing import Final

from orlop.kernel.placement import Check, Moment, PlacementView, Score
from orlop.kernel.ratings import RatingMemory, let_pass, part_of, total_of
from orlop.kernel.sizes import Size
from orlop.kernel.state import Candidate

#: Where more than such a part of all nodes may be rated higher, going by size finds the best one sooner.
FEW_OF: Final = 4
#: Sums of scores are rounded.
SLACK: Final = 1e-12

Weighted = tuple[float, Score]
#: The place of a check among all checks, and its reason.
Refusal = tuple[int, str]


class BestOfAll:
    """Made ready for one group of asks. checks: all of them; rare: those that were not seen before, which are asked
    each time, while of the others it is remembered which nodes they let pass."""

    def __init__(
        self,
        memory: RatingMemory,
        view: PlacementView,
        checks: Sequence[Check],
        rare: Sequence[Check],
        scores: Sequence[Weighted],
    ) -> None:
        rare_ids = frozenset(map(id, rare))
        self.memory = memory
        self.view = view
        self._checks = list(enumerate(checks))
        self._size_checks = [(place, check) for place, check in self._checks if is_by_size(check)]
        self._plain = [check for check in checks if not is_by_size(check)]
        self._rare = [
            (place, check) for place, check in self._checks if id(check) in rare_ids and not is_by_size(check)
        ]
        self._common = [check for check in self._plain if id(check) not in rare_ids]
        self._passing = memory.passing(self._common)
        self.size_checks = [check for _, check in self._size_checks]
        self.rare = [check for _, check in self._rare]
        self.scores = scores
        self.plain_places = [place for place, (_, score) in enumerate(scores) if not is_by_size(score)]
        sized = [place for place in range(len(scores)) if place not in self.plain_places]
        self.lead = max(sized, key=lambda place: (scores[place][0], -place))

    @staticmethod
    def is_possible(scores: Sequence[Weighted]) -> bool:
        """Some score has to lead."""
        return any(weight > 0 and is_by_size(score) for weight, score in scores)

    def passes_common(self, candidate: Candidate) -> bool:
        """Do the checks that were seen before let the node pass?"""
        return passes(self._common, self._passing, candidate)

    def refusals(self, nodes: Moment) -> Counter[Refusal | None]:
        """How many nodes the check of a place is the first to refuse, and why; None: those that none refuses."""
        self.memory.sizes.follow(nodes)
        counts: Counter[Refusal | None] = Counter()
        order, candidate_of = nodes.node_order, nodes.candidate
        outside, inside = self._outside(nodes)
        earlier = [check for place, check in self._checks if outside and place < outside[0] and check in self._common]
        known = self.memory.passing(earlier)
        for size in self.memory.sizes.all.values():
            by_size = first_refusal(self._size_checks, candidate_of(order[size.positions[0]]))
            sooner = by_size if outside is None or (by_size and by_size < outside) else outside
            before = [one for one in self._rare if by_size is None or one[0] < by_size[0]]
            before_sooner = [one for one in self._rare if sooner is None or one[0] < sooner[0]]
            for position in size.positions:
                candidate = candidate_of(order[position])
                if outside is not None and order[position] not in inside:
                    if passes(earlier, known, candidate):
                        counts[first_refusal(before_sooner, candidate) or sooner] += 1
                        continue
                elif self.passes_common(candidate):
                    counts[first_refusal(before, candidate) or by_size] += 1
                    continue
                counts[first_refusal(self._checks, candidate)] += 1
        return counts

    def _outside(self, nodes: Moment) -> tuple[Refusal | None, frozenset[str]]:
        """How the first check that tells which nodes it may let pass refuses all others, and these nodes; None where
        no check tells."""
        for place, check in self._checks:
            told = _among(check, self.view)
            if told is not None:
                inside = frozenset(told)
                one = next((node_id for node_id in nodes.node_order if node_id not in inside), None)
                refusal = first_refusal([(place, check)], nodes.candidate(one)) if one is not None else None
                if refusal is not None:
                    return refusal, inside
        return None, frozenset()

    def best(self, nodes: Moment, start: int) -> Candidate | None:
        """The best node; among equals, the first one from position `start` on. None when all are refused."""
        self.memory.sizes.follow(nodes)
        look = _Look(self, nodes, start)
        # Of more nodes than that, going by size meets one of them sooner than it takes to look at each.
        few = _fewest(2 * isqrt(look.size), self._plain, self.view)
        if few is not None:
            look.at_each(few)
        else:
            look.by_size()
        return look.found


def is_by_size(one: Check | Score) -> bool:
    return getattr(one, "by_size", False)


def _among(one: Check | Score, view: PlacementView) -> Collection[str] | None:
    """None where it cannot tell."""
    ask = getattr(one, "among", None)
    try:
        return ask(view) if ask is not None else None
    except Exception:  # noqa: BLE001  (a plugin's code never stops placement)
        return None


def _fewest(at_most: int, checks: Sequence[Check], view: PlacementView) -> Collection[str] | None:
    """The nodes that the most telling check may let pass; None where they are many."""
    told = [found for check in checks if (found := _among(check, view)) is not None]
    fewest = min(told, key=len, default=None)
    return fewest if fewest is not None and len(fewest) <= at_most else None


class _Look:
    """One search. found: the best node so far."""

    def __init__(self, ready: BestOfAll, nodes: Moment, start: int) -> None:
        self._ready = ready
        self._nodes = nodes
        self._order = nodes.node_order
        self._sizes = ready.memory.sizes
        self._start = start
        #: What checks and scores by size say; None for sizes that are refused.
        self._of_size: dict[Size, list[float] | None] = {}
        #: What scores that are asked about each node may add at most, by their places.
        self._plain_reach: dict[int, float] = {}
        self._rank = (float("-inf"), 0)
        self.size = len(self._order)
        self.found: Candidate | None = None

    def at_each(self, node_ids: Collection[str]) -> None:
        """Looks at these nodes."""
        position_of = self._sizes.position_of
        for node_id in node_ids:
            position = position_of.get(node_id)
            if position is not None:
                self._at(position, self._sizes.of(position))

    def by_size(self) -> None:
        """Looks at as many nodes as it takes to know the best of all."""
        few, reach = self._others()
        self.at_each(few)
        weight = self._ready.scores[self._ready.lead][0]
        sizes, values = self._led()
        heap = [(-value, number) for number, value in enumerate(values)]
        heapify(heap)
        while heap:
            value, number = heappop(heap)
            most = -value * weight + reach
            if self.found is not None and most + abs(most) * SLACK < self._rank[0]:
                return
            self._at_size(sizes[number], few)

    def _others(self) -> tuple[set[str], float]:
        """Of the scores beside the leading one: the nodes of which they may say more than nothing, where these are few,
        and what they may add for any other node."""
        ready = self._ready
        few: set[str] = set()
        for place in ready.plain_places:
            weight, score = ready.scores[place]
            told = _among(score, ready.view)
            if told is not None and len(told) <= self.size // FEW_OF:
                few.update(told)
            else:
                self._plain_reach[place] = max(weight, 0.0)
        reach = sum(self._plain_reach.values())
        for place, (weight, _) in enumerate(ready.scores):
            if place != ready.lead and place not in ready.plain_places:
                reach += max(weight, 0.0)
        return few, reach

    def _led(self) -> tuple[list[Size], list[float]]:
        """All sizes, and what the leading score says of each."""
        score = self._ready.scores[self._ready.lead][1]
        known = self._ready.memory.of_sizes(score)
        sizes = list(self._sizes.all.values())
        order, candidate_of = self._order, self._nodes.candidate
        for size in sizes:
            if size not in known:
                known[size] = part_of((1.0, score), candidate_of(order[size.positions[0]]))
        return sizes, list(map(known.__getitem__, sizes))

    def _at_size(self, size: Size, few: Collection[str]) -> None:
        """Looks at the nodes of a size, until one of them is as good as any of them can be. few: looked at already."""
        most: float | None = None
        for position in size.rotated(self._start):
            if few and self._order[position] in few:
                continue
            total = self._at(position, size)
            parts = self._of_size[size]
            if parts is None:
                return
            if total is None:
                continue
            if most is None:
                most = total_of([self._plain_reach.get(place, part) for place, part in enumerate(parts)])
            if total >= most:
                return

    def _at(self, position: int, size: Size) -> float | None:
        """What the node is rated; None where it is refused. Notes it where it is the best so far."""
        candidate = self._nodes.candidate(self._order[position])
        parts = self._of_size[size] if size in self._of_size else self._ask_of_size(size, candidate)
        if parts is None or not let_pass(self._ready.rare, candidate) or not self._ready.passes_common(candidate):
            return None
        if self._ready.plain_places:
            parts = parts.copy()
            for place in self._ready.plain_places:
                parts[place] = part_of(self._ready.scores[place], candidate)
        total = total_of(parts)
        rank = total, -((position - self._start) % self.size)
        if self.found is None or rank > self._rank:
            self.found, self._rank = candidate, rank
        return total

    def _ask_of_size(self, size: Size, candidate: Candidate) -> list[float] | None:
        ready = self._ready
        parts: list[float] | None = None
        if let_pass(ready.size_checks, candidate):
            parts = [part_of(one, candidate) if is_by_size(one[1]) else 0.0 for one in ready.scores]
        self._of_size[size] = parts
        return parts


def first_refusal(checks: Sequence[tuple[int, Check]], candidate: Candidate) -> Refusal | None:
    """The place of the first check that refuses the node, and its reason."""
    for place, check in checks:
        try:
            reason = check(candidate)
        except Exception as error:  # noqa: BLE001  (a plugin's filter that raises refuses)
            reason = f"filter failed: {type(error).__name__}: {error}"
        if isinstance(reason, str):
            return place, reason
        if reason is not None:
            return place, f"filter failed: it gave {reason!r}, not None or a text"
    return None


def passes(checks: Sequence[Check], known: dict[str, tuple[Candidate, bool]], candidate: Candidate) -> bool:
    """Do all of these let the node pass? known: what is remembered of that."""
    node_id = candidate.node.info.id
    found = known.get(node_id)
    if found is None or found[0] is not candidate:
        found = known[node_id] = candidate, let_pass(checks, candidate)
    return found[1]
