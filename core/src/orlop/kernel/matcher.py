"""Where: finds nodes for groups of identical asks, and explains when there are none.

Filters and scorers are prepared once per group. Groups for which all of them gave the very same callables (asks that
differ in their payload alone, say) share one search. There are two kinds:

- `EveryNode`, where a filter counts what it has placed: every node is looked at for every task;
- `Search`, otherwise. It begins by sampling: nodes are taken from a rotating offset until enough feasible ones are
  found, the best of which wins. (Nomad looks at log2 N nodes, kube-scheduler at a percentage.) As soon as that has
  cost as much as looking at all nodes once, or is known to do so, all nodes are ranked in a heap; and at once where a
  scorer is exact. From then on a task costs two glances, because placing one changes the rank of its own node only.
  Clusters of up to 100 nodes are ranked at once: there the best node is found, not merely a good one.

What a node was rated is remembered beyond the batch, see `RatingMemory`.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from orlop.kernel.placement import Check, NodeFilter, NodeScorer, PlacementView, Score
from orlop.kernel.state import Candidate
from orlop.model.asks import Explanation, Request

SAMPLE_NODES_MIN: Final = 8
RANK_UP_TO_NODES: Final = 100
#: See `RatingMemory`. Ratings: of so many different sets of callables, each for as many nodes as there are.
RATINGS_REMEMBERED: Final = 16
CALLABLES_REMEMBERED: Final = 1_000
NODES_REMEMBERED: Final = 20_000
#: Where free ports are looked for first: above what people write into configurations. The search starts somewhere
#: else in this range each time, so that a port which something outside Orlop holds is not tried again and again.
DYNAMIC_PORTS_FROM: Final = 31_000
DYNAMIC_PORTS: Final = 1_000


class Nodes(Protocol):
    """The nodes as they are while placing. taken: ids of those that got a task, in the order of placing."""

    @property
    def taken(self) -> Sequence[str]: ...

    def candidate(self, node_id: str) -> Candidate: ...


class Prepared:
    """Filters and scorers made ready for one group of identical asks.

    counting: some filter counts what it has placed. exact: some scorer wants the best of all nodes.
    follows: some filter waits for neighbours.
    """

    __slots__ = (
        "_checks",
        "_common",
        "_names",
        "_placed",
        "_rare",
        "_scores",
        "counting",
        "exact",
        "follows",
        "request",
    )

    def __init__(
        self,
        request: Request,
        view: PlacementView,
        filters: Iterable[NodeFilter],
        scorers: Iterable[NodeScorer],
        memory: RatingMemory | None = None,
    ) -> None:
        self.request = request
        self._names: list[str] = []
        self._checks: list[Check] = []
        self._scores: list[tuple[float, Score]] = []
        self._placed: list[Callable[[Candidate], None]] = []
        for one in filters:
            check = _prepare_filter(one, request, view)
            if check is not None:
                self._names.append(one.name)
                self._checks.append(check)
                self._listen(check)
        self.counting = bool(self._placed)
        self.follows = any(getattr(check, "follows", False) for check in self._checks)
        self.exact = False
        for scorer in scorers:
            score = _guarded(scorer.prepare, None, request, view)
            if score is not None:
                self._scores.append((scorer.weight, score))
                self._listen(score)
                self.exact |= bool(getattr(score, "exact", False))
        self._rare: list[Check] = self._checks
        self._common: _Common | None = None
        if memory is not None and self.exact and not self._placed:  # a sample costs less than remembering
            self._rare, self._common = memory.divide(self._checks, self._scores)

    def _listen(self, made: Check | Score) -> None:
        placed = getattr(made, "placed", None)
        if placed is not None:
            self._placed.append(placed)

    @property
    def shared_key(self) -> tuple[Any, ...] | None:
        """Equal for groups that may share a search; None where a filter or scorer remembers something of its own."""
        if self._placed:
            return None
        # By identity, for equal callables (two methods of one object, say) may answer differently.
        return (*map(id, self._checks), None, *((weight, id(score)) for weight, score in self._scores))

    def refusal(self, candidate: Candidate) -> tuple[int, str, str] | None:
        """The first filter that refuses the node: (its place, its name, its reason); None when all accept."""
        for place, check in enumerate(self._checks):
            try:
                reason = check(candidate)
            except Exception as error:  # noqa: BLE001  (a plugin's filter that raises refuses)
                reason = f"filter failed: {type(error).__name__}"
            if reason is not None:
                return place, self._names[place], reason
        return None

    def rate(self, candidate: Candidate) -> float | None:
        """The weighted sum of all scores; None when a filter refuses the node."""
        try:
            for check in self._rare:
                if check(candidate) is not None:
                    return None
        except Exception:  # noqa: BLE001  (a plugin's filter that raises refuses)
            return None
        return self._common.rate(candidate) if self._common is not None else _sum(self._scores, candidate)

    def placed(self, candidate: Candidate) -> None:
        """One more task of the group was put on this node."""
        for tell in self._placed:
            _guarded(tell, None, candidate)


def _sum(scores: Iterable[tuple[float, Score]], candidate: Candidate) -> float:
    """One after the other: Python's own `sum` may round otherwise in another version."""
    total = 0.0
    for one in scores:
        total += _part(one, candidate)
    return total


def _part(one: tuple[float, Score], candidate: Candidate) -> float:
    weight, score = one
    try:
        return weight * score(candidate)
    except Exception:  # noqa: BLE001  (a scorer that raises counts as zero)
        return 0.0


class RatingMemory:
    """What nodes were rated, for callables that filters and scorers gave before.

    They depend on the candidate alone, and a candidate is the same object while nothing changes on its node, so this
    is a memory of pure functions: what is decided does not depend on it. Most asks bring the same few callables (does
    it fit, how full is the node), and at most one or two of their own, which are asked each time.
    """

    def __init__(self) -> None:
        #: Callables by identity, the latest ones last.
        self._seen: OrderedDict[int, Check | Score] = OrderedDict()
        self._known: OrderedDict[tuple[Any, ...], tuple[dict[str, _Rating], tuple[Any, ...]]] = OrderedDict()

    def divide(
        self, checks: Sequence[Check], scores: Sequence[tuple[float, Score]]
    ) -> tuple[list[Check], _Common | None]:
        """The checks that were not seen before, and all else; no else when no score was seen before."""
        rare = [check for check in checks if not self._note(check)]
        rare_scores = frozenset(place for place, (_, score) in enumerate(scores) if not self._note(score))
        if len(rare_scores) == len(scores):
            return list(checks), None
        rare_ids = frozenset(map(id, rare))
        common = [check for check in checks if id(check) not in rare_ids]
        key = (
            *map(id, common),
            None,
            *(None if place in rare_scores else (weight, id(score)) for place, (weight, score) in enumerate(scores)),
        )
        entry = self._known.get(key)
        if entry is None:
            # The callables are kept with it, so that no other one gets the identity of any of them.
            kept = (*common, *(score for place, (_, score) in enumerate(scores) if place not in rare_scores))
            entry = self._known[key] = {}, kept
            if len(self._known) > RATINGS_REMEMBERED:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return rare, _Common(common, scores, rare_scores, entry[0])

    def _note(self, one: Check | Score) -> bool:
        """Was it seen before?"""
        if id(one) in self._seen:
            self._seen.move_to_end(id(one))
            return True
        self._seen[id(one)] = one
        if len(self._seen) > CALLABLES_REMEMBERED:
            self._seen.popitem(last=False)
        return False


_Rating = tuple[Candidate, float | None, tuple[float, ...]]


class _Common:
    """Checks and scores that many asks share, and what they said of each node.

    rare: places of scores that are asked each time. The sum is taken in the scorers' order, so that it is the same to
    the last bit whatever is remembered.
    """

    __slots__ = ("_checks", "_known", "_rare", "_scores")

    def __init__(
        self,
        checks: Sequence[Check],
        scores: Sequence[tuple[float, Score]],
        rare: frozenset[int],
        known: dict[str, _Rating],
    ) -> None:
        self._checks = checks
        self._scores = scores
        self._rare = rare
        self._known = known

    def rate(self, candidate: Candidate) -> float | None:
        node_id = candidate.node.info.id
        known = self._known.get(node_id)
        if known is None or known[0] is not candidate:
            if len(self._known) >= NODES_REMEMBERED:
                self._known.clear()
            known = self._known[node_id] = candidate, *self._rate(candidate)
        if not self._rare or known[1] is None:
            return known[1]
        total = 0.0
        for place, (one, part) in enumerate(zip(self._scores, known[2], strict=True)):
            total += _part(one, candidate) if place in self._rare else part
        return total

    def _rate(self, candidate: Candidate) -> tuple[float | None, tuple[float, ...]]:
        """What the common scores give together, None for a node that is refused, and each part of it."""
        try:
            for check in self._checks:
                if check(candidate) is not None:
                    return None, ()
        except Exception:  # noqa: BLE001  (a plugin's filter that raises refuses)
            return None, ()
        parts = tuple(0.0 if place in self._rare else _part(one, candidate) for place, one in enumerate(self._scores))
        total = 0.0
        for part in parts:
            total += part
        return total, parts


def _guarded(function: Callable[..., Any], otherwise: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception:  # noqa: BLE001  (a plugin's code never stops placement)
        return otherwise


def _prepare_filter(one: NodeFilter, request: Request, view: PlacementView) -> Check | None:
    try:
        return one.prepare(request, view)
    except Exception as error:  # noqa: BLE001  (a filter that raises refuses)
        reason = f"filter failed: {type(error).__name__}: {error}"
        return lambda _: reason


def choose_ports(request: Request, candidate: Candidate, rotation: int = 0) -> tuple[int, ...]:
    """Host ports for the task's port requests, in their order. The ports filter has seen that there are enough."""
    wanted = request.spec.ports
    if not wanted:
        return ()
    free = candidate.free_ports
    for port in wanted:
        if port.number is not None:
            free = free.without(port.number)
    chosen = []
    at_least = DYNAMIC_PORTS_FROM + rotation % DYNAMIC_PORTS
    for port in wanted:
        number = port.number
        if number is None:
            number = free.first_from(at_least, DYNAMIC_PORTS_FROM)
            assert number is not None, "the ports filter lets no node pass with too few ports"
            free = free.without(number)
            at_least = number + 1
        chosen.append(number)
    return tuple(chosen)


class EveryNode:
    """Looks at all nodes each time."""

    def __init__(self, prepared: Prepared, order: Sequence[str], nodes: Nodes, offset: int) -> None:
        self._rate = prepared.rate
        self._order = _rotated(order, offset)
        self._nodes = nodes

    def best(self, wanted: int) -> Candidate | None:
        """The best node for one more task; None when none is feasible."""
        found: Candidate | None = None
        found_score = 0.0
        for node_id in self._order:
            candidate = self._nodes.candidate(node_id)
            score = self._rate(candidate)
            if score is not None and (found is None or score > found_score):
                found, found_score = candidate, score
        return found


class Search:
    """See the module."""

    def __init__(self, prepared: Prepared, order: Sequence[str], nodes: Nodes, offset: int) -> None:
        self._rate = prepared.rate
        self._exact = prepared.exact
        self._order = order
        self._nodes = nodes
        self._next = offset % len(order)
        self._sample = max(SAMPLE_NODES_MIN, len(order).bit_length())
        self._looked_at = 0
        self._ranking: _Ranking | None = None

    def best(self, wanted: int) -> Candidate | None:
        """The best of the nodes looked at; None when none of all is feasible. wanted: how many tasks are to come."""
        if self._ranking is None:
            size = len(self._order)
            sampling_costs_less = self._looked_at + wanted * self._sample < size
            if size > RANK_UP_TO_NODES and sampling_costs_less:
                return self._best_of_all(size) if self._exact else self._best_of_sample(size)
            self._ranking = _Ranking(self._rate, _rotated(self._order, self._next), self._nodes)
        return self._ranking.best()

    def _best_of_all(self, size: int) -> Candidate | None:
        """For one task a ranking would cost more than it saves. The same one that a ranking would begin with."""
        rate, candidate_of = self._rate, self._nodes.candidate
        found: Candidate | None = None
        found_score = 0.0
        for node_id in _rotated(self._order, self._next):
            candidate = candidate_of(node_id)
            score = rate(candidate)
            if score is not None and (found is None or score > found_score):
                found, found_score = candidate, score
        self._looked_at += size
        return found

    def _best_of_sample(self, size: int) -> Candidate | None:
        found: Candidate | None = None
        found_score = 0.0
        feasible = looked_at = 0
        while looked_at < size and feasible < self._sample:
            candidate = self._nodes.candidate(self._order[(self._next + looked_at) % size])
            looked_at += 1
            score = self._rate(candidate)
            if score is not None:
                feasible += 1
                if found is None or score > found_score:
                    found, found_score = candidate, score
        self._next = (self._next + looked_at) % size
        self._looked_at += looked_at
        return found


class _Ranking:
    """All nodes in a heap by their score; among equals, the one that waits longest for a task. It is kept true by
    looking again at the nodes that got a task since."""

    def __init__(self, rate: Callable[[Candidate], float | None], order: Sequence[str], nodes: Nodes) -> None:
        self._rate = rate
        self._nodes = nodes
        self._seen = len(nodes.taken)
        #: (negative score, number of the entry, node). A node's older entries stay in the heap until they come up.
        self._heap: list[_Entry] = []
        self._newest: dict[str, _Entry | None] = {}
        for number, node_id in enumerate(order):
            score = rate(nodes.candidate(node_id))
            entry = self._newest[node_id] = None if score is None else (-score, number, node_id)
            if entry is not None:
                self._heap.append(entry)
        self._entries = len(order)
        heapq.heapify(self._heap)

    def best(self) -> Candidate | None:
        taken = self._nodes.taken
        if len(taken) > self._seen:
            for node_id in dict.fromkeys(taken[self._seen :]):
                if node_id in self._newest:
                    self._rank_again(node_id)
            self._seen = len(taken)
        heap = self._heap
        while heap and self._newest[heap[0][2]] is not heap[0]:
            heapq.heappop(heap)
        return self._nodes.candidate(heap[0][2]) if heap else None

    def _rank_again(self, node_id: str) -> None:
        score = self._rate(self._nodes.candidate(node_id))
        entry = self._newest[node_id] = None if score is None else (-score, self._entries, node_id)
        self._entries += 1
        if entry is None:
            return
        if self._heap and self._heap[0][2] == node_id:
            heapq.heapreplace(self._heap, entry)
        else:
            heapq.heappush(self._heap, entry)


_Entry = tuple[float, int, str]


def _rotated(order: Sequence[str], offset: int) -> Sequence[str]:
    start = offset % len(order)
    return (*order[start:], *order[:start])


def explain(prepared: Prepared, order: Sequence[str], pool: Callable[[str], Candidate]) -> Explanation:
    """How many nodes each filter rules out for one more task of this group."""
    counts: Counter[tuple[int, str, str]] = Counter()
    fits = 0
    for node_id in order:
        refusal = prepared.refusal(pool(node_id))
        if refusal is None:
            fits += 1
        else:
            counts[refusal] += 1
    rows = sorted(counts.items(), key=lambda row: (row[0][0], -row[1], row[0][2]))
    return Explanation(nodes=len(order), fits=fits, ruled_out=tuple((name, reason, n) for (_, name, reason), n in rows))
