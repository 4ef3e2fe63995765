"""An engine that hangs: what does not need it is answered without it, and soon."""

from __future__ import annotations

import asyncio

import pytest
from scripted_engines import Asked, ScriptedPool, ScriptedResponse
from test_swarm_fan_out import serving

from orlop_swarm.engines import answers
from orlop_swarm.engines.answers import told
from orlop_swarm.engines.interface import EngineUnavailable
from orlop_swarm.http import calling, listing

WITHIN_S = 20.0
ROW = {
    "Id": "a" * 64,
    "Names": ["/web"],
    "Image": "busybox",
    "Created": 1,
    "Labels": {},
    "Ports": [],
    "State": "running",
}
INSPECTED = {"Id": "a" * 64, "Name": "/web", "Created": "2026-11-27T10:00:00Z", "Config": {"Labels": {}}}


def healthy(asked: Asked) -> ScriptedResponse:
    if asked.path == "/containers/json":
        return ScriptedResponse([[ROW]])
    if asked.path == "/containers/web/stop":
        return ScriptedResponse([], 204)
    return ScriptedResponse([INSPECTED] if asked.path.endswith("/web/json") else [{"message": "no"}], 200)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> ScriptedPool:
    """Engine `b` hangs, before its answer or in the middle of it; and short answers are waited for a moment."""
    for module in (answers, calling, listing):
        monkeypatch.setattr(module, "ANSWER_WITHIN_S", 0.05)
    return ScriptedPool({"a": healthy, "b": lambda _: ScriptedResponse([b"[", asyncio.Future()])})


async def test_lists_are_those_of_the_others(pool: ScriptedPool) -> None:
    async with asyncio.timeout(WITHIN_S), serving(pool) as client, client.get("/containers/json") as response:
        assert [row["Id"] for row in await response.json()] == ["a" * 64]


async def test_a_container_of_another_node_is_found_and_stopped(pool: ScriptedPool) -> None:
    async with asyncio.timeout(WITHIN_S), serving(pool) as client, client.post("/containers/web/stop") as response:
        assert response.status == 204


async def test_it_counts_as_away(pool: ScriptedPool) -> None:
    with pytest.raises(EngineUnavailable, match=r"no answer within 0\.05 s"):
        await told(pool.engines()[1], "/containers/x/json")
