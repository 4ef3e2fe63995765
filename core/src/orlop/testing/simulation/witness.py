"""Sees everything, and says what is wrong: what may never happen, checked when it would.

It knows what is durable from the store's transactions, and what really runs from the nodes. A task may be started only
after its placement is durable; it may be killed only after that is; no incarnation starts twice; of a key only one
task runs, not counting those that a durable decision has given up (their node was gone); no node carries more than it
has, not counting the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from orlop.kernel import records
from orlop.kernel.invariants import check_step
from orlop.kernel.state import State
from orlop.model.documents import from_bytes
from orlop.model.messages import Assignment, Assignments
from orlop.model.resources import Resources
from orlop.model.tasks import Desired, Task, TaskState
from orlop.server import redo
from orlop.store.interface import Delete, Put
from orlop.testing.simulation.store import SimulatedStore
from orlop.testing.simulation.world import Broken, World

KILLED = "it was killed"


class Witness:
    """See the module."""

    def __init__(self, world: World, store: SimulatedStore, capacity: Resources) -> None:
        self._world = world
        self._store = store
        self._capacity = capacity
        self._placed: dict[str, str] = {}
        self._to_stop: set[str] = set()
        self._given_up: set[str] = set()
        self._started: dict[tuple[str, int], str] = {}
        self.running: dict[str, tuple[str, Assignment]] = {}
        store.backend.applied = self._applied

    # What is durable

    def _applied(self, writes: Sequence[Put | Delete]) -> None:
        for write in writes:
            if isinstance(write, Put):
                if write.key.startswith(records.REDO) and write.key.endswith(redo.MARK):
                    entries = self._store.backend.range(records.REDO).entries
                    self._applied(redo.pending({entry.key: entry.value for entry in entries}))
                elif write.key.startswith(records.TASKS):
                    self._task_is_durable(from_bytes(write.value, Task, write.key))

    def _task_is_durable(self, task: Task) -> None:
        if task.placement is not None:
            known = self._placed.setdefault(task.id, task.placement.node)
            if known != task.placement.node:
                raise Broken(f"task {task.id} moved from node {known} to {task.placement.node}")
        if task.stopping or task.state is TaskState.REMOVED:
            self._to_stop.add(task.id)
        elif task.id in self._to_stop:
            raise Broken(f"task {task.id} was to stop, and is wanted again")
        if task.state is TaskState.REMOVED:
            self._given_up.add(task.id)
        elif task.id in self._given_up:
            raise Broken(f"task {task.id} was removed, and is {task.state} again")

    def decided(self, before: State, after: State) -> None:
        """A step of a leader, not durable yet."""
        check_step(before, after)

    # What really happens

    def assigned(self, node: str, message: Assignments) -> None:
        """A node is told what to run."""
        for item in message.items:
            if item.desired in (Desired.STOPPED, Desired.REMOVED):
                if item.task not in self._to_stop:
                    raise Broken(f"node {node} is told to stop task {item.task}, which nobody durably decided")
            elif self._placed.get(item.task) != node:
                raise Broken(f"node {node} is told to run task {item.task}, whose placement there is not durable")

    def started(self, node: str, assignment: Assignment) -> None:
        """A task's program runs."""
        task = assignment.task
        once = (task, assignment.incarnation)
        if once in self._started:
            raise Broken(f"incarnation {assignment.incarnation} of task {task} started twice")
        self._started[once] = node
        for other, (where, one) in self.running.items():
            same = (one.framework, one.key) == (assignment.framework, assignment.key)
            if same and other != task and other not in self._given_up:
                raise Broken(f"{one.framework}/{one.key} runs twice: {other} on {where}, {task} on {node}")
        self.running[task] = (node, assignment)
        self._world.note(node, f"runs {assignment.framework}/{assignment.key} as {task[:6]}")
        used = Resources()
        for other, (where, one) in self.running.items():
            if where == node and other not in self._given_up:
                used = used + one.spec.resources
        short = used.shortage(self._capacity)
        if short is not None:
            raise Broken(f"node {node} runs more than it has: {short}")

    def ended(self, node: str, task: str, why: str) -> None:
        """A task's program has ended."""
        self.running.pop(task, None)
        self._world.note(node, f"{task[:6]} has ended: {why}")
        if why == KILLED and task not in self._to_stop:
            raise Broken(f"task {task} was killed on node {node}, which nobody durably decided")
