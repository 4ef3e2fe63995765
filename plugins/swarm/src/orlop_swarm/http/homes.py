"""Where a new network or volume that is on one node shall be.

The node with the fewest containers. But what a Compose file describes belongs together, as its containers do: once one
of a project's networks or volumes has a home, the others get the same. `docker-compose create` makes containers before
there is any of these: then their node is the home.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import orjson
from aiohttp import web

from orlop_swarm.engines.interface import Engine
from orlop_swarm.http.calling import ask_each
from orlop_swarm.merging.answers import good
from orlop_swarm.merging.containers import is_kept_row
from orlop_swarm.merging.copies import HOME_LABEL

PROJECT_LABEL: Final = "com.docker.compose.project"


async def home_for(request: web.Request, usable: Sequence[Engine], body: Mapping[str, Any]) -> Engine:
    """usable: at least one. body: of the request to create it."""
    if len(usable) == 1:
        return usable[0]
    labels = body.get("Labels")
    project = labels.get(PROJECT_LABEL) if isinstance(labels, Mapping) else None
    if project and (home := await _home_of_project(request, usable, str(project))) is not None:
        return home
    told = good(await ask_each(request, usable, "/containers/json", query="all=1"))
    there = {part.node_id: [row for row in part.content if not is_kept_row(row)] for part in told}
    asked = [engine for engine in usable if engine.node.id in there]

    def preferred(engine: Engine) -> tuple[int, int]:
        rows = there[engine.node.id]
        own = sum((row.get("Labels") or {}).get(PROJECT_LABEL) == project for row in rows) if project else 0
        return -own, len(rows)

    return min(asked, key=preferred, default=usable[0])


async def _home_of_project(request: web.Request, usable: Sequence[Engine], project: str) -> Engine | None:
    query = urlencode({"filters": orjson.dumps({"label": [f"{PROJECT_LABEL}={project}"]}).decode()})
    by_name = {engine.node.name: engine for engine in usable}
    for part in good(await ask_each(request, usable, "/networks", query=query)):
        for network in part.content or ():
            home = (network.get("Labels") or {}).get(HOME_LABEL)
            if home in by_name:
                return by_name[home]
    for part in good(await ask_each(request, usable, "/volumes", query=query)):
        if part.content.get("Volumes"):
            return by_name[part.node]
    return None
