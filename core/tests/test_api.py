"""The operator API over a stub server, whose states are the real kernel's."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operator_stub import StubServer, make_server
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from orlop.api.application import make_application, mount_plugin_routes
from orlop.api.events import KEEP_ALIVE_S, LISTED_EVENTS_MAX
from orlop.api.problems import Problem
from orlop.api.requests import BODY_BYTES_MAX
from orlop.api.runner import OperatorRunner
from orlop.framework import NotAvailable
from orlop.hookspecs import Routes
from orlop.kernel.events import DrainNode
from orlop.kernel.state import State

DEADLINE_S = 30


def with_client(work: Callable[[TestClient[Any, Any]], Awaitable[None]], server: StubServer, *mounted: Routes) -> None:
    """Runs `work` with a client of the API."""

    async def run() -> None:
        application = make_application(server)
        mount_plugin_routes(application, mounted)
        async with asyncio.timeout(DEADLINE_S), TestClient(TestServer(application)) as client:
            await work(client)

    asyncio.run(run())


async def read(client: TestClient[Any, Any], path: str, status: int = 200, **options: Any) -> Any:
    async with client.get(path, **options) as response:
        document = await response.json()
        assert response.status == status, document
        return document


async def problem(response_of: Any, status: int) -> dict[str, str]:
    async with response_of as response:
        assert response.content_type == "application/json"
        document = await response.json()
        assert response.status == status, document
        assert document.keys() <= {"error", "hint", "path"}
        assert document["error"]
        return document  # type: ignore[no-any-return]


def test_the_cluster_at_a_glance() -> None:
    async def work(client: TestClient[Any, Any]) -> None:
        cluster = await read(client, "/v1/cluster")
        assert cluster["name"] == "blue"
        assert cluster["store"] == "etcd://10.0.0.1:2379"
        assert cluster["nodes"] == {"ready": 2}
        assert cluster["tasks"] == {"running": 3}
        assert cluster["resources"]["total"]["cpus"] == 8
        assert cluster["resources"]["used"] == {"cpus": 1.5, "mem": 3 * 2**25, "disk": 0}
        assert cluster["resources"]["units"]["mem"] == "bytes"
        assert cluster["frameworks"][0]["name"] == "keepalive"
        assert cluster["frameworks"][0]["tasks"] == {"running": 3}
        assert cluster["uptime_s"] >= 5
        assert cluster["read_only"] == ""
        assert (await read(client, "/v1/roles"))["roles"][0]["tasks"] == 3
        assert (await read(client, "/v1/plugins"))["plugins"][0]["name"] == "keepalive"
        assert (await read(client, "/v1/frameworks"))["frameworks"][0]["runs"] == 7

    with_client(work, make_server())


def test_nodes_by_id_and_beginning_and_their_draining() -> None:
    server = make_server()

    async def work(client: TestClient[Any, Any]) -> None:
        listed = (await read(client, "/v1/nodes"))["nodes"]
        assert [node["name"] for node in listed] == ["n0", "n1"]
        assert listed[0]["resources"]["cpus"] == {"total": 4, "used": 1.0, "unit": "cores"}
        assert listed[0]["attributes"] == {"rack": "r0"}
        assert listed[0]["ports"] == "31000-32000"
        node = await read(client, "/v1/nodes/n0")
        assert len(node["held"]) == node["tasks"] == 2
        assert "n0, n1" in (await problem(client.get("/v1/nodes/n"), 409))["error"]
        await problem(client.get("/v1/nodes/x"), 404)
        async with client.post("/v1/nodes/n0/drain", json={"reason": "new disk"}) as response:
            assert (await response.json())["node"]["drained"] is True
        assert (await read(client, "/v1/events?type=node.drained"))["events"][0]["cause"] == "operator: new disk"
        async with client.post("/v1/nodes/n0/undrain") as response:
            assert (await response.json())["node"]["drained"] is False

    with_client(work, server)


def test_tasks_are_filtered_and_found() -> None:
    server = make_server()
    ended = server.cluster.running()[0]
    server.cluster.end_task(ended, code=3, reason="boom")
    server.cluster.settle()

    async def work(client: TestClient[Any, Any]) -> None:
        live = await read(client, "/v1/tasks")
        assert live["total"] == 3
        assert all(task["state"] == "running" for task in live["tasks"])
        assert (await read(client, "/v1/tasks?all"))["total"] == 4
        (dead,) = (await read(client, "/v1/tasks?state=ended,removed"))["tasks"]
        assert (dead["id"], dead["outcome"], dead["exit_code"], dead["reason"]) == (ended.id, "failed", 3, "boom")
        assert re.fullmatch(r"2023-11-14T22:13:20\.\d{3}Z", dead["ended"])
        assert (await read(client, "/v1/tasks?framework=other"))["tasks"] == []
        on_node = (await read(client, "/v1/tasks?node=n1&limit=1"))["tasks"]
        assert [task["node_name"] for task in on_node] == ["n1"]
        task = live["tasks"][0]
        assert task["resources"]["cpus"] == {"amount": 0.5, "unit": "cores"}
        for wanted in (task["id"], task["name"], task["id"][:12]):
            found = await read(client, f"/v1/tasks/{wanted}")
            assert found["id"] == task["id"]
            assert found["specification"]["payload"] == {"command": "sleep 1000"}
        assert "query.state" in (await problem(client.get("/v1/tasks?state=sleeping"), 400))["path"]
        await problem(client.get("/v1/tasks?node=n7"), 404)
        await problem(client.get("/v1/tasks/nothing"), 404)

    with_client(work, server)


def test_an_ambiguous_beginning_names_the_candidates() -> None:
    server = make_server(copies=40, cpus=0.1)
    firsts = [task.id[0] for task in server.cluster.running()]
    first = max(firsts, key=firsts.count)

    async def work(client: TestClient[Any, Any]) -> None:
        told = await problem(client.get(f"/v1/tasks/{first}"), 409)
        candidates = [task.id for task in server.cluster.running() if task.id.startswith(first)]
        assert all(candidate in told["error"] for candidate in sorted(candidates)[:10])

    with_client(work, server)


def test_killing_a_task() -> None:
    server = make_server()
    victim = server.cluster.running()[0]

    async def work(client: TestClient[Any, Any]) -> None:
        for changed in (True, False):
            async with client.delete(f"/v1/tasks/{victim.id}?reason=too+loud") as response:
                assert response.status == 202
                told = await response.json()
                assert told["changed"] is changed
                assert told["task"]["outcome"] == "killed"
        killing = (await read(client, f"/v1/events?type=task.killing&subject={victim.id}"))["events"]
        assert [event["details"]["reason"] for event in killing] == ["operator: too loud"]
        server.read_only = "the store is full"
        told = await problem(client.delete(f"/v1/tasks/{server.cluster.running()[0].id}"), 503)
        assert "the store is full" in told["error"]

    with_client(work, server)


def test_what_waits_is_explained_once_per_kind() -> None:
    server = make_server(copies=12, cpus=1)
    waiting = [task for task in server.cluster.live() if task.state == "pending"]

    async def work(client: TestClient[Any, Any]) -> None:
        asks = await read(client, "/v1/asks")
        assert asks["waiting"] == len(waiting) == 4
        (ask,) = asks["asks"]
        assert ask["count"] == 4
        assert ask["tasks"] == [task.id for task in waiting]
        assert ask["explanation"]["ruled_out"][0]["nodes"] == 2
        told = await read(client, f"/v1/explain/{waiting[0].id}")
        assert told["explanation"]["fits"] == 0
        assert told["explanation"]["text"].startswith("0 of 2 nodes fit")
        assert told["specification"]["runtime"] == "process"
        placed = await read(client, "/v1/explain/copy-0")
        assert [event["type"] for event in placed["story"]][:2] == ["task.placed", "task.running"]
        for name in ("/my/app", "my/app", "%2Fmy%2Fapp"):
            group = await read(client, f"/v1/explain/{name}")
            assert group["group"] == "/my/app"
            assert group["waiting"] == 4
            assert [one["count"] for one in group["asks"]] == [4]
        await problem(client.get("/v1/explain/nothing"), 404)

    with_client(work, server)


def test_health_and_metrics() -> None:
    server = make_server(copies=12, cpus=1)
    Counter("orlop_test", "Of the server itself", registry=server.metrics).inc(5)

    async def work(client: TestClient[Any, Any]) -> None:
        assert await read(client, "/health") == {"status": "ok", "role": "leader"}
        async with client.get("/metrics") as response:
            families = text_string_to_metric_families(await response.text())
        samples = {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}
        assert samples["orlop_test_total",] == 5
        assert samples["orlop_tasks", "keepalive", "running"] == 8
        assert samples["orlop_nodes", "ready"] == 2
        assert samples["orlop_resources_used", "cpus", "cores"] == 8
        assert samples["orlop_asks_waiting", "keepalive"] == 4
        assert samples["orlop_asks_oldest_seconds",] > 0
        assert samples["orlop_framework_runs_total", "keepalive"] == 7
        server.status = attrs.evolve(server.status, state="quarantined", error="it raised")
        assert "it raised" in (await read(client, "/health"))["warnings"][0]
        server.read_only = "the store is full"
        assert "the store is full" in (await read(client, "/health", 503))["reasons"][0]

    with_client(work, server)


def test_large_lists_are_whole() -> None:
    server = make_server(copies=1_001, cpus=0.001)

    async def work(client: TestClient[Any, Any]) -> None:
        listed = (await read(client, "/v1/tasks"))["tasks"]
        assert [task["id"] for task in listed] == [task.id for task in server.cluster.live()]
        assert len(listed) == 1_001

    with_client(work, server)


# Errors


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
        assert client.server is not None
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


# Plugins' routes


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


# Events


async def next_event(response: ClientResponse) -> dict[str, str]:
    """The next event of a stream, as its fields; comments are passed over."""
    fields: dict[str, str] = {}
    while True:
        line = (await response.content.readline()).decode().rstrip("\n")
        if not line and "data" in fields:
            return fields
        if line and not line.startswith((":", "retry:")):
            name, _, value = line.partition(": ")
            fields[name] = value


STREAM = {"Accept": "text/event-stream"}


def test_listed_events_can_be_continued() -> None:
    server = make_server()

    async def work(client: TestClient[Any, Any]) -> None:
        everything = (await read(client, f"/v1/events?limit={LISTED_EVENTS_MAX}"))["events"]
        assert everything[0]["type"] == "node.ready"
        seen: list[Any] = []
        after = "0-0"
        while True:
            page = await read(client, f"/v1/events?after={after}&limit=2&type=task,node.ready")
            if not page["events"]:
                break
            seen += page["events"]
            after = page["next"]
        assert seen == [event for event in everything if event["type"] == "node.ready" or "task." in event["type"]]
        assert (await read(client, "/v1/events?limit=1"))["events"] == everything[-1:]
        assert (await read(client, "/v1/events?after=999999-0"))["gap"] is True
        assert (await problem(client.get("/v1/events?after=soon"), 400))["path"] == "query.after"
        await problem(client.get("/v1/events", headers={**STREAM, "Last-Event-ID": "soon"}), 400)

    with_client(work, server)


def test_a_stream_goes_on_where_another_stopped() -> None:
    server = make_server()

    async def work(client: TestClient[Any, Any]) -> None:
        everything = (await read(client, f"/v1/events?limit={LISTED_EVENTS_MAX}"))["events"]
        async with client.get(f"/v1/events?after={everything[2]['id']}", headers=STREAM) as response:
            assert response.content_type == "text/event-stream"
            received = [await next_event(response) for _ in everything[3:]]
            server.cluster.end_task(server.cluster.running()[0])
            received.append(await next_event(response))
        documents = [json.loads(event["data"]) for event in received]
        assert documents[:-1] == everything[3:]
        assert documents[-1]["type"] == "task.ended"
        last = received[-2]["id"]
        headers = {**STREAM, "Last-Event-ID": last}
        # The header is newer than the address that the client began with.
        async with client.get(f"/v1/events?after={everything[0]['id']}", headers=headers) as response:
            assert await next_event(response) == received[-1]

    with_client(work, server)


def test_a_stream_without_an_id_begins_now_and_can_be_narrowed() -> None:
    server = make_server()

    async def work(client: TestClient[Any, Any]) -> None:
        async with client.get("/v1/events?follow&type=task.ended", headers={}) as response:
            await response.content.readuntil(b": connected\n\n")
            victim = server.cluster.running()[0]
            server.cluster.step(DrainNode(node="n0", drained=True))
            server.cluster.end_task(victim)
            event = json.loads((await next_event(response))["data"])
            assert (event["type"], event["subject"]) == ("task.ended", victim.id)

    with_client(work, server)


@pytest.mark.parametrize("after", ["0-0", "999999-0"])
def test_what_the_log_has_not_is_said(after: str) -> None:
    server = make_server(log_kept=1)

    async def work(client: TestClient[Any, Any]) -> None:
        async with client.get(f"/v1/events?after={after}", headers=STREAM) as response:
            gap = await next_event(response)
            assert gap["event"] == "gap"
            assert json.loads(gap["data"])["after"] == after
            assert "id" not in gap
            server.cluster.step(DrainNode(node="n0", drained=True))
            while json.loads((await next_event(response))["data"])["type"] != "node.drained":
                pass

    with_client(work, server)


def test_a_follower_that_was_too_slow_is_cut_off() -> None:
    server = make_server()

    async def work(client: TestClient[Any, Any]) -> None:
        async with client.get("/v1/events", headers=STREAM) as response:
            await response.content.readuntil(b": connected\n\n")
            for number in range(1_100):
                server.cluster.step(DrainNode(node="n0", drained=number % 2 == 0))
            assert b"data" not in await response.content.read()

    with_client(work, server)


def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEEP_ALIVE_S < 60, "proxies and load balancers give up after a minute"
    monkeypatch.setattr("orlop.api.events.KEEP_ALIVE_S", 0.01)

    async def work(client: TestClient[Any, Any]) -> None:
        async with client.get("/v1/events", headers=STREAM) as response:
            await response.content.readuntil(b": alive\n\n")

    with_client(work, make_server())


def test_streams_are_bounded_and_end_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop.api.streams.STREAMS_MAX", 1)

    async def work(client: TestClient[Any, Any]) -> None:
        response = await client.get("/v1/events", headers=STREAM)
        await response.content.readuntil(b": connected\n\n")
        told = await problem(client.get("/v1/events", headers=STREAM), 503)
        assert "1 streams" in told["error"]

    # Leaving closes the server under the open stream, within the deadline.
    with_client(work, make_server())


# Output


def test_output_is_passed_on() -> None:
    server = make_server()
    task = server.cluster.running()[0].id

    async def work(client: TestClient[Any, Any]) -> None:
        async with client.get(f"/v1/tasks/{task}/logs?stream=stderr&tail=5") as response:
            assert response.content_type == "text/plain"
            assert await response.text() == "stderr follow=False tail=5\n"
        server.output = [b"one\n", b"\xff\x00two\n"]
        async with client.get(f"/v1/tasks/{task}/logs") as response:
            assert await response.read() == b"one\n\xff\x00two\n"
        assert (await problem(client.get(f"/v1/tasks/{task}/logs?stream=stdin"), 400))["path"] == "query.stream"
        server.output = [b"one\n"]
        server.output_ends = False
        async with client.get(f"/v1/tasks/{task}/logs?follow") as response:
            assert await response.content.readline() == b"one\n"

    with_client(work, server)


def test_output_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_server()
    task = server.cluster.running()[0].id

    async def raising(error: Exception) -> AsyncIterator[bytes]:
        raise error
        yield b""

    async def work(client: TestClient[Any, Any]) -> None:
        monkeypatch.setattr(server, "task_output", lambda *_, **__: raising(LookupError("deleted by age")))
        assert "deleted by age" in (await problem(client.get(f"/v1/tasks/{task}/logs"), 404))["error"]
        monkeypatch.setattr(server, "task_output", lambda *_, **__: raising(NotAvailable("its node is away")))
        assert "its node is away" in (await problem(client.get(f"/v1/tasks/{task}/logs?follow"), 503))["error"]

    with_client(work, server)


# The page


def test_the_page_and_its_parts() -> None:
    async def work(client: TestClient[Any, Any]) -> None:
        async with client.get("/") as response:
            page = await response.text()
            assert response.content_type == "text/html"
            assert "script-src 'self'" in response.headers["Content-Security-Policy"]
            tag = response.headers["ETag"]
        for part in re.findall(r'(?:href|src)="(/[^"]+)"', page):
            async with client.get(part) as response:
                assert response.status == 200, part
        async with client.get("/", headers={"If-None-Match": tag}) as response:
            assert response.status == 304
        assert "<script>" not in page
        assert "style=" not in page

    with_client(work, make_server())
