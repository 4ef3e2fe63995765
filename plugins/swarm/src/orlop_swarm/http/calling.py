"""Asking many engines at once.

An engine that is away does not hide what the others say: it is an answer of status 503. One that hangs is away after
`ANSWER_WITHIN_S`; what may take long, such as a pull, is not asked this way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn
from urllib.parse import urlencode

import orjson
from aiohttp import web

from orlop_swarm.engines.answers import ANSWER_WITHIN_S, no_answer
from orlop_swarm.engines.interface import MOVED, Engine, EngineUnavailable, Response
from orlop_swarm.http import relaying
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.services import SERVICES, VERSION
from orlop_swarm.merging.answers import Answer, Document, Refusal, good, pruned, refusal
from orlop_swarm.merging.filters import Filters

#: How long one may take to change or remove something, or to count what its disk holds.
WORK_WITHIN_S: Final = 600.0

JSON_HEADERS: Final = {"Content-Type": "application/json"}


def engines(request: web.Request) -> Sequence[Engine]:
    """Those that can be used. Raises Problem (503) when there are none, orlop.framework.NotAvailable."""
    usable = request.app[SERVICES].pool.engines()
    if not usable:
        raise Problem(503, "no node of the pool has a Docker Engine that can be used")
    return usable


def filters_of(request: web.Request) -> Filters:
    """Raises BadFilters: an engine is to refuse the request."""
    return Filters.parse(request.query.get("filters", ""))


def chosen(request: web.Request, filters: Filters) -> Sequence[Engine]:
    """The usable engines that a filter `node=` lets pass. Raises as `engines` does."""
    return [engine for engine in engines(request) if filters.chooses(engine.node.name, engine.node.id)]


def of_node(request: web.Request, node: str) -> Sequence[Engine]:
    """The usable engine of the node with that name or id, if there is one."""
    return [engine for engine in engines(request) if node in (engine.node.name, engine.node.id)]


def query_of(request: web.Request, **changes: str) -> str:
    """The request's query, with other values for some parameters; an empty one is left out."""
    values = [(name, value) for name, value in request.query.items() if name not in changes]
    return urlencode([*values, *((name, value) for name, value in changes.items() if value)])


async def ask_each(
    request: web.Request,
    asked: Iterable[Engine],
    path: str | Mapping[str, str],
    *,
    method: str = "GET",
    query: str | Mapping[str, str] = "",
    body: Any = None,
    within_s: float = ANSWER_WITHIN_S,
) -> list[Answer]:
    """The answers of these engines, in their order.

    path: the engine's, quoted; query: encoded; either may be one for each node's id. body: to be sent as JSON.
    within_s: seconds.
    """

    def its(text: str | Mapping[str, str], engine: Engine) -> str:
        return text if isinstance(text, str) else text[engine.node.id]

    return await asyncio.gather(
        *(
            ask_one(
                request,
                one,
                its(path, one),
                method=method,
                query=its(query, one),
                body=body,
                within_s=within_s,
            )
            for one in asked
        )
    )


async def ask_one(
    request: web.Request,
    engine: Engine,
    path: str,
    *,
    method: str = "GET",
    query: str = "",
    body: Any = None,
    within_s: float = ANSWER_WITHIN_S,
) -> Answer:
    """One engine's answer, whatever it is. The client's headers go with it, so that registries know the client."""
    headers = relaying.headers_of(request)
    content = None
    if body is not None:
        content = orjson.dumps(body)
        headers.update(JSON_HEADERS)
    else:
        headers.pop("Content-Type", None)
    node = engine.node
    try:
        async with asyncio.timeout(within_s):
            response = await engine.request(
                method, path, query=query, headers=headers, body=content, version=request[VERSION]
            )
            return await answer_of(engine, response)
    except EngineUnavailable as error:
        return Answer(node=node.name, node_id=node.id, status=503, content=error.reason)
    except TimeoutError:
        return Answer(node=node.name, node_id=node.id, status=503, content=no_answer(within_s))


async def answer_of(engine: Engine, response: Response) -> Answer:
    """Reads the answer to its end. Raises EngineUnavailable."""
    try:
        body = await response.read()
    finally:
        await response.close()
    node = engine.node
    if response.status in MOVED:
        return Answer(node=node.name, node_id=node.id, status=404, content="page not found")
    content: Any = body.decode(errors="replace").strip()
    try:
        content = orjson.loads(body) if body.strip() else None
    except ValueError:
        pass
    if response.status >= 400 and isinstance(content, dict) and "message" in content:
        content = content["message"]
    return Answer(node=node.name, node_id=node.id, status=response.status, content=content)


def refuse(found: Refusal | None) -> None:
    """Raises Problem, when there is something to refuse."""
    if found is not None:
        raise Problem(found.status, found.message)


def refuse_unless_any(answers: Iterable[Answer]) -> None:
    """Raises Problem when no engine has done what it was asked for, in their words."""
    told = list(answers)
    if not good(told):
        refuse(refusal(told))


async def prune_each(
    request: web.Request, path: str, member: str, more: Mapping[str, Sequence[str]] | None = None
) -> Document:
    """What the engines that a filter `node=` chooses have removed. member: the answer's list of it. more: filters that
    are added to the client's. Raises Problem."""
    filters = filters_of(request)
    query = query_of(request, filters=filters.without(["node"], more))
    told = await ask_each(request, chosen(request, filters), path, method="POST", query=query, within_s=WORK_WITHIN_S)
    refuse_unless_any(told)
    return pruned(told, member)


async def first_that_can(request: web.Request, path: str, *, body: bytes | None = None) -> web.StreamResponse:
    """What any engine can do as well as another: the first one's answer, unless another one succeeds.

    Raises Problem, EngineUnavailable.
    """
    last: Response | None = None
    away: EngineUnavailable | None = None
    for engine in engines(request):
        try:
            response = await relaying.ask(request, engine, path, body=body)
        except EngineUnavailable as error:
            away = error
            continue
        if response.status < 500:
            if last is not None:
                await last.close()
            return await relaying.pass_on(request, response)
        if last is None:
            last = response
        else:
            await response.close()
    if last is not None:
        return await relaying.pass_on(request, last)
    assert away is not None, "there is at least one engine"
    raise away


def not_here(what: str) -> NoReturn:
    """Raises Problem: for what the pool does not do."""
    raise Problem(501, f"{what} is not done for the whole pool: ask the node's own engine")
