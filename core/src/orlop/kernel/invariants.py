"""What must hold after every step. Tests run these after each one; a server may, when told to.

`check` looks at all of a state, which takes longer the larger it is. `check_changed` looks at what a step has changed,
and costs what the step has cost.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from immutables import Map

from orlop.kernel import loading, records
from orlop.kernel.state import State
from orlop.model.tasks import STATE_ORDER, Task, TaskState


class InvariantBroken(AssertionError):
    """A bug of the kernel's; the text says which rule broke, and for whom."""


def check(state: State) -> None:
    """No node over capacity by placement; each key at most one live task; all indexes as if made anew."""
    for node_id in state.node_order:
        _check_node(state, node_id)
    _check_keys(state)
    _check_indexes(state)


def check_step(before: State, after: State) -> None:
    """States only move forward; removed is final; an id never changes whom it belongs to."""
    for task_id, task in after.tasks.items():
        _check_move(before.tasks.get(task_id), task)


def check_changed(before: State, after: State, tasks: Iterable[str], nodes: Iterable[str]) -> None:
    """What `check_step` and `check` say of these tasks and nodes, and of the nodes that these tasks are placed on."""
    touched = dict.fromkeys(nodes)
    for task_id in tasks:
        known, task = before.tasks.get(task_id), after.tasks.get(task_id)
        if task is not None:
            _check_move(known, task)
            _check_indexed(after, task)
        touched.update((one.placement.node, None) for one in (known, task) if one is not None and one.placement)
    for node_id in touched:
        if node_id in after.candidates:
            _check_node(after, node_id)
            _check_candidate(after, node_id)


def _check_move(known: Task | None, task: Task) -> None:
    if known is None or known is task:
        return
    if (known.framework, known.key) != (task.framework, task.key):
        raise InvariantBroken(f"task {task.id} changed its identity")
    was = (known.status.incarnation, STATE_ORDER[known.state])
    if (task.status.incarnation, STATE_ORDER[task.state]) < was:
        raise InvariantBroken(f"task {task.id} went back from {known.state} to {task.state}")
    if known.stopping and not task.stopping:
        raise InvariantBroken(f"task {task.id} was to stop, and is wanted again")


def _check_indexed(state: State, task: Task) -> None:
    """As `_check_keys`, with the indexes of live keys and of nodes for all other tasks."""
    live = state.framework(task.framework).live.get(task.key)
    if task.live and live != task.id:
        raise InvariantBroken(f"key {task.key} of {task.framework} has two live tasks: {task.id} and {live}")
    if not task.live and live == task.id:
        raise InvariantBroken(f"task {task.id} has ended, and is listed as live")
    _check_exit(task)
    holds = task.placement is not None and task.state is not TaskState.REMOVED
    candidate = state.candidates.get(task.placement.node) if task.placement is not None else None
    if candidate is not None and (task.sequence in candidate.tasks) != holds:
        raise InvariantBroken(f"task {task.id}, {task.state}, is {'not ' * holds}listed on its node")


def _check_candidate(state: State, node_id: str) -> None:
    found = state.candidates[node_id]
    held = [state.tasks[task_id] for task_id in found.tasks.values()]
    specs = {task.spec: state.spec_of(task) for task in held}
    expected = loading.make_candidate(found.node, held, specs).with_facts(found.facts, heard=found.heard)
    if found != expected:
        raise InvariantBroken(f"node {node_id} is {found}, and should be {expected}")


def _check_exit(task: Task) -> None:
    if task.state is TaskState.REMOVED and task.status.exit is None:
        raise InvariantBroken(f"task {task.id} ended without saying how")


def _check_node(state: State, node_id: str) -> None:
    candidate = state.candidates[node_id]
    used: set[int] = set()
    for task_id in candidate.tasks.values():
        task = state.tasks[task_id]
        both = used & set(task.ports)
        if both:
            raise InvariantBroken(f"ports {sorted(both)} of node {node_id} are held twice")
        used |= set(task.ports)


def _check_keys(state: State) -> None:
    live: dict[tuple[str, str], Task] = {}
    for task in state.tasks.values():
        if task.live:
            other = live.setdefault((task.framework, task.key), task)
            if other is not task:
                raise InvariantBroken(f"key {task.key} of {task.framework} has two live tasks")
        _check_exit(task)


def _check_indexes(state: State) -> None:
    documents = [(records.TASKS + task_id, loading.encode(task)) for task_id, task in state.tasks.items()]
    documents += [(records.NODES + node.id, loading.encode(node)) for node in state.nodes()]
    documents += [(records.SPECS + spec_id, loading.encode(one.spec)) for spec_id, one in state.specs.items()]
    meta = records.Meta(
        cluster_id=state.cluster_id,
        generation=state.generation,
        version=state.version,
        utc_ms=state.utc_ms,
        next_sequence=state.next_sequence,
    )
    documents.append((records.META_KEY, loading.encode(meta)))
    made = loading.load(documents, loading.read_object_plainly)
    assert made is not None
    known = {
        node_id: one.with_facts(state.candidates[node_id].facts, heard=state.candidates[node_id].heard)
        for node_id, one in made.candidates.items()
    }
    made = attrs.evolve(made, candidates=Map(known))
    for name in (
        "node_order",
        "candidates",
        "totals",
        "tasks",
        "specs",
        "waiting",
        "delayed",
        "role_usage",
        "draining",
    ):
        found, expected = getattr(state, name), getattr(made, name)
        if found != expected:
            raise InvariantBroken(f"{name} is {found}, and should be {expected}")
    for name, part in made.frameworks.items():
        own = state.framework(name)
        stripped = attrs.evolve(own, cursor=0, objects=Map())
        if any(getattr(stripped, index) != getattr(part, index) for index in ("latest", "live", "groups", "spread")):
            raise InvariantBroken(f"indexes of framework {name} are wrong: {stripped} should be {part}")
    if {task_id for _, task_id in state.ended.values()} != {task_id for _, task_id in made.ended.values()}:
        raise InvariantBroken("the list of ended tasks is wrong")
