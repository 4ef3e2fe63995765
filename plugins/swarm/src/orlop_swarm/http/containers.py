"""Containers: what is done to one of them is done by its engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote

import attrs
import orjson
from aiohttp import hdrs, web

from orlop.docker_containers import OUTPUT_LABEL
from orlop_swarm.asking import moves
from orlop_swarm.engines.interface import EngineUnavailable, Response
from orlop_swarm.http import bodies, relaying
from orlop_swarm.http.calling import filters_of, prune_each
from orlop_swarm.http.finding import Held, Owner
from orlop_swarm.http.networks import show_ids
from orlop_swarm.http.problems import NodeAway, NotFound, Problem, answer
from orlop_swarm.http.services import SERVICES, VERSION, Creation, Switch, is_true
from orlop_swarm.merging.containers import shown_inspection
from orlop_swarm.merging.remembered import inspection

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_NAME: Final = "{name:.+}"
_SWITCHES: Final = {
    "start": Switch.STARTED,
    "restart": Switch.STARTED_ANEW,
    "stop": Switch.STOPPED,
    "kill": Switch.STOPPED,
}
_LIST_OR_MAKE: Final = (hdrs.METH_GET, hdrs.METH_POST)
_DEADLY: Final = ("", "KILL", "SIGKILL", "9")


def routes() -> list[web.RouteDef]:
    """The endpoints below `/containers` but for the list."""
    handed_on = [
        *((hdrs.METH_GET, rest) for rest in ("top", "stats", "changes", "logs", "export", "archive")),
        *((hdrs.METH_POST, rest) for rest in ("pause", "unpause")),
        *((hdrs.METH_POST, rest) for rest in ("resize", "copy")),
        (hdrs.METH_HEAD, "archive"),
        (hdrs.METH_PUT, "archive"),
    ]
    return [
        web.post("/containers/create", create),
        web.post("/containers/prune", prune),
        web.get(f"/containers/{_NAME}/attach/ws", attach, allow_head=False),
        web.post(f"/containers/{_NAME}/attach", attach),
        web.get(f"/containers/{_NAME}/json", inspect, allow_head=False),
        web.post(f"/containers/{_NAME}/wait", wait),
        web.post(f"/containers/{_NAME}/rename", rename),
        web.post(f"/containers/{_NAME}/update", update),
        *(web.route(method, f"/containers/{_NAME}/{rest}", _handed_on(f"/{rest}")) for method, rest in handed_on),
        *(web.post(f"/containers/{_NAME}/{rest}", _switched(f"/{rest}")) for rest in _SWITCHES),
        *(
            web.route(method, f"/containers/{_NAME}/checkpoints", _handed_on("/checkpoints"))
            for method in _LIST_OR_MAKE
        ),
        web.delete(f"/containers/{_NAME}/checkpoints/{{checkpoint}}", remove_checkpoint),
        web.delete("/containers/{name:.*}", remove),
    ]


def _handed_on(rest: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        _, response = await asked(request, rest)
        return await relaying.pass_on(request, response)

    return handle


async def remove_checkpoint(request: web.Request) -> web.StreamResponse:
    return await _handed_on(f"/checkpoints/{quote(request.match_info['checkpoint'], safe='')}")(request)


def _switched(rest: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        """Answered when the kernel knows of it: whether a container runs shall not be forgotten with its node."""
        known = await request.app[SERVICES].containers.switching()
        owner, response = await asked(request, rest)
        plain = await relaying.whole(response)
        if plain.status < 400 and (switch := _switch(request, rest)) is not None:
            await known(owner, switch)
        return plain

    return handle


def _switch(request: web.Request, rest: str) -> Switch | None:
    """None: it may run on."""
    if rest == "/kill" and request.query.get("signal", "").upper() not in _DEADLY:
        return None
    return _SWITCHES[rest.removeprefix("/")]


async def asked(request: web.Request, rest: str, *, sure: bool = False) -> tuple[Owner, Response]:
    """The answer of the container's engine. rest: of the path, after the container.

    sure: an engine is to say first that it has the container. That is needed, too, for a body that cannot be sent
    twice. Raises Problem, NotAvailable.
    """
    owner = await owner_of(request, sure=sure or not relaying.is_small(request))
    response = await _answer_of(request, owner, rest)
    if response.status == 404 and not owner.sure and await _is_elsewhere(request, owner):
        await response.close()
        owner = await owner_of(request, sure=True)
        response = await _answer_of(request, owner, rest)
    return owner, response


async def owner_of(request: web.Request, *, sure: bool = False) -> Owner:
    """Raises Problem, NotAvailable."""
    services = request.app[SERVICES]
    reference = request.match_info["name"]
    try:
        return await services.owners.find(reference, sure=sure)
    except NotFound as error:
        if error.hidden:
            raise
        # Each endpoint has its own words for it, and an engine knows them.
        engines = services.pool.engines()
        if not engines or "/" in reference:
            raise
        return Owner(engine=engines[0], reference=reference, id="", sure=True)


async def _answer_of(request: web.Request, owner: Owner, rest: str) -> Response:
    try:
        return await relaying.ask(request, owner.engine, owner.path(rest))
    except EngineUnavailable as error:
        raise _away(request, owner, error) from None


def _away(request: web.Request, owner: Owner, error: EngineUnavailable) -> Problem:
    """Without an id, nobody has it, and the engine was only to say so."""
    reference = request.match_info["name"]
    return NodeAway(reference, error.node, error.reason) if owner.id else NotFound(f"No such container: {reference}")


async def _is_elsewhere(request: web.Request, owner: Owner) -> bool:
    """An engine's 404 can mean something in the container, too."""
    owners = request.app[SERVICES].owners
    try:
        found = await owners.look(request.match_info["name"])
    except Problem:
        return False
    return found.engine.node.id != owner.engine.node.id


async def create(request: web.Request) -> web.StreamResponse:
    """The kernel finds the place."""
    services = request.app[SERVICES]
    body = await bodies.read(request, bodies.CONTAINER)
    if body is None or not bodies.is_configured(body):
        # No engine takes that name: should it take the body after all, it still creates nothing.
        return await bodies.refused_by_one(request, "/containers/create", query="name=%20")
    creation = Creation(
        body=body,
        name=request.query.get("name", "").removeprefix("/"),
        platform=request.query.get("platform", ""),
        version=request[VERSION],
    )
    taken = await services.owners.named(creation.name.rpartition("/")[2]) if creation.name else None
    if taken is not None:
        raise Problem(409, conflict(taken))
    created = await services.containers.create(creation)
    if not moves(body):
        services.owners.seen(created.node, created.id, created.name, labels=body.get("Labels"))
    services.owners.created(created.id, created.moment)
    return answer({"Id": created.id, "Warnings": list(created.warnings)}, status=201)


async def inspect(request: web.Request) -> web.StreamResponse:
    """Of a node that is down as far as the kernel knows: clients inspect whatever a list has."""
    services = request.app[SERVICES]
    try:
        owner, response = await asked(request, "/json")
    except NodeAway as problem:
        if (shown := await _remembered(request, problem.reason)) is None:
            raise
        return answer(shown)
    plain = await relaying.whole(response)
    if plain.status != 200:
        return plain
    node, told = owner.engine.node, orjson.loads(relaying.content(plain))
    await show_ids(request, [told])
    shown = shown_inspection(
        told,
        node=node,
        about=services.versions.about(node.id),
        address=services.published_on(node),
    )
    labels = shown["Config"]["Labels"]
    services.owners.seen(node.id, shown["Id"], shown["Name"].removeprefix("/"), labels=labels)
    return answer(shown)


async def _remembered(request: web.Request, reason: str) -> dict[str, Any] | None:
    """reason: why its node does not answer. None when the kernel does not know it."""
    services = request.app[SERVICES]
    reference = request.match_info["name"].removeprefix("/")
    known = await services.containers.known(reference.rpartition("/")[2])
    node = next((one for one in services.pool.nodes() if known is not None and one.id == known.node), None)
    if known is None or node is None:
        return None
    about = services.versions.about(node.id)
    return shown_inspection(inspection(known, reason), node=node, about=about, address="")


async def attach(request: web.Request) -> web.StreamResponse:
    rest = "/attach/ws" if request.method == hdrs.METH_GET else "/attach"
    owner = await owner_of(request, sure=True)
    try:
        return await relaying.upgrade(request, owner.engine, owner.path(rest))
    except EngineUnavailable as error:
        raise _away(request, owner, error) from None


async def wait(request: web.Request) -> web.StreamResponse:
    """After a wait for the removal the container's name is free."""
    if request.query.get("condition") != "removed":
        return await _handed_on("/wait")(request)
    owner, response = await asked(request, "/wait", sure=True)

    async def let_go() -> None:
        await _gone(request, owner)

    return await relaying.pass_on(request, response, before_end=let_go)


async def remove(request: web.Request) -> web.StreamResponse:
    """Answered when name and resources are free again. By force also what no engine can be told of."""
    if is_true(request.query.get("link", "")):
        return await _remove_link(request)
    containers = request.app[SERVICES].containers
    try:
        owner = await owner_of(request, sure=True)
        plain = await _removed(request, owner)
    except Problem as problem:
        by_force = problem.status == 503 and is_true(request.query.get("force", ""))
        reference = request.match_info["name"].removeprefix("/")
        if by_force and await containers.discard(reference):
            request.app[SERVICES].owners.forget(reference)
            return web.Response(status=204)
        raise
    if plain.status < 300:
        await _gone(request, owner)
    return plain


async def _removed(request: web.Request, owner: Owner) -> web.Response:
    """By its engine. Should its node be drained meanwhile, its end is not taken for that of a container that moves."""
    containers = request.app[SERVICES].containers
    moved, done = bool(owner.id) and await containers.removing(owner.id), False
    try:
        plain = await relaying.whole(await _answer_of(request, owner, ""))
        done = plain.status < 300
    finally:
        if moved and not done:
            await asyncio.shield(containers.not_removed(owner.id))
    return plain


async def _remove_link(request: web.Request) -> web.StreamResponse:
    reference = request.match_info["name"].removeprefix("/")
    try:
        owner = await request.app[SERVICES].owners.find(reference.partition("/")[0], sure=True)
    except NotFound as error:
        if error.hidden:
            raise
        raise NotFound(f"No such container: {reference}") from None
    return await relaying.relay(request, owner.engine, f"/containers/{quote(reference)}")


async def _gone(request: web.Request, owner: Owner) -> None:
    services = request.app[SERVICES]
    services.owners.forget(owner.id, owner.reference)
    await services.containers.gone(owner.id)


async def rename(request: web.Request) -> web.StreamResponse:
    """The name has to be free in the whole pool. What an engine has been asked is carried through, also when the client
    has gone: else the name would be another's while the engine has given it to this one."""
    return await asyncio.shield(_rename(request))


async def _rename(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    # Not as `owner_of`: an engine that is asked only for its words may have a container of that name by then.
    owner = await services.owners.find(request.match_info["name"], sure=True)
    name = request.query.get("name", "").removeprefix("/")
    if not name:
        return await relaying.whole(await _answer_of(request, owner, "/rename"))
    # A container has one second name: a rename beside another would give up the name that the other's engine gives it.
    async with services.renames.setdefault(owner.id, asyncio.Lock()):
        held = await services.owners.look(owner.id)
        if held.name != name:
            await _refuse_taken(request, held.id, name)
            await services.containers.reserve(held.id, held.name, name)
        done = False
        try:
            # By its id: its name may be another container's in a moment.
            this = attrs.evolve(owner, reference=held.id)
            plain = await relaying.whole(await _answer_of(request, this, "/rename"))
            done = plain.status < 300
        finally:
            if held.name != name:
                await services.containers.renamed(held.id, name if done else held.name)
        if done:
            services.owners.forget(held.name)
            services.owners.seen(owner.engine.node.id, held.id, name, labels=held.labels)
        return plain


async def update(request: web.Request) -> web.StreamResponse:
    """Answered when it is stored, so that it is not forgotten when the container moves."""
    body = await bodies.read(request, bodies.UPDATE)
    owner, response = await asked(request, "/update")
    plain = await relaying.whole(response)
    if plain.status < 300 and owner.id and body:
        await request.app[SERVICES].containers.changed(owner.id, update=body)
    return plain


async def _refuse_taken(request: web.Request, container: str, name: str) -> None:
    """Raises Problem (409)."""
    taken = await request.app[SERVICES].owners.named(name)
    if taken is not None and taken.id != container:
        raise Problem(409, f"Error when allocating new name: {conflict(taken)}")


def conflict(taken: Held) -> str:
    return (
        f'Conflict. The container name "/{taken.name}" is already in use by container "{taken.id}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )


async def prune(request: web.Request) -> web.StreamResponse:
    """On all engines that its filters choose. What other frameworks have run is not the clients' to remove: it is kept
    for its output, and not shown. Of several labels engines spare what has all of them, so that a client's own
    `label!` stays alone."""
    services = request.app[SERVICES]
    spared = {} if "label!" in filters_of(request).values else {"label!": [OUTPUT_LABEL]}
    total = await prune_each(request, "/containers/prune", "ContainersDeleted", spared)
    for container in total["ContainersDeleted"] or ():
        services.owners.forget(container)
        await services.containers.gone(container)
    return answer(total)
