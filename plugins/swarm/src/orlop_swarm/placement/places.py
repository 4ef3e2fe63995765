"""Nodes as places for containers: what filters and strategies look at. Plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Final

import attrs

from orlop_swarm.placement.expressions import Expression
from orlop_swarm.placement.wanted import Binding

HEALTHY: Final = 100
#: Stands for names of volumes; no expression can have it.
VOLUMES: Final = "\0volumes"
#: Keys that are no labels; but for the last, of affinities.
KEYS: Final = frozenset({"container", "image", VOLUMES})


@attrs.frozen(kw_only=True)
class Container:
    """A container on a node, or one that was just sent there.

    id: the full one. names: without slashes; of each container only these are looked at, not the short ids.
    images: its image's id, and each tag. bindings: ports of the node, wanted and taken.
    exposed: "80/tcp", with the node's own network (`host_network`). volumes: names of what it mounts.
    """

    id: str
    names: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    labels: Mapping[str, str] = attrs.field(factory=dict)
    bindings: tuple[Binding, ...] = ()
    host_network: bool = False
    exposed: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


class Held:
    """All containers and images of a node, taken together for quick looks. What an expression said is remembered, so
    one `Held` is made for each change of the node, and asked often.

    texts: what the keys of affinities stand for, where it is there: "container", "image", and names of labels; and
    `VOLUMES`.
    exposed: by ports of the node's own network, ids of the containers that have them.
    """

    __slots__ = ("_bindings", "_having", "_said", "count", "exposed", "texts")

    def __init__(self, containers: Iterable[Container], images: Iterable[str] = ()) -> None:
        #: By port: with the ids of the containers that have them.
        self._bindings: dict[str, tuple[tuple[Binding, str], ...]] = {}
        self.exposed: dict[str, tuple[str, ...]] = {}
        self.count = 0
        self.texts: dict[str, set[str]] = {"container": set(), "image": set(_image_names(images))}
        #: How many containers have a label.
        self._having: dict[str, int] = {}
        self._said: dict[Expression, bool] = {}
        self._add(containers, set(self.texts))

    def with_more(self, containers: Iterable[Container]) -> Held:
        """The same with some more containers. What does not change is shared with this one."""
        made = Held.__new__(Held)
        made._bindings = self._bindings.copy()
        made.exposed = self.exposed.copy()
        made.count = self.count
        made.texts = self.texts.copy()
        made._having = self._having.copy()
        made._said = {}
        made._add(containers, set())
        return made

    def _add(self, containers: Iterable[Container], own: set[str]) -> None:
        """own: keys whose texts are this one's alone."""
        for one in containers:
            self.count += 1
            self._own("container", own).update((one.id, *one.names))
            if one.images:
                self._own("image", own).update(_image_names(one.images))
            if one.volumes:
                self._own(VOLUMES, own).update(one.volumes)
            for key, value in one.labels.items():
                if key not in KEYS:
                    self._own(key, own).add(value)
                    self._having[key] = self._having.get(key, 0) + 1
            for binding in one.bindings:
                self._bindings[binding.port] = (*self._bindings.get(binding.port, ()), (binding, one.id))
            if one.host_network:
                for port in one.exposed:
                    self.exposed[port] = (*self.exposed.get(port, ()), one.id)

    def _own(self, key: str, own: set[str]) -> set[str]:
        if key in own:
            return self.texts[key]
        own.add(key)
        found = self.texts[key] = set(self.texts.get(key, ()))
        return found

    @property
    def bindings(self) -> list[Binding]:
        """All that are wanted or taken."""
        return [binding for having in self._bindings.values() for binding, _ in having]

    def takers(self, wanted: Binding) -> list[str]:
        """Ids of the containers that have a port which conflicts with this one."""
        return [one for binding, one in self._bindings.get(wanted.port, ()) if wanted.conflicts(binding)]

    @property
    def names(self) -> Set[str]:
        """Ids and names of containers."""
        return self.texts["container"]

    @property
    def images(self) -> Set[str]:
        """Ids and names of images."""
        return self.texts["image"]

    def satisfies(self, affinity: Expression) -> bool:
        """Does the node as it is satisfy an affinity?"""
        literal = affinity.literal
        if literal is not None:  # it is never empty, so labels that are missing do not matter
            return (literal in self.texts.get(affinity.key, ())) == affinity.equal
        said = self._said.get(affinity)
        if said is None:
            said = self._said[affinity] = affinity.matches(self._texts(affinity.key))
        return said

    def _texts(self, key: str) -> Iterable[str]:
        """What the key stands for. A container without the label counts as one that has it empty."""
        named: Iterable[str] = self.texts.get(key, ())
        everywhere = key in KEYS or self._having.get(key, 0) == self.count
        return named if everywhere else (*named, "")


def _image_names(images: Iterable[str]) -> Iterator[str]:
    """Ids and tags as they are, and tags without what follows the colon. A colon before a slash is a port's."""
    for image in images:
        yield image
        repository, colon, tag = image.rpartition(":")
        if colon and "/" not in tag:
            yield repository


@attrs.frozen(kw_only=True)
class Place:
    """A node. cpus: in thousandths. mem: in bytes; both with overcommitment. labels: with the built-in ones.

    health: from 0 (not to be used) to 100. held: what is on it, stopped and pending containers included.
    """

    id: str
    name: str
    labels: Mapping[str, str] = attrs.field(factory=dict)
    health: int = HEALTHY
    cpus: int = 0
    mem: int = 0
    used_cpus: int = 0
    used_mem: int = 0
    held: Held = attrs.field(factory=lambda: Held(()))

    @property
    def count(self) -> int:
        """How many containers are on it."""
        return self.held.count


def overcommitted(total: int, ratio: float, unit: int = 1) -> int:
    """What is handed out of `total`: integer percents of whole units, as classic Swarm reckoned.

    unit: 1,000 for cpus, which it counted as wholes; so a ratio of 0.05 adds nothing below 20 of them.
    """
    whole = total // unit
    return (whole + whole * int(ratio * 100) // 100) * unit


def familiar(image: str) -> str:
    """As an engine's list has it: `docker.io/library/x` is `x:latest`."""
    name = image.removeprefix("docker.io/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"
