"""Who is next: the order among groups of waiting asks, and the round that places them.

Among roles, the one with the smallest weighted dominant share goes first (DRF, Ghodsi et al. 2011); within a role,
higher priority, then age. While several roles wait, tasks are placed one at a time and the order is taken again
after each; a single role's groups are placed whole.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from orlop.kernel.draft import Draft
from orlop.kernel.filters import OperatorsFilter
from orlop.kernel.matcher import EveryNode, Prepared, Search, choose_ports, explain
from orlop.kernel.placement import Moment, NodeFilter, NodeScorer, PlacementView
from orlop.kernel.ratings import RatingMemory
from orlop.kernel.state import State, WaitingKey
from orlop.model.asks import NOW_OR_NEVER, Explanation, Request
from orlop.model.resources import Resources
from orlop.model.tasks import Spec, Task

#: Looking at what is free on a node takes about a thirtieth of what preparing a group takes.
LOOKS_FOR_ROOM_PER_GROUP: Final = 30


class Planner:
    """Filters, scorers and weights; no state of its own beside a memory of what nodes were rated."""

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
        self._memory = RatingMemory()

    def run(self, draft: Draft) -> None:
        """Places what can be placed: new asks anywhere, older ones on the nodes that changed in this batch."""
        if not draft.node_order or not (draft.waiting.fresh or draft.freed_nodes):
            return
        fresh = [key for key, line in draft.waiting.fresh.items() if line]
        anywhere = _Area(draft, draft.node_order, len(fresh))
        rounds = [_Round(key, draft, anywhere, self._prepare) for key in fresh]
        older = draft.waiting.unchanged_keys() if draft.freed_nodes else ()
        if older:
            freed = _Area(draft, tuple(draft.freed_nodes), len(older))
            candidates = (_Round(key, draft, freed, self._prepare) for key in older)
            rounds += [one for one in candidates if one.room.may_be_left()]
        if len(rounds) > 1:
            rounds.sort(key=lambda one: one.rank)
        if len({one.key.role for one in rounds}) <= 1:
            for one in rounds:
                one.place(None)
        else:
            self._place_fairly(draft, rounds)
        self._place_followers(draft)

    def _prepare(self, request: Request, view: PlacementView) -> Prepared:
        return Prepared(request, view, self._filters, self._scorers, self._memory)

    def _place_fairly(self, draft: Draft, rounds: Sequence[_Round]) -> None:
        of_role: dict[str, list[_Round]] = {}
        for one in reversed(rounds):
            of_role.setdefault(one.key.role, []).append(one)
        heap = [(self._share(draft, role), role) for role in sorted(of_role)]
        heapq.heapify(heap)
        while heap:
            _, role = heapq.heappop(heap)
            queue = of_role[role]
            while queue and not queue[-1].place(1):
                queue.pop()
            if queue:
                heapq.heappush(heap, (self._share(draft, role), role))

    def _place_followers(self, draft: Draft) -> None:
        """Asks that wait for a neighbour, on the nodes that got a task. One that is placed may be another's neighbour,
        so this goes on until nothing more is placed."""
        begun = 0
        while draft.following and len(draft.taken) > begun:
            nodes = tuple(dict.fromkeys(draft.taken[begun:]))
            begun = len(draft.taken)
            for key in draft.following:
                if not draft.waiting.count(key):
                    draft.follow(key, False)
            area = _Area(draft, nodes, len(draft.following))
            rounds = [_Round(key, draft, area, self._prepare) for key in draft.following]
            for one in sorted(rounds, key=lambda one: one.rank):
                one.place(None)

    def _share(self, draft: Draft, role: str) -> float:
        return dominant_share(draft.usage(role).items(), draft.totals) / self._weights.get(role, 1.0)

    def explain(self, state: State, task: Task) -> Explanation:
        """Why this task waits. For a placed or ended one: a note that says so."""
        size = len(state.node_order)
        if task.placement is not None or not task.live:
            return Explanation(nodes=size, note=f"it does not wait: it is {task.state.value}")
        if task.sequence in state.delayed:
            seconds = max(0, task.not_before_utc_ms - state.utc_ms) / 1000
            return Explanation(nodes=size, note=f"held back by its framework for {seconds:.1f} s more (back-off)")
        return self.explain_waiting(state, task, state.spec_of(task))

    def explain_waiting(self, moment: Moment, task: Task, spec: Spec) -> Explanation:
        """Which filters rule out how many nodes for the task."""
        prepared = Prepared(request_of(task, spec), PlacementView(moment), self._filters, self._scorers)
        return explain(prepared, moment)

    def explain_unplaced(self, draft: Draft, task: Task) -> Explanation:
        """The same of a task that was just tried, by what is remembered of that. In the kernel's own thread only."""
        prepared = self._prepare(request_of(task, draft.spec(task.spec)), PlacementView(draft))
        return explain(prepared, draft)


class _Looks:
    """How many more looks at nodes the groups of an area may take together.

    A room that referred to its area would close a ring through the whole draft, which only the collector could open.
    """

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class _Area:
    """Nodes on which some groups may be placed, and the searches over them that these groups share."""

    def __init__(self, draft: Draft, order: Sequence[str], groups: int) -> None:
        self._draft = draft
        self._order = order
        self._offset = draft.next_sequence * 7919
        self._shared: dict[tuple[Any, ...], tuple[Prepared, Search]] = {}
        #: A filter that counts may open nodes outside the area, see `search`.
        self._all = order if order is draft.node_order else (*order, *draft.node_order)
        self._rooms: dict[Resources, _Room] = {}
        self._looks = _Looks(groups * LOOKS_FOR_ROOM_PER_GROUP)

    def room(self, needs: Resources) -> _Room:
        """Whether so much is free on any node."""
        found = self._rooms.get(needs)
        if found is None:
            found = self._rooms[needs] = _Room(self._looks, self._draft, self._all, needs)
        return found

    def search(self, prepared: Prepared) -> Search | EveryNode:
        """The group's own search, or one that it may share."""
        if prepared.counting:  # what it counted may have opened any node to the group
            return EveryNode(prepared, self._draft.node_order, self._draft, self._offset)
        key = prepared.shared_key
        if key is None:
            return Search(prepared, self._order, self._draft, self._offset)
        found = self._shared.get(key)
        if found is None:  # `prepared` is kept, so that no other callable gets the identity of one of its own
            found = self._shared[key] = (prepared, Search(prepared, self._order, self._draft, self._offset))
        return found[1]


class _Room:
    """Whether any node has so much free. In a full cluster this sorts out most of a long queue without preparing it.

    Placing leaves less and less room, so no node is looked at twice in vain.
    """

    __slots__ = ("_as_of", "_draft", "_looks", "_needs", "_order", "_position")

    def __init__(self, looks: _Looks, draft: Draft, order: Sequence[str], needs: Resources) -> None:
        self._looks = looks
        self._draft = draft
        self._order = order
        self._needs = needs
        self._position = 0
        self._as_of = -1

    def may_be_left(self) -> bool:
        """When looking has cost as much as preparing would, the answer is yes."""
        taken = len(self._draft.taken)
        if self._as_of != taken:
            self._as_of = taken
            while self._position < len(self._order) and self._looks.left > 0:
                if self._needs.shortage(self._draft.candidate(self._order[self._position]).free) is None:
                    break
                self._looks.left -= 1
                self._position += 1
        return self._position < len(self._order)


class _Round:
    """One group's turn: its oldest tasks first. What costs anything is done when the turn has come."""

    __slots__ = ("_area", "_begun", "_draft", "_prepare", "_queue", "key", "room")

    def __init__(
        self, key: WaitingKey, draft: Draft, area: _Area, prepare: Callable[[Request, PlacementView], Prepared]
    ) -> None:
        self.key = key
        self._draft = draft
        self._area = area
        self._prepare = prepare
        self._begun: tuple[Prepared, Search | EveryNode] | None = None
        self._queue: list[int] = []
        self.room = area.room(draft.spec(key.spec).resources)

    @property
    def rank(self) -> tuple[int, int]:
        """Lower is earlier."""
        return -self.key.priority, self._draft.waiting.oldest(self.key)

    def place(self, at_most: int | None) -> int:
        """Places tasks while there is room for them, and says how many."""
        waiting = self._draft.waiting
        left = waiting.count(self.key) if self.room.may_be_left() else 0
        if not left:
            return 0
        prepared, search = self._begun or self._begin()
        placed: list[int] = []
        wanted = left if at_most is None else min(at_most, left)
        while len(placed) < wanted:
            best = search.best(left - len(placed))
            if best is None:
                break
            if not self._queue:
                self._queue = sorted(waiting.members(self.key), reverse=True)
            sequence = self._queue.pop()
            ports = choose_ports(prepared.request, best, sequence * 7919)
            task = self._draft.recorded_task(waiting.task_id(self.key, sequence))
            prepared.placed(self._draft.place(task, best.node.info.id, ports))
            placed.append(sequence)
        waiting.remove(self.key, placed)
        if len(placed) < wanted or self.key in self._draft.following:
            self._draft.follow(self.key, prepared.follows and len(placed) < left)
        if len(placed) < wanted or wanted == left:
            self._begun = None  # a ranking of all nodes is not kept for nothing
        return len(placed)

    def _begin(self) -> tuple[Prepared, Search | EveryNode]:
        waiting = self._draft.waiting
        oldest = self._draft.recorded_task(waiting.task_id(self.key, waiting.oldest(self.key)))
        request = request_of(oldest, self._draft.spec(oldest.spec))
        prepared = self._prepare(request, PlacementView(self._draft))
        self._begun = (prepared, self._area.search(prepared))
        return self._begun


def request_of(task: Task, spec: Spec) -> Request:
    """The ask that a task was made of, as filters see it: what they say of one holds for all that are identical but for
    their keys, so that a name and variables of its own are left out."""
    return Request(
        framework=task.framework,
        key=task.key,
        spec_id=task.spec,
        spec=spec,
        group=task.group,
        role=task.role,
        priority=task.priority,
        labels=task.labels,
        not_before_utc_ms=task.not_before_utc_ms,
        wait_ms=task.wait_ms,
        cause=task.cause,
    )


def now_or_never(draft: Draft) -> list[Task]:
    """Tasks lined up in this batch that asked for now or never and found no place."""
    found = []
    for line in draft.waiting.fresh.values():
        tasks = [draft.recorded_task(line[sequence]) for sequence in sorted(line)]
        found += [task for task in tasks if task.wait_ms == NOW_OR_NEVER]
    return found


def dominant_share(usage: Iterable[tuple[str, int]], totals: Any) -> float:
    """The largest part of any one resource of the cluster (DRF)."""
    return max((amount / totals[kind] for kind, amount in usage if totals.get(kind)), default=0.0)
