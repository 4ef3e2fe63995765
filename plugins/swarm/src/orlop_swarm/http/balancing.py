"""Evening nodes out, for `orlop swarm`. What Docker's API has nothing for has paths below `/orlop`.

What may move is what its client lets be made anew (`reschedule:on-node-failure`), and is bound to nothing of its node:
no volume or folder, no network of its own, no other container. What is in it is lost, as when its node fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import orjson
from aiohttp import web

from orlop.framework import Candidate, Refused, Task, TaskState, View
from orlop_swarm.asking import NETWORKS
from orlop_swarm.balancing import Movable, Move, plan
from orlop_swarm.candidates import container_of, container_of_task, labels_of
from orlop_swarm.documents import CONTAINER, NAME
from orlop_swarm.engines.interface import Engine, Pool
from orlop_swarm.http.looking import Looking
from orlop_swarm.http.problems import NotFound, Problem, answer
from orlop_swarm.http.services import SERVICES, Balancing
from orlop_swarm.orders import Move as MoveOrder
from orlop_swarm.placement import filters, wanted
from orlop_swarm.placement.places import Container, Place
from orlop_swarm.placement.strategies import Needs
from orlop_swarm.placement.wanted import Wanted
from orlop_swarm.settings import Config

if TYPE_CHECKING:
    from orlop.server.routing import Host

FRAMEWORK: Final = "swarm"
MOVED_WITHIN_S: Final = 120.0
#: The kernel sees to health, and what depends on others stays with them.
NOT_LOOKED_AT: Final = frozenset({"health", "dependency"})
#: Whether the engine has made it, and started it where it ran.
THERE: Final = {False: (TaskState.PREPARED, TaskState.RUNNING), True: (TaskState.RUNNING,)}


class Balancer:
    """See `services.Balancing`. Over the kernel's state and the engines."""

    def __init__(self, host: Host, pool: Pool, looking: Looking, settings: Config) -> None:
        self._host = host
        self._pool = pool
        self._looking = looking
        self._settings = settings

    @property
    def listen(self) -> Sequence[str]:
        """See `Balancing`."""
        return self._settings.listen

    @property
    def tls(self) -> bool:
        """See `Balancing`."""
        return self._settings.client_certificates is not None

    async def plan(self) -> Sequence[Move]:
        """See `Balancing`."""
        if self._settings.strategy != "spread":
            raise Problem(409, f"the pool's strategy is {self._settings.strategy}: it does not want its nodes even")
        view = await self._host.view(FRAMEWORK)
        candidates = [one for one in self._host.candidates() if one.node.schedulable]
        held = {one.node.id: _foreign(one) for one in candidates}
        others = {one.node.id: len(one.tasks) for one in candidates}
        said = {key: _said(view, task) for key, task in view.live.items()}
        for task in view.live.values():
            if task.node in held:
                held[task.node].append(container_of_task(task, said[task.key]))
                others[task.node] -= 1
        return plan(
            [_place(one) for one in candidates if "docker" in one.node.info.runtimes],
            held,
            others,
            await self._movable(view, said),
            [one for one in filters.named(self._settings.filters) if one.name not in NOT_LOOKED_AT],
            {one.node.id: _images(one) for one in candidates},
            {task.id: said[key] for key, task in view.live.items()},
        )

    async def _movable(self, view: View, said: Mapping[str, Wanted]) -> list[Movable]:
        needed = {name for one in said.values() for name in one.dependencies}
        found = {
            key: task for key, task in view.live.items() if _may_move(view, task, said[key]) and task.name not in needed
        }
        engines = self._pool.engines()
        images = list(dict.fromkeys(said[key].image for key in found))
        having = await asyncio.gather(*(self._having(engines, image) for image in images))
        nodes = dict(zip(images, having, strict=True))
        return [
            Movable(
                name=view.objects(CONTAINER)[key].name,
                node=task.node or "",
                container=container_of_task(task, said[key]),
                needs=_needs(view, task),
                wanted=said[key],
                nodes=nodes[said[key].image],
            )
            for key, task in found.items()
        ]

    async def _having(self, engines: Sequence[Engine], reference: str) -> frozenset[str] | None:
        """Ids of the nodes that have the image; None: all may fetch it."""
        try:
            image = await self._looking.image(engines, reference)
        except Problem:
            return frozenset()
        return None if image.registry else frozenset(one.node.id for one in engines if one.node.name in image.nodes)

    async def move(self, name: str) -> str:
        """See `Balancing`."""
        view = await self._host.view(FRAMEWORK)
        taken = view.objects(NAME).get(name)
        if taken is None or (task := view.live.get(taken.key)) is None:
            raise NotFound(f"No such container: {name}")
        if not _may_move(view, task, _said(view, task)):
            raise Problem(409, f"{name} is bound to its node, or may not be made anew")
        runs = view.objects(CONTAINER)[taken.key].runs
        try:
            await self._host.command(FRAMEWORK, MoveOrder(key=taken.key, task=task.id))
        except Refused as refused:
            raise Problem(409, str(refused.reason)) from refused

        def there(found: Task | None) -> bool:
            return (
                found is not None
                and found.id != task.id
                and (not found.live or (found.state in THERE[runs] and bool(found.status.external_id)))
            )

        try:
            now = await self._host.wait_for(FRAMEWORK, name, there, MOVED_WITHIN_S)
        except TimeoutError:
            raise Problem(504, f"{name} is not there again after {MOVED_WITHIN_S:g} s") from None
        if now is None or not now.live:
            raise Problem(409, f"{name} was removed meanwhile")
        node = (await self._host.view(FRAMEWORK)).node(now.node)
        return node.info.name if node is not None else ""


def _said(view: View, task: Task) -> Wanted:
    return wanted.read(view.spec(task).payload)


def _may_move(view: View, task: Task, said: Wanted) -> bool:
    """Is it there, may it be made anew, and is it bound to nothing of its node?"""
    container = view.objects(CONTAINER).get(task.key)
    if container is None or not container.moves or task.unreachable or task.desired_reason:
        return False
    payload = view.spec(task).payload
    host = payload.get("HostConfig") or {}
    networks = wanted.named_networks(payload) or payload.get(NETWORKS)
    data = host.get("Binds") or host.get("Mounts") or payload.get("Volumes")
    there = task.state in (TaskState.PREPARED, TaskState.RUNNING)
    return there and not data and not networks and not said.dependencies and not said.strategy


def _needs(view: View, task: Task) -> Needs:
    units = view.spec(task).resources.units
    return Needs(units.get("cpus", 0), units.get("mem", 0))


def _foreign(candidate: Candidate) -> list[Container]:
    return [container_of(one) for one in candidate.facts.containers.values()] if candidate.facts is not None else []


def _images(candidate: Candidate) -> list[str]:
    if candidate.facts is None:
        return []
    return [name for image in candidate.facts.images.values() for name in (image.id, *image.tags)]


def _place(candidate: Candidate) -> Place:
    info = candidate.node.info
    total, free = info.resources.units, candidate.free.units
    cpus, mem = total.get("cpus", 0), total.get("mem", 0)
    return Place(
        id=info.id,
        name=info.name,
        labels=labels_of(candidate),
        cpus=cpus,
        mem=mem,
        used_cpus=cpus - free.get("cpus", 0),
        used_mem=mem - free.get("mem", 0),
    )


def _balancing(request: web.Request) -> Balancing:
    found = request.app[SERVICES].balancing
    if found is None:
        raise NotFound("page not found")
    return found


async def get_listen(request: web.Request) -> web.Response:
    """GET /orlop/listen: where the Docker API is listened on."""
    found = _balancing(request)
    return answer({"listen": list(found.listen), "tls": found.tls})


async def get_plan(request: web.Request) -> web.Response:
    """GET /orlop/rebalance: what would be moved."""
    return answer({"moves": [attrs.asdict(one) for one in await _balancing(request).plan()]})


async def post_move(request: web.Request) -> web.Response:
    """POST /orlop/rebalance, {"container": name}: makes it anew, and answers where it is when it is there."""
    name = _name(await request.read())
    return answer({"container": name, "node": await _balancing(request).move(name)})


def _name(body: bytes) -> str:
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"not JSON: {error}") from error
    name = document.get("container") if isinstance(document, Mapping) else None
    if not isinstance(name, str) or not name:
        raise Problem(400, "container: expected a name")
    return name


def routes() -> Iterator[web.RouteDef]:
    yield web.get("/orlop/listen", get_listen)
    yield web.get("/orlop/rebalance", get_plan)
    yield web.post("/orlop/rebalance", post_move)
