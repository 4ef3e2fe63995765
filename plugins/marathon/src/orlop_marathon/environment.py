"""Variables of a task's environment that are the same for all tasks of one version of an app (Marathon 1.11).

Ports of the node are known only when a task is placed: they come from the spec's port requests (see `specs`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
    names = [f"{prefix}PORT"] if position == 0 else []
    names += [f"{prefix}PORT{position}", f"{prefix}PORT_{requested or '{port}'}"]
    if entry.name:
        names.append(f"{prefix}PORT_{entry.name.upper()}")
    return tuple(names)


def has_host_port(entry: PortDefinition | PortMapping) -> bool:
    """Does a port of the node belong to it?"""
    return isinstance(entry, PortDefinition) or entry.host_port is not None


def container_ports(app: App, prefix: str) -> dict[str, str]:
    """Variables of the ports that only the container has: known without a node.

    A container port 0 is a number of our choice. `PORTS` lists these only (and the node's ports, when there are any).
    """
    found: dict[str, str] = {}
    generated = []
    numbers = _unused(app)
    for position, entry in enumerate(app.port_entries):
        if isinstance(entry, PortDefinition) or entry.host_port is not None:
            continue
        port = entry.container_port or next(numbers)
        if not entry.container_port:
            generated.append(str(port))
        for name in port_names(app, position, prefix):
            found[name.replace("{port}", str(port))] = str(port)
    if found and not any(has_host_port(entry) for entry in app.port_entries):
        found[f"{prefix}PORTS"] = ",".join(generated)
    return found


def _unused(app: App) -> Iterator[int]:
    used = {mapping.container_port for mapping in app.port_mappings}
    return (port for port in range(FIRST_GENERATED_PORT, 65536) if port not in used)
