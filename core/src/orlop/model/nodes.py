"""Nodes: the machines of the pool, as the kernel knows them."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs

from orlop.model.ports import PortSet
from orlop.model.resources import Resources


class NodeState(enum.StrEnum):
    """Liveness is memory; only these transitions are state."""

    READY = "ready"
    UNREACHABLE = "unreachable"
    GONE = "gone"


@attrs.frozen(kw_only=True)
class NodeInfo:
    """What an agent says of its machine in each hello.

    name: the host's name. address: where its tasks' ports can be reached.
    resources: what may be handed out, with `ports` beside them as ranges.
    runtimes: those that can run tasks now. unavailable: those that should and cannot, and why.
    boot_id: changes when the machine boots; processes do not survive that, containers may.
    """

    id: str
    name: str
    address: str
    resources: Resources
    ports: PortSet = attrs.field(factory=PortSet)
    attributes: Mapping[str, str] = attrs.field(factory=dict)
    runtimes: tuple[str, ...] = ()
    unavailable: Mapping[str, str] = attrs.field(factory=dict)
    os: str = "linux"
    arch: str = "x86_64"
    boot_id: str = ""
    version: str = ""


@attrs.frozen(kw_only=True)
class Node:
    """A node as stored: what it said of itself, and what was decided about it.

    state_since_utc_ms: when `state` was entered. drain_at_utc_ms: when what still runs on it, drained, is to be
    stopped; 0 for never. away: its agent was stopped on purpose, and is expected back.
    """

    info: NodeInfo
    state: NodeState = NodeState.READY
    state_since_utc_ms: int = 0
    drained: bool = False
    drain_at_utc_ms: int = 0
    away: bool = False

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def schedulable(self) -> bool:
        """May new tasks be placed here?"""
        return self.state is NodeState.READY and not self.drained and not self.away
