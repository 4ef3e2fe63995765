"""Short answers of an engine, in one piece."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import hdrs

from orlop_swarm.engines.interface import MOVED, Engine, EngineUnavailable


async def told(
    engine: Engine, path: str, query: str = "", *, method: str = hdrs.METH_GET, body: Any = None
) -> tuple[int, Any]:
    """Status and JSON of a short answer. body: to be sent as JSON, unless None. Raises EngineUnavailable."""
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
