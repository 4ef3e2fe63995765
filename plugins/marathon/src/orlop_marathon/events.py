"""What is said on Marathon's event bus: the JSON of each event (Marathon 1.11, `core.event`).

An event goes to the followers that are connected at that moment, after the commit that it tells of; it is not
stored, has no id and is not repeated. The names are Marathon's, and there are no others: clients fail on unknown
ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orlop.framework import Emit, Outcome, Task, TaskState, View, format_utc
from orlop_marathon import wire
from orlop_marathon.checks import HealthCheck
from orlop_marathon.deployments import ActionKind, Deployment, action_json, plan_json
from orlop_marathon.model import AppRecord
from orlop_marathon.reconciling import config_version, instance_id

Event = dict[str, Any]

_STATES = {
    TaskState.PENDING: "TASK_STAGING",
    TaskState.ASSIGNED: "TASK_STAGING",
    TaskState.PREPARING: "TASK_STAGING",
    TaskState.PREPARED: "TASK_STAGING",
    TaskState.STARTING: "TASK_STARTING",
    TaskState.RUNNING: "TASK_RUNNING",
    TaskState.STOPPING: "TASK_KILLING",
}
_ENDS = {
    Outcome.FINISHED: "TASK_FINISHED",
    Outcome.FAILED: "TASK_FAILED",
    Outcome.KILLED: "TASK_KILLED",
    Outcome.ERROR: "TASK_ERROR",
    Outcome.LOST: "TASK_LOST",
    Outcome.WITHDRAWN: "TASK_KILLED",
}
_CONDITIONS = {
    "TASK_STAGING": "Staging",
    "TASK_STARTING": "Starting",
    "TASK_RUNNING": "Running",
    "TASK_KILLING": "Killing",
    "TASK_UNREACHABLE": "Unreachable",
    "TASK_FINISHED": "Finished",
    "TASK_FAILED": "Failed",
    "TASK_KILLED": "Killed",
    "TASK_ERROR": "Error",
    "TASK_LOST": "Gone",
}


def mesos_state(task: Task) -> str:
    """The state as Mesos named it, `TASK_RUNNING`."""
    if not task.live:
        return _ENDS[task.status.exit.outcome] if task.status.exit is not None else "TASK_LOST"
    if task.unreachable:
        return "TASK_UNREACHABLE"
    return "TASK_KILLING" if task.stopping else _STATES.get(task.state, "TASK_STAGING")


def event(kind: str, utc_ms: int, **members: Any) -> Event:
    return {"eventType": kind, "timestamp": format_utc(utc_ms), **members}


def say(kind: str, utc_ms: int, **members: Any) -> Emit:
    """An event for the bus alone; the event log has the kernel's own entry for it."""
    return Emit("", live=event(kind, utc_ms, **members))


def task_events(view: View, task: Task, *, health_changed: bool) -> list[Emit]:
    """What is said when a task changed."""
    now = view.now.utc_ms
    state = mesos_state(task)
    node = view.node(task.node)
    host = node.info.name if node is not None else ""
    path, version = task.group, config_version(task)
    instance = instance_id(task.key)
    if health_changed:
        alive = task.healthy is True
        return [
            say(
                "instance_health_changed_event", now,
                instanceId=instance, runSpecId=path, healthy=alive, runSpecVersion=version,
            ),
            say(
                "health_status_changed_event", now,
                appId=path, instanceId=instance, taskId=task.name, version=version, alive=alive,
            ),
        ]  # fmt: skip
    ended = task.status.exit
    message = ended.reason if ended is not None else task.status.message or task.desired_reason
    addresses = [{"ipAddress": address, "protocol": "IPv4"} for address in task.status.addresses]
    return [
        say(
            "status_update_event", now,
            slaveId=task.node or "", taskId=task.name, taskStatus=state, message=message, appId=path, host=host,
            ipAddresses=addresses, ports=list(task.ports), version=version,
        ),
        say(
            "instance_changed_event", now,
            instanceId=instance, condition=_CONDITIONS[state], runSpecId=path, agentId=task.node or "", host=host,
            runSpecVersion=version,
        ),
    ]  # fmt: skip


def check_failed(view: View, task: Task, check: HealthCheck) -> Emit:
    """One more failure of a health check that counts. `taskId` holds the instance's id, as there."""
    return say(
        "failed_health_check_event", view.now.utc_ms,
        appId=task.group, taskId=instance_id(task.key), instanceId=instance_id(task.key),
        healthCheck=wire.write(check),
    )  # fmt: skip


def checks_added(view: View, record: AppRecord) -> list[Emit]:
    """The app's configuration is checked from now on."""
    return [
        say(
            "add_health_check_event", view.now.utc_ms,
            appId=record.app.id, version=record.version, healthCheck=wire.write(check),
        )
        for check in record.app.health_checks
    ]  # fmt: skip


def checks_removed(view: View, record: AppRecord) -> list[Emit]:
    """The app's configuration is not checked any more."""
    return [say("remove_health_check_event", view.now.utc_ms, appId=record.app.id) for _ in record.app.health_checks]


def unhealthy_kill(view: View, task: Task, reason: str) -> Emit:
    node = view.node(task.node)
    return say(
        "unhealthy_instance_kill_event", view.now.utc_ms,
        appId=task.group, taskId=task.name, instanceId=instance_id(task.key), version=config_version(task),
        reason=reason, host=node.info.name if node is not None else "", slaveId=task.node or "",
    )  # fmt: skip


def plan(deployment: Deployment) -> dict[str, Any]:
    """`plan` of deployment events. `original` and `target` are there for clients from before Marathon 1.8."""
    group = {"id": "/", "apps": [], "groups": [], "pods": [], "dependencies": [], "version": deployment.version}
    return {
        "id": deployment.id,
        "steps": plan_json(deployment),
        "version": deployment.version,
        "original": group,
        "target": group,
    }


def _step(deployment: Deployment) -> dict[str, Any]:
    return {"actions": [action_json(action) for action in deployment.current_actions]}


def step_begins(
    view: View, deployment: Deployment, before: Mapping[str, AppRecord], after: Mapping[str, AppRecord]
) -> list[Emit]:
    """The present step begins, and with it the health checks of what is started and restarted.

    before: apps as they were, for what is stopped. after: as they shall be.
    """
    said = [say("deployment_info", view.now.utc_ms, plan=plan(deployment), currentStep=_step(deployment))]
    for action in deployment.current_actions:
        if action.action is ActionKind.STOP and action.app in before:
            said += checks_removed(view, before[action.app])
        elif action.action in (ActionKind.START, ActionKind.RESTART) and action.app in after:
            said += checks_added(view, after[action.app])
    return said


def step_done(view: View, deployment: Deployment, before: Mapping[str, AppRecord]) -> list[Emit]:
    """The present step is done. before: apps as they were before the deployment, for what was restarted."""
    said = [say("deployment_step_success", view.now.utc_ms, plan=plan(deployment), currentStep=_step(deployment))]
    for action in deployment.current_actions:
        if action.action is ActionKind.STOP:
            said.append(say("app_terminated_event", view.now.utc_ms, appId=action.app))
        elif action.action is ActionKind.RESTART and action.app in before:
            said += checks_removed(view, before[action.app])
    return said


def deployment_ended(view: View, deployment: Deployment, *, success: bool, reason: str = "") -> Emit:
    """The end of a deployment; unlike the others it is in the event log too."""
    kind = "deployment_success" if success else "deployment_failed"
    more = {} if success else {"reason": reason}
    live = event(kind, view.now.utc_ms, id=deployment.id, plan=plan(deployment), **more)
    details: Mapping[str, str] = {"version": deployment.version, **more}
    return Emit(kind, subject=deployment.id, details=details, live=live)


def group_changed(view: View, group: str, version: str) -> Emit:
    return say("group_change_success", view.now.utc_ms, groupId=group, version=version)


def app_posted(view: View, client_ip: str, uri: str, app: Mapping[str, Any]) -> Emit:
    return say("api_post_event", view.now.utc_ms, clientIp=client_ip, uri=uri, appDefinition=app)
