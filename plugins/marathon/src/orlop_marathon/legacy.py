"""Forms of the app definition that Marathon once had and still accepts: they become today's, and are never sent.

`ports`, `uris`, `ipAddress`, `container.docker.network`, `container.docker.portMappings`. The rules are those of
Marathon 1.11's AppNormalization and of its validation of the old API.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from orlop_marathon import wire
from orlop_marathon.errors import Problem
from orlop_marathon.members import MAX_LENGTH, MIN_LENGTH, PATTERN, PORT_NAME, port_number
from orlop_marathon.model import (
    App,
    Container,
    ContainerType,
    Defaults,
    Fetch,
    Network,
    NetworkMode,
    PortDefinition,
    PortMapping,
    PortProtocol,
)

#: Archives that are unpacked when a legacy `uris` entry ends so.
ARCHIVES: Final = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".gz", ".tgz", ".tbz2", ".txz", ".zip")


class _DockerNetwork(enum.StrEnum):
    HOST = "HOST"
    BRIDGE = "BRIDGE"
    USER = "USER"
    NONE = "NONE"


@attrs.frozen(kw_only=True)
class _DiscoveryPort:
    number: int = port_number(0)
    name: str = attrs.field(metadata={PATTERN: PORT_NAME})
    protocol: PortProtocol = PortProtocol.TCP
    labels: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class _Discovery:
    ports: tuple[_DiscoveryPort, ...] = ()


@attrs.frozen(kw_only=True)
class _IpAddress:
    discovery: _Discovery | None = None
    labels: Mapping[str, str] = attrs.field(factory=dict)
    network_name: str | None = None


@attrs.frozen(kw_only=True)
class _Docker:
    network: _DockerNetwork | None = None
    port_mappings: tuple[PortMapping, ...] | None = None


@attrs.frozen(kw_only=True)
class _Container:
    docker: _Docker | None = None


@attrs.frozen(kw_only=True)
class _Document:
    """The legacy members of an app document."""

    uris: tuple[str, ...] | None = attrs.field(default=None, metadata={MIN_LENGTH: 1, MAX_LENGTH: 1024})
    ports: tuple[int, ...] | None = port_number(None)
    ip_address: _IpAddress | None = None
    container: _Container | None = None


@attrs.frozen(kw_only=True)
class Translated:
    """app: without legacy forms. given: canonical members that the document gives, in any form.

    padding: how many port mappings a longer list of legacy ports asks for. lenient: the network was said in a legacy
    form, so ports of the wrong kind are dropped rather than refused: old definitions carry both kinds.
    """

    app: App
    given: frozenset[str]
    padding: int = 0
    lenient: bool = False


wire.register_literals(_DockerNetwork)


def translate(
    document: Mapping[str, Any],
    app: App,
    given: frozenset[str],
    defaults: Defaults,
    faults: wire.Faults,
    path: str = "",
) -> Translated:
    """Merges the legacy members of `document` into `app`, which was read from it. Faults go to `faults`."""
    old = wire.collect(_Document, document, faults, path)
    if old is None or faults:
        return Translated(app=app, given=given)
    for problem in _conflicts(old, app, given):
        faults.rules.append(attrs.evolve(problem, path=(path + problem.path).removesuffix("/") or "/"))
    if faults:
        return Translated(app=app, given=given)
    changes: dict[str, Any] = {}
    if old.uris and not app.fetch:
        changes["fetch"] = tuple(Fetch(uri=uri, extract=_is_archive(uri)) for uri in old.uris)
    network = _network(old, defaults)
    if network is not None:
        changes["networks"] = (network,)
    if old.ports is not None and "port_definitions" not in given:
        changes["port_definitions"] = tuple(PortDefinition(port=port) for port in old.ports)
    container = _container(old, app)
    if container is not None and container != app.container:
        changes["container"] = container
    definitions = changes.get("port_definitions", app.port_definitions) or ()
    docker = old.container.docker if old.container else None
    return Translated(
        app=attrs.evolve(app, **changes),
        given=given | changes.keys(),
        padding=len(definitions),
        lenient=network is not None
        or old.ports is not None
        or (docker is not None and docker.port_mappings is not None),
    )


def _conflicts(old: _Document, app: App, given: frozenset[str]) -> list[Problem]:
    """Legacy members that contradict others."""
    docker = old.container.docker if old.container else None
    discovery = bool(old.ip_address and old.ip_address.discovery and old.ip_address.discovery.ports)
    fixed_ports = [port for port in old.ports or () if port]
    defined = tuple(definition.port for definition in app.port_definitions or ())
    networks = bool(app.networks) and "networks" in given
    mapped = bool(app.port_mappings)
    rules = (
        (old.uris and app.fetch, "/uris", "may not be set in conjunction with fetch"),
        (
            docker and docker.network and networks,
            "/",
            "must not specify both container.docker.network and networks",
        ),
        (old.ip_address and networks, "/", "must not specify both networks and ipAddress"),
        (len(set(fixed_ports)) < len(fixed_ports), "/", "ports must be unique"),
        (
            old.ip_address and (old.ports or app.port_definitions),
            "/",
            "cannot specify both an IP address and port",
        ),
        (
            old.ports is not None and "port_definitions" in given and defined != old.ports,
            "/",
            "cannot specify both ports and port definitions",
        ),
        (
            discovery and app.uses_docker,
            "/ipAddress",
            "ipAddress/discovery is not allowed for Docker containers",
        ),
        (
            docker and docker.port_mappings and mapped,
            "/container",
            "cannot specify both portMappings and docker.portMappings",
        ),
        (
            discovery and mapped,
            "/container",
            "container.portMappings and ipAddress.discovery.ports must not both be set",
        ),
        (
            docker and docker.network is _DockerNetwork.NONE,
            "/container/docker/network",
            "unsupported docker network type NONE",
        ),
    )
    return [Problem(path, text) for broken, path, text in rules if broken]


def _network(old: _Document, defaults: Defaults) -> Network | None:
    """The network that `container.docker.network` and `ipAddress` mean together; None when neither is given."""
    docker = old.container.docker.network if old.container and old.container.docker else None
    address = old.ip_address
    labels = address.labels if address else {}
    match docker:
        case _DockerNetwork.HOST:
            return Network(mode=NetworkMode.HOST)
        case _DockerNetwork.BRIDGE:
            return Network(mode=NetworkMode.BRIDGE, labels=labels)
        case _DockerNetwork.USER:
            name = address.network_name if address else None
            return Network(mode=NetworkMode.CONTAINER, name=name, labels=labels)
    if address is None:
        return None
    if address.network_name == defaults.bridge_name:
        return Network(mode=NetworkMode.BRIDGE, labels=labels)
    return Network(mode=NetworkMode.CONTAINER, name=address.network_name, labels=labels)


def _container(old: _Document, app: App) -> Container | None:
    """The container with the port mappings that legacy members bring."""
    container = app.container
    if container is None and old.ip_address is not None:
        container = Container(type=ContainerType.MESOS)
    if container is None:
        return None
    docker = old.container.docker if old.container else None
    if docker and docker.port_mappings is not None and not container.port_mappings:
        container = attrs.evolve(container, port_mappings=docker.port_mappings)
    if old.ip_address and old.ip_address.discovery and old.ip_address.discovery.ports:
        mappings = tuple(
            PortMapping(container_port=port.number, name=port.name, protocol=port.protocol, labels=port.labels)
            for port in old.ip_address.discovery.ports
        )
        container = attrs.evolve(container, port_mappings=mappings)
    return container


def _is_archive(uri: str) -> bool:
    try:
        return urlsplit(uri).path.endswith(ARCHIVES)
    except ValueError:
        return False
