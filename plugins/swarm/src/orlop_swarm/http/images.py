"""Images: pulled and loaded on every node; what is made on one node is of that node, until somebody saves and loads it.

An image that is imported is made once, by the first engine, and copied to the others: each engine would give it an id
of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from urllib.parse import urlencode

import orjson
from aiohttp import web

from orlop_swarm.engines.answers import told
from orlop_swarm.engines.interface import Engine, EngineUnavailable
from orlop_swarm.http import bodies, relaying
from orlop_swarm.http.broadcasting import Broadcast, stream, upload
from orlop_swarm.http.calling import (
    JSON_HEADERS,
    WORK_WITHIN_S,
    ask_each,
    chosen,
    engines,
    filters_of,
    first_that_can,
    prune_each,
    query_of,
    refuse,
    refuse_unless_any,
)
from orlop_swarm.http.copying import bring, copy, path_of
from orlop_swarm.http.looking import last_named
from orlop_swarm.http.problems import Problem, answer
from orlop_swarm.http.services import SERVICES, VERSION
from orlop_swarm.merging import images as merging
from orlop_swarm.merging.answers import Answer, good, is_own, nobody_has_it, refusal
from orlop_swarm.merging.filters import Filters
from orlop_swarm.merging.progress import Lines, Message, encoded


async def listed(request: web.Request) -> web.StreamResponse:
    """GET /images/json."""
    filters = filters_of(request)
    asked = chosen(request, filters)
    bounds = {name: await _bound(request, filters, name) for name in ("before", "since")}
    queries = {}
    for engine in asked:
        unknown = [name for name, bound in bounds.items() if bound is not None and engine.node.id not in bound]
        queries[engine.node.id] = query_of(request, filters=filters.without(["node", *unknown]))
    told = await ask_each(request, asked, "/images/json", query=queries)
    if told:
        refuse_unless_any(told)
    return answer(merging.listed(_within(part, bounds) for part in told))


Bound = dict[str, Answer]


async def _bound(request: web.Request, filters: Filters, name: str) -> Bound | None:
    """The image that the filter `before` or `since` names, by the id of each node that has it; the others cannot tell
    what was made before it. None when there is no such filter, or nobody has the image: then engines complain."""
    references = filters.values.get(name)
    if not references:
        return None
    told = await _looked_for(request, engines(request), references[0])
    return {part.node_id: part for part in good(told)} or None


def _within(part: Answer, bounds: Mapping[str, Bound | None]) -> Answer:
    def other(name: str) -> Answer | None:
        bound = bounds[name]
        return None if bound is None or part.node_id in bound else next(iter(bound.values()))

    return merging.between(part, other("before"), other("since"))


async def inspected(request: web.Request) -> web.StreamResponse:
    """GET /images/{name}/json."""
    told = await _looked_for(request, engines(request), request.match_info["name"])
    refuse(nobody_has_it(told))
    return answer(merging.inspected(_meant(told)))


async def _looked_for(request: web.Request, asked: Sequence[Engine], name: str) -> list[Answer]:
    """What these engines say of the image."""
    return await ask_each(request, asked, path_of(name, "/json"))


def _meant(told: Iterable[Answer]) -> list[Answer]:
    """A name may be that of several images, each on nodes of its own: those of the one that containers get."""
    having = good(told)
    nodes = last_named({part.node: part.content for part in having}) if having else ()
    return [part for part in having if part.node in nodes]


async def _told_apart(
    request: web.Request, asked: Sequence[Engine], name: str
) -> tuple[Sequence[Engine], Sequence[Engine]]:
    """Of these engines, those that have the image that is meant, and those that call another one by its name."""
    told = await _looked_for(request, asked, name)
    naming = {part.node_id for part in good(told)}
    having = {part.node_id for part in _meant(told)}
    return (
        [engine for engine in asked if engine.node.id in having],
        [engine for engine in asked if engine.node.id in naming - having],
    )


async def _having(request: web.Request, name: str) -> Sequence[Engine]:
    """The engines that have the image that is meant; all of them where none has it, to say so."""
    usable = engines(request)
    having, _ = await _told_apart(request, usable, name)
    return having or usable


async def on_holder(request: web.Request) -> web.StreamResponse:
    """GET /images/{name}/history and /get: of the first engine that has it."""
    name, what = request.match_info["name"], request.rel_url.raw_path.rpartition("/")[2]
    first, *_ = await _having(request, name)
    return await relaying.relay(request, first, path_of(name, f"/{what}"))


async def saved(request: web.Request) -> web.StreamResponse:
    """GET /images/get: several images in one archive, of one engine. What it lacks of them is brought there."""
    # An engine takes several in one parameter, too.
    names = [name for names in request.query.getall("names", []) for name in names.split(",") if name]
    usable = engines(request)
    having: dict[str, Sequence[Engine]] = {}
    targets = list(usable)
    for name in dict.fromkeys(names):
        having[name], others = await _told_apart(request, usable, name)
        if not having[name]:
            # An engine knows best how to say so. It is asked for this one alone, for it need not have the others.
            return await relaying.relay(request, usable[0], "/images/get", query=urlencode({"names": name}))
        # What those others call by this name stays theirs: nothing is brought in its place.
        targets = [engine for engine in targets if engine not in others]
    if not targets:
        raise Problem(404, f"Unable to find a healthy engine containing all images: [{' '.join(names)}]")

    def lacking(engine: Engine) -> list[str]:
        return [name for name, there in having.items() if engine not in there]

    target = min(targets, key=lambda engine: len(lacking(engine)))
    for name in lacking(target):
        await bring(request, name, having[name][0], target)
    return await relaying.relay(request, target, "/images/get")


async def pushed(request: web.Request) -> web.StreamResponse:
    """POST /images/{name}/push: of the first engine that has it, with the tag if one is given."""
    name, tag = request.match_info["name"], request.query.get("tag", "")
    first, *_ = await _having(request, f"{name}:{tag}" if tag else name)
    return await relaying.relay(request, first, path_of(name, "/push"))


async def tagged(request: web.Request) -> web.StreamResponse:
    """POST /images/{name}/tag: wherever the image is."""
    query, name = request.rel_url.raw_query_string, request.match_info["name"]
    asked = await _having(request, name)
    told = await ask_each(request, asked, path_of(name, "/tag"), method="POST", query=query)
    refuse(nobody_has_it(told))
    refuse(refusal(told, but=(404,)))
    return web.Response(status=201)


async def removed(request: web.Request) -> web.StreamResponse:
    """DELETE /images/{name}: everywhere, or nowhere while a container of one node uses it."""
    name, query, usable = request.match_info["name"], request.rel_url.raw_query_string, engines(request)
    filters = orjson.dumps({"ancestor": [name]}).decode()
    using = await ask_each(request, usable, "/containers/json", query=urlencode({"all": "1", "filters": filters}))
    used = {part.node_id for part in good(using) if part.content}
    told: list[Answer] = []
    for asked in ([one for one in usable if one.node.id in used], [one for one in usable if one.node.id not in used]):
        told += await ask_each(request, asked, path_of(name, ""), method="DELETE", query=query, within_s=WORK_WITHIN_S)
        refuse(refusal(told, but=(404,)))
    refuse(nobody_has_it(told))
    return answer(merging.removed(told))


async def prune(request: web.Request) -> web.StreamResponse:
    """POST /images/prune."""
    return answer(await prune_each(request, "/images/prune", "ImagesDeleted"))


async def search(request: web.Request) -> web.StreamResponse:
    """GET /images/search: what a registry has."""
    return await first_that_can(request, "/images/search")


async def loaded(request: web.Request) -> web.StreamResponse:
    """POST /images/load: the archive goes to every node."""
    query = request.rel_url.raw_query_string
    return await upload(request, engines(request), "/images/load", query=query, source=_body(request))


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    async for piece in request.content.iter_any():
        yield piece


async def created(request: web.Request) -> web.StreamResponse:
    """POST /images/create: a pull on every node, or an import."""
    if request.query.get("fromImage"):
        query = request.rel_url.raw_query_string
        return await stream(request, Broadcast(request, engines(request), "/images/create", query=query))
    return await _imported(request)


async def _imported(request: web.Request) -> web.StreamResponse:
    """The first engine makes it and says its id last; that is told when the others have it, too."""
    first, *others = engines(request)
    response = await relaying.ask(request, first, "/images/create")
    if response.status >= 400 or not others:
        return await relaying.pass_on(request, response)
    lines, last = Lines(), list[Message]()
    result = relaying.begun(response)
    try:
        await result.prepare(request)
        async for piece in response.pieces():
            told = [*last, *lines.feed(piece)]
            last = told[-1:]
            await result.write(encoded(told[:-1]))
    except EngineUnavailable:
        relaying.cut(request)
        return result
    finally:
        await response.close()
    last += lines.end()
    if last and "error" not in last[-1]:
        name = _imported_name(request) or str(last[-1].get("status", ""))
        for node, reason in await copy(name, first, others, request[VERSION]):
            await result.write(encoded([{"status": f"not copied to {node}: {reason}"}]))
    await result.write(encoded(last))
    return result


def _imported_name(request: web.Request) -> str:
    repository, tag = request.query.get("repo", ""), request.query.get("tag", "")
    if not repository or not tag:
        return repository
    return f"{repository}:{tag}"


async def committed(request: web.Request) -> web.StreamResponse:
    """POST /commit: the image is where its container is, and has not got what only that one is."""
    owner = await request.app[SERVICES].owners.find(request.query.get("container", ""))
    query = query_of(request, container=owner.reference)
    given = await bodies.read(request, {"Labels": (str,)}) if await relaying.small_body(request) else {}
    status, shown = await told(owner.engine, owner.path("/json"))
    own = [name for name in (shown["Config"].get("Labels") or ()) if is_own(name)] if status == 200 else []
    if not own or given is None:
        return await relaying.relay(request, owner.engine, "/commit", query=query)
    # An engine adds the container's labels to those that it is told, so that none can be left out. Told nothing at
    # all it takes the container's whole configuration.
    configured = given or shown["Config"]
    labels = {**(configured.get("Labels") or {}), **dict.fromkeys(own, "")}
    response = await owner.engine.request(
        request.method,
        "/commit",
        query=query,
        headers={**relaying.headers_of(request), **JSON_HEADERS},
        body=orjson.dumps({**configured, "Labels": labels}),
        version=request[VERSION],
    )
    return await relaying.pass_on(request, response)


def routes() -> list[web.RouteDef]:
    return [
        web.get("/images/json", listed, allow_head=False),
        web.get("/images/search", search, allow_head=False),
        web.get("/images/get", saved, allow_head=False),
        web.post("/images/create", created),
        web.post("/images/load", loaded),
        web.post("/images/prune", prune),
        web.get("/images/{name:.*}/json", inspected, allow_head=False),
        web.get("/images/{name:.*}/history", on_holder, allow_head=False),
        web.get("/images/{name:.*}/get", on_holder, allow_head=False),
        web.post("/images/{name:.*}/push", pushed),
        web.post("/images/{name:.*}/tag", tagged),
        web.delete("/images/{name:.*}", removed),
        web.post("/commit", committed),
    ]
