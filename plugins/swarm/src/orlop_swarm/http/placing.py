"""Which engine builds an image, and where builds and their sessions are.

BuildKit's client opens a session first and names it in the request to build; so a session waits for its build, and
goes where that goes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from orlop_swarm.engines.interface import Engine
from orlop_swarm.merging.system import labels_of
from orlop_swarm.placement import filters, wanted
from orlop_swarm.placement.places import Container, Held, Place, familiar
from orlop_swarm.placement.scheduler import schedule
from orlop_swarm.placement.strategies import Needs
from orlop_swarm.placement.wanted import Wanted

#: Filters that concern an image that is yet to be made.
BUILD_FILTERS: Final = ("containerslots", "affinity", "constraint", "whitelist")
REMEMBERED_MAX: Final = 10_000
#: How long a session waits for its build.
BUILD_WITHIN_S: Final = 5.0

Choose = Callable[[Wanted, Sequence[Place], frozenset[str]], Place]


def fewest_containers(said: Wanted, places: Sequence[Place], wished: frozenset[str]) -> Place:
    """Of the places that satisfy what is said. wished: ids of those that are taken before others, if there are any.

    Raises orlop_swarm.placement.scheduler.Unplaceable.
    """
    found = schedule(said, Needs(0, 0), places, filters=filters.named(BUILD_FILTERS))
    return min(found, key=lambda place: (place.id not in wished, place.count, place.name, place.id))


def having_any(places: Sequence[Place], images: Iterable[str]) -> frozenset[str]:
    """Ids of the places that have one of these images, and with it layers that a build need not make again."""
    names = {familiar(image) for image in images}
    return frozenset(place.id for place in places if not names.isdisjoint(place.held.images))


def split(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], Wanted]:
    """A build's arguments: those that are its own, and what they say of its place.

    `--build-arg constraint:node==n1` comes as `{"constraint:node": "=n1"}`. Raises ExpressionError.
    """
    prefixes = tuple(prefix for prefix, _ in wanted.KINDS.values())
    said = {name: value or "" for name, value in arguments.items() if name.startswith(prefixes)}
    rest = {name: value for name, value in arguments.items() if name not in said}
    return rest, wanted.read_environment(said)


def place_of(
    engine: Engine,
    info: Mapping[str, Any],
    containers: Sequence[Mapping[str, Any]],
    images: Sequence[Mapping[str, Any]],
) -> Place:
    """A node as its engine tells of it: `info`, and its lists of containers and images."""
    node = engine.node
    held = Held(
        (
            Container(
                id=row["Id"],
                names=tuple(name.removeprefix("/") for name in row.get("Names") or ()),
                images=(row.get("ImageID", ""), row.get("Image", "")),
                labels=row.get("Labels") or {},
            )
            for row in containers
        ),
        [name for image in images for name in (image["Id"], *(image.get("RepoTags") or ()))],
    )
    return Place(id=node.id, name=node.name, labels=labels_of(info, node.attributes), held=held)


@attrs.define
class Builds:
    """Where builds are, by their ids and by their sessions' ids. choose: the node of a build."""

    choose: Choose = fewest_containers
    _places: OrderedDict[str, asyncio.Future[str]] = attrs.field(factory=OrderedDict, init=False)

    def placed(self, key: str, node: str) -> None:
        """node: its id."""
        future = self._future(key)
        if future.done():
            del self._places[key]
            future = self._future(key)
        future.set_result(node)

    async def where(self, key: str, within_s: float = BUILD_WITHIN_S) -> str | None:
        """The id of the node; None when nobody has said it within so many seconds."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._future(key)), within_s)
        except TimeoutError:
            return None

    def known(self, key: str) -> str | None:
        future = self._places.get(key)
        return future.result() if future is not None and future.done() else None

    def _future(self, key: str) -> asyncio.Future[str]:
        future = self._places.get(key)
        if future is None:
            future = self._places[key] = asyncio.get_running_loop().create_future()
            while len(self._places) > REMEMBERED_MAX:
                self._places.popitem(last=False)
        return future
