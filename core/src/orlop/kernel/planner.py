"""Who is next: the order among groups of waiting asks, and the round that places them.

Among roles, the one with the smallest weighted dominant share goes first (DRF, Ghodsi et al. 2011); within a role,
higher priority, then age. While several roles wait, tasks are placed one at a time and the order is taken again
after each; a single role's groups are placed whole.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from orlop.kernel.draft import Draft, dominant_share
from orlop.kernel.filters import OperatorsFilter
from orlop.kernel.matcher import Prepared, explain, place
from orlop.kernel.placement import Candidate, NodeFilter, NodeScorer, PlacementView
from orlop.kernel.state import NOTHING, State, WaitingKey
from orlop.model.asks import NOW_OR_NEVER, Explanation, Request
from orlop.model.tasks import Task


class Planner:
    """Filters, scorers and weights; no state of its own."""

    def __init__(
        self,
        filters: Sequence[NodeFilter],
        scorers: Sequence[NodeScorer],
        role_weights: Mapping[str, float] | None = None,
    ) -> None:
        known = frozenset(name for one in filters for name in getattr(one, "operators", ()))
        self._filters = (OperatorsFilter(known), *filters)
        self._scorers = tuple(scorers)
        self._weights = dict(role_weights or {})

    def run(self, draft: Draft) -> None:
        """Places what can be placed: new asks anywhere, older ones on the nodes that changed in this batch."""
        if not draft.node_order or not draft.waiting:
            return
        fresh = [key for key in draft.new_waiting if key in draft.waiting]
        freed = tuple(draft.freed_nodes)
        older = [key for key in draft.waiting if key not in draft.new_waiting] if freed else []
        if not fresh and not older:
            return
        state = draft.state()
        rounds = [_Round(self._prepare(state, key), key, draft, None) for key in fresh]
        rounds += [_Round(self._prepare(state, key), key, draft, freed) for key in older]
        self._place_all(draft, rounds)

    def _prepare(self, state: State, key: WaitingKey) -> Prepared:
        oldest = state.tasks[state.waiting[key][min(state.waiting[key])]]
        return self._prepared(state, oldest)

    def _prepared(self, state: State, task: Task) -> Prepared:
        view = PlacementView(state)
        return Prepared(request_of(state, task), view, self._filters, self._scorers)

    def _place_all(self, draft: Draft, rounds: list[_Round]) -> None:
        if len({one.key.role for one in rounds}) == 1:
            for one in sorted(rounds, key=lambda one: one.rank):
                one.place(len(one.waiting))
        else:
            self._place_fairly(draft, rounds)
        for one in rounds:
            one.close()

    def _place_fairly(self, draft: Draft, rounds: list[_Round]) -> None:
        of_role: dict[str, list[_Round]] = {}
        for one in sorted(rounds, key=lambda one: one.rank):
            of_role.setdefault(one.key.role, []).append(one)
        heap = [(self._share(draft, role), role) for role in sorted(of_role)]
        heapq.heapify(heap)
        while heap:
            _, role = heapq.heappop(heap)
            queue = of_role[role]
            while queue and not queue[0].place(1):
                queue.pop(0)
            if queue:
                heapq.heappush(heap, (self._share(draft, role), role))

    def _share(self, draft: Draft, role: str) -> float:
        usage = draft.role_usage.get(role, NOTHING)
        return dominant_share(usage.items(), draft.totals) / self._weights.get(role, 1.0)

    def explain(self, state: State, task: Task) -> Explanation:
        """Why this task waits. For a placed or ended one: a note that says so."""
        size = len(state.node_order)
        if task.placement is not None or not task.live:
            return Explanation(nodes=size, note=f"it does not wait: it is {task.state.value}")
        if task.sequence in state.delayed:
            seconds = max(0, task.not_before_utc_ms - state.utc_ms) / 1000
            return Explanation(nodes=size, note=f"held back by its framework for {seconds:.1f} s more (back-off)")
        return explain(self._prepared(state, task), state.node_order, state.candidates.__getitem__)


class _Round:
    """One group's turn: its oldest tasks first."""

    def __init__(self, prepared: Prepared, key: WaitingKey, draft: Draft, only_nodes: Sequence[str] | None) -> None:
        self.key = key
        self.waiting = [draft.waiting[key][sequence] for sequence in sorted(draft.waiting[key], reverse=True)]
        self.rank = (-key.priority, min(draft.waiting[key]))
        self._draft = draft
        self._prepared = prepared
        self._order = draft.node_order if only_nodes is None or prepared.counting else only_nodes
        self._offset = draft.next_sequence * 7919

    def place(self, count: int) -> bool:
        """Places up to `count`; False when not even one could be."""
        return bool(self.waiting) and place(self._prepared, count, self._order, self, self._offset) > 0

    def candidate(self, node_id: str) -> Candidate:
        return self._draft.candidate(node_id)

    def take(self, node_id: str, ports: tuple[int, ...]) -> Candidate:
        task = self._draft.task(self.waiting.pop())
        assert task is not None, "a waiting task is recorded"
        return self._draft.place(task, node_id, ports)

    def close(self) -> None:
        """Writes back who still waits, and rejects those that asked for now or never."""
        members = self._draft.waiting.get(self.key)
        if members is None:
            return
        still = set(self.waiting)
        for sequence, task_id in list(members.items()):
            if task_id not in still:
                members = members.delete(sequence)
        self._draft.replace_waiting(self.key, members)


def request_of(state: State, task: Task) -> Request:
    """The ask that a task was made of, as filters see it."""
    return Request(
        framework=task.framework,
        key=task.key,
        spec_id=task.spec,
        spec=state.spec_of(task),
        group=task.group,
        role=task.role,
        priority=task.priority,
        name=task.name,
        environment=task.environment,
        labels=task.labels,
        not_before_utc_ms=task.not_before_utc_ms,
        wait_ms=task.wait_ms,
        cause=task.cause,
    )


def rejected(draft: Draft, keys: Iterable[WaitingKey]) -> list[Task]:
    """Tasks of these groups that asked for now or never and still wait."""
    found = []
    for key in keys:
        for sequence in sorted(draft.waiting.get(key, ())):
            task = draft.task(draft.waiting[key][sequence])
            if task is not None and task.wait_ms == NOW_OR_NEVER:
                found.append(task)
    return found
