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
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from orlop.kernel.best import BestOfAll, Refusal, first_refusal
from orlop.kernel.placement import Check, Moment, NodeFilter, NodeScorer, PlacementView, Score
from orlop.kernel.ratings import Common, RatingMemory, let_pass, weighted_sum
from orlop.kernel.state import Candidate
from orlop.model.asks import Explanation, Request

SAMPLE_NODES_MIN: Final = 8
RANK_UP_TO_NODES: Final = 100
#: Where free ports are looked for first: above what people write into configurations. The search starts somewhere
#: else in this range each time, so that a port which something outside Orlop holds is not tried again and again.
DYNAMIC_PORTS_FROM: Final = 31_000
DYNAMIC_PORTS: Final = 1_000


class Nodes(Moment, Protocol):
    """The nodes as they are while placing. taken: ids of those that got a task, in the order of placing."""

    @property
    def taken(self) -> Sequence[str]: ...


class Prepared:
    """Filters and scorers made ready for one group of identical asks.

    counting: some filter counts what it has placed. exact: some scorer wants the best of all nodes.
    follows: some filter waits for neighbours. best_of_all: finds the best node sooner than `rate` of each; None where
    no score leads.
    """

    __slots__ = (
        "_checks",
        "_common",
        "_names",
        "_placed",
        "_rare",
        "_scores",
        "best_of_all",
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
        self._common: Common | None = None
        self.best_of_all: BestOfAll | None = None
        if memory is not None and self.exact and not self._placed:  # a sample costs less than remembering
            self._rare, self._common = memory.divide(self._checks, self._scores)
            if BestOfAll.is_possible(self._scores):
                self.best_of_all = BestOfAll(memory, view, self._checks, self._rare, self._scores)

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

    def refusals(self, nodes: Moment) -> Counter[Refusal | None]:
        """How many nodes the check of a place is the first to refuse, and why; None: those that none refuses."""
        if self.best_of_all is not None:
            return self.best_of_all.refusals(nodes)
        checks = list(enumerate(self._checks))
        return Counter(first_refusal(checks, nodes.candidate(node_id)) for node_id in nodes.node_order)

    def name(self, place: int) -> str:
        """Of the filter whose check has this place."""
        return self._names[place]

    def rate(self, candidate: Candidate) -> float | None:
        """The weighted sum of all scores; None when a filter refuses the node."""
        if not let_pass(self._rare, candidate):
            return None
        return self._common.rate(candidate) if self._common is not None else weighted_sum(self._scores, candidate)

    def placed(self, candidate: Candidate) -> None:
        """One more task of the group was put on this node."""
        for tell in self._placed:
            _guarded(tell, None, candidate)


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
        self._best_by_size = prepared.best_of_all
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
        self._looked_at += size
        if self._best_by_size is not None and self._order is self._nodes.node_order:
            return self._best_by_size.best(self._nodes, self._next)
        rate, candidate_of = self._rate, self._nodes.candidate
        found: Candidate | None = None
        found_score = 0.0
        for node_id in _rotated(self._order, self._next):
            candidate = candidate_of(node_id)
            score = rate(candidate)
            if score is not None and (found is None or score > found_score):
                found, found_score = candidate, score
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


def explain(prepared: Prepared, nodes: Moment) -> Explanation:
    """How many nodes each filter rules out for one more task of this group."""
    order = nodes.node_order
    counts = prepared.refusals(nodes)
    fits = counts.pop(None, 0)
    rows = [(place, reason, count) for row, count in counts.items() if row is not None for place, reason in (row,)]
    rows.sort(key=lambda row: (row[0], -row[2], row[1]))
    ruled_out = tuple((prepared.name(place), reason, count) for place, reason, count in rows)
    return Explanation(nodes=len(order), fits=fits, ruled_out=ruled_out)
