"""Values as Marathon's replies show them.

Members that old clients do not know are sent only when the user has set them: the usual Python client fails on any it
does not know. Unset members are left out, never null.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from orlop.framework import Node, ProbeResult, Task, format_utc, parse_utc
from orlop_marathon import paths, wire
from orlop_marathon.events import mesos_state
from orlop_marathon.groups import Tree
from orlop_marathon.model import App, AppRecord, PortMapping
from orlop_marathon.queries import GroupEmbed
from orlop_marathon.reconciling import config_version, instance_id


class Failure(Protocol):
    """What is kept of an app's last failed task; times as texts."""

    @property
    def app_id(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def task_id(self) -> str: ...
    @property
    def timestamp(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def slave_id(self) -> str: ...


@attrs.frozen(kw_only=True)
class Counts:
    """How many tasks are how. A task without health checks, or without a result yet, is neither of the last two."""

    staged: int = 0
    running: int = 0
    healthy: int = 0
    unhealthy: int = 0


def counts(tasks: Iterable[Task]) -> Counts:
    """Of tasks that have a node. One that starts, is being killed or is unreachable is neither staged nor running."""
    staged = running = healthy = unhealthy = 0
    for task in tasks:
        if task.running:
            running += not task.unreachable
            health = task.healthy if task.status.probes else None
            healthy += health is True
            unhealthy += health is False
        else:
            staged += mesos_state(task) == "TASK_STAGING"
    return Counts(staged=staged, running=running, healthy=healthy, unhealthy=unhealthy)


def app_json(
    record: AppRecord,
    *,
    counts: Counts | None = None,
    deployments: Iterable[str] | None = None,
    tasks: Sequence[Mapping[str, Any]] | None = None,
    last_task_failure: Failure | None = None,
    readiness: Sequence[Mapping[str, Any]] | None = None,
    task_stats: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An app; what is not given is not embedded. deployments: ids."""
    body: dict[str, Any] = wire.write(record.app)
    body["version"] = record.version
    body["versionInfo"] = {
        "lastScalingAt": record.last_scaling_at,
        "lastConfigChangeAt": record.last_config_change_at,
    }
    if counts is not None:
        body["tasksStaged"] = counts.staged
        body["tasksRunning"] = counts.running
        body["tasksHealthy"] = counts.healthy
        body["tasksUnhealthy"] = counts.unhealthy
    if deployments is not None:
        body["deployments"] = [{"id": deployment} for deployment in deployments]
    if tasks is not None:
        body["tasks"] = list(tasks)
    if last_task_failure is not None:
        body["lastTaskFailure"] = failure_json(last_task_failure)
    if readiness is not None:
        body["readinessCheckResults"] = list(readiness)
    if task_stats is not None:
        body["taskStats"] = dict(task_stats)
    return body


def failure_json(failure: Failure) -> dict[str, Any]:
    """`lastTaskFailure`."""
    body = {
        "appId": failure.app_id,
        "host": failure.host,
        "message": failure.message,
        "state": failure.state,
        "taskId": failure.task_id,
        "timestamp": failure.timestamp,
        "version": failure.version,
    }
    return body | ({"slaveId": failure.slave_id} if failure.slave_id else {})


def task_json(task: Task, record: AppRecord | None, node: Node | None) -> dict[str, Any]:
    """A task that has a node. record: of its app, None when it is gone. node: None when it is not known any more."""
    body: dict[str, Any] = {
        "id": task.name or task.id,
        "appId": task.group,
        "host": node.info.name if node is not None else "",
        "slaveId": task.node or "",
        "state": mesos_state(task),
        "ports": list(task.ports),
        "servicePorts": _service_ports(task, record),
        "ipAddresses": _addresses(task, record, node),
        "stagedAt": format_utc(task.placement.at_utc_ms if task.placement else task.created_utc_ms),
        "version": config_version(task),
        "localVolumes": [],
        "role": task.role,
    }
    if task.started_utc_ms is not None:
        body["startedAt"] = format_utc(task.started_utc_ms)
    for name in ("region", "zone"):
        if node is not None and name in node.info.attributes:
            body[name] = node.info.attributes[name]
    if results := [_probe_json(task, probe) for probe in task.status.probes if probe.alive is not None]:
        body["healthCheckResults"] = results
    return body


def _service_ports(task: Task, record: AppRecord | None) -> list[int]:
    """One per port, or more: clients walk through both lists together."""
    known = list(record.app.service_ports) if record is not None else []
    return known + [0] * (len(task.ports) - len(known))


def _addresses(task: Task, record: AppRecord | None, node: Node | None) -> list[dict[str, str]]:
    addresses = task.status.addresses
    if not addresses and node is not None and (record is None or record.app.host_networking):
        addresses = (node.info.address,)
    return [
        {"ipAddress": address, "protocol": "IPv6" if ":" in address else "IPv4"} for address in addresses if address
    ]


def endpoints_text(app: App, tasks: Iterable[tuple[Task, Node]]) -> str:
    """Where the app is reached, for scripts: lines of its id, a service port and each running task's `host:port`.

    Tabs are between and at the end; an app without ports has one line, of hosts. (Marathon up to 1.10.)
    """
    name = "_".join(paths.segments(app.id))
    running = [(task, node) for task, node in tasks if mesos_state(task) == "TASK_RUNNING"]
    rows = [
        (str(port), [_endpoint(app, position, task, node) for task, node in running])
        for position, port in enumerate(app.service_ports)
    ]
    rows = rows or [(" ", [node.info.name for _, node in running])]
    return "".join("\t".join((name, port, *sorted(where), "\n")) for port, where in rows)


def _endpoint(app: App, position: int, task: Task, node: Node) -> str:
    """Of a port that the container alone has, its own address. 0 for a port that the task does not know yet."""
    own = [isinstance(entry, PortMapping) and entry.host_port is None for entry in app.port_entries]
    if own[position] and task.status.addresses:
        return f"{task.status.addresses[0]}:{app.port_mappings[position].container_port}"
    place = position - sum(own[:position])
    known = not own[position] and place < len(task.ports)
    return f"{node.info.name}:{task.ports[place] if known else 0}"


def _probe_json(task: Task, probe: ProbeResult) -> dict[str, Any]:
    body: dict[str, Any] = {
        "alive": bool(probe.alive),
        "consecutiveFailures": probe.consecutive_failures,
        "instanceId": instance_id(task.key),
    }
    for name, utc_ms in (
        ("firstSuccess", probe.first_success_utc_ms),
        ("lastSuccess", probe.last_success_utc_ms),
        ("lastFailure", probe.last_failure_utc_ms),
    ):
        if utc_ms is not None:
            body[name] = format_utc(utc_ms)
    if probe.last_failure_cause:
        body["lastFailureCause"] = probe.last_failure_cause
    return body


# --- statistics ---


def task_stats_json(record: AppRecord, tasks: Sequence[Task], now_utc_ms: int) -> dict[str, Any]:
    """`taskStats`: four ways to look at the app's tasks; a way that finds none is left out."""
    scaled_utc_ms = parse_utc(record.last_scaling_at)
    current = record.last_config_change_at
    ways = {
        "startedAfterLastScaling": [task for task in tasks if task.created_utc_ms >= scaled_utc_ms],
        "withLatestConfig": [task for task in tasks if config_version(task) == current],
        "withOutdatedConfig": [task for task in tasks if config_version(task) != current],
        "totalSummary": list(tasks),
    }
    return {name: {"stats": _stats(found, now_utc_ms)} for name, found in ways.items() if found}


def _stats(tasks: Sequence[Task], now_utc_ms: int) -> dict[str, Any]:
    found = counts(tasks)
    body: dict[str, Any] = {"counts": attrs.asdict(found)}
    lives_s = [
        max(0, now_utc_ms - task.started_utc_ms) / 1000
        for task in tasks
        if task.running and task.started_utc_ms is not None
    ]
    if lives_s:
        average, median = statistics.fmean(lives_s), statistics.median_high(lives_s)
        body["lifeTime"] = {"averageSeconds": average, "medianSeconds": median}
    return body


# --- groups ---


def group_json(
    tree: Tree,
    path: str,
    embed: GroupEmbed,
    app: Callable[[AppRecord, frozenset[str]], Mapping[str, Any]],
) -> dict[str, Any]:
    """A group and all below; what is not embedded is an empty list. app: how an app is shown, with what is embedded."""
    group = tree.group(path)
    apps = tree.apps_in(path) if embed.apps else ()
    groups = tree.groups_in(path) if embed.groups else ()
    body: dict[str, Any] = {
        "id": path,
        "apps": [app(tree.apps[one], embed.app) for one in apps],
        "pods": [],
        "groups": [group_json(tree, one, embed, app) for one in groups],
        "dependencies": list(group.dependencies),
        "version": group.version,
    }
    if group.enforce_role is not None and paths.parent(path) == paths.ROOT and path != paths.ROOT:
        body["enforceRole"] = group.enforce_role
    return body
