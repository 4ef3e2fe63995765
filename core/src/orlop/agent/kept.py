"""Tasks that are kept (`Policies.keep_ended`): what a runtime's news of one mean. Pure.

Theory of operation. Such a task is as long as what it runs in: a container that others start and stop. The end of a run
makes it prepared again, and only the removal of its container ends it, which is no loss. Its runs are counted here,
each end is the beginning of the next incarnation: a runtime knows what it runs in, and not how often it was started.
The one start that is the agent's own is the first, of a task that is to run; who has run has been started.
"""

from __future__ import annotations

import attrs

from orlop.agent.runtimes.interface import Phase, Report
from orlop.agent.task_record import TaskRecord
from orlop.model.messages import Assignment
from orlop.model.tasks import STATE_ORDER, Desired, Exit, Outcome, Status, TaskState


@attrs.frozen
class RunOver:
    """A run has ended; the task is prepared again. record: of the next incarnation. exit: of the run."""

    record: TaskRecord
    exit: Exit | None


@attrs.frozen
class Over:
    """The task has ended. exit: how; None when nobody has seen it."""

    record: TaskRecord
    exit: Exit | None


@attrs.frozen
class StartDue:
    """It was made by an agent that has gone since, and is still to be started."""


def meaning(record: TaskRecord, report: Report) -> RunOver | Over | StartDue | Report | None:
    """What a report of a live kept task comes to. A `Report`: it is there, and so it is with it; None: no news."""
    known = record.status
    report = attrs.evolve(report, incarnation=known.incarnation)
    if report.phase is Phase.ENDED:
        if report.remains and not record.to_stop:
            return _run_over(record, report)
        if report.message:
            record = attrs.evolve(record, status=attrs.evolve(known, message=report.message))
        return Over(record, _of_removal(report.exit))
    if record.to_stop:
        return report if report.phase is Phase.RUNNING else None
    if report.phase is Phase.PREPARING and report.external_id:
        if record.assignment.desired is Desired.RUNNING and not _has_run(known):
            return StartDue()
        return attrs.evolve(report, phase=Phase.PREPARED)
    return report


def is_behind(record: TaskRecord, assignment: Assignment) -> bool:
    """Does the server know of more runs? They were told to it, and the agent died before it had written that down."""
    return record.kept and assignment.incarnation > record.status.incarnation


def exit_of_missing(record: TaskRecord) -> Exit:
    """Of a kept task whose container was made, and is not there: somebody has removed it."""
    return record.status.exit or Exit(outcome=Outcome.KILLED, reason="its container was removed")


def _run_over(record: TaskRecord, report: Report) -> RunOver | None:
    known = record.status
    if known.state is TaskState.PREPARED and known.exit == report.exit:
        return None
    status = attrs.evolve(
        known,
        incarnation=known.incarnation + 1,
        external_id=report.external_id or known.external_id,
        message="",
        addresses=(),
    )
    return RunOver(attrs.evolve(record, status=status), report.exit)


def _has_run(status: Status) -> bool:
    return status.incarnation > 1 or STATE_ORDER[status.state] > STATE_ORDER[TaskState.STARTING]


def _of_removal(exit_: Exit | None) -> Exit | None:
    """Whoever removes what a kept task runs in ends the task, which is no loss."""
    if exit_ is not None and exit_.outcome is Outcome.LOST:
        return Exit(outcome=Outcome.KILLED, reason=exit_.reason)
    return exit_
