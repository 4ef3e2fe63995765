"""What a status means for a task: states move forward, facts are kept, nothing is invented."""

from __future__ import annotations

import attrs

from orlop.kernel.state import State
from orlop.model.tasks import Desired, Exit, Outcome, PartitionPolicy, Status, Task, TaskState


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
