"""The whole state of the cluster as one immutable value.

Everything is a persistent map, so that a snapshot costs nothing, an overlay is just another value, and discarding
one is forgetting it. Some members are stored (nodes, tasks, specs, objects, cursors); the others are indexes derived
from them, kept by `Draft` and checked by `invariants`.

Maps with text keys iterate in an order that differs from process to process. Whoever decides anything by iterating
sorts first, or uses the maps keyed by task sequence, so that the same history gives the same decisions everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import attrs
from immutables import Map

from orlop.model.facts import NodeFacts
from orlop.model.nodes import Node
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.tasks import Spec, Task

NOTHING: Final = Resources()
#: Of these many changes of candidates a state knows the nodes; whoever has seen none of them looks at all nodes.
CHANGES_KEPT: Final = 500


@attrs.frozen(kw_only=True)
class StoredObject:
    """A framework's object. document: as stored, without its version. value: of the framework's class, None when
    the framework is not installed."""

    document: Mapping[str, Any]
    version: int
    value: Any = None


@attrs.frozen(kw_only=True)
class FrameworkState:
    """One framework's objects, and indexes of its tasks.

    cursor: the state's version that it has acted on. latest: key → task id, ended ones included while recorded.
    groups: group → keys. spread: group → node → how many of the group's tasks hold resources there.
    names: external name → task id.
    """

    name: str
    cursor: int = 0
    objects: Map[str, Map[str, StoredObject]] = Map()
    latest: Map[str, str] = Map()
    live: Map[str, str] = Map()
    groups: Map[str, Map[str, None]] = Map()
    spread: Map[str, Map[str, int]] = Map()
    names: Map[str, str] = Map()


@attrs.frozen
class Candidate:
    """A node as a place for tasks: what it is, what is free on it, what it holds.

    free: beside its tasks and its foreign containers. Below zero where the node shrank under its tasks, or where
    somebody else has taken what they need. unheld_ports: of its ranges, those that no task holds.
    tasks: those placed here and not removed, by sequence.
    heard: has its agent said hello to this server? Before, nobody knows what else is on it now. Memory only.
    facts: what its engine knows beside the tasks; None until its agent has told, and without an engine. Memory only.
    """

    node: Node
    free: Resources
    unheld_ports: PortSet
    tasks: Map[int, str] = Map()
    facts: NodeFacts | None = None
    heard: bool = False

    @property
    def foreign_use(self) -> Resources:
        """What containers take that are no tasks of this cluster, as far as that is known."""
        return self.facts.foreign_use if self.facts is not None else NOTHING

    @property
    def free_ports(self) -> PortSet:
        """Of its ranges, those that no task holds, and no foreign container."""
        taken = self.facts.foreign_ports if self.facts is not None else None
        return self.unheld_ports - taken if taken else self.unheld_ports

    def with_facts(self, facts: NodeFacts | None, *, heard: bool) -> Candidate:
        """The same node, of which something else is known."""
        use = facts.foreign_use if facts is not None else NOTHING
        free = self.free + self.foreign_use - use
        return Candidate(self.node, free, self.unheld_ports, self.tasks, facts, heard)


class Change:
    """A change of a node's candidate. Told from others by identity, so that a change that was never committed is never
    taken for another one."""

    __slots__ = ("node_id",)

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id


@attrs.frozen(kw_only=True)
class SpecRecord:
    """A spec and how many recorded tasks refer to it; unreferenced ones are removed."""

    spec: Spec
    references: int = 0


class WaitingKey(NamedTuple):
    """Asks with equal keys are identical as far as placement goes. labels: sorted."""

    framework: str
    group: str
    spec: str
    role: str
    priority: int
    labels: tuple[tuple[str, str], ...] = ()


def waiting_key(task: Task) -> WaitingKey:
    """The group of identical asks that a pending task waits in."""
    labels = tuple(sorted(task.labels.items()))
    return WaitingKey(task.framework, task.group, task.spec, task.role, task.priority, labels)


@attrs.frozen(kw_only=True)
class State:
    """See the module.

    version: grows by one with each committed batch; the event log, cursors and assignments count in it.
    totals: of all ready nodes. next_sequence: of the next task; a task's sequence is its place in the order of asking.
    waiting: identical asks that could not be placed yet: sequence → task id.
    following: those that may find a place where another task is put; memory only.
    delayed: pending tasks whose time has not come: sequence → (UTC ms, task id).
    ended: recorded ended tasks in the order of their ends: number → (version of the end, task id).
    role_usage: what each role's placed tasks take.
    next_due_utc_ms: no delayed task is due before; 0 without any. draining: node → when what runs there is stopped.
    orphans: task id → node, of tasks that run there and
    are not of this state; memory only. changes: the latest ones of candidates, the newest last; memory only.
    """

    cluster_id: str
    generation: int = 1
    version: int = 0
    utc_ms: int = 0
    node_order: tuple[str, ...] = ()
    candidates: Map[str, Candidate] = Map()
    totals: Resources = NOTHING
    tasks: Map[str, Task] = Map()
    next_sequence: int = 1
    specs: Map[str, SpecRecord] = Map()
    frameworks: Map[str, FrameworkState] = Map()
    waiting: Map[WaitingKey, Map[int, str]] = Map()
    following: Map[WaitingKey, None] = Map()
    delayed: Map[int, tuple[int, str]] = Map()
    ended: Map[int, tuple[int, str]] = Map()
    ended_oldest: int = 1
    ended_next: int = 1
    role_usage: Map[str, Resources] = Map()
    orphans: Map[str, str] = Map()
    next_due_utc_ms: int = 0
    draining: Map[str, int] = Map()
    changes: tuple[Change, ...] = attrs.field(default=(), eq=False, repr=False)

    @property
    def due_utc_ms(self) -> int:
        """When the kernel has something to do by time alone; 0 for never."""
        return min((due for due in (self.next_due_utc_ms, *self.draining.values()) if due), default=0)

    def spec_of(self, task: Task) -> Spec:
        """The task's spec; every recorded task has one."""
        return self.specs[task.spec].spec

    def recorded_task(self, task_id: str) -> Task:
        """Raises KeyError."""
        return self.tasks[task_id]

    def spec(self, spec_id: str) -> Spec:
        """Raises KeyError."""
        return self.specs[spec_id].spec

    def node(self, node_id: str) -> Node | None:
        """The node, None when there is none of that id."""
        found = self.candidates.get(node_id)
        return found.node if found else None

    def candidate(self, node_id: str) -> Candidate:
        """A node as a place for tasks. Raises KeyError."""
        return self.candidates[node_id]

    def nodes(self) -> Iterator[Node]:
        """All nodes, in the order of their ids."""
        return (self.candidates[node_id].node for node_id in self.node_order)

    def framework(self, name: str) -> FrameworkState:
        """The framework's part; an empty one when it has nothing yet."""
        return self.frameworks.get(name) or FrameworkState(name=name)

    def group_tasks(self, framework: str, group: str) -> Iterator[Task]:
        """The latest task of each key of a group, in the order of keys."""
        owner = self.framework(framework)
        return (self.tasks[owner.latest[key]] for key in sorted(owner.groups.get(group, ())))

    def group_size(self, framework: str, group: str) -> int:
        """How many keys the group has."""
        return len(self.framework(framework).groups.get(group, ()))

    def holding(self, framework: str, group: str) -> Callable[[str], int]:
        """Node → how many of the group's tasks hold resources there."""
        counts: Mapping[str, int] = self.framework(framework).spread.get(group) or {}
        return lambda node_id: counts.get(node_id, 0)
