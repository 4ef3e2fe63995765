"""Plugins' routes beside the operator API, over a stub server."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from operator_stub import make_server, problem, with_client

from orlop.api.application import make_application, mount_plugin_routes
from orlop.api.requests import BODY_BYTES_MAX
from orlop.hookspecs import Routes

LIVES = web.AppKey("lives", list[str])


def plugin_application() -> web.Application:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path, "query": dict(request.query), "body": await request.text()})

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one ")
        await response.write(b"two")
        return response

    async def fail(request: web.Request) -> web.Response:
        raise KeyError("x")

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Plugin"] = "yes"

    application = web.Application()
    application.router.add_post("/v2/{rest:.*}", echo)
    application.router.add_get("/stream", stream)
    application.router.add_get("/fail", fail)
    application.on_response_prepare.append(sign)
    application[LIVES] = []

    async def life(application: web.Application) -> AsyncIterator[None]:
        application[LIVES].append("started")
        yield
        application[LIVES].append("stopped")

    application.cleanup_ctx.append(life)
    return application


def test_plugins_routes_are_handed_on_without_the_prefix() -> None:
    plugin = plugin_application()

    async def work(client: TestClient[Any, Any]) -> None:
        body = "x" * (BODY_BYTES_MAX + 1)
        async with client.post("/marathon/v2/a%2Fb?force=true", data=io.BytesIO(body.encode())) as response:
            assert await response.json() == {"path": "/v2/a/b", "query": {"force": "true"}, "body": body}
            assert response.headers["X-Plugin"] == "yes"
            assert "Content-Security-Policy" not in response.headers
        async with client.get("/marathon/stream") as response:
            assert await response.text() == "one two"
        async with client.get("/marathon", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (308, "/marathon/"), "where its parts are"
        async with client.get("/marathon") as response:
            assert (response.status, response.headers["X-Plugin"], response.content_type) == (404, "yes", "text/plain")
        assert "/marathon" in (await problem(client.get("/marathon/fail"), 500))["error"]
        await problem(client.post("/marathon/v2/x", headers={"Origin": "http://evil.example"}), 403)
        await problem(client.get("/marathonesque"), 404)

    with_client(work, make_server(), Routes(prefix="marathon", application=plugin))
    assert plugin[LIVES] == ["started", "stopped"]


def test_a_plugins_own_listener_serves_the_same_application_guarded() -> None:
    async def run() -> None:
        plugin = plugin_application()
        application = make_application(make_server())
        mount_plugin_routes(application, [Routes(prefix="marathon", application=plugin, listen="127.0.0.1:0")])
        async with TestClient(TestServer(application)) as api:
            await problem(api.post("/marathon/v2/x"), 503)
            async with TestClient(TestServer(plugin)) as own:
                for client, path in ((api, "/marathon/v2/x"), (own, "/v2/x")):
                    async with client.post(path) as response:
                        assert (await response.json())["path"] == "/v2/x"
                await problem(own.post("/v2/x", headers={"Host": "evil.example"}), 403)
        assert plugin[LIVES] == ["started", "stopped"]

    asyncio.run(run())


@pytest.mark.parametrize("prefix", ["", "v1", "metrics", "Marathon", "a/b", "{x}"])
def test_a_prefix_that_cannot_be_used_is_refused(prefix: str) -> None:
    async def run() -> None:
        application = make_application(make_server())
        with pytest.raises(ValueError, match="cannot be mounted"):
            mount_plugin_routes(application, [Routes(prefix=prefix, application=web.Application())])

    asyncio.run(run())
