"""What a node is told to run. Made when it is sent, not when it is decided: the kernel's step need not wait for it,
and for a node without a session it is never made."""

from __future__ import annotations

from collections.abc import Iterable

from orlop.kernel import lifecycle
from orlop.kernel.events import Assign
from orlop.kernel.state import State
from orlop.model.messages import Assignment, Assignments
from orlop.model.tasks import Task


def assignments(effect: Assign) -> Assignments:
    """The message that the effect stands for."""
    state = effect.state
    full = effect.tasks is None
    items = tuple(assignment(state, task) for task in _tasks(state, effect))
    return Assignments(epoch=effect.epoch, revision=state.version, full=full, items=items)


def _tasks(state: State, effect: Assign) -> Iterable[Task]:
    if effect.tasks is not None:
        return (state.tasks[task_id] for task_id in effect.tasks if task_id in state.tasks)
    held = state.candidates[effect.node].tasks if effect.node in state.candidates else {}
    return (state.tasks[task_id] for _, task_id in sorted(held.items()))


def assignment(state: State, task: Task) -> Assignment:
    """What the task's node needs to run it."""
    assert task.placement is not None, "only placed tasks are assigned"
    spec = state.spec_of(task)
    node = state.node(task.placement.node)
    environment = lifecycle.assignable_environment(task, node.info.name if node is not None else "", spec.host_variable)
    ports = task.placement.ports
    for request, port in zip(spec.ports, ports, strict=True):
        for name in request.environment:
            environment[name.replace("{port}", str(port))] = str(port)
    if spec.all_ports_variable and ports:
        environment[spec.all_ports_variable] = ",".join(map(str, ports))
    return Assignment(
        task=task.id,
        framework=task.framework,
        key=task.key,
        name=task.name,
        spec=spec,
        desired=task.desired,
        incarnation=max(1, task.status.incarnation),
        ports=ports,
        environment=environment,
        labels=task.labels,
        reason=task.desired_reason,
    )
