"""States as the API shows them: pure functions from kernel values to plain JSON.

Times are RFC 3339 texts in UTC with milliseconds, null where there is none. Quantities of memory and disk are bytes,
bandwidth is bit/s, everything else a decimal number; the unit stands beside each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from orlop.api.interface import FrameworkStatus
from orlop.kernel.planner import dominant_share
from orlop.kernel.state import Candidate, State
from orlop.model.asks import Explanation
from orlop.model.clock import format_utc
from orlop.model.documents import to_plain
from orlop.model.log_entries import LogEntry
from orlop.model.nodes import Node, NodeState
from orlop.model.resources import BITS_KINDS, BYTES_KINDS, Resources
from orlop.model.tasks import Task

#: The largest whole number that JSON readers and writers of ours take; sums over many nodes may go beyond.
LARGEST_NUMBER: Final = 2**63 - 1

#: States of plugins that are wanted and do not run.
BROKEN: Final = ("failed", "configuration-error")

Document = dict[str, Any]


def moment(utc_ms: int | None) -> str | None:
    """An instant; None for none, and for what a node with a broken clock reports."""
    if not utc_ms:
        return None
    try:
        return format_utc(utc_ms)
    except (ValueError, OverflowError, OSError):
        return None


def unit(name: str) -> str:
    """The unit in which `amount` gives quantities of this kind."""
    if name in BYTES_KINDS:
        return "bytes"
    if name in BITS_KINDS:
        return "bit/s"
    return "cores" if name == "cpus" else "units"


def amount(name: str, units: int) -> int | float:
    """Bytes and bit/s as they are, thousandths as a decimal number."""
    bounded = max(-LARGEST_NUMBER, min(units, LARGEST_NUMBER))
    return bounded if name in BYTES_KINDS or name in BITS_KINDS else bounded / 1000


def quantities(resources: Resources) -> Document:
    """name → {amount, unit}."""
    return {name: {"amount": amount(name, units), "unit": unit(name)} for name, units in sorted(resources.items())}


def usage(total: Resources, used: Resources) -> Document:
    """name → {total, used, unit}."""
    names = sorted(total.keys() | used.keys())
    return {
        name: {"total": amount(name, total.get(name)), "used": amount(name, used.get(name)), "unit": unit(name)}
        for name in names
    }


# Tasks


def task_document(state: State, task: Task) -> Document:
    """A task in a list."""
    spec = state.spec_of(task)
    node = state.node(task.node) if task.node is not None else None
    exit_ = task.status.exit
    return {
        "id": task.id,
        "name": task.name,
        "key": task.key,
        "group": task.group,
        "framework": task.framework,
        "state": task.state.value,
        "desired": task.desired.value,
        "live": task.live,
        "unreachable": task.unreachable,
        "node": task.node,
        "node_name": node.info.name if node is not None else None,
        "address": node.info.address if node is not None else None,
        "addresses": task.status.addresses,
        "ports": task.ports,
        "healthy": task.healthy,
        "incarnation": task.status.incarnation,
        "created": moment(task.created_utc_ms),
        "not_before": moment(task.not_before_utc_ms),
        "started": moment(task.started_utc_ms),
        "ended": moment(task.ended_utc_ms),
        "outcome": exit_.outcome.value if exit_ is not None else None,
        "exit_code": exit_.code if exit_ is not None else None,
        "signal": exit_.signal if exit_ is not None else None,
        "reason": (exit_.reason if exit_ is not None else "") or task.desired_reason,
        "message": task.status.message,
        "role": task.role,
        "priority": task.priority,
        "external_id": task.status.external_id,
        "runtime": spec.runtime,
        "resources": quantities(spec.resources),
        "spec": task.spec,
    }


def task_detail(state: State, task: Task) -> Document:
    """One task with all that is known of it."""
    return {
        **task_document(state, task),
        "cause": task.cause,
        "labels": dict(task.labels),
        "environment": dict(task.environment),
        "probes": [to_plain(probe) for probe in task.status.probes],
        "specification": specification(state, task),
    }


def specification(state: State, task: Task) -> Document:
    """What the task is to run: the payload as its framework gave it, quantities with their units."""
    spec = state.spec_of(task)
    return {
        **to_plain(spec),
        "payload": spec.payload,
        "resources": quantities(spec.resources),
    }


def task_brief(task: Task) -> Document:
    """A task where it is mentioned in passing."""
    return {"id": task.id, "name": task.name, "framework": task.framework, "state": task.state.value}


def count_states(tasks: Iterable[Task]) -> dict[str, int]:
    """State → number of tasks, in the order of states."""
    counts = Counter(task.state for task in tasks)
    return {state.value: counts[state] for state in type(next(iter(counts))) if counts[state]} if counts else {}


# Nodes


def node_document(state: State, node: Node) -> Document:
    """A node in a list."""
    info = node.info
    candidate = state.candidates[node.id]
    return {
        "id": node.id,
        "name": info.name,
        "address": info.address,
        "state": node.state.value,
        "state_since": moment(node.state_since_utc_ms),
        "drained": node.drained,
        "drain_at": moment(node.drain_at_utc_ms),
        "away": node.away,
        "attributes": dict(info.attributes),
        "runtimes": info.runtimes,
        "unavailable": dict(info.unavailable),
        "os": info.os,
        "arch": info.arch,
        "version": info.version,
        "resources": usage(info.resources, info.resources - candidate.free - candidate.foreign_use),
        "foreign": foreign_document(candidate),
        "ports": str(info.ports),
        "free_ports": len(candidate.free_ports),
        "tasks": len(candidate.tasks),
    }


def clock_document(ahead_ms: int | None) -> Document:
    """By how many seconds a node's clock is ahead of the leader's; None where nobody knows."""
    return {"clock_ahead_s": ahead_ms / 1000 if ahead_ms is not None else None}


def foreign_document(candidate: Candidate) -> Document | None:
    """Containers that are no tasks of this cluster, and what the live ones may take. None where nobody knows."""
    if candidate.facts is None:
        return None
    containers = candidate.facts.containers.values()
    return {
        "containers": len(containers),
        "running": sum(one.live for one in containers),
        "resources": quantities(candidate.foreign_use),
    }


def node_detail(state: State, node: Node) -> Document:
    """One node, with the tasks that it holds in the order of their asking."""
    held = sorted(state.candidates[node.id].tasks.items())
    return {
        **node_document(state, node),
        "boot_id": node.info.boot_id,
        "held": [task_brief(state.tasks[task_id]) for _, task_id in held],
        "orphans": sorted(task_id for task_id, holder in state.orphans.items() if holder == node.id),
    }


# The cluster


def used_resources(state: State) -> Resources:
    """What tasks take on ready nodes, whose sum `state.totals` is."""
    used: Counter[str] = Counter()
    for candidate in state.candidates.values():
        if candidate.node.state is NodeState.READY:
            used.update(dict(candidate.node.info.resources))
            used.subtract(dict(candidate.free))
            used.subtract(dict(candidate.foreign_use))
    return Resources.of(used)


def foreign_resources(state: State) -> Resources:
    """What containers that are no tasks take on ready nodes."""
    use: Counter[str] = Counter()
    for candidate in state.candidates.values():
        if candidate.node.state is NodeState.READY:
            use.update(dict(candidate.foreign_use))
    return Resources.of(use)


def cluster_document(state: State) -> Document:
    """The state's part of `/v1/cluster`."""
    used, foreign = used_resources(state), foreign_resources(state)
    names = sorted(state.totals.keys() | used.keys() | foreign.keys())
    nodes = list(state.nodes())
    counts = Counter(node.state for node in nodes)
    return {
        "id": state.cluster_id,
        "state_version": state.version,
        "nodes": {one.value: counts[one] for one in NodeState if counts[one]},
        "drained": sum(node.drained for node in nodes),
        "unavailable": [
            {"runtime": runtime, "node": node.id, "node_name": node.info.name, "reason": reason}
            for node in nodes
            if node.state is NodeState.READY
            for runtime, reason in sorted(node.info.unavailable.items())
        ],
        "tasks": count_states(state.tasks.values()),
        "waiting": sum(len(members) for members in state.waiting.values()),
        "resources": {
            "total": {name: amount(name, state.totals.get(name)) for name in names},
            "used": {name: amount(name, used.get(name)) for name in names},
            "foreign": {name: amount(name, units) for name, units in sorted(foreign.items())},
            "units": {name: unit(name) for name in names},
        },
        "orphans": [
            {"task": task_id, "node": node_id, "node_name": node.info.name if (node := state.node(node_id)) else None}
            for task_id, node_id in sorted(state.orphans.items())
        ],
    }


def framework_documents(
    state: State, statuses: Mapping[str, FrameworkStatus], plugins: Sequence[Mapping[str, Any]] = ()
) -> list[Document]:
    """All frameworks: those that run here, and those of which only stored things are left.

    plugins: as `PluginHost.describe` tells of them.
    """
    tasks: dict[str, list[Task]] = {}
    for task in state.tasks.values():
        tasks.setdefault(task.framework, []).append(task)
    return [
        {
            **_status_document(statuses[name] if name in statuses else _without_status(name, plugins, bool(statuses))),
            "name": name,
            "tasks": count_states(tasks.get(name, ())),
            "objects": {kind: len(of_kind) for kind, of_kind in sorted(state.framework(name).objects.items())},
            "behind": max(0, state.version - state.framework(name).cursor),
        }
        for name in sorted(statuses.keys() | state.frameworks.keys())
    ]


def _without_status(name: str, plugins: Sequence[Mapping[str, Any]], others_run: bool) -> FrameworkStatus:
    """Why a framework does not run. One that has never been loaded is known by its plugin's name only."""

    def status(plugin: str, state: str, error: str) -> FrameworkStatus:
        return FrameworkStatus(name=name, plugin=plugin, state=state, error=error)

    named = [one for one in plugins if one["name"] == name and one["state"] != "loaded"]
    for one in [*(one for one in plugins if name in one.get("frameworks", ())), *named]:
        if one["state"] != "loaded":
            return status(one["name"], one["state"], f"plugin {one['name']}: {_first_line(one)}")
        if others_run:
            return status(one["name"], "failed", "it could not be made: the server's log says why")
        return status(one["name"], "waiting", "this server does not lead")
    if broken := ", ".join(one["name"] for one in plugins if one["state"] in BROKEN):
        return status("", "missing", f"no plugin is known to have it; it may be of one that cannot be used: {broken}")
    return status("", "missing", "its plugin is not installed here")


def broken_plugins(plugins: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Those that are wanted and cannot be used, with the first line of the reason."""
    return [
        {"name": one["name"], "state": one["state"], "error": _first_line(one)}
        for one in plugins
        if one["state"] in BROKEN
    ]


def _first_line(plugin: Mapping[str, Any]) -> str:
    return str(plugin.get("error") or "").partition("\n")[0]


def _status_document(status: FrameworkStatus) -> Document:
    return {
        "plugin": status.plugin,
        "state": status.state,
        "error": status.error,
        "failures": status.failures,
        "runs": status.runs,
        "last_run_ms": round(status.last_run_ms, 3),
        "retry_at": moment(status.retry_at_utc_ms),
    }


def role_documents(state: State) -> list[Document]:
    """Every role that has a live task or waits for one. share: the largest part of any one resource (DRF), 0 to 1."""
    live = Counter(task.role for task in state.tasks.values() if task.live)
    waiting: Counter[str] = Counter()
    for key, members in state.waiting.items():
        waiting[key.role] += len(members)
    return [
        {
            "name": role,
            "share": round(dominant_share(state.role_usage.get(role, Resources()).items(), state.totals), 6),
            "used": quantities(state.role_usage.get(role, Resources())),
            "tasks": live[role],
            "waiting": waiting[role],
        }
        for role in sorted({*live, *waiting, "*"})
    ]


# Explanations and events


def explanation_document(explanation: Explanation) -> Document:
    """Why an ask waits; `text` says all of it in one line."""
    return {
        "nodes": explanation.nodes,
        "fits": explanation.fits,
        "ruled_out": [
            {"filter": name, "reason": reason, "nodes": count} for name, reason, count in explanation.ruled_out
        ],
        "note": explanation.note,
        "text": str(explanation),
    }


def event_id(version: int, index: int) -> str:
    """An event's id, as `Last-Event-ID` and `after` take it."""
    return f"{version}-{index}"


def event_document(version: int, index: int, entry: LogEntry) -> Document:
    """One entry of the event log."""
    return {
        "id": event_id(version, index),
        "at": moment(entry.utc_ms),
        "type": entry.type,
        "subject": entry.subject,
        "cause": entry.cause,
        "details": dict(entry.details),
    }
