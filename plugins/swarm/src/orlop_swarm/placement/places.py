"""Nodes as places for containers: what filters and strategies look at. Plain values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import attrs

from orlop_swarm.placement.expressions import Expression
from orlop_swarm.placement.wanted import Binding

HEALTHY: Final = 100


@attrs.frozen(kw_only=True)
class Container:
    """A container on a node, or one that was just sent there.

    id: the full one. names: without slashes; of each container only these are looked at, not the short ids.
    images: its image's id, and each tag. bindings: ports of the node, wanted and taken.
    exposed: "80/tcp", with the node's own network (`host_network`).
    """

    id: str
    names: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    labels: Mapping[str, str] = attrs.field(factory=dict)
    bindings: tuple[Binding, ...] = ()
    host_network: bool = False
    exposed: tuple[str, ...] = ()


class Held:
    """All containers and images of a node, taken together for quick looks. What an expression said is remembered, so
    one `Held` is made for each change of the node, and asked often."""

    __slots__ = ("_labels", "_said", "_unlabelled", "bindings", "count", "exposed", "images", "names")

    def __init__(self, containers: Iterable[Container], images: Iterable[str] = ()) -> None:
        names: set[str] = set()
        seen_images = set(images)
        self.bindings: list[Binding] = []
        self.exposed: set[str] = set()
        self.count = 0
        self._labels: dict[str, set[str]] = {}
        self._said: dict[Expression, bool] = {}
        having: dict[str, int] = {}
        for one in containers:
            self.count += 1
            names.add(one.id)
            names.update(one.names)
            seen_images.update(one.images)
            for key, value in one.labels.items():
                self._labels.setdefault(key, set()).add(value)
                having[key] = having.get(key, 0) + 1
            self.bindings += one.bindings
            if one.host_network:
                self.exposed.update(one.exposed)
        self.names = frozenset(names)
        self.images = frozenset(_image_names(seen_images))
        self._unlabelled = {key for key, count in having.items() if count < self.count}

    def satisfies(self, affinity: Expression) -> bool:
        """Does the node as it is satisfy an affinity?"""
        literal = affinity.literal
        if literal is not None:  # it is never empty, so labels that are missing do not matter
            return (literal in self._named(affinity.key)) == affinity.equal
        said = self._said.get(affinity)
        if said is None:
            said = self._said[affinity] = affinity.matches(self._texts(affinity.key))
        return said

    def _named(self, key: str) -> Collection[str]:
        """What the key stands for, where it is there."""
        if key == "container":
            return self.names
        return self.images if key == "image" else self._labels.get(key, ())

    def _texts(self, key: str) -> Iterable[str]:
        """What the key stands for. A container without the label counts as one that has it empty."""
        named = self._named(key)
        everywhere = key in ("container", "image") or (key in self._labels and key not in self._unlabelled)
        return named if everywhere or not self.count else (*named, "")


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


def health_indicator(failures: int, retries: int, *, healthy: bool = True) -> int:
    """failures: connection errors in a row, of which `retries` make a node unhealthy."""
    return HEALTHY - failures * HEALTHY // retries if healthy and failures < retries else 0
