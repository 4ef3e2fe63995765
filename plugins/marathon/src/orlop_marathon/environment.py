"""Variables of a task's environment that are the same for all tasks of one version of an app (Marathon 1.11).

Ports of the node are known only when a task is placed: they come from the spec's port requests (see `specs`).
"""

from __future__ import annotations

import re
from typing import Final

from orlop_marathon.model import App, AppRecord, PortDefinition, PortMapping

#: Labels with longer names or values get no variable.
LONGEST_LABEL_NAME: Final = 492
LONGEST_LABEL_VALUE: Final = 511
#: Ports of containers that asked for any are numbered from here.
FIRST_GENERATED_PORT: Final = 1025

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_]+")


def application(record: AppRecord, enforce_group_role: bool | None = None) -> dict[str, str]:
    """`MARATHON_APP_*`. enforce_group_role: None when nobody said."""
    app = record.app
    found = {
        "MARATHON_APP_ID": app.id,
        "MARATHON_APP_VERSION": record.version,
        "MARATHON_APP_RESOURCE_CPUS": repr(float(app.cpus)),
        "MARATHON_APP_RESOURCE_MEM": repr(float(app.mem)),
        "MARATHON_APP_RESOURCE_DISK": repr(float(app.disk)),
        "MARATHON_APP_RESOURCE_GPUS": str(app.gpus),
    }
    if app.uses_docker and app.container and app.container.docker:
        found["MARATHON_APP_DOCKER_IMAGE"] = app.container.docker.image
    if enforce_group_role is not None:
        found["MARATHON_APP_ENFORCE_GROUP_ROLE"] = str(enforce_group_role).upper()
    labels = {
        _UNSAFE.sub("_", name).upper(): value
        for name, value in app.labels.items()
        if len(name) <= LONGEST_LABEL_NAME and len(value) <= LONGEST_LABEL_VALUE
    }
    found["MARATHON_APP_LABELS"] = " ".join(labels)
    found.update((f"MARATHON_APP_LABEL_{name}", value.replace("\0", "")) for name, value in labels.items())
    return found


def own(app: App) -> dict[str, str]:
    """The app's `env`. References to secrets are left out."""
    return {name: value for name, value in app.env.items() if isinstance(value, str)}


def port_names(app: App, position: int, prefix: str) -> tuple[str, ...]:
    """Names of the variables that hold the port of this entry; `{port}` in a name stands for the port itself."""
    entry = app.port_entries[position]
    requested = entry.port if isinstance(entry, PortDefinition) else entry.container_port
    names = [f"{prefix}PORT"] if position == _first_listed(app) else []
    names += [f"{prefix}PORT{position}", f"{prefix}PORT_{requested or '{port}'}"]
    if entry.name:
        names.append(f"{prefix}PORT_{entry.name.upper()}")
    return tuple(names)


def has_host_port(entry: PortDefinition | PortMapping) -> bool:
    """Does a port of the node belong to it?"""
    return isinstance(entry, PortDefinition) or entry.host_port is not None


def container_ports(app: App, prefix: str) -> dict[str, str]:
    """Variables of the ports that only the container has: known without a node.

    `PORT` and `PORTS` are of the node's ports and of those that we chose, not of fixed ports of the container.
    """
    found: dict[str, str] = {}
    alone = inner_ports(app)
    for position, port in alone.items():
        for name in port_names(app, position, prefix):
            found[name.replace("{port}", str(port))] = str(port)
    if found and not any(has_host_port(entry) for entry in app.port_entries):
        chosen = [str(port) for position, port in alone.items() if not app.port_mappings[position].container_port]
        found[f"{prefix}PORTS"] = ",".join(chosen)
    return found


def inner_ports(app: App) -> dict[int, int]:
    """The container's port of each entry that has no port of the node, by position. 0 becomes one of our choice."""
    used = {mapping.container_port for mapping in app.port_mappings}
    free = (port for port in range(FIRST_GENERATED_PORT, 65536) if port not in used)
    return {
        position: mapping.container_port or next(free)
        for position, mapping in enumerate(app.port_mappings)
        if mapping.host_port is None
    }


def _first_listed(app: App) -> int | None:
    """The position of the entry that `PORT` is of."""
    entries = app.port_entries
    on_node = (position for position, entry in enumerate(entries) if has_host_port(entry))
    chosen = (position for position, mapping in enumerate(app.port_mappings) if not mapping.container_port)
    return next(on_node, None) if any(has_host_port(entry) for entry in entries) else next(chosen, None)
