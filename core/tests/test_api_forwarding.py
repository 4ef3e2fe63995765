"""A standby's API: requests go to the leader as they came, and without one it says how old its knowledge is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer
from operator_stub import StubServer, make_server

from orlop.api import forwarding
from orlop.api.application import make_application, mount_plugin_routes
from orlop.api.forwarding import STALE
from orlop.framework import NotAvailable
from orlop.hookspecs import Routes
from orlop.server.role import Role

DEADLINE_S = 20.0
REACHED = web.AppKey("reached", asyncio.Event)


def free_address() -> str:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{made.getsockname()[1]}"


class Standby(StubServer):
    """A server that does not lead."""

    def __init__(self, leader_url: str) -> None:
        super().__init__(make_server().cluster)
        self.now = Role(leads=False, leader_url=leader_url, stale_ms=1_234)

    def role(self) -> Role:
        return self.now


def plugin() -> web.Application:
    """Routes that show what arrives."""

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            status=207, headers={"X-Kind": request.headers.get("X-Kind", ""), "Location": "/a"}
        )
        await response.prepare(request)
        async for piece in request.content.iter_any():
            await response.write(piece)
        return response

    async def show(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path_qs, "raw": request.raw_path})

    async def talk(request: web.Request) -> web.WebSocketResponse:
        talking = web.WebSocketResponse()
        await talking.prepare(request)
        async for message in talking:
            await talking.send_str(message.data.upper())
        return talking

    async def slow(request: web.Request) -> web.Response:
        request.app[REACHED].set()
        await asyncio.Event().wait()
        raise AssertionError

    made = web.Application()
    made[REACHED] = asyncio.Event()
    made.router.add_post("/echo", echo)
    made.router.add_get("/show/{rest:.*}", show)
    made.router.add_get("/talk", talk)
    made.router.add_route("*", "/slow", slow)
    return made


@attrs.define
class Pair:
    leader: TestServer
    standby: Standby
    client: TestClient[Any, Any]
    listener: TestClient[Any, Any]
    routes: web.Application
    own: web.Application


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """A leader and a standby, each with a plugin that has a listener; the standby's are asked."""
    async with asyncio.timeout(DEADLINE_S), contextlib.AsyncExitStack() as stack:
        routes = plugin()
        leads = make_application(make_server())
        mount_plugin_routes(leads, [Routes(prefix="echo", application=routes)])
        leader = TestServer(leads)
        await stack.enter_async_context(leader)
        standby = Standby(str(leader.make_url("/")).rstrip("/"))
        application, own = make_application(standby), plugin()
        mount_plugin_routes(application, [Routes(prefix="echo", application=own, listen=free_address())])
        client = await stack.enter_async_context(TestClient(TestServer(application)))
        listener = await stack.enter_async_context(TestClient(TestServer(own)))
        yield Pair(leader, standby, client, listener, routes, own)


async def test_reads_are_the_leaders() -> None:
    async with pair() as two:
        tasks = await (await two.client.get("/v1/tasks")).json()
        assert tasks == await (await two.client.get("/v1/tasks")).json()
        assert STALE not in (await two.client.get("/v1/tasks")).headers
        missing = await two.client.get("/v1/tasks/nosuch")
        assert missing.status == 404
        assert "error" in await missing.json()


async def test_a_plugins_listener_forwards_too_and_paths_stay_as_they_are() -> None:
    async with pair() as two:
        for asked in (two.listener.get("/show/a%2Fb/c?x=%20y"), two.client.get("/echo/show/a%2Fb/c?x=%20y")):
            assert (await (await asked).json())["raw"] == "/show/a%2Fb/c?x=%20y"


async def test_large_bodies_are_streamed_both_ways() -> None:
    async with pair() as two:
        body = bytes(range(256)) * 40_000

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 100_000):
                yield body[start : start + 100_000]

        answer = await two.listener.post("/echo", data=pieces(), headers={"X-Kind": "bytes", "Connection": "X-Hop"})
        assert (answer.status, answer.headers["X-Kind"], answer.headers["Location"]) == (207, "bytes", "/a")
        assert await answer.read() == body


async def test_upgraded_connections_go_through() -> None:
    async with pair() as two, two.listener.ws_connect("/talk") as talking:
        for word in ("one", "two"):
            await talking.send_str(word)
            assert (await talking.receive()).data == word.upper()
        await talking.close()
        assert (await talking.receive()).type in (WSMsgType.CLOSED, WSMsgType.CLOSE)


async def test_an_upgrade_that_the_leader_refuses_is_refused_in_its_words() -> None:
    async with pair() as two:
        answer = await two.listener.get("/nosuch", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
        assert answer.status == 404


async def test_the_event_stream_is_the_leaders() -> None:
    async with pair() as two:
        answer = await two.client.get("/v1/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "0-0"})
        assert answer.status == 200
        assert (await answer.content.readline()).strip()


async def test_without_a_leader_reads_say_how_old_they_are_and_writes_are_refused() -> None:
    async with pair() as two:
        two.standby.now = Role(leads=False, leader_url="", stale_ms=4_321, reason="the store has no quorum")
        read = await two.client.get("/v1/tasks")
        assert (read.status, read.headers[STALE]) == (200, "4321")
        assert "no quorum" in read.headers["Warning"]
        for of_plugin in (two.listener.get("/show/x"), two.client.get("/echo/show/x")):
            answer = await of_plugin
            assert (answer.status, answer.headers[STALE]) == (200, "4321")
        for refused in (await two.client.delete("/v1/tasks/x"), await two.listener.post("/echo", data=b"x")):
            assert refused.status == 503
            said = await refused.json()
            # Clients of Marathon and Chronos look for the latter.
            assert said["error"] == said["message"] == "nothing was changed: the store has no quorum"


async def test_a_leader_that_cannot_be_reached_changed_nothing() -> None:
    async with pair() as two:
        two.standby.now = Role(leads=False, leader_url=f"http://{free_address()}", stale_ms=10)
        assert (await two.client.get("/v1/tasks")).headers[STALE] == "10"
        refused = await two.client.delete("/v1/tasks/x")
        assert refused.status == 503
        assert "nothing was changed: the leader at http://127.0.0.1:" in (await refused.json())["error"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("body", [b"x", None])
async def test_a_leader_that_vanishes_under_a_write_leaves_the_outcome_open(method: str, body: bytes | None) -> None:
    """Over a connection that was kept, too: there is no second try."""
    async with pair() as two:
        await (await two.listener.get("/show/first")).read()
        asked = asyncio.create_task(two.listener.request(method, "/slow", data=body))
        await two.routes[REACHED].wait()
        two.routes[REACHED].clear()
        for transport in [one.transport for one in two.leader.handler.connections if one.transport is not None]:
            transport.abort()
        answer = await asked
        assert answer.status == 503
        said = await answer.json()
        assert said["error"].startswith("the outcome is not known")
        assert said["message"] == said["error"]
        assert not two.routes[REACHED].is_set()


async def test_a_leader_that_is_silent_is_waited_for_while_it_leads() -> None:
    async with pair() as two:
        asked = asyncio.ensure_future(two.client.post("/echo/slow", data=b"x"))
        await two.routes[REACHED].wait()
        await asyncio.wait([asked], timeout=3 * forwarding.LOOK_S)
        assert not asked.done()
        two.standby.now = attrs.evolve(two.standby.now, leader_url="")
        answer = await asked
        assert answer.status == 503
        assert "the outcome is not known" in (await answer.json())["error"]


async def test_a_read_of_a_leader_that_is_silent_and_leads_no_more_is_the_standbys() -> None:
    async with pair() as two:
        asked = asyncio.ensure_future(two.client.get("/echo/slow"))
        await two.routes[REACHED].wait()
        two.standby.now = attrs.evolve(two.standby.now, leader_url="http://127.0.0.1:1")
        await two.own[REACHED].wait()
        asked.cancel()


async def test_a_server_that_knows_nobody_yet_says_so_on_listeners_too() -> None:
    async def knows_nobody(request: web.Request) -> str:
        raise NotAvailable("this server has no state yet")

    application, own = make_application(make_server(), authenticate=knows_nobody), plugin()
    mount_plugin_routes(application, [Routes(prefix="echo", application=own, listen=free_address())])
    async with (
        asyncio.timeout(DEADLINE_S),
        TestClient(TestServer(application)) as api,
        TestClient(TestServer(own)) as listener,
    ):
        for answer in (await api.get("/v1/tasks"), await listener.put("/show/x"), await listener.get("/show/x")):
            assert answer.status == 503
            assert (await answer.json())["message"] == "nothing was changed: this server has no state yet"


async def test_a_request_is_handed_on_once() -> None:
    async with pair() as two:
        answer = await two.client.delete("/v1/tasks/x", headers={"Orlop-Forwarded": "1"})
        assert answer.status == 503


async def test_health_is_ones_own() -> None:
    async with pair() as two:
        health = await (await two.client.get("/health")).json()
        assert (health["role"], health["leader"]) == ("standby", two.standby.now.leader_url)
        two.standby.now = Role(leads=False, leader_url="", stale_ms=1, reason="the store has no quorum")
        assert (await two.client.get("/health")).status == 503
        assert (await two.client.get("/metrics")).status == 200


@pytest.mark.parametrize("leads_when_answered", [True, False])
async def test_a_read_counts_as_the_leaders_only_if_it_still_leads_when_it_answers(leads_when_answered: bool) -> None:
    async with pair() as two:
        roles = iter([Role(leads=True, leader_url="x"), Role(leads=leads_when_answered, leader_url="x", stale_ms=77)])
        two.standby.role = lambda: next(roles)  # type: ignore[method-assign]
        answer = await two.client.get("/v1/tasks")
        assert answer.headers.get(STALE) == (None if leads_when_answered else "77")
