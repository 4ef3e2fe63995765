"""Service ports: numbers that load balancers listen on, unique in the cluster. Nothing on a node opens them.

An app that asks for port 0 gets one of a range and keeps it (Marathon 1.11: AssignDynamicServiceLogic).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from orlop_marathon.errors import illegal
from orlop_marathon.model import App


def assign(apps: Mapping[str, App], previous: Mapping[str, App], low: int = 10000, high: int = 20000) -> dict[str, App]:
    """The apps with each service port 0 replaced by a free one of `low` to `high`; others are the same objects.

    previous: the apps as they were. What one had and does not name any more it gets first, in order.
    Raises MarathonError when the range is exhausted.
    """
    taken = {port for app in apps.values() for port in app.service_ports if port}
    asking = {path: list(app.service_ports) for path, app in apps.items() if 0 in app.service_ports}
    for path, ports in asking.items():
        before = previous[path].service_ports if path in previous else ()
        for port in before:
            if port and port not in taken and 0 in ports:
                ports[ports.index(0)] = port
                taken.add(port)
    free = (port for port in range(low, high + 1) if port not in taken)
    for ports in asking.values():
        for position, port in enumerate(ports):
            if port == 0:
                ports[position] = _next(free, low, high)
    return {path: _with_ports(app, asking[path]) if path in asking else app for path, app in apps.items()}


def _next(free: Iterator[int], low: int, high: int) -> int:
    for port in free:
        return port
    raise illegal(f"All ports in the range [{low}-{high}] are already in use")


def _with_ports(app: App, ports: list[int]) -> App:
    if app.host_networking:
        definitions = zip(app.port_definitions or (), ports, strict=True)
        return attrs.evolve(app, port_definitions=tuple(attrs.evolve(one, port=port) for one, port in definitions))
    assert app.container is not None, "an app without host networking has a container"
    mappings = tuple(attrs.evolve(one, service_port=port) for one, port in zip(app.port_mappings, ports, strict=True))
    return attrs.evolve(app, container=attrs.evolve(app.container, port_mappings=mappings))
