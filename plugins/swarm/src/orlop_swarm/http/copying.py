"""Copies an image from one engine to others, as an archive that nobody keeps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from aiohttp import web

from orlop_swarm.engines.interface import Engine, EngineUnavailable
from orlop_swarm.http.broadcasting import Copied
from orlop_swarm.http.calling import answer_of
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.services import SERVICES, VERSION
from orlop_swarm.merging.progress import Lines


def path_of(name: str, rest: str) -> str:
    """An engine's path of an image. name: unquoted, may have slashes."""
    return f"/images/{quote(name, safe='/:@')}{rest}"


async def copy(name: str, source: Engine, targets: Sequence[Engine], version: str) -> list[tuple[str, str]]:
    """(node, why not) of those that have not got it. version: of the API, all of them speak it."""
    try:
        saved_image = await source.request("GET", path_of(name, "/get"), version=version)
        if saved_image.status >= 400:
            reason = str((await answer_of(source, saved_image)).content)
            return [(target.node.name, reason) for target in targets]
    except EngineUnavailable as error:
        return [(target.node.name, error.reason) for target in targets]
    copied = Copied(saved_image.pieces(), (target.node.id for target in targets))
    pump = asyncio.create_task(copied.pump())
    try:
        outcomes = await asyncio.gather(*(_load(target, copied, version) for target in targets))
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
        await saved_image.close()
    return [(target.node.name, reason) for target, reason in zip(targets, outcomes, strict=True) if reason]


async def bring(request: web.Request, name: str, source: Engine, target: Engine) -> None:
    """A copy of an image to where it is needed. Raises Problem."""
    if failed := await copy(name, source, [target], request[VERSION]):
        reason, node = failed[0][1], target.node.name
        raise Problem(500, f"{name} is on node {source.node.name}, and could not be copied to {node}: {reason}")
    request.app[SERVICES].images.forget()


def _messages(content: Any) -> Sequence[Mapping[str, Any]]:
    """Of an answer in lines of JSON; one line alone has been read already."""
    if isinstance(content, Mapping):
        return [content]
    lines = Lines()
    with contextlib.suppress(ValueError):
        return [*lines.feed(str(content or "").encode()), *lines.end()]
    return ()


async def _load(target: Engine, copied: Copied, version: str) -> str:
    """Why the engine has not got it; empty when it has."""
    try:
        response = await target.request(
            "POST",
            "/images/load",
            query="quiet=1",
            headers={"Content-Type": "application/x-tar"},
            body=copied.read_by(target.node.id),
            version=version,
        )
        told = await answer_of(target, response)
        if not told.good:
            return str(told.content)
        for message in _messages(told.content):
            if "error" in message:
                return str(message["error"])
    except (EngineUnavailable, OSError) as error:
        return str(error)
    finally:
        copied.leave(target.node.id)
    return ""
