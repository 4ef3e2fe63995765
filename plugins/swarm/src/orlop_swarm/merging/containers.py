"""How a container of an engine is shown as one of the pool. Pure functions on what engines say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import attrs

from orlop.docker_containers import KEPT_NAMES
from orlop_swarm.engines.interface import EngineNode
from orlop_swarm.merging.answers import visible

#: A port that is published on these is reached at the node's address.
EVERYWHERE: Final = frozenset(("", "0.0.0.0", "::"))  # noqa: S104 - nothing is bound to them


class Remembered(Protocol):
    """What is known of a container without its engine; see `http.services.Known`."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def node(self) -> str: ...
    @property
    def image(self) -> str: ...
    @property
    def image_id(self) -> str: ...
    @property
    def command(self) -> str: ...
    @property
    def created(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> Mapping[str, Any]: ...
    @property
    def exit_code(self) -> int: ...
    @property
    def since_ms(self) -> int: ...


@attrs.frozen(kw_only=True)
class About:
    """What an engine says of its machine. memory: bytes. labels: the engine's, `key=value`."""

    cpus: int = 0
    memory: int = 0
    labels: Sequence[str] = ()


def is_kept(name: str) -> bool:
    """Is the container of this name, without a slash, only kept for its output? To clients it has been removed."""
    return name.startswith(KEPT_NAMES)


def is_kept_row(row: Mapping[str, Any]) -> bool:
    """The same of a row of an engine's list."""
    return any(is_kept(name.removeprefix("/")) for name in row.get("Names") or ())


def published_address(node: EngineNode, nodes: int) -> str:
    """What stands for "all addresses" of published ports: with several nodes a client needs to know which one's, and
    with one that is elsewhere, too. Empty: nothing does. nodes: how many there are."""
    return node.address if nodes > 1 or not node.address.startswith(("127.", "::1", "localhost")) else ""


def shown_ports(ports: Iterable[Mapping[str, Any]], address: str) -> list[dict[str, Any]]:
    """Of a list's row. What was published on IPv4 and IPv6 is shown once."""
    shown: list[dict[str, Any]] = []
    for port in ports:
        one = dict(port)
        if "PublicPort" in one and one.get("IP", "") in EVERYWHERE:
            one["IP"] = address
        if one not in shown:
            shown.append(one)
    return shown


def shown_inspection(body: Mapping[str, Any], *, node: EngineNode, about: About, address: str) -> dict[str, Any]:
    """An engine's `inspect`, with the object `Node` that classic Swarm adds. address: see `published_address`."""
    shown = dict(body)
    if isinstance(configured := body.get("Config"), dict):
        shown["Config"] = {**configured, "Labels": visible(configured.get("Labels"))}
    if address and isinstance(network := body.get("NetworkSettings"), dict):
        shown["NetworkSettings"] = {**network, "Ports": _bindings(network.get("Ports"), address)}
    shown["Node"] = {
        "ID": node.id,
        "IP": node.address,
        "Addr": node.address,
        "Name": node.name,
        "Cpus": about.cpus,
        "Memory": about.memory,
        "Labels": dict(label.partition("=")[::2] for label in about.labels),
    }
    return shown


def _bindings(ports: Mapping[str, Any] | None, address: str) -> dict[str, Any] | None:
    if ports is None:
        return None
    return {port: _shown(bound, address) for port, bound in ports.items()}


def _shown(bound: Sequence[Mapping[str, Any]] | None, address: str) -> list[dict[str, Any]] | None:
    if bound is None:
        return None
    shown: list[dict[str, Any]] = []
    for one in bound:
        binding = {**one, "HostIp": address} if one.get("HostIp", "") in EVERYWHERE else dict(one)
        if binding not in shown:
            shown.append(binding)
    return shown
