"""The operator API over a stub server, whose states are the real kernel's: what it tells, and what can be done."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import pytest
from aiohttp.test_utils import TestClient
from operator_stub import make_server, problem, read, with_client
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from orlop.framework import Action, Framework, NotAvailable, Put, View
from orlop.model.facts import ForeignContainer, NodeFacts
from orlop.server.node_clocks import Clocks


@attrs.frozen
class Note:
    text: str


class Notes(Framework):
    name = "notes"
    documents = {"note": Note}  # noqa: RUF012

    def reconcile(self, view: View) -> Iterator[Action]:
        if not view.objects("note"):
            yield Put("note", "first", Note("x"))


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
        assert cluster["read_only"] == cluster["store_trouble"] == ""
        assert (await read(client, "/v1/roles"))["roles"][0]["tasks"] == 3
        assert (await read(client, "/v1/plugins"))["plugins"][0]["name"] == "keepalive"
        assert (await read(client, "/v1/frameworks"))["frameworks"][0]["runs"] == 7

    with_client(work, make_server())


@pytest.mark.parametrize(
    ("plugins", "state", "error"),
    [
        ([], "missing", "its plugin is not installed here"),
        ([{"name": "orlop"}], "missing", "its plugin is not installed here"),
        ([{"name": "notes", "state": "failed", "error": "OSError: x\ny"}], "failed", "plugin notes: OSError: x"),
        ([{"name": "notes", "state": "blocked", "error": "denied"}], "blocked", "plugin notes: denied"),
        (
            [{"name": "a", "state": "failed", "error": "why", "frameworks": ["notes"]}, {"name": "notes"}],
            "failed",
            "plugin a: why",
        ),
        (
            [{"name": "a", "state": "configuration-error"}, {"name": "b", "state": "failed"}, {"name": "c"}],
            "missing",
            "no plugin is known to have it; it may be of one that cannot be used: a, b",
        ),
        ([{"name": "notes", "frameworks": ["notes"]}], "failed", "it could not be made: the server's log says why"),
    ],
)
def test_a_framework_that_does_not_run_says_why(plugins: list[dict[str, Any]], state: str, error: str) -> None:
    server = make_server()
    server.cluster.install(Notes())
    server.cluster.settle()
    server.plugins.others = [{"state": "loaded", **one} for one in plugins]

    async def work(client: TestClient[Any, Any]) -> None:
        for path in ("/v1/cluster", "/v1/frameworks"):
            told = (await read(client, path))["frameworks"]
            assert [(one["state"], one["error"]) for one in told if one["name"] == "notes"] == [(state, error)]
        broken = [one["name"] for one in plugins if one.get("state") in ("failed", "configuration-error")]
        assert [one["name"] for one in (await read(client, "/v1/cluster"))["broken_plugins"]] == broken

    with_client(work, server)


def test_a_store_that_will_lack_room_is_a_warning_and_no_reason_to_take_the_server_away() -> None:
    server = make_server()
    server.trouble = "the disk of /data is nearly full"

    async def work(client: TestClient[Any, Any]) -> None:
        assert (await read(client, "/health"))["warnings"] == [server.trouble]
        assert (await read(client, "/v1/cluster"))["store_trouble"] == server.trouble

    with_client(work, server)


def test_clocks_that_differ_are_told() -> None:
    server = make_server()
    server.known_clocks = Clocks(ahead_ms={"n1": -60_500}, trouble="the clocks differ")

    async def work(client: TestClient[Any, Any]) -> None:
        assert [one["clock_ahead_s"] for one in (await read(client, "/v1/nodes"))["nodes"]] == [None, -60.5]
        assert (await read(client, "/v1/nodes/n1"))["clock_ahead_s"] == -60.5
        assert (await read(client, "/v1/cluster"))["clock_trouble"] == "the clocks differ"
        assert (await read(client, "/health"))["warnings"] == ["the clocks differ"]

    with_client(work, server)


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
        (drained,) = (await read(client, "/v1/events?type=node.drained"))["events"]
        assert drained["cause"] == drained["details"]["by"] == "operator: new disk"
        async with client.post("/v1/nodes/n0/undrain") as response:
            assert (await response.json())["node"]["drained"] is False

    with_client(work, server)


def test_foreign_containers_are_counted_beside_what_tasks_use() -> None:
    server = make_server()
    containers = [
        ForeignContainer(id="a", state="running", cpus_thousandths=500, memory_bytes=2**20),
        ForeignContainer(id="b", state="exited", cpus_thousandths=500, memory_bytes=2**20),
    ]
    server.cluster.set_facts("n0", NodeFacts(containers={one.id: one for one in containers}))

    async def work(client: TestClient[Any, Any]) -> None:
        foreign, plain = (await read(client, "/v1/nodes"))["nodes"]
        taken = {"cpus": {"amount": 0.5, "unit": "cores"}, "mem": {"amount": 2**20, "unit": "bytes"}}
        assert foreign["foreign"] == {"containers": 2, "running": 1, "resources": taken}
        assert foreign["resources"]["cpus"] == {"total": 4, "used": 1.0, "unit": "cores"}
        assert plain["foreign"] is None
        cluster = (await read(client, "/v1/cluster"))["resources"]
        assert cluster["used"] == {"cpus": 1.5, "mem": 3 * 2**25, "disk": 0}
        assert cluster["foreign"] == {"cpus": 0.5, "mem": 2**20}
        metrics = await (await client.get("/metrics")).text()
        assert 'orlop_resources_foreign{resource="cpus",unit="cores"} 0.5' in metrics

    with_client(work, server)


def test_a_runtime_that_cannot_be_used_is_shown_with_the_reason() -> None:
    server = make_server()
    node = server.cluster.nodes["n1"]
    node.info = attrs.evolve(node.info, runtimes=("process",), unavailable={"docker": "the engine does not answer"})
    server.cluster.return_node("n1")

    async def work(client: TestClient[Any, Any]) -> None:
        assert (await read(client, "/v1/nodes/n1"))["unavailable"] == {"docker": "the engine does not answer"}
        assert (await read(client, "/v1/cluster"))["unavailable"] == [
            {"runtime": "docker", "node": "n1", "node_name": "n1", "reason": "the engine does not answer"}
        ]
        noted = (await read(client, "/v1/events?type=node.runtimes"))["events"]
        assert [(one["subject"], one["details"]["reason"]) for one in noted] == [
            ("n1", "docker: the engine does not answer")
        ]
        async with client.get("/metrics") as response:
            metrics = await response.text()
        assert 'orlop_nodes_without_runtime{runtime="docker"} 1.0' in metrics
        assert 'orlop_nodes_without_runtime{runtime="process"} 0.0' in metrics

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
            assert group["last_ended"] is None
        for code in (3, 7):
            server.cluster.end_task(server.cluster.running()[0], code=code)
            server.cluster.settle()
        ended = (await read(client, "/v1/explain/my/app"))["last_ended"]
        assert (ended["outcome"], ended["exit_code"]) == ("failed", 7)
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
        monkeypatch.setattr(server, "task_output", lambda *_, **__: raising(ConnectionError("the engine hangs")))
        assert "the engine hangs" in (await problem(client.get(f"/v1/tasks/{task}/logs"), 503))["error"]

    with_client(work, server)


def test_output_of_a_forgotten_task_is_asked_for_at_its_node() -> None:
    server = make_server()
    server.kept = {"forgotten"}
    (node, *_) = server.cluster.nodes

    async def work(client: TestClient[Any, Any]) -> None:
        async with client.get(f"/v1/tasks/forgotten/logs?stream=stderr&node={node}") as response:
            assert await response.text() == f"stderr of forgotten kept by {node}\n"
        assert "there is no task" in (await problem(client.get("/v1/tasks/forgotten/logs"), 404))["error"]
        assert "has no output" in (await problem(client.get(f"/v1/tasks/other/logs?node={node}"), 404))["error"]
        assert "there is no node" in (await problem(client.get("/v1/tasks/forgotten/logs?node=none"), 404))["error"]
        server.cluster.lose_node(node)
        gone = await problem(client.get(f"/v1/tasks/forgotten/logs?node={node}"), 404)
        assert f"the output is lost: node {node} is gone" in gone["error"]

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
