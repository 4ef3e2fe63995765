"""What is kept of an app's last failed task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from orlop.framework import Outcome, Task, View, format_utc
from orlop_marathon.events import mesos_state
from orlop_marathon.reconciling import config_version

#: How a task must have ended to be remembered. One that finished did not fail.
REMEMBERED: Final = frozenset({Outcome.FAILED, Outcome.ERROR, Outcome.LOST})


@attrs.frozen(kw_only=True)
class TaskFailure:
    """The stored object `failure`, by the app's id: `lastTaskFailure` of the API.

    state: as Mesos named it. task_id: the external name. timestamp: of the end. version: of the configuration.
    """

    app_id: str
    host: str
    message: str
    state: str
    task_id: str
    timestamp: str
    version: str
    slave_id: str = ""


def of_ended(view: View, ended: Iterable[Task], known: TaskFailure | None) -> TaskFailure | None:
    """The latest failure among ended tasks, if it is later than the known one."""
    failed = [task for task in ended if task.status.exit is not None and task.status.exit.outcome in REMEMBERED]
    failed = [task for task in failed if not task.desired_reason or mesos_state(task) == "TASK_LOST"]
    if not failed:
        return None
    last = max(failed, key=lambda task: (task.ended_utc_ms or 0, task.sequence))
    assert last.status.exit is not None, "only such tasks were chosen"
    made = _failure(view, last, last.status.exit.reason, mesos_state(last), last.ended_utc_ms or view.now.utc_ms)
    if known is not None and (known.task_id == made.task_id or known.timestamp > made.timestamp):
        return None
    return made


def of_unhealthy(view: View, task: Task, cause: str) -> TaskFailure:
    """A task that is killed now because its health checks fail."""
    message = f"Task was killed since health check failed. Reason: {cause}"
    return _failure(view, task, message, "TASK_KILLED", view.now.utc_ms)


def _failure(view: View, task: Task, message: str, state: str, utc_ms: int) -> TaskFailure:
    node = view.node(task.node)
    return TaskFailure(
        app_id=task.group,
        host=node.info.name if node is not None else "",
        message=message,
        state=state,
        task_id=task.name,
        timestamp=format_utc(utc_ms),
        version=config_version(task),
        slave_id=task.node or "",
    )
