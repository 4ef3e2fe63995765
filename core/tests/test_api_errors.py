"""What the operator API refuses, over a stub server: each error is JSON, names what is wrong, and is no bug."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operator_stub import StubServer, make_server, problem, read, with_client
from yarl import URL

from orlop.api.application import make_application
from orlop.api.problems import Problem
from orlop.api.requests import BODY_BYTES_MAX
from orlop.api.runner import OperatorRunner
from orlop.kernel.state import State

DEADLINE_S = 30


def test_errors_are_json_and_name_what_is_wrong() -> None:
    server = make_server()

    async def work(client: TestClient[Any, Any]) -> None:
        assert "/v2/tasks" in (await problem(client.get("/v2/tasks"), 404))["error"]
        async with client.post("/v1/cluster") as response:
            assert response.headers["Allow"] == "GET, HEAD"
        assert "GET" in (await problem(client.post("/v1/cluster"), 405))["hint"]
        told = await problem(client.get("/v1/tasks?lmit=3"), 400)
        assert told["path"] == "query.lmit"
        assert "limit" in told["hint"]
        assert (await problem(client.get("/v1/tasks?limit=1&limit=2"), 400))["path"] == "query.limit"
        assert (await problem(client.get("/v1/tasks?limit=0"), 400))["path"] == "query.limit"
        drain = "/v1/nodes/n0/drain"
        assert (await problem(client.post(drain, json={"why": "x"}), 400))["path"] == "body.why"
        assert (await problem(client.post(drain, json={"reason": 3}), 400))["path"] == "body.reason"
        assert (await problem(client.post(drain, data=b"{"), 400))["path"] == "body"
        assert (await problem(client.post(drain, data=b"[]"), 400))["path"] == "body"
        large = b" " * (BODY_BYTES_MAX + 1)
        await problem(client.post(drain, data=io.BytesIO(large)), 413)

        async def chunks() -> AsyncIterator[bytes]:
            yield large

        await problem(client.post(drain, data=chunks()), 413)
        assert not server.cluster.state.candidates["n0"].node.drained

    with_client(work, server)


def test_every_resource_refuses_unknown_parameters() -> None:
    server = make_server()
    task = server.cluster.running()[0].id

    async def work(client: TestClient[Any, Any]) -> None:
        assert isinstance(client.server, TestServer)
        routes = [
            (route.method, route.resource.canonical)
            for route in client.server.app.router.routes()
            if route.resource is not None and route.resource.canonical.startswith(("/v1", "/metrics", "/health"))
        ]
        assert len(routes) > 15
        for method, path in routes:
            target = path.replace("{id}", "n0" if "nodes" in path else task)
            async with client.request(method, f"{target}?nonsense=1") as response:
                assert response.status == 400, (method, path)

    with_client(work, server)


def test_a_bug_is_an_error_without_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    server = make_server()

    def fail() -> State:
        raise RuntimeError("password=hunter2")

    server.state = fail  # type: ignore[method-assign]

    async def work(client: TestClient[Any, Any]) -> None:
        told = await problem(client.get("/v1/cluster"), 500)
        assert told["error"] == "a bug in Orlop: RuntimeError"

    with_client(work, server)
    assert "hunter2" in caplog.text


def test_the_guard_and_the_headers() -> None:
    async def work(client: TestClient[Any, Any]) -> None:
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"X-Forwarded-For": "10.0.0.1"}):
            assert "authentication" in (await problem(client.get("/v1/cluster", headers=headers), 403))["hint"]
            await problem(client.get("/nowhere", headers=headers), 403)
        async with client.get("/v1/cluster") as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-store"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]

    with_client(work, make_server())


def test_authentication_replaces_the_guard_and_names_who_did_it() -> None:
    server = make_server()

    async def authenticate(request: web.Request) -> str:
        if request.headers.get("Authorization") != "Bearer good":
            raise Problem(401, "a token is needed", headers={"WWW-Authenticate": "Bearer"})
        return "ada"

    async def run() -> None:
        async with TestClient(TestServer(make_application(server, authenticate))) as client:
            await problem(client.get("/v1/cluster"), 401)
            headers = {"Authorization": "Bearer good", "Host": "orlop.example"}
            async with client.post("/v1/nodes/n0/drain", headers=headers) as response:
                assert response.status == 200
            events = await read(client, "/v1/events?type=node.drained", headers=headers)
            assert events["events"][0]["cause"] == "ada"

    asyncio.run(run())


SEGMENTS = st.sampled_from(
    ["v1", "tasks", "nodes", "n0", "explain", "events", "asks", "drain", "undrain", "logs", "cluster", "metrics"]
) | st.text(max_size=8)  # fmt: skip
QUERIES = st.dictionaries(
    st.sampled_from(["limit", "after", "type", "state", "all", "node", "tail", "stream", "reason", "subject", "group"])
    | st.text(max_size=4),
    st.sampled_from(["1", "0", "-1", "1-1", "true", "", "running", "99999999999999999999", "n0"]) | st.text(max_size=6),
    max_size=3,
)


@asynccontextmanager
async def running_site(server: StubServer) -> AsyncIterator[int]:
    """The API on a port of its own, run as a server does it."""
    runner = OperatorRunner(make_application(server), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def exchange(port: int, raw: bytes) -> tuple[int, Mapping[str, str], bytes]:
    """Sends bytes, and reads one response until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:]), body


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(
    st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"]),
    st.lists(SEGMENTS, max_size=5), QUERIES, st.binary(max_size=40) | st.just(b'{"reason": "x"}'),
), min_size=1, max_size=8))  # fmt: skip
def test_no_request_makes_the_server_fail(requests: list[tuple[str, list[str], dict[str, str], bytes]]) -> None:
    async def work(client: TestClient[Any, Any]) -> None:
        for method, segments, query, body in requests:
            path = URL("/").joinpath(*(one for one in segments if one not in (".", "..") and "/" not in one))
            async with client.request(method, path.with_query(query), data=body) as response:
                assert response.status < 500, (method, path, query, await response.text())
                if response.status >= 400 and method != "HEAD":
                    assert "error" in await response.json()

    with_client(work, make_server())


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=60).map(lambda raw: re.sub(rb"[\r\n\x00 ]", b"", raw)))
def test_bytes_that_are_no_utf_8_are_answered_in_json(target: bytes) -> None:
    async def run() -> None:
        async with running_site(server) as port:
            for line in (b"GET /v1/tasks/" + target, b"GET /v1/tasks?node=" + target, b"GET /" + target):
                status, headers, body = await exchange(
                    port, line + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                assert status < 500
                if status >= 400:
                    assert headers["content-type"].startswith("application/json")
                    assert json.loads(body)["error"]

    server = make_server(copies=0)
    asyncio.run(run())


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 10_000 + b"\r\n\r\n", 400),
        (b"GET /v1/cluster HTTP/1.1\r\nHost: localhost\r\nExpect: wonders\r\nConnection: close\r\n\r\n", 417),
        (b"GET /v1/cluster HTTP/1.0\r\n\r\n", 403),
    ],
)
def test_what_is_hardly_http_is_answered_in_json(raw: bytes, status: int) -> None:
    async def run() -> None:
        async with running_site(make_server()) as port:
            found, _, body = await exchange(port, raw)
            assert found == status
            assert json.loads(body)["error"]

    asyncio.run(run())
