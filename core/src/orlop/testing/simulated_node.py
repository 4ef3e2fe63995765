"""A node of the harness: its agent's answers, without an agent. (The simulation's nodes have real ones.)"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs

from orlop.kernel.events import AgentHello, AgentStatuses
from orlop.model.messages import Assignment, Assignments, Hello
from orlop.model.nodes import NodeInfo
from orlop.model.tasks import Desired, Exit, Outcome, Status, TaskState


@attrs.define
class SimulatedNode:
    """A node whose tasks start and stop at once, unless told otherwise.

    starts: called for each new assignment; False leaves the task starting until `Cluster.report_running`.
    stops: the same for stopping.
    """

    info: NodeInfo
    starts: Callable[[Assignment], bool] = lambda _: True
    stops: Callable[[Assignment], bool] = lambda _: True
    statuses: dict[str, Status] = attrs.field(factory=dict)
    assignments: dict[str, Assignment] = attrs.field(factory=dict)
    connected: bool = True

    def hello(self) -> AgentHello:
        """It says who it is, and what it has of each task that it was told of."""
        return AgentHello(session=self._session, hello=Hello(node=self.info, statuses=tuple(self.statuses.values())))

    def report(self, statuses: Iterable[Status]) -> AgentStatuses:
        """It tells of these."""
        return AgentStatuses(session=self._session, node=self.info.id, statuses=tuple(statuses))

    @property
    def _session(self) -> str:
        return f"session-{self.info.id}"

    def assigned(self, message: Assignments, utc_ms: int) -> Iterator[Status]:
        """What becomes of its tasks when it is told what is wanted of them."""
        if not self.connected:
            return
        for item in message.items:
            self.assignments[item.task] = item
            known = self.statuses.get(item.task)
            if known is not None and known.state is TaskState.REMOVED:
                continue
            if item.desired in (Desired.STOPPED, Desired.REMOVED):
                if self.stops(item):
                    yield self.moved(item.task, TaskState.REMOVED, utc_ms, Exit(outcome=Outcome.KILLED))
            elif known is None:
                if item.desired is Desired.PREPARED:
                    state = TaskState.PREPARED
                else:
                    state = TaskState.RUNNING if self.starts(item) else TaskState.STARTING
                yield self.moved(item.task, state, utc_ms)

    def moved(
        self, task_id: str, state: TaskState, utc_ms: int, exit_: Exit | None = None, incarnation: int = 0
    ) -> Status:
        """A task of it is in this state now. incarnation: 0 for the one that it was in."""
        known = self.statuses.get(task_id)
        status = Status(
            task=task_id,
            state=state,
            incarnation=incarnation or (known.incarnation if known else 1),
            sequence=known.sequence + 1 if known else 1,
            at_utc_ms=utc_ms,
            exit=exit_,
            probes=known.probes if known else (),
        )
        self.statuses[task_id] = status
        return status
