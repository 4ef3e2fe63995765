"""What a node knows of one task, on disk before anything is started."""

from __future__ import annotations

import attrs

from orlop.model.messages import Assignment
from orlop.model.tasks import STATE_ORDER, Desired, Status, TaskState


@attrs.frozen(kw_only=True)
class TaskRecord:
    """What the node knows of one task. generation, revision: of the assignment, to tell orphans from removed ones.

    alone: why the node has stopped it by itself, while no server was there; nothing takes that back.
    """

    assignment: Assignment
    generation: int
    revision: int
    status: Status
    acknowledged: int = 0
    orphan: bool = False
    alone: str = ""

    @property
    def live(self) -> bool:
        return STATE_ORDER[self.status.state] < STATE_ORDER[TaskState.ENDED]

    @property
    def unacknowledged(self) -> bool:
        """Has the server yet to confirm its last status?"""
        return self.status.sequence > self.acknowledged

    @property
    def to_stop(self) -> bool:
        return bool(self.alone) or self.assignment.desired in (Desired.STOPPED, Desired.REMOVED)

    @property
    def kept(self) -> bool:
        return self.assignment.spec.policies.keep_ended

    @property
    def waits_prepared(self) -> bool:
        """Is it prepared, and somebody else's business to start?"""
        return self.kept and self.status.state is TaskState.PREPARED

    @property
    def stop_reason(self) -> str:
        return self.alone or self.assignment.reason
