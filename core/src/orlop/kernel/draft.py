"""An overlay over a state: the one place where state changes, indexes included.

A draft is made for a batch, changed by the handlers of its events, and turned into the next `State` together with
the set of documents to write. Nothing of it is visible before the commit; dropping it undoes everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
from immutables import Map

from orlop.kernel import lifecycle, records
from orlop.kernel.overlay import (
    DelayedOverlay,
    Documents,
    EndedOverlay,
    FrameworkOverlay,
    SpecsOverlay,
    UsageOverlay,
    WaitingOverlay,
)
from orlop.kernel.state import (
    CHANGES_KEPT,
    NOTHING,
    Candidate,
    Change,
    FrameworkState,
    State,
    StoredObject,
    WaitingKey,
    waiting_key,
)
from orlop.model.asks import Request
from orlop.model.clock import Now
from orlop.model.facts import NodeFacts
from orlop.model.log_entries import LogEntry
from orlop.model.nodes import Node, NodeState
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.tasks import Exit, Outcome, Placement, Spec, Status, Task, TaskState

#: Entries of the event log in one record. What goes beyond is counted, and said in the last entry.
LOG_ENTRIES_PER_RECORD_MAX: Final = 500


class Draft:
    """See the module. `puts` and `deletes` are documents by their keys.

    taken: nodes that got a task, in the order of placing. freed_nodes: those that may have more room than before.
    forgotten: nodes that are no more.
    """

    def __init__(self, state: State, now: Now) -> None:
        self.base = state
        self.now = now
        self.version = state.version + 1
        self._documents = Documents()
        self.puts = self._documents.puts
        self.deletes = self._documents.deletes
        self.log: list[LogEntry] = []
        self.log_left_out = 0
        self.changed_keys: dict[str, set[str]] = {}
        self.nodes_changed = False
        self.assign: dict[str, dict[str, None]] = {}
        self.taken: list[str] = []
        self.freed_nodes: dict[str, None] = {}
        self.forgotten: list[str] = []
        self._tasks = state.tasks.mutate()
        self._candidates = state.candidates.mutate()
        self._specs = SpecsOverlay(state.specs, self._documents)
        self._frameworks: dict[str, FrameworkOverlay] = {}
        self._framework_states = state.frameworks
        self.waiting = WaitingOverlay(state.waiting)
        self.following = state.following
        self._delayed = DelayedOverlay(state.delayed, state.next_due_utc_ms)
        self._ended = EndedOverlay(state.ended, state.ended_oldest, state.ended_next)
        self._usage = UsageOverlay(state.role_usage)
        self._orphans = state.orphans
        self.node_order = state.node_order
        self.totals = state.totals
        self.next_sequence = state.next_sequence
        self.draining = state.draining
        self.changes = list(state.changes)
        self._facts_changed = False

    def remembered(self) -> State:
        """The base with what is kept in memory only, where nothing is to be stored. Nothing may be changed after it."""
        if self._facts_changed:
            return attrs.evolve(
                self.base,
                orphans=self._orphans,
                candidates=self._candidates.finish(),
                following=self.following,
                changes=tuple(self.changes[-CHANGES_KEPT:]),
            )
        return attrs.evolve(self.base, orphans=self._orphans) if self._orphans != self.base.orphans else self.base

    def finish(self) -> State:
        """The next state; nothing may be changed after it."""
        specs = self._specs.finish()
        for name, part in self._frameworks.items():
            self._framework_states = self._framework_states.set(name, part.finish())
        return State(
            cluster_id=self.base.cluster_id,
            generation=self.base.generation,
            version=self.version,
            utc_ms=self.now.utc_ms,
            node_order=self.node_order,
            candidates=self._candidates.finish(),
            totals=self.totals,
            tasks=self._tasks.finish(),
            next_sequence=self.next_sequence,
            specs=specs,
            frameworks=self._framework_states,
            waiting=self.waiting.finish(),
            following=self.following,
            delayed=self._delayed.all,
            ended=self._ended.all,
            ended_oldest=self._ended.oldest,
            ended_next=self._ended.next,
            role_usage=self._usage.finish(),
            orphans=self._orphans,
            next_due_utc_ms=self.next_due_utc_ms,
            draining=self.draining,
            changes=tuple(self.changes[-CHANGES_KEPT:]),
        )

    # Reading

    def task(self, task_id: str) -> Task | None:
        return self._tasks.get(task_id)

    def recorded_task(self, task_id: str) -> Task:
        """Raises KeyError."""
        return self._tasks[task_id]

    def candidate(self, node_id: str) -> Candidate:
        return self._candidates[node_id]

    def spec(self, spec_id: str) -> Spec:
        """Raises KeyError."""
        return self._specs.spec(spec_id)

    def find_node(self, node_id: str) -> Node | None:
        found = self._candidates.get(node_id)
        return found.node if found is not None else None

    def live_task(self, framework: str, key: str) -> Task | None:
        """The key's live task, if it has one."""
        task_id = self._framework(framework).live.get(key)
        return self._tasks[task_id] if task_id is not None else None

    def cursor(self, framework: str) -> int:
        return self._framework(framework).cursor

    def usage(self, role: str) -> dict[str, int]:
        """What the role's placed tasks take."""
        return self._usage.of(role)

    def group_tasks(self, framework: str, group: str) -> Iterator[Task]:
        """The latest task of each key of a group, in the order of keys."""
        part = self._framework(framework)
        return (self._tasks[part.latest[key]] for key in sorted(part.groups.look(group)))

    def group_size(self, framework: str, group: str) -> int:
        """How many keys the group has."""
        return len(self._framework(framework).groups.change(group))

    def holding(self, framework: str, group: str) -> Callable[[str], int]:
        """Node → how many of the group's tasks hold resources there now."""
        counts = self._framework(framework).spread.change(group)
        return lambda node_id: counts.get(node_id, 0)

    @property
    def orphans(self) -> Map[str, str]:
        return self._orphans

    @property
    def next_due_utc_ms(self) -> int:
        """As in `State`."""
        return self._delayed.next_due_utc_ms

    def _framework(self, name: str) -> FrameworkOverlay:
        part = self._frameworks.get(name)
        if part is None:
            part = FrameworkOverlay(self._framework_states.get(name) or FrameworkState(name=name))
            self._frameworks[name] = part
        return part

    # Notes for after the commit

    def note(self, kind: str, subject: str, cause: str = "", **details: str) -> None:
        """An entry of the event log."""
        if len(self.log) < LOG_ENTRIES_PER_RECORD_MAX:
            self.log.append(LogEntry(type=kind, utc_ms=self.now.utc_ms, subject=subject, cause=cause, details=details))
        else:
            self.log_left_out += 1

    def log_all(self, entries: tuple[LogEntry, ...]) -> None:
        """Entries of a framework's own."""
        room = LOG_ENTRIES_PER_RECORD_MAX - len(self.log)
        self.log.extend(entries[:room])
        self.log_left_out += len(entries[room:])

    def touch(self, task: Task) -> None:
        """The owner shall look at this task."""
        self.changed_keys.setdefault(task.framework, set()).add(task.key)

    def send(self, task: Task) -> None:
        """The task's node shall hear what is wanted of it."""
        if task.placement is not None:
            self.assign.setdefault(task.placement.node, {})[task.id] = None

    # Tasks

    def put_task(self, task: Task) -> None:
        """Stores a changed task that keeps its place in all indexes."""
        self._tasks[task.id] = task
        self.puts[records.TASKS + task.id] = task

    def ask(self, framework: str, request: Request) -> None:
        """Makes a pending task for the key, unless it has a live one, or had one and may have no other."""
        part = self._framework(framework)
        if request.key in part.live:
            return
        previous = part.latest.get(request.key, "")
        now, sequence = self.now.utc_ms, self.next_sequence
        task_id = lifecycle.task_id(self.base.cluster_id, framework, request, previous, now, sequence)
        if request.once and task_id in self._tasks:
            return
        self.next_sequence += 1
        task = lifecycle.asked_for(framework, request, task_id, now, sequence)
        self._specs.refer(request.spec_id, request.spec)
        if previous:
            self._leave_old_group(part, self._tasks[previous], request)
        part.latest[request.key] = task_id
        part.live[request.key] = task_id
        part.names[task.name] = task_id
        part.groups.change(request.group)[request.key] = None
        self.put_task(task)
        if request.not_before_utc_ms > now:
            self._delayed.add(sequence, request.not_before_utc_ms, task_id)
        else:
            self.waiting.add(waiting_key(task), sequence, task_id)
        self.touch(task)
        if request.once and (node_id := self._orphans.get(task_id)) is not None:
            self.end_started_before(task, node_id)

    def end_started_before(self, task: Task, node_id: str) -> None:
        """Ends a pending task that a node runs already: the state is a backup's, from before it was asked for."""
        node = self.find_node(node_id)
        where = node.info.name if node is not None else node_id
        self.end_unplaced(task, Outcome.LOST, f"node {where} runs it since before the state was restored, as an orphan")

    def _leave_old_group(self, part: FrameworkOverlay, previous: Task, request: Request) -> None:
        if previous.group != request.group:
            part.groups.change(previous.group).pop(request.key, None)

    def wake_delayed(self) -> None:
        """Lines up the delayed tasks whose time has come."""
        for sequence, task_id in self._delayed.take_due(self.now.utc_ms):
            self.waiting.add(waiting_key(self._tasks[task_id]), sequence, task_id)

    def amend(self, task: Task, spec_id: str, spec: Spec) -> None:
        """Gives a live task another spec. It keeps its place in all indexes but that of what waits."""
        before = self._specs.spec(task.spec).resources
        self._specs.refer(spec_id, spec)
        self._specs.release(task.spec)
        amended = task.changed(spec=spec_id)
        self.put_task(amended)
        self.touch(amended)
        if task.placement is not None:
            self._take_more(amended, spec.resources - before)
        elif task.sequence not in self._delayed:
            self.waiting.remove(waiting_key(task), (task.sequence,))
            self.waiting.add(waiting_key(amended), task.sequence, task.id)

    def _take_more(self, task: Task, more: Resources) -> None:
        """more: of some kinds it may be less than before."""
        assert task.placement is not None
        node_id = task.placement.node
        self._usage.count(task.role, more)
        held = self._candidates.get(node_id)
        if held is None or task.sequence not in held.tasks or not more:
            return
        free = held.free - more
        self._put_candidate(Candidate(held.node, free, held.unheld_ports, held.tasks, held.facts, held.heard))
        self.freed_nodes[node_id] = None

    def place(self, task: Task, node_id: str, ports: tuple[int, ...]) -> Candidate:
        """Puts a pending task on a node; the caller takes it out of the waiting."""
        before = self._candidates[node_id]
        needs = self._specs.spec(task.spec).resources
        unheld = before.unheld_ports
        for port in ports:
            unheld = unheld.without(port)
        held = before.tasks.set(task.sequence, task.id)
        after = Candidate(before.node, before.free - needs, unheld, held, before.facts, before.heard)
        self._put_candidate(after)
        self.taken.append(node_id)
        self._usage.count(task.role, needs)
        self._framework(task.framework).held(task.group, node_id, 1)
        placement = Placement(node=node_id, ports=ports, at_utc_ms=self.now.utc_ms)
        status = Status(task=task.id, state=TaskState.ASSIGNED, incarnation=1, at_utc_ms=self.now.utc_ms)
        if task.sequence >= self.base.next_sequence:
            task.complete(placement, status)  # made in this batch, so that nobody has seen it yet
        else:
            self.put_task(task.changed(placement=placement, status=status))
            self.touch(task)
        self.note("task.placed", task.id, task.cause, node=before.node.info.name, name=task.name)
        self.assign.setdefault(node_id, {})[task.id] = None
        return after

    def follow(self, key: WaitingKey, wanted: bool) -> None:
        """Shall these asks be tried again where another task is put?"""
        if wanted:
            self.following = self.following.set(key, None)
        else:
            self.following = _without(self.following, key)

    def finish_task(self, task: Task) -> None:
        """The task is removed: it holds nothing any more, and its record waits to be forgotten."""
        assert task.state is TaskState.REMOVED
        if task.placement is None:
            self.waiting.remove(waiting_key(task), (task.sequence,))
            self._delayed.drop(task.sequence)
        else:
            self._release(task)
        ended = task.changed(ended_utc_ms=task.ended_utc_ms or self.now.utc_ms)
        self.put_task(ended)
        part = self._framework(task.framework)
        part.live.pop(task.key, None)
        self._ended.add(self.version, task.id)
        exit_ = ended.status.exit
        assert exit_ is not None, "a removed task says how it ended"
        details = {"outcome": exit_.outcome.value, "name": task.name, "reason": exit_.reason}
        if exit_.code is not None:
            details["code"] = str(exit_.code)
        self.note("task.ended", task.id, task.cause, **details)
        self.touch(ended)

    def end_unplaced(self, task: Task, outcome: Outcome, reason: str) -> None:
        """Ends a pending task."""
        status = Status(
            task=task.id,
            state=TaskState.REMOVED,
            incarnation=task.status.incarnation,
            at_utc_ms=self.now.utc_ms,
            exit=Exit(outcome=outcome, reason=reason),
        )
        self.finish_task(task.changed(status=status, desired_reason=reason))

    def _release(self, task: Task) -> None:
        assert task.placement is not None
        needs = self._specs.spec(task.spec).resources
        self._usage.count(task.role, needs, -1)
        self._framework(task.framework).held(task.group, task.placement.node, -1)
        before = self._candidates.get(task.placement.node)
        if before is None or task.sequence not in before.tasks:
            return
        ports = before.unheld_ports | (PortSet(task.placement.ports) & before.node.info.ports)
        tasks = before.tasks.delete(task.sequence)
        self._put_candidate(Candidate(before.node, before.free + needs, ports, tasks, before.facts, before.heard))
        self.freed_nodes[task.placement.node] = None

    def forget_ended(self, keep: int, at_most: int) -> None:
        """Drops the oldest records of ended tasks beyond `keep` whose owners have seen them."""
        for _ in range(at_most):
            if len(self._ended) <= keep:
                return
            version, task_id = self._ended.look()
            task = self._tasks[task_id]
            if self.cursor(task.framework) < version:
                return
            self._ended.drop()
            self._forget(task)

    def _forget(self, task: Task) -> None:
        del self._tasks[task.id]
        self._documents.drop(records.TASKS + task.id)
        part = self._framework(task.framework)
        if part.names.get(task.name) == task.id:
            del part.names[task.name]
        if part.latest.get(task.key) == task.id:
            del part.latest[task.key]
            part.groups.change(task.group).pop(task.key, None)
        self._specs.release(task.spec)

    # Nodes

    def put_node(self, node: Node) -> None:
        """Stores a new or changed node, and what is free on it then."""
        known = self._candidates.get(node.id)
        held = known.tasks if known is not None else Map()
        if known is not None:
            self.totals = self.totals - _counted(known.node)
        self.totals = self.totals + _counted(node)
        used, ports = NOTHING, PortSet()
        for task_id in held.values():
            task = self._tasks[task_id]
            used = used + self._specs.spec(task.spec).resources
            ports = ports | PortSet(task.ports)
        free = node.info.resources - used
        if known is not None:
            free = free - known.foreign_use
        facts, heard = (known.facts, known.heard) if known is not None else (None, False)
        self._put_candidate(Candidate(node, free, node.info.ports - ports, held, facts, heard))
        if node.drain_at_utc_ms:
            self.draining = self.draining.set(node.id, node.drain_at_utc_ms)
        else:
            self.draining = _without(self.draining, node.id)
        if known is None:
            self.node_order = tuple(sorted((*self.node_order, node.id)))
        self._documents.put(records.NODES + node.id, node)
        self.nodes_changed = True
        self.freed_nodes[node.id] = None

    def forget_node(self, node_id: str) -> None:
        """Drops a node that counts as gone and holds nothing any more."""
        known = self._candidates.pop(node_id)
        assert known.node.state is NodeState.GONE
        assert not known.tasks
        self.node_order = tuple(one for one in self.node_order if one != node_id)
        self.draining = _without(self.draining, node_id)
        for task_id in [task_id for task_id, where in self._orphans.items() if where == node_id]:
            self.set_orphan(task_id, None)
        self._documents.drop(records.NODES + node_id)
        self.freed_nodes.pop(node_id, None)
        self.assign.pop(node_id, None)
        # Whoever follows changes would look for this node: he looks at all of them again instead.
        self.changes = [Change(node_id)]
        self.nodes_changed = True
        self.forgotten.append(node_id)

    def put_facts(self, node_id: str, facts: NodeFacts | None, *, hello: bool = False) -> None:
        """Notes what a node's engine knows beside the tasks; None: nobody knows. hello: they came with one."""
        known = self._candidates.get(node_id)
        if known is None or (known.facts is facts and known.heard >= hello):
            return
        self._put_candidate(known.with_facts(facts, heard=known.heard or hello))
        self.freed_nodes[node_id] = None
        self._facts_changed = True

    def _put_candidate(self, candidate: Candidate) -> None:
        node_id = candidate.node.id
        self._candidates[node_id] = candidate
        self.changes.append(Change(node_id))

    def set_orphan(self, task_id: str, node_id: str | None) -> None:
        """Notes a task that runs on a node and is not of this state; None: it is gone."""
        if node_id is not None:
            self._orphans = self._orphans.set(task_id, node_id)
        else:
            self._orphans = _without(self._orphans, task_id)

    # Frameworks

    def put_object(self, framework: str, kind: str, object_id: str, stored: StoredObject) -> None:
        part = self._framework(framework)
        of_kind = part.objects.get(kind) or Map()
        part.objects = part.objects.set(kind, of_kind.set(object_id, stored))
        self._documents.put(records.object_key(framework, kind, object_id), stored)

    def delete_object(self, framework: str, kind: str, object_id: str) -> None:
        part = self._framework(framework)
        of_kind = part.objects.get(kind)
        if of_kind is not None and object_id in of_kind:
            part.objects = part.objects.set(kind, of_kind.delete(object_id))
            self._documents.drop(records.object_key(framework, kind, object_id))

    def set_cursor(self, framework: str, cursor: int) -> None:
        part = self._framework(framework)
        if cursor > part.cursor:
            part.cursor = cursor
            self.puts[records.FRAMEWORKS + framework] = records.FrameworkRecord(cursor=cursor)


def _without(index: Map[Any, Any], key: Any) -> Map[Any, Any]:
    return index.delete(key) if key in index else index


def _counted(node: Node) -> Any:
    return node.info.resources if node.state is NodeState.READY else NOTHING
