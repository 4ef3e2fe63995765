"""Sees everything, and says what is wrong: what may never happen, checked when it would.

It knows what is durable from the store's transactions, and what really runs from the nodes. A task may be started only
after its placement is durable; it may be killed only after that is, or when its policy lets its node do it alone; no
incarnation starts twice; of a key only one task runs, not counting those that a durable decision has given up (their
node was silent); no node carries more than it has, not counting the same. Of a silent node's tasks, one is given up
only once its partition policy allows it, and one whose policy is to keep it never; no node is blamed for more silence
than there was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orlop.kernel import records
from orlop.kernel.events import Event, NodeSilent
from orlop.kernel.invariants import check, check_step
from orlop.kernel.state import State
from orlop.model.documents import from_bytes
from orlop.model.messages import Assignment, Assignments
from orlop.model.resources import Resources
from orlop.model.tasks import Desired, Outcome, PartitionPolicy, Task, TaskState
from orlop.server import redo
from orlop.store.interface import Delete, Put
from orlop.testing.simulation.network import SILENCE_MS
from orlop.testing.simulation.node import STOPPED_WITHIN_MS
from orlop.testing.simulation.store import SimulatedStore
from orlop.testing.simulation.world import Broken, World

KILLED = "it was killed"
#: Steps between two checks of a whole state, which cost about as much as the step.
FULL_CHECK_EVERY = 8
#: So soon does a state know what has changed on a node, when all is well.
KNOWN_WITHIN_MS = 5_000


def _is_given_up(task: Task) -> bool:
    """Was it lost because its node is silent? What somebody stops on a node that is gone says more than that."""
    exit_ = task.status.exit
    lost = task.state is TaskState.REMOVED and exit_ is not None and exit_.outcome is Outcome.LOST
    return lost and exit_ is not None and re.fullmatch(r"node \S+ is (unreachable|gone)", exit_.reason) is not None


def _is_stopped_in_time(policy: PartitionPolicy) -> bool:
    """Has its node stopped a task before it is replaced, from the last word of its server on?"""
    if policy.stop_after_ms is None or policy.replace_after_ms is None:
        return False
    return SILENCE_MS + policy.stop_after_ms + STOPPED_WITHIN_MS < policy.replace_after_ms


class Witness:
    """See the module."""

    def __init__(self, world: World, store: SimulatedStore, capacity: Resources) -> None:
        self._world = world
        self._store = store
        self._capacity = capacity
        self._steps = 0
        self._placed: dict[str, str] = {}
        self._to_stop: set[str] = set()
        self._given_up: set[str] = set()
        self._stopped_alone: set[str] = set()
        self._started: dict[tuple[str, int], str] = {}
        self._changed_ms: dict[str, int] = {}
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

    def decided(self, before: State, after: State, events: Sequence[Event]) -> None:
        """A step of a leader, not durable yet."""
        check_step(before, after)
        self._steps += 1
        if self._steps % FULL_CHECK_EVERY == 0:
            check(after)
        silences = [event for event in events if isinstance(event, NodeSilent)]
        for event in silences:
            of_node = [one for one in silences if one.node == event.node]
            silent_ms, gone = max(one.silent_ms for one in of_node), any(one.gone for one in of_node)
            for task_id in before.candidate(event.node).tasks.values() if event.node in before.candidates else ():
                task = after.tasks.get(task_id)
                if task is not None and _is_given_up(task):
                    self._may_be_given_up(task, after.spec_of(task).policies.partition, silent_ms, gone)

    def _may_be_given_up(self, task: Task, policy: PartitionPolicy, silent_ms: int, gone: bool) -> None:
        after_ms = policy.replace_after_ms
        if policy.keep:
            raise Broken(f"task {task.id} is to be kept, and is given up")
        if not gone if after_ms is None else silent_ms < after_ms:
            raise Broken(f"task {task.id} is given up after {silent_ms} ms of silence; its policy is {policy}")
        kind = "when its node is gone" if after_ms is None else "at a time of its own"
        self._world.strike(f"a task is given up {kind}")

    def blamed(self, event: NodeSilent, silent_ms: int) -> None:
        """A leader tells its kernel that a node is silent; silent_ms: since it has heard of it, or began to lead."""
        if event.silent_ms > silent_ms:
            raise Broken(f"node {event.node} is blamed for {event.silent_ms} ms of silence, and it was {silent_ms}")

    # What really happens

    def assigned(self, node: str, message: Assignments) -> None:
        """A node is told what to run."""
        for item in message.items:
            if item.desired in (Desired.STOPPED, Desired.REMOVED):
                if item.task not in self._to_stop:
                    raise Broken(f"node {node} is told to stop task {item.task}, which nobody durably decided")
            elif self._placed.get(item.task) != node:
                raise Broken(f"node {node} is told to run task {item.task}, whose placement there is not durable")

    def stopped_alone(self, node: str, assignment: Assignment, alone_ms: int) -> None:
        """A node without a server decides to stop a task; alone_ms: for how long it has been alone."""
        after_ms = assignment.spec.policies.partition.stop_after_ms
        known = assignment.task in self._stopped_alone
        if after_ms is None or (alone_ms < after_ms and not known):
            raise Broken(f"node {node} stops task {assignment.task} by itself after {alone_ms} ms, too early")
        self._stopped_alone.add(assignment.task)
        self._world.strike("a task is stopped by its node alone")

    def started(self, node: str, assignment: Assignment) -> None:
        """A task's program runs."""
        task = assignment.task
        once = (task, assignment.incarnation)
        if once in self._started:
            raise Broken(f"incarnation {assignment.incarnation} of task {task} started twice")
        self._started[once] = node
        self._changed_ms[task] = self._world.now_ms
        if task in self._given_up:
            # Its node cannot know yet. What must never run beside what has replaced it waits for a server's word.
            policy = assignment.spec.policies.partition
            if _is_stopped_in_time(policy):
                raise Broken(f"task {task} starts on node {node}, and was given up; its policy is {policy}")
            self._world.strike("a task is started that was given up")
        for other, (where, one) in self.running.items() if task not in self._given_up else ():
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

    def agrees(self, state: State) -> None:
        """Does the state say what really runs, and where? What has changed just now may not be known yet."""
        said = {
            task.id: state.node(task.node or "") for task in state.tasks.values() if task.state is TaskState.RUNNING
        }
        names = {task: node.info.name if node is not None else "" for task, node in said.items()}
        found = {task: node for task, (node, _) in self.running.items()}
        known_ms = self._world.now_ms - KNOWN_WITHIN_MS
        stopping = {task.id for task in state.tasks.values() if task.live and task.stopping}
        differ = {task for task, _ in names.items() ^ found.items() if self._changed_ms.get(task, 0) <= known_ms}
        differ -= stopping  # each of them may have ended, or still run
        if differ:
            raise Broken(f"the state does not say what runs: {', '.join(sorted(differ))}")

    def ended(self, node: str, task: str, why: str) -> None:
        """A task's program has ended."""
        self.running.pop(task, None)
        self._changed_ms[task] = self._world.now_ms
        self._world.note(node, f"{task[:6]} has ended: {why}")
        if why == KILLED and task not in self._to_stop | self._stopped_alone:
            raise Broken(f"task {task} was killed on node {node}, which nobody durably decided")
