"""Renames: beside other renames of the same container, and of clients that do not wait for the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

from aiohttp.test_utils import TestClient, TestServer
from scripted_engines import Asked, ScriptedPool, ScriptedResponse
from test_swarm_fan_out import NoContainers
from waiting import eventually

from orlop_swarm.http import Services, make_application
from orlop_swarm.http.finding import Owners
from orlop_swarm.http.versions import Versions

CONTAINER = "c" * 64


class Names(NoContainers):
    """What the kernel is told of names, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    async def reserve(self, container: str, called: str, name: str) -> None:
        self.told.append(("reserve", name))

    async def renamed(self, container: str, name: str) -> None:
        self.told.append(("renamed", name))


class SlowToRename:
    """An engine with one container, which it renames as soon as it may."""

    def __init__(self) -> None:
        self.name = "one"
        self.asked: list[str] = []
        self.may = asyncio.Event()

    def __call__(self, asked: Asked) -> ScriptedResponse:
        reference = asked.path.split("/")[2]
        if reference not in (self.name, CONTAINER):
            return ScriptedResponse([{"message": f"No such container: {reference}"}], 404)
        if asked.path.endswith("/rename"):
            (name,) = parse_qs(asked.query)["name"]
            self.asked.append(name)
            return ScriptedResponse([self._renames(name)], 204)
        config = {"Labels": {}, "Image": "busybox"}
        return ScriptedResponse([{"Id": CONTAINER, "Name": f"/{self.name}", "Created": "", "Config": config}])

    async def _renames(self, name: str) -> None:
        await self.may.wait()
        self.name = name


class JustMade:
    """An engine that has no container when it is first asked, and one of the name that was looked for from then on."""

    def __init__(self) -> None:
        self.times = 0
        self.renamed: list[str] = []

    def __call__(self, asked: Asked) -> ScriptedResponse:
        self.times += 1
        if asked.path.endswith("/rename"):
            self.renamed.append(asked.path)
        if self.times == 1:
            return ScriptedResponse([{"message": "No such container: one"}], 404)
        if asked.path.endswith("/rename"):
            return ScriptedResponse([], 204)
        return ScriptedResponse([{"Id": CONTAINER, "Name": "/one", "Created": "", "Config": {"Labels": {}}}])


@contextlib.asynccontextmanager
async def serving(engine: SlowToRename | JustMade, names: Names) -> AsyncIterator[TestClient[Any, Any]]:
    pool = ScriptedPool({"a": engine})
    services = Services(pool=pool, owners=Owners(pool, names), containers=names, versions=Versions(pool))
    async with TestClient(TestServer(make_application(services), handler_cancellation=True)) as client:
        yield client


async def test_two_renames_of_one_container_come_one_after_the_other() -> None:
    engine, names = SlowToRename(), Names()
    async with serving(engine, names) as client:
        renames = [
            asyncio.create_task(client.post(f"/containers/{CONTAINER}/rename?name={name}")) for name in ("two", "three")
        ]
        await eventually(lambda: engine.asked, "the engine is asked")
        assert (await client.get("/containers/one/json")).status == 200
        assert len(names.told) == 1, "the second would give up the name that the first one is about to get"
        engine.may.set()
        assert [(await rename).status for rename in renames] == [204, 204]
    first, second = engine.asked
    assert names.told == [("reserve", first), ("renamed", first), ("reserve", second), ("renamed", second)]


async def test_what_nobody_has_is_not_renamed_when_it_is_made_meanwhile() -> None:
    """The kernel would not know of it, and give the new name to another container."""
    engine, names = JustMade(), Names()
    async with serving(engine, names) as client, client.post("/containers/one/rename?name=two") as response:
        assert response.status == 404
        assert (await response.json())["message"] == "No such container: one"
    assert not engine.renamed
    assert not names.told


async def test_a_rename_whose_client_has_gone_is_carried_through() -> None:
    engine, names = SlowToRename(), Names()
    async with serving(engine, names) as client:
        rename = asyncio.create_task(client.post("/containers/one/rename?name=two"))
        await eventually(lambda: engine.asked, "the engine is asked")
        rename.cancel()
        await asyncio.wait([rename])
        assert (await client.get("/containers/one/json")).status == 200
        engine.may.set()
        await eventually(lambda: len(names.told) == 2, "the kernel is told")
    assert engine.name == "two"
    assert names.told == [("reserve", "two"), ("renamed", "two")]
