"""How a task begins, and what a status means for it: states move forward, facts are kept, nothing is invented."""

from __future__ import annotations

import hashlib

import attrs

from orlop.kernel.state import State
from orlop.model.asks import Request
from orlop.model.tasks import Desired, Exit, Outcome, PartitionPolicy, Status, Task, TaskState


def task_id(cluster_id: str, framework: str, request: Request, previous: str, utc_ms: int, sequence: int) -> str:
    """The id of the task that a request makes: 20 hexadecimal digits.

    previous: the id of the key's last task, empty without one. One that is to run once has the same id each time it is
    asked for.
    """
    made_of = (cluster_id, framework, request.key)
    return _hash(*made_of) if request.once else _hash(*made_of, previous, str(utc_ms), str(sequence))


def _hash(*made_of: str) -> str:
    return hashlib.sha256("\0".join(made_of).encode(errors="surrogatepass")).hexdigest()[:20]


def asked_for(framework: str, request: Request, task_id: str, utc_ms: int, sequence: int) -> Task:
    """The pending task that a request makes."""
    return Task(
        id=task_id,
        framework=framework,
        key=request.key,
        spec=request.spec_id,
        sequence=sequence,
        group=request.group,
        role=request.role,
        priority=request.priority,
        name=request.name or task_id,
        environment=request.environment,
        labels=request.labels,
        created_utc_ms=utc_ms,
        not_before_utc_ms=request.not_before_utc_ms,
        cause=request.cause,
        desired=request.desired,
        wait_ms=request.wait_ms,
        status=Status(task=task_id, state=TaskState.PENDING, incarnation=0, at_utc_ms=utc_ms),
    )


def observe(task: Task, status: Status, utc_ms: int) -> Task | None:
    """The task after this status of its node; None when the status is not news.

    A status of an ended incarnation carries its exit; one without is reported as lost, never as success.
    """
    if not status.advances(task.status):
        return None
    if status.state in (TaskState.ENDED, TaskState.REMOVED) and status.exit is None:
        known = task.status.exit if task.status.incarnation == status.incarnation else None
        exit_ = known or Exit(outcome=Outcome.LOST, reason="its end was not observed")
        status = attrs.evolve(status, exit=exit_)
    changes: dict[str, object] = {"status": status, "unreachable": False}
    ended = status.state in (TaskState.ENDED, TaskState.REMOVED)
    newer = task.status.incarnation != status.incarnation
    if status.state is TaskState.RUNNING:
        began = newer or task.state is not TaskState.RUNNING
    else:
        began = ended and (newer or task.started_utc_ms is None) and _has_run(status.exit)
    if began:
        changes["started_utc_ms"] = utc_ms
    if ended and task.ended_utc_ms is None:
        changes["ended_utc_ms"] = utc_ms
    if status.state is TaskState.REMOVED:
        changes["desired"] = Desired.REMOVED
    return task.changed(**changes)


def _has_run(exit_: Exit | None) -> bool:
    """Of what ended before its start was told: a node reports the newest state alone."""
    return exit_ is not None and (exit_.code is not None or exit_.signal is not None)


def stop(task: Task, reason: str) -> Task | None:
    """The placed task with its stop wished for; None when it is wished for already."""
    if task.state is TaskState.ENDED:
        wanted = Desired.REMOVED
    elif task.stopping:
        return None
    else:
        wanted = Desired.STOPPED
    if task.desired is wanted:
        return None
    return task.changed(desired=wanted, desired_reason=reason)


def is_lost(policy: PartitionPolicy, gone: bool, silent_ms: int) -> bool:
    """Does a task count as lost when its node is silent, or gone?"""
    if policy.keep:
        return False
    return gone if policy.replace_after_ms is None else silent_ms >= policy.replace_after_ms


def times_of_loss(state: State, node_id: str) -> set[int]:
    """Milliseconds of the node's silence at which tasks of it count as lost that have a time of their own for it."""
    if state.node(node_id) is None:
        return set()
    policies = (state.spec_of(state.tasks[task]).policies for task in state.candidate(node_id).tasks.values())
    return {one.partition.replace_after_ms for one in policies if one.partition.replace_after_ms is not None}


def assignable_environment(task: Task, host_name: str, host_variable: str) -> dict[str, str]:
    """Variables that the control plane gives a task: its own, then who and where it is."""
    environment = dict(task.environment)
    environment.setdefault("ORLOP_TASK_ID", task.id)
    if host_variable:
        environment[host_variable] = host_name
    return environment
