"""Short answers of an engine, in one piece."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from aiohttp import hdrs

from orlop_swarm.engines.interface import MOVED, Engine, EngineUnavailable

#: An engine that does not answer at all for so long hangs, and its agent is about to say so.
ANSWER_WITHIN_S: Final = 10.0


async def told(
    engine: Engine, path: str, query: str = "", *, method: str = hdrs.METH_GET, body: Any = None
) -> tuple[int, Any]:
    """Status and JSON of a short answer. body: to be sent as JSON, unless None. Raises EngineUnavailable."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await _told(engine, path, query, method, body)
    except TimeoutError:
        raise EngineUnavailable(engine.node.name, no_answer(ANSWER_WITHIN_S)) from None


def no_answer(within_s: float) -> str:
    """Why an engine counts as away that has not answered for so long."""
    return f"no answer within {within_s:g} s"


async def _told(engine: Engine, path: str, query: str, method: str, body: Any) -> tuple[int, Any]:
    headers = {str(hdrs.CONTENT_TYPE): "application/json"} if body is not None else {}
    given = orjson.dumps(body) if body is not None else None
    response = await engine.request(method, path, query=query, headers=headers, body=given)
    try:
        if response.status in MOVED:
            return 404, {"message": "page not found"}
        return response.status, orjson.loads(await response.read() or b"null")
    except orjson.JSONDecodeError:
        # Whoever stands before an engine that is away answers like this.
        reason = f"it answers with status {response.status} and something that is no JSON"
        raise EngineUnavailable(engine.node.name, reason) from None
    finally:
        await response.close()
