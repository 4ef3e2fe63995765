"""Which engine holds a container.

Where one was seen last is remembered, within bounds, and believed until that engine says that it does not know it:
then, and for what is not remembered, all engines are asked at once. A container is called by its id, a prefix of it,
its name, `node/name` (also `node/id`, and the node's id for its name) or its Swarm id, which outlives its engine.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import attrs
import orjson

from orlop.docker_containers import TASK_LABEL
from orlop_swarm.engines.answers import told
from orlop_swarm.engines.interface import Engine, EngineUnavailable, Pool
from orlop_swarm.http.problems import NodeAway, NotFound, Problem
from orlop_swarm.http.services import Containers
from orlop_swarm.merging.containers import is_kept
from orlop_swarm.merging.listing import nanoseconds

REMEMBERED_MAX: Final = 100_000
EXECS_REMEMBERED_MAX: Final = 10_000
SHORT_ID: Final = 12
#: Of so many containers at most one request finds out when exactly they were created; later ones find out the rest.
MOMENTS_ASKED_MAX: Final = 16
SWARM_ID: Final = "com.docker.swarm.id"
_HEXADECIMAL: Final = re.compile(r"[0-9a-f]{1,64}")


@attrs.frozen(kw_only=True)
class Owner:
    """engine: that holds the container. reference: what it is to be told, unquoted. id: the container's, whole.
    sure: the engine has just said so."""

    engine: Engine
    reference: str
    id: str
    sure: bool

    def path(self, rest: str) -> str:
        """The engine's path of the container: `/containers/…` and the rest, which begins with a slash, or is empty."""
        return f"/containers/{quote(self.reference, safe='')}{rest}"


@attrs.frozen(kw_only=True)
class Held:
    """A container, as one engine tells it. id: whole. name: without a slash. created: as `inspect` writes it.
    labels: all of them, Orlop's own too."""

    engine: Engine
    id: str
    name: str
    created: str = ""
    labels: Mapping[str, str] = attrs.field(factory=dict)


class Owners:
    """Lives as long as the application. remembered_max: names and ids, the least used are forgotten first."""

    def __init__(self, pool: Pool, containers: Containers, remembered_max: int = REMEMBERED_MAX) -> None:
        self._pool = pool
        self._containers = containers
        self._remembered_max = remembered_max
        self._places: OrderedDict[str, tuple[str, str]] = OrderedDict()
        #: Containers' ids → what they are called, so that all of it is forgotten with them.
        self._names: dict[str, frozenset[str]] = {}
        self._execs: OrderedDict[str, str] = OrderedDict()
        self._moments: OrderedDict[str, int] = OrderedDict()

    def seen(self, node: str, container: str, *names: str, labels: Mapping[str, str] | None = None) -> None:
        """A container on that node. node, container: ids. What may move is looked for each time: when its node is
        back, there is an old copy on it."""
        if SWARM_ID in (labels or ()):
            return
        given = {name for name in names if name}
        self._names[container] = self._names.get(container, frozenset()) | given
        for name in (container, container[:SHORT_ID], *given):
            self._places[name] = (node, container)
            self._places.move_to_end(name)
        while len(self._places) > self._remembered_max:
            self._names.pop(self._places.popitem(last=False)[0], None)

    def forget(self, *references: str) -> None:
        """Whatever the containers of these ids or names are called."""
        for reference in references:
            place = self._places.pop(reference, None)
            container = place[1] if place is not None else reference
            self._moments.pop(container, None)
            for name in (container, container[:SHORT_ID], *self._names.pop(container, ())):
                if (other := self._places.get(name)) is not None and other[1] == container:
                    del self._places[name]

    async def find(self, reference: str, *, sure: bool = False) -> Owner:
        """Where the container is. sure: an engine is to have said so just now.

        Raises NotFound, Problem (400 when several are meant; 503 when its node cannot be reached), NotAvailable.
        """
        plain = reference.removeprefix("/")
        if not plain:
            raise Problem(400, f'invalid name or ID supplied: "{reference}"')
        place = self._places.get(plain)
        engine = None if place is None else self._usable(place[0])
        if place is not None and engine is not None:
            self._places.move_to_end(plain)
            if not sure:
                return Owner(engine=engine, reference=plain, id=place[1], sure=False)
            # There is no other of its whole id, so that nobody else needs to be asked.
            if plain == place[1] and (await _told_by([engine], plain)).held:
                return Owner(engine=engine, reference=plain, id=plain, sure=True)
        held = await self.look(reference)
        return Owner(engine=held.engine, reference=self._told(reference, held), id=held.id, sure=True)

    def _usable(self, node: str) -> Engine | None:
        return next((engine for engine in self._pool.engines() if engine.node.id == node), None)

    @staticmethod
    def _told(reference: str, held: Held) -> str:
        """The client's own word, where the engine knows it: it comes back in what the engine says."""
        plain = reference.removeprefix("/")
        return plain if plain == held.name or held.id.startswith(plain) else held.id

    async def look(self, reference: str) -> Held:
        """Asks all engines. Raises as `find` does."""
        held = await self._asked(reference)
        self.seen(held.engine.node.id, held.id, held.name, labels=held.labels)
        self.created(held.id, held.created)
        return held

    def created(self, container: str, moment: str) -> None:
        """moment: as an engine's `inspect` writes it; empty: not known."""
        if moment:
            self._moments[container] = nanoseconds(moment)
            while len(self._moments) > self._remembered_max:
                self._moments.popitem(last=False)

    async def moments(self, containers: Iterable[tuple[Engine, str]]) -> dict[str, int]:
        """When containers were created, by their ids: Unix time in nanoseconds, as far as it can be told."""
        asked = list(containers)
        unknown = [one for one in asked if one[1] not in self._moments][:MOMENTS_ASKED_MAX]
        for held in await asyncio.gather(*(_inspected(*one) for one in unknown), return_exceptions=True):
            if isinstance(held, Held):
                self.created(held.id, held.created)
        return {container: self._moments[container] for _, container in asked if container in self._moments}

    async def named(self, name: str) -> Held | None:
        """The container of exactly this name, if an engine has one. Raises NotAvailable."""
        found = (await _told_by(self._pool.engines(), name)).held
        return next((held for held in found if held.name == name), None)

    async def exec(self, exec_id: str) -> Owner:
        """Where a command in a container is; `reference` and `id` are the command's.

        Raises NotFound, EngineUnavailable (where it was).
        """
        place = self._execs.get(exec_id)
        engine = None if place is None else self._usable(place)
        if engine is not None:
            return Owner(engine=engine, reference=exec_id, id=exec_id, sure=False)
        for one in await asyncio.gather(*(_has_exec(engine, exec_id) for engine in self._pool.engines())):
            if one is not None:
                self.exec_seen(one.node.id, exec_id)
                return Owner(engine=one, reference=exec_id, id=exec_id, sure=True)
        if place is not None:
            self._pool.engine(place)
        raise NotFound(f"No such exec instance: {exec_id}")

    def exec_seen(self, node: str, exec_id: str) -> None:
        self._execs[exec_id] = node
        while len(self._execs) > EXECS_REMEMBERED_MAX:
            self._execs.popitem(last=False)

    async def _asked(self, reference: str, *, again: bool = False) -> Held:
        plain = reference.removeprefix("/")
        engines: Sequence[Engine] = self._pool.engines()
        if "/" in plain:
            node, _, plain = plain.partition("/")
            engines = [one for one in engines if node in (one.node.name, one.node.id)]
        if not plain:
            raise NotFound(f"No such container: {reference}")  # engines redirect from a path without one
        told = await _told_by(engines, plain)
        found = await self._without_old(told.held)
        if not found and not told.refused and _HEXADECIMAL.fullmatch(plain):
            found = await self._of_swarm_id(engines, plain)
        if (exact := _exactly(reference, plain, found)) is not None:
            return exact
        if not found and not told.refused and not again and await self._containers.settled(plain):
            return await self._asked(reference, again=True)
        await self._refuse_if_silent(plain, found, told.silent)
        if told.refused:
            raise told.refused[0]
        if len(found) > 1:
            raise Problem(400, f"Multiple IDs found with provided prefix: {reference}")
        if found:
            return found[0]
        self.forget(plain)
        raise NotFound(f"No such container: {reference}", hidden=bool(told.held))

    async def _without_old(self, found: list[Held]) -> list[Held]:
        found = [held for held in found if not is_kept(held.name)]
        if not any(TASK_LABEL in held.labels for held in found):
            return found
        is_old = await self._containers.left_behind()
        return [held for held in found if not is_old(held.name, held.labels)]

    async def _of_swarm_id(self, engines: Iterable[Engine], reference: str) -> list[Held]:
        """The kernel knows whose it is; the label may also come from an image that was made of that container."""
        found = await self._without_old(await _by_swarm_id(engines, reference))
        known = await self._containers.known(reference) if found else None
        return found if known is None or not known.id else [held for held in found if held.id == known.id]

    async def _refuse_if_silent(self, reference: str, found: Sequence[Held], silent: Mapping[str, str]) -> None:
        """Raises Problem, if it may be on a node that does not answer. found: what others have under a prefix.

        silent: ids of nodes that have just been asked in vain, and why.
        """
        nodes = {node.id: node for node in self._pool.nodes()}
        away = {**{node.id: node.unavailable for node in nodes.values() if node.unavailable}, **silent}
        if found and not away:
            return
        known = await self._containers.known(reference)
        if found:
            if known is None or known.node not in away or known.id in {held.id for held in found}:
                return
            if reference not in (known.id, known.name):
                raise Problem(400, f"Multiple IDs found with provided prefix: {reference}")
        elif known is None:
            # One that was made behind the pool's back, and was seen there.
            place = self._places.get(reference)
            if place is not None and place[0] in away:
                raise NodeAway(reference, nodes[place[0]].name, away[place[0]])
            return
        if not known.node:
            raise Problem(503, f"Container {reference} waits for a node on which it can be")
        if known.node not in nodes:
            raise Problem(503, f"Container {reference} is on node {known.node}, which is gone")
        if known.node in away:
            raise NodeAway(reference, nodes[known.node].name, away[known.node])


def _exactly(reference: str, plain: str, found: Sequence[Held]) -> Held | None:
    """Of several: a whole id before a name. None: there is none of either. Raises Problem (400): several have it."""
    for wanted in ([one for one in found if one.id == plain], [one for one in found if one.name == plain]):
        if len(wanted) == 1:
            return wanted[0]
        if wanted:
            places = ", ".join(f"{one.engine.node.name}/{one.name}" for one in wanted)
            raise Problem(400, f"Container {reference} is on several nodes: {places}")
    return None


@attrs.frozen(kw_only=True)
class _Told:
    """What engines have said of a reference. refused: of those to which it may mean several, say; in the order of the
    engines. silent: ids of the nodes that have not answered, and why."""

    held: list[Held]
    refused: list[Problem]
    silent: Mapping[str, str]


async def _told_by(engines: Sequence[Engine], reference: str) -> _Told:
    """What one engine refuses, or that it is away, is not the end of it."""
    asked = [_inspected(engine, reference) for engine in engines]
    held, refused, silent = list[Held](), list[Problem](), dict[str, str]()
    for engine, one in zip(engines, await asyncio.gather(*asked, return_exceptions=True), strict=True):
        match one:
            case Held():
                held.append(one)
            case Problem():
                refused.append(one)
            case EngineUnavailable():
                silent[engine.node.id] = one.reason
            case BaseException():
                raise one
    return _Told(held=held, refused=refused, silent=silent)


async def _inspected(engine: Engine, reference: str) -> Held | None:
    """Raises Problem, in the engine's words; EngineUnavailable."""
    status, body = await told(engine, f"/containers/{quote(reference, safe='')}/json")
    if status == 200:
        return Held(
            engine=engine,
            id=body["Id"],
            name=body["Name"].removeprefix("/"),
            created=body["Created"],
            labels=(body.get("Config") or {}).get("Labels") or {},
        )
    if status != 404:
        raise Problem(status, body["message"])
    return None


async def _has_exec(engine: Engine, exec_id: str) -> Engine | None:
    try:
        status, _ = await told(engine, f"/exec/{quote(exec_id, safe='')}/json")
    except EngineUnavailable:
        return None
    return engine if status == 200 else None


async def _by_swarm_id(engines: Iterable[Engine], reference: str) -> list[Held]:
    query = "all=1&filters=" + quote(orjson.dumps({"label": [SWARM_ID]}))
    found: list[Held] = []

    async def listed(engine: Engine) -> None:
        try:
            status, rows = await told(engine, "/containers/json", query)
        except EngineUnavailable:
            return
        if status == 200:
            matching = [row for row in rows if row["Labels"][SWARM_ID].startswith(reference)]
            found.extend(_of_row(engine, row) for row in matching)

    await asyncio.gather(*(listed(engine) for engine in engines))
    return found


def _of_row(engine: Engine, row: Mapping[str, Any]) -> Held:
    names = own_names(row.get("Names") or ())
    return Held(engine=engine, id=row["Id"], name=names[0] if names else "", labels=row.get("Labels") or {})


def own_names(names: Iterable[str]) -> list[str]:
    """Of the names in a list's row, which are those of links, too: the container's own, without slashes."""
    return [name[1:] for name in names if name.count("/") == 1]
