"""Facts: what a node's container engine knows beyond the tasks of this cluster.

Its images, what it says of itself, and the containers that somebody else started on it. Facts are never stored: an
agent tells them in full with its hello, and what changed from then on. `difference` makes such a change of
two states and `applied` brings the older one to the newer; a full change makes do without an older one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import attrs
from immutables import Map

from orlop.model.ports import HIGHEST_PORT, PortSet
from orlop.model.resources import Resources

_T = TypeVar("_T")

#: States of a container that holds its memory and cpus; in all others it has no process.
_LIVE_STATES: Final = frozenset({"running", "paused", "restarting"})


@attrs.frozen(kw_only=True)
class Image:
    """tags: as `repository:tag`. digests: as `repository@sha256:…`, those under which a registry has it."""

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()

    @property
    def local(self) -> bool:
        """Was it built or loaded here? Then no registry is known to have it."""
        return not self.digests


@attrs.frozen(kw_only=True, order=True)
class HostPort:
    """A port of the node. address: the node's address that it is bound to; empty for all of them."""

    number: int
    protocol: str = "tcp"
    address: str = ""


@attrs.frozen(kw_only=True)
class ForeignContainer:
    """A container that is no task of this cluster.

    names: without their slashes. image: as its creator wrote it. memory_bytes: its limit, 0 for none.
    cpus_thousandths: what it may use by its quota, 0 for no limit. host_ports: requested and published, once each.
    """

    id: str
    names: tuple[str, ...] = ()
    image: str = ""
    labels: Mapping[str, str] = attrs.field(factory=dict)
    state: str = ""
    memory_bytes: int = 0
    cpus_thousandths: int = 0
    host_ports: tuple[HostPort, ...] = ()

    @property
    def live(self) -> bool:
        """Does it hold its memory and cpus?"""
        return self.state in _LIVE_STATES


@attrs.frozen(kw_only=True)
class EngineFacts:
    """What an engine says of itself and of its machine. labels: those it was started with."""

    version: str = ""
    storage_driver: str = ""
    kernel_version: str = ""
    operating_system: str = ""
    os_type: str = ""
    labels: Mapping[str, str] = attrs.field(factory=dict)


def _images(values: Mapping[str, Image]) -> Map[str, Image]:
    return values if isinstance(values, Map) else Map(values)


def _containers(values: Mapping[str, ForeignContainer]) -> Map[str, ForeignContainer]:
    return values if isinstance(values, Map) else Map(values)


@attrs.frozen(kw_only=True)
class NodeFacts:
    """All facts of one node; images and containers by their ids.

    foreign_use: what the live foreign containers may take of the node, as far as they have limits.
    foreign_ports: of the node, that they publish, whatever the protocol and address.
    """

    engine: EngineFacts = EngineFacts()
    images: Map[str, Image] = attrs.field(factory=Map, converter=_images)
    containers: Map[str, ForeignContainer] = attrs.field(factory=Map, converter=_containers)
    foreign_use: Resources = attrs.field(eq=False)
    foreign_ports: PortSet = attrs.field(eq=False)

    @foreign_use.default
    def _all_use(self) -> Resources:
        return _use(self.containers.values())

    @foreign_ports.default
    def _all_ports(self) -> PortSet:
        return _ports(self.containers.values())


def _ports(containers: Iterable[ForeignContainer]) -> PortSet:
    return PortSet(
        port.number for one in containers if one.live for port in one.host_ports if port.number <= HIGHEST_PORT
    )


def _use(containers: Iterable[ForeignContainer]) -> Resources:
    live = [container for container in containers if container.live]
    return Resources.of(
        {
            "cpus": sum(container.cpus_thousandths for container in live),
            "mem": sum(container.memory_bytes for container in live),
        }
    )


@attrs.frozen(kw_only=True)
class FactsChange:
    """full: whatever was known before is void. engine: None for unchanged.

    images, containers: new or changed ones. images_gone, containers_gone: ids.
    """

    full: bool = False
    engine: EngineFacts | None = None
    images: tuple[Image, ...] = ()
    images_gone: tuple[str, ...] = ()
    containers: tuple[ForeignContainer, ...] = ()
    containers_gone: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return self == FactsChange()


def in_full(facts: NodeFacts) -> FactsChange:
    """The change that makes `facts` of anything."""
    return FactsChange(
        full=True,
        engine=facts.engine,
        images=tuple(facts.images.values()),
        containers=tuple(facts.containers.values()),
    )


def difference(old: NodeFacts, new: NodeFacts) -> FactsChange:
    """The smallest change that makes `new` of `old`."""
    return FactsChange(
        engine=new.engine if new.engine != old.engine else None,
        images=tuple(image for image in new.images.values() if old.images.get(image.id) != image),
        images_gone=tuple(key for key in old.images if key not in new.images),
        containers=tuple(one for one in new.containers.values() if old.containers.get(one.id) != one),
        containers_gone=tuple(key for key in old.containers if key not in new.containers),
    )


def applied(facts: NodeFacts, change: FactsChange) -> NodeFacts:
    """`facts` after `change`. Applying a change twice is applying it once.

    Costs what the change is large, but where a container that publishes ports is concerned: then all are looked at.
    """
    base = NodeFacts() if change.full else facts
    changed = {one.id: one for one in change.containers}
    replaced = [one for key in {*changed, *change.containers_gone} if (one := base.containers.get(key)) is not None]
    containers = _applied(base.containers, changed, change.containers_gone)
    arrived = [one for key, one in changed.items() if key in containers]
    publishing = any(one.host_ports for one in (*replaced, *arrived))
    return NodeFacts(
        engine=change.engine if change.engine is not None else base.engine,
        images=_applied(base.images, {image.id: image for image in change.images}, change.images_gone),
        containers=containers,
        foreign_use=base.foreign_use - _use(replaced) + _use(arrived),
        foreign_ports=_ports(containers.values()) if publishing else base.foreign_ports,
    )


def _applied(known: Map[str, _T], changed: Mapping[str, _T], gone: tuple[str, ...]) -> Map[str, _T]:
    if not changed and not gone:
        return known
    result = known.update(changed).mutate()
    for key in gone:
        result.pop(key, None)
    return result.finish()
