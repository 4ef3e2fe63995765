"""Where: finds nodes for groups of identical asks, and explains when there are none.

Filters and scorers are prepared once per group. Then one of three searches runs:

- *counting*: some filter counts what it has placed, so every node is looked at for every task;
- *whole*: as many tasks as it pays to rank all nodes once and keep them in a heap, where placing a task changes the
  rank of its own node only;
- *sampled*: nodes are taken from a rotating offset until enough feasible ones are found, the best of which wins.
  (Nomad looks at log2 N nodes, kube-scheduler at a percentage; clusters of up to 100 nodes are searched whole.)
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import attrs

from orlop.kernel.placement import Check, NodeFilter, NodeScorer, PlacementView, Score
from orlop.kernel.state import Candidate
from orlop.model.asks import Explanation, Request
from orlop.model.ports import PortSet

SAMPLE_NODES_MIN: Final = 8
SEARCH_WHOLE_UP_TO_NODES: Final = 100
#: Where free ports are looked for first: above what people write into configurations. The search starts somewhere
#: else in this range each time, so that a port which something outside Orlop holds is not tried again and again.
DYNAMIC_PORTS_FROM: Final = 31_000
DYNAMIC_PORTS: Final = 1_000


class Pool(Protocol):
    """The nodes as they are while placing: `take` puts one task somewhere and gives the node as it is then."""

    def candidate(self, node_id: str) -> Candidate: ...

    def take(self, node_id: str, ports: tuple[int, ...]) -> Candidate: ...


@attrs.frozen
class PreparedFilter:
    name: str
    check: Check
    placed: Callable[[Candidate], None] | None


class Prepared:
    """Filters and scorers made ready for one group of identical asks."""

    def __init__(
        self,
        request: Request,
        view: PlacementView,
        filters: Iterable[NodeFilter],
        scorers: Iterable[NodeScorer],
    ) -> None:
        self.request = request
        self.filters = [made for one in filters if (made := _prepare_filter(one, request, view)) is not None]
        self._checks = [(made.name, made.check) for made in self.filters]
        self.scorers: list[tuple[float, Score]] = []
        self._placed = [made.placed for made in self.filters if made.placed is not None]
        for scorer in scorers:
            score = _guarded(scorer.prepare, None, request, view)
            if score is not None:
                self.scorers.append((scorer.weight, score))
                if (placed := getattr(score, "placed", None)) is not None:
                    self._placed.append(placed)
        self.counting = any(made.placed is not None for made in self.filters)

    def refusal(self, candidate: Candidate) -> tuple[str, str] | None:
        """The first filter that refuses the node, and its reason; None when all accept."""
        name = ""
        try:
            for name, check in self._checks:
                reason = check(candidate)
                if reason is not None:
                    return name, reason
        except Exception as error:  # noqa: BLE001  (a plugin's filter that raises refuses)
            return name, f"filter failed: {type(error).__name__}"
        return None

    def score(self, candidate: Candidate) -> float:
        """The weighted sum of all scores."""
        total = 0.0
        for weight, score in self.scorers:
            try:
                total += weight * score(candidate)
            except Exception:  # noqa: BLE001  (a scorer that raises counts as zero)
                continue
        return total

    def placed(self, candidate: Candidate) -> None:
        for tell in self._placed:
            _guarded(tell, None, candidate)


def _guarded(function: Callable[..., Any], otherwise: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception:  # noqa: BLE001  (a plugin's code never stops placement)
        return otherwise


def _prepare_filter(one: NodeFilter, request: Request, view: PlacementView) -> PreparedFilter | None:
    try:
        check = one.prepare(request, view)
    except Exception as error:  # noqa: BLE001  (a filter that raises refuses)
        reason = f"filter failed: {type(error).__name__}: {error}"
        return PreparedFilter(one.name, lambda _: reason, None)
    return PreparedFilter(one.name, check, getattr(check, "placed", None)) if check is not None else None


def choose_ports(request: Request, candidate: Candidate, rotation: int = 0) -> tuple[int, ...]:
    """Host ports for the task's port requests, in their order. The ports filter has seen that there are enough."""
    free = candidate.free_ports
    wanted = request.spec.ports
    taken = [port.number for port in wanted if port.number is not None]
    chosen = []
    at_least = DYNAMIC_PORTS_FROM + rotation % DYNAMIC_PORTS
    for port in wanted:
        number = port.number
        if number is None:
            number = (free - PortSet(taken)).first_from(at_least, DYNAMIC_PORTS_FROM)
            assert number is not None, "the ports filter lets no node pass with too few ports"
            at_least = number + 1
            taken.append(number)
        chosen.append(number)
    return tuple(chosen)


def place(prepared: Prepared, count: int, order: Sequence[str], pool: Pool, offset: int) -> int:
    """Places up to `count` tasks of the group on nodes of `order`, through `pool.take`; returns how many."""
    if not order:
        return 0
    sample = max(SAMPLE_NODES_MIN, len(order).bit_length())
    if prepared.counting:
        return _place_each(prepared, count, order, pool, offset, len(order))
    if count * sample >= len(order):
        return _place_ranked(prepared, count, order, pool, offset)
    limit = len(order) if len(order) <= SEARCH_WHOLE_UP_TO_NODES else sample
    return _place_each(prepared, count, order, pool, offset, limit)


def _place_each(prepared: Prepared, count: int, order: Sequence[str], pool: Pool, offset: int, sample: int) -> int:
    size = len(order)
    start = offset % size
    for done in range(count):
        best: Candidate | None = None
        best_score = -1.0
        feasible = 0
        for step in range(size):
            candidate = pool.candidate(order[(start + step) % size])
            if prepared.refusal(candidate) is not None:
                continue
            feasible += 1
            score = prepared.score(candidate)
            if score > best_score:
                best, best_score = candidate, score
            if feasible >= sample:
                start = (start + step + 1) % size
                break
        if best is None:
            return done
        prepared.placed(pool.take(best.node.id, choose_ports(prepared.request, best, offset + done)))
    return count


def _place_ranked(prepared: Prepared, count: int, order: Sequence[str], pool: Pool, offset: int) -> int:
    heap = []
    for position, node_id in enumerate(order):
        candidate = pool.candidate(node_id)
        if prepared.refusal(candidate) is None:
            heap.append((-prepared.score(candidate), position))
    heapq.heapify(heap)
    done = 0
    while heap and done < count:
        _, position = heap[0]
        before = pool.candidate(order[position])
        after = pool.take(before.node.id, choose_ports(prepared.request, before, offset + done))
        prepared.placed(after)
        done += 1
        if prepared.refusal(after) is None:
            heapq.heapreplace(heap, (-prepared.score(after), position))
        else:
            heapq.heappop(heap)
    return done


def explain(prepared: Prepared, order: Sequence[str], pool: Callable[[str], Candidate]) -> Explanation:
    """How many nodes each filter rules out for one more task of this group."""
    counts: Counter[tuple[str, str]] = Counter()
    fits = 0
    for node_id in order:
        refusal = prepared.refusal(pool(node_id))
        if refusal is None:
            fits += 1
        else:
            counts[refusal] += 1
    positions = {one.name: position for position, one in enumerate(prepared.filters)}
    rows = sorted(counts.items(), key=lambda row: (positions[row[0][0]], -row[1], row[0][1]))
    return Explanation(nodes=len(order), fits=fits, ruled_out=tuple((name, reason, n) for (name, reason), n in rows))
