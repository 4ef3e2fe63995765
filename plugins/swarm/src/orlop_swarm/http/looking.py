"""What a new container needs of one engine: its image, volumes, networks, the containers that it depends on.

An image that came from a registry may be fetched by any node; one that was built or loaded is only where it is, and is
copied when the container is bound to other nodes. What no engine has is refused as one engine refuses it, and clients
pull then. Engines that keep images in different ways (`overlay2`, or containerd's store) call one and the same by ids
of their own; so what an image is made of counts, too.

A volume or a network of a name is one and the same for its users, as on one engine, so they go where it is, unless it
spans nodes. So do those that share another container's network or volumes, or are linked with it.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import attrs

from orlop_swarm.engines.answers import told
from orlop_swarm.engines.interface import Engine, EngineUnavailable
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.remembering import Everywhere
from orlop_swarm.http.volume_places import VolumePlaces
from orlop_swarm.merging.copies import home_of
from orlop_swarm.placement import filters, wanted
from orlop_swarm.placement.scheduler import unsatisfied

#: The scope of what is on one node alone.
LOCAL: Final = "local"
#: As engines write that an image has not got a name.
_NEVER: Final = "0001-01-01T00:00:00Z"
#: Members of an image's configuration that engines show alike, however they keep images.
_CONFIGURED: Final = (
    "Cmd", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "Labels", "OnBuild", "Shell", "StopSignal", "User",
    "Volumes", "WorkingDir",
)  # fmt: skip


@attrs.frozen(kw_only=True)
class Image:
    """nodes: names of those that have it. registry: it can be fetched by others. remembered: nobody was asked."""

    nodes: frozenset[str]
    registry: bool
    remembered: bool = False


@attrs.frozen(kw_only=True)
class Holders:
    """nodes: the names of those where a container has to be; None: anywhere. for_good: also when it moves, for there is
    nothing of what it needs on others. unknown: names of volumes that no engine has, of the engines' own driver.
    silent: names of nodes that have not answered, and why."""

    nodes: frozenset[str] | None
    for_good: bool
    unknown: tuple[str, ...] = ()
    silent: Mapping[str, str] = attrs.field(factory=dict)


class Looking:
    """Asks engines. images: what need not be asked. volumes: what engines have said that may be away."""

    def __init__(self, images: Everywhere | None = None, volumes: VolumePlaces | None = None) -> None:
        self._images = images if images is not None else Everywhere()
        self.volumes = volumes if volumes is not None else VolumePlaces()

    async def image(self, engines: Sequence[Engine], reference: Any, *, anew: bool = False) -> Image:
        """anew: whatever was said a moment ago. Raises Problem (404, 400) in an engine's words."""
        if not reference or not isinstance(reference, str):
            raise Problem(400, "invalid reference format" if reference else "No command specified")
        changes, names = self._images.changes, frozenset(engine.node.name for engine in engines)
        if not anew and self._images.has(reference, names):
            return Image(nodes=names, registry=False, remembered=True)
        answers = await _each(engines, f"/images/{quote(reference, safe='/:@')}/json")
        having = {node: body for node, (status, body) in answers.items() if status == 200}
        if not having:
            status, body = min(answers.values(), key=lambda one: (one[0] != 404, one[0]))
            text = str(body["message"]) if isinstance(body, dict) else f"No such image: {reference}"
            # With this in front when it is asked for alone, and without it when something is to be made of it.
            raise Problem(status, text.removeprefix(f"no such image: {reference}: "))
        one = next(iter(having.values()))
        if having.keys() == names and all(_same(body, one) for body in having.values()):
            self._images.told(reference, names, changes)
        registry = all(map(_from_registry, having.values()))
        return Image(nodes=frozenset(having if registry else last_named(having)), registry=registry)

    async def holders(self, engines: Sequence[Engine], body: Mapping[str, Any]) -> Holders:
        """The nodes where its volumes and networks are at home.

        A name that no engine knows says nothing here: an engine makes the volume, or refuses the network. Where not all
        are on one node volumes count before networks, of which every node has a copy, and earlier before later ones.
        """
        volumes, networks = wanted.named_volumes(body), wanted.named_networks(body)
        of_engine = frozenset(wanted.named_volumes(body, of_engine=True))
        unknown = []
        if not volumes and not networks:
            return Holders(nodes=None, for_good=False)
        paths = [f"/volumes/{quote(name, safe='')}" for name in volumes]
        paths += [f"/networks/{quote(name, safe='')}" for name in networks]
        holders: frozenset[str] | None = None
        for_good = False
        silent: dict[str, str] = {}
        for position, answers in enumerate(await asyncio.gather(*(_each(engines, path) for path in paths))):
            silent |= {node: str(body["message"]) for node, (status, body) in answers.items() if status == 503}
            having = {node: found for node, (status, found) in answers.items() if status == 200}
            if position < len(volumes) and not having and volumes[position] in of_engine:
                unknown.append(volumes[position])
            if not having or any(found.get("Scope") != LOCAL for found in having.values()):
                continue
            home = home_of(having)
            together = home if holders is None else holders & home
            holders = together if together or position < len(volumes) else holders
            for_good |= position < len(volumes) or having.keys() == home
        return Holders(nodes=holders, for_good=for_good, unknown=tuple(unknown), silent=silent)

    async def dependencies(self, engines: Sequence[Engine], body: Mapping[str, Any]) -> str:
        """The name of the node that has the containers it depends on; empty: there are none, or no engine has them.

        Raises Problem: they are not on one node, or one is called by what several ids begin with.
        """
        said = wanted.read(body)
        places: set[str] = set()
        for reference in dict.fromkeys(one.removeprefix("/") for one in said.dependencies):
            if reference:  # an engine refuses the others, each in words of its own
                answers = await _each(engines, f"/containers/{quote(reference, safe='')}/json")
                places |= _holding(reference, answers)
        if len(places) > 1:
            raise Problem(500, unsatisfied(said, filters.named(("dependency",))))
        return next(iter(places), "")


def _holding(reference: str, answers: Mapping[str, tuple[int, Any]]) -> set[str]:
    """The nodes where the container is, as their engines inspect it. A whole id or a name goes before a prefix, which
    what one engine holds may make unique on it, and not in the pool. Raises Problem: several are meant."""
    having = {node: body for node, (status, body) in answers.items() if status == 200}
    exact = {node for node, body in having.items() if reference in (body["Id"], body["Name"].removeprefix("/"))}
    if exact:
        return exact
    for status, body in answers.values():
        if status not in (200, 404, 503):
            raise Problem(status, str(body["message"]))
    if len(having) > 1:
        raise Problem(400, f"Multiple IDs found with provided prefix: {reference}")
    return set(having)


def last_named(images: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of the nodes (by name) with an image of one name, as their engines inspect it, those with the one that has got it
    last. One engine gives a name that it builds anew to the new image alone; here a copy of the former one may be left
    on another node."""
    last = max(map(_named_at, images.values()))
    meant = [image for image in images.values() if _named_at(image) == last]
    return [node for node, image in images.items() if any(_same(image, one) for one in meant)]


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if one["Id"] == other["Id"]:
        return True
    made_of = _made_of(one)
    return made_of is not None and made_of == _made_of(other)


def _made_of(image: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What is the same wherever the image was copied to. None: the engine does not tell its layers."""
    layers, configured = (image.get("RootFS") or {}).get("Layers"), image.get("Config") or {}
    if not layers:
        return None
    platform = [image.get(member) or "" for member in ("Os", "Architecture", "Variant")]
    return image.get("Created"), platform, layers, [configured.get(member) or None for member in _CONFIGURED]


def _from_registry(image: Mapping[str, Any]) -> bool:
    """Is there a registry that has it? containerd's store gives everything a digest, which is the image's id there;
    newer engines say where they have pulled it from."""
    if (image.get("Identity") or {}).get("Pull"):
        return True
    return any(str(digest).rpartition("@")[2] != image["Id"] for digest in image.get("RepoDigests") or ())


def _named_at(image: Mapping[str, Any]) -> datetime.datetime:
    return datetime.datetime.fromisoformat((image.get("Metadata") or {}).get("LastTagTime") or _NEVER)


async def _each(engines: Sequence[Engine], path: str) -> dict[str, tuple[int, Any]]:
    """Node's name → status and JSON."""

    async def ask(engine: Engine) -> tuple[int, Any]:
        try:
            return await told(engine, path)
        except EngineUnavailable as error:
            return 503, {"message": str(error)}

    answers = await asyncio.gather(*(ask(engine) for engine in engines))
    return {engine.node.name: answer for engine, answer in zip(engines, answers, strict=True)}
