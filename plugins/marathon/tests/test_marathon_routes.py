"""Marathon's API over HTTP: real kernel, real framework, real server; the nodes are simulated.

What a client sees of it is checked with requests and with the `marathon` client of PyPI, whose models refuse every
member that they do not know.
"""

from __future__ import annotations

import asyncio
import collections
import collections.abc
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop.testing.harness import Cluster
from orlop_marathon import root
from orlop_marathon.framework import Marathon
from orlop_marathon.http import application
from orlop_marathon.settings import Config

collections.Iterable = collections.abc.Iterable  # type: ignore[attr-defined]  # the client is from before 3.10
import marathon  # noqa: E402
import marathon.models  # noqa: E402

NAME = Marathon.name
DEADLINE_S = 20


class StubHost:
    """The server's door to a framework, on a simulated cluster. Used on the event loop's thread alone."""

    cluster_name = "test"
    address = "127.0.0.1:5050"
    version = "0"

    def __init__(self, config: Config) -> None:
        self.cluster = Cluster(Marathon(config), check_idempotence=False)
        self.cluster.add_node("n1", cpus=64, mem="64GiB", zone="z1")
        self.cluster.add_node("n2", cpus=64, mem="64GiB")
        self.cluster.settle()
        self.queues: list[asyncio.Queue[Any]] = []

    async def command(self, framework: str, command: Any) -> Any:
        said = len(self.cluster.published)
        reply = self.cluster.command(framework, command)
        self.cluster.settle()
        for queue in self.queues:
            for item in self.cluster.published[said:]:
                queue.put_nowait(item)
        return reply

    async def view(self, framework: str) -> Any:
        return self.cluster.view(framework)

    @contextmanager
    def follow(self, framework: str) -> Iterator[asyncio.Queue[Any]]:
        queue: asyncio.Queue[Any] = asyncio.Queue(1024)
        self.queues.append(queue)
        try:
            yield queue
        finally:
            self.queues.remove(queue)


class Server:
    """The API on a port of its own, in a thread of its own."""

    def __init__(self, config: Config) -> None:
        self.loop = asyncio.new_event_loop()
        self.host = StubHost(config)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._started = threading.Event()
        self._config = config
        self._thread.start()
        assert self._started.wait(DEADLINE_S)
        self.session = requests.Session()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._open())
        self._started.set()
        self.loop.run_forever()
        self.loop.run_until_complete(self._runner.cleanup())
        self.loop.close()

    async def _open(self) -> None:
        self._runner = web.AppRunner(application(self.host, self._config), shutdown_timeout=0)  # type: ignore[arg-type]
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def close(self) -> None:
        self.session.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def on_loop(self, work: Callable[[Cluster], Any]) -> Any:
        """Does something with the cluster, between requests."""

        async def do() -> Any:
            found = work(self.host.cluster)
            self.host.cluster.settle()
            return found

        return asyncio.run_coroutine_threadsafe(do(), self.loop).result(DEADLINE_S)

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        if body is not None:
            options["data"] = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self.session.request(method, self.url + path, timeout=DEADLINE_S, **options)

    def ok(self, method: str, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
        response = self.call(method, path, body, **options)
        assert response.status_code == status, (response.status_code, response.text)
        return response.json() if response.content else None

    def stored(self) -> dict[str, bytes]:
        """Everything that is stored but the kernel's own bookkeeping."""
        return self.on_loop(
            lambda cluster: {key: value for key, value in cluster.documents.items() if "objects/" in key}
        )

    def reset(self) -> None:
        assert self.call("DELETE", "/v2/groups", params={"force": "true"}).status_code == 200
        self.on_loop(lambda cluster: None)


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    made = Server(Config())
    yield made
    made.close()


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    yield shared
    shared.reset()


@pytest.fixture
def client(server: Server) -> Iterator[marathon.MarathonClient]:
    session = requests.Session()
    yield marathon.MarathonClient(server.url, session=session)
    session.close()


def app(name: str = "/a", **more: Any) -> dict[str, Any]:
    return {"id": name, "cmd": "sleep 1", "cpus": 0.1, "mem": 16, **more}


# --- apps ---


def test_creating(server):
    response = server.call("POST", "/v2/apps", app("/g/a", instances=2))
    assert response.status_code == 201
    assert response.headers["Location"] == "/g/a"
    body = response.json()
    deployment = response.headers["Marathon-Deployment-Id"]
    assert body["id"] == "/g/a"
    assert body["deployments"] == [{"id": deployment}]
    assert [body[f"tasks{kind}"] for kind in ("Staged", "Running", "Healthy", "Unhealthy")] == [0, 0, 0, 0]
    assert body["labels"] == {}
    found = server.ok("GET", "/v2/apps/g/a")["app"]
    assert found["tasksRunning"] == 2
    assert found["deployments"] == []
    assert len(found["tasks"]) == 2
    task = found["tasks"][0]
    assert task["appId"] == "/g/a"
    assert task["state"] == "TASK_RUNNING"
    assert len(task["servicePorts"]) == len(found["portDefinitions"]) == 1
    assert task["servicePorts"] == [found["portDefinitions"][0]["port"]]
    assert found["versionInfo"]["lastScalingAt"] == found["version"]


@pytest.mark.parametrize(
    "path", ["/v2/apps/g/a", "/v2/apps//g/a", "/v2/apps/%2Fg%2Fa", "/v2/apps/g/a/", "//v2//apps/%2fg/a"]
)
def test_ways_to_write_an_id(server, path):
    server.ok("POST", "/v2/apps", app("/g/a"), status=201)
    request = requests.Request("GET", server.url).prepare()
    request.url = server.url + path
    response = server.session.send(request, timeout=DEADLINE_S, allow_redirects=False)
    assert response.status_code == 200
    assert response.json()["app"]["id"] == "/g/a"


def test_lists_and_their_filters(server):
    server.ok("POST", "/v2/apps", app("/x/one", labels={"tier": "web"}), status=201)
    server.ok("POST", "/v2/apps", app("/x/two", cmd="python -m http.server"), status=201)

    def ids(query: str) -> list[str]:
        return [found["id"] for found in server.ok("GET", f"/v2/apps{query}")["apps"]]

    assert ids("") == ids("/") == ["/x/one", "/x/two"]
    assert ids("?id=ONE") == ["/x/one"]
    assert ids("?cmd=PYTHON") == ["/x/two"]
    assert ids("?label=tier==web") == ["/x/one"]
    assert ids("?label=tier!=web") == ["/x/two"] or ids("?label=tier!=web") == []
    assert "tasks" not in server.ok("GET", "/v2/apps")["apps"][0]
    assert "tasks" in server.ok("GET", "/v2/apps/?embed=apps.tasks")["apps"][0]
    assert [found["id"] for found in server.ok("GET", "/v2/apps/x/*")["*"]] == ["/x/one", "/x/two"]
    assert len(server.ok("GET", "/v2/apps/x/*/tasks")["tasks"]) == 2
    assert server.call("GET", "/v2/apps?label=,,=(").status_code == 422


def test_updates(server):
    assert server.call("PATCH", "/v2/apps/a", {"instances": 2}).status_code == 404
    created = server.call("PUT", "/v2/apps/a", app("/ignored"))
    assert created.status_code == 201
    assert created.headers["Location"] == "/a"
    assert set(created.json()) == {"version", "deploymentId"}
    server.ok("PUT", "/v2/apps/a", {"instances": 2, "env": {"A": "b"}})
    found = server.ok("GET", "/v2/apps/a")["app"]
    assert (found["cmd"], found["instances"], found["env"]) == ("sleep 1", 2, {"A": "b"})
    server.ok("PUT", "/v2/apps/a?partialUpdate=False", {"cmd": "true"})
    found = server.ok("GET", "/v2/apps/a")["app"]
    assert (found["instances"], found.get("env", {})) == (1, {})
    server.ok("PATCH", "/v2/apps", [{"id": "/a", "instances": 3}])
    server.ok("PUT", "/v2/apps", [app("/a"), app("/b")])
    assert [one["id"] for one in server.ok("GET", "/v2/apps")["apps"]] == ["/a", "/b"]
    assert server.call("PATCH", "/v2/apps", [{"id": "/nothing", "instances": 3}]).status_code == 404


def test_what_was_read_can_be_written_back_without_effect(server):
    server.ok("POST", "/v2/apps", app("/a", instances=2), status=201)
    found = server.ok("GET", "/v2/apps/a?embed=app.taskStats")["app"]
    before = {task["id"] for task in found["tasks"]}
    document = {**found, "executor": None, "args": None}
    del document["version"]
    server.ok("PUT", "/v2/apps/a", document)
    after = server.ok("GET", "/v2/apps/a")["app"]
    assert {task["id"] for task in after["tasks"]} == before
    assert after["version"] == found["version"]


def test_versions(server):
    server.ok("POST", "/v2/apps", app("/a"), status=201)
    first = server.ok("GET", "/v2/apps/a")["app"]["version"]
    server.ok("PUT", "/v2/apps/a", {"cmd": "sleep 2"})
    versions = server.ok("GET", "/v2/apps/a/versions")["versions"]
    assert versions[-1] == first
    assert versions == sorted(versions, reverse=True)
    assert server.ok("GET", f"/v2/apps/a/versions/{first}")["cmd"] == "sleep 1"
    server.ok("PUT", "/v2/apps/a", {"version": first})
    assert server.ok("GET", "/v2/apps/a")["app"]["cmd"] == "sleep 1"
    assert server.call("GET", "/v2/apps/a/versions/nonsense").status_code == 422
    assert server.call("GET", "/v2/apps/a/versions/2001-01-01T00:00:00.000Z").status_code == 404
    mixed = server.call("PUT", "/v2/apps/a", {"version": first, "cmd": "x"})
    assert mixed.status_code == 422


def test_restart_without_body_or_content_type(server):
    server.ok("POST", "/v2/apps", app("/a"), status=201)
    before = server.ok("GET", "/v2/apps/a/tasks")["tasks"]
    server.ok("POST", "/v2/apps/a/restart")
    after = server.ok("GET", "/v2/apps/a/tasks")["tasks"]
    assert {task["id"] for task in before}.isdisjoint(task["id"] for task in after)


def test_chunked_bodies(server):
    body = json.dumps(app("/a")).encode()
    server.ok("POST", "/v2/apps", None, status=201, data=iter([body[:10], body[10:]]))


def test_killing_tasks(server):
    server.ok("POST", "/v2/apps", app("/a", instances=4), status=201)
    tasks = server.ok("GET", "/v2/apps/a/tasks")["tasks"]
    one = server.ok("DELETE", f"/v2/apps/a/tasks/{tasks[0]['id']}")["task"]
    assert one["id"] == tasks[0]["id"]
    names = {task["id"] for task in server.ok("GET", "/v2/apps/a/tasks")["tasks"]}
    assert tasks[0]["id"] not in names
    assert tasks[0]["id"].replace("._app.1", "._app.2") in names
    host = tasks[1]["host"]
    killed = server.ok("DELETE", f"/v2/apps/a/tasks?host={host}")["tasks"]
    assert killed
    assert {task["host"] for task in killed} == {host}
    tasks = server.ok("GET", "/v2/apps/a/tasks")["tasks"]
    result = server.ok("DELETE", f"/v2/apps/a/tasks/{tasks[0]['id']}?scale=true")
    assert set(result) == {"version", "deploymentId"}
    assert server.ok("GET", "/v2/apps/a")["app"]["instances"] == 3
    both = server.call("DELETE", f"/v2/apps/a/tasks/{tasks[1]['id']}?scale=true&wipe=true")
    assert (both.status_code, both.json()) == (400, {"message": "You cannot use scale and wipe at the same time."})
    assert server.call("DELETE", "/v2/apps/a/tasks/nothing").status_code == 404
    ids = {"ids": [tasks[1]["id"], "a.instance-5a9f1f3e-0000-4000-8000-000000000000._app.1"]}
    assert [task["id"] for task in server.ok("POST", "/v2/tasks/delete", ids)["tasks"]] == [tasks[1]["id"]]
    unreadable = server.call("POST", "/v2/tasks/delete", {"ids": ["unreadable"]})
    assert unreadable.status_code == 400
    assert unreadable.json()["message"].startswith("Invalid task id 'unreadable'. [")
    assert server.call("DELETE", "/v2/apps/nothing/tasks").status_code == 404
    assert server.call("DELETE", "/v2/apps/*/tasks").status_code == 404


def test_deleting_an_app(server):
    server.ok("POST", "/v2/apps", app("/a"), status=201)
    server.ok("DELETE", "/v2/apps/a")
    missing = server.call("DELETE", "/v2/apps/a")
    assert (missing.status_code, missing.json()) == (404, {"message": "App '/a' does not exist"})


def test_apps_below_a_group(server):
    server.ok("POST", "/v2/apps", app("/x/one"), status=201)
    server.ok("POST", "/v2/apps", app("/x/y/two"), status=201)
    server.ok("POST", "/v2/groups", {"id": "/empty"}, status=201)
    found = server.ok("GET", "/v2/apps/x/*")["*"]
    assert [(one["id"], len(one["tasks"])) for one in found] == [("/x/one", 1), ("/x/y/two", 1)]
    assert len(server.ok("GET", "/v2/apps/x/*/tasks")["tasks"]) == 2
    assert server.ok("GET", "/v2/apps/empty/*/tasks") == {"tasks": []}
    for path in ("/v2/apps/nothing/*", "/v2/apps/nothing/*/tasks"):
        missing = server.call("GET", path)
        assert (missing.status_code, missing.json()) == (404, {"message": "Group '/nothing' does not exist"})


def test_tasks_are_listed_by_their_state(server):
    server.ok("POST", "/v2/apps", app("/a"), status=201)
    server.ok("POST", "/v2/apps", app("/big", cpus=1000), status=201)
    (task,) = server.ok("GET", "/v2/tasks")["tasks"]
    assert task["appId"] == "/a"  # what has no place yet is no task of Mesos
    assert len(server.ok("GET", "/v2/tasks?status=Running")["tasks"]) == 1
    assert server.ok("GET", "/v2/tasks?status[]=staging")["tasks"] == []
    assert len(server.ok("GET", "/v2/tasks?status=staging&status[]=running")["tasks"]) == 1
    assert len(server.ok("GET", "/v2/tasks?status=nonsense")["tasks"]) == 1
    server.ok("DELETE", "/v2/apps/big")


def test_what_is_wrong_is_said_before_what_exists(server):
    server.ok("POST", "/v2/apps", app("/a"), status=201)
    invalid = server.call("POST", "/v2/apps", app("/a", constraints=[["hostname", "NEAR"]]))
    assert invalid.status_code == 422
    again = server.call("POST", "/v2/apps", app("/a"))
    assert (again.status_code, again.json()) == (409, {"message": "An app with id [/a] already exists."})
    missing = server.call("GET", "/v2/apps/b/versions/2001-01-01T00:00:00.000Z")
    text = "App '/b' does not exist in version 2001-01-01T00:00:00.000Z"
    assert (missing.status_code, missing.json()) == (404, {"message": text})
    restart = server.call("DELETE", "/v2/apps/a/restart")
    assert (restart.status_code, restart.json()) == (404, {"message": "App '/a/restart' does not exist"})


# --- groups, deployments, queue ---


def test_groups(server):
    group = {"id": "/shop", "apps": [app("web")], "groups": [{"id": "db", "apps": [app("pg")]}]}
    created = server.call("POST", "/v2/groups", group)
    assert created.status_code == 201
    assert created.headers["Location"] == "/shop"
    again = server.call("POST", "/v2/groups", {"id": "/shop"})
    assert again.status_code == 409
    assert again.json()["message"] == "Group /shop is already created. Use PUT to change this group."
    whole = server.ok("GET", "/v2/groups")
    assert whole["id"] == "/"
    assert [one["id"] for one in whole["groups"]] == ["/shop"]
    assert "enforceRole" not in whole["groups"][0]
    found = server.ok("GET", "/v2/groups/shop")
    assert [one["id"] for one in found["apps"]] == ["/shop/web"]
    assert [one["id"] for one in server.ok("GET", "/v2/groups//shop/apps")] == ["/shop/web", "/shop/db/pg"]
    versions = server.ok("GET", "/v2/groups/shop/versions")
    assert versions
    at = server.ok("GET", f"/v2/groups/shop/versions/{versions[0]}")
    assert [one["id"] for one in at["apps"]] == ["/shop/web"]
    at = server.ok("GET", f"/v2/groups/shop/versions/{versions[0]}?embed=group.groups")
    assert (at["apps"], [one["id"] for one in at["groups"]]) == ([], ["/shop/db"])
    server.ok("PUT", "/v2/groups/shop", {"scaleBy": 2.0})
    assert server.ok("GET", "/v2/apps/shop/web")["app"]["instances"] == 2
    dry = server.ok("PUT", "/v2/groups/shop?dryRun=True", {"apps": []})
    assert dry == {"steps": [{"actions": [{"action": "StopApplication", "app": "/shop/web"}]}]}
    patched = server.call("PATCH", "/v2/groups/shop", {"enforceRole": True})
    assert (patched.status_code, patched.content) == (200, b"")
    assert server.call("PATCH", "/v2/groups/shop/db", {"enforceRole": True}).status_code == 422
    assert server.ok("GET", "/v2/groups/shop")["enforceRole"] is True
    server.ok("PATCH", "/v2/groups/shop", {})
    assert server.ok("GET", "/v2/groups/shop")["enforceRole"] is False
    assert server.call("PATCH", "/v2/groups/shop", {"enforceRole": "x"}).status_code == 422
    unnamed = server.call("POST", "/v2/groups", {"apps": []})
    text = "Group / is already created. Use PUT to change this group."
    assert (unnamed.status_code, unnamed.json()) == (409, {"message": text})
    server.ok("DELETE", "/v2/groups/shop/db")
    assert server.call("GET", "/v2/groups/shop/db").status_code == 404
    missing = server.call("DELETE", "/v2/groups/nothing")
    assert (missing.status_code, missing.json()) == (404, {"message": "Group '/nothing' does not exist"})


def test_a_blocked_deployment(server):
    created = server.call("POST", "/v2/apps", app("/big", cpus=1000))
    deployment = created.headers["Marathon-Deployment-Id"]
    (listed,) = server.ok("GET", "/v2/deployments")
    assert listed["id"] == deployment
    assert listed["affectedApps"] == ["/big"]
    assert (listed["currentStep"], listed["totalSteps"]) == (2, 2)
    assert listed["currentActions"] == [{"action": "ScaleApplication", "app": "/big", "readinessCheckResults": []}]
    locked = server.call("PUT", "/v2/apps/big", {"instances": 2}, params={"force": "False"})
    assert locked.status_code == 409
    assert locked.json()["deployments"] == [{"id": deployment}]
    (item,) = server.ok("GET", "/v2/queue")["queue"]
    assert item["app"]["id"] == "/big"
    assert item["delay"] == {"timeLeftSeconds": 0, "overdue": True}
    rows = item["processedOffersSummary"]["rejectSummaryLastOffers"]
    assert {row["reason"]: row["declined"] for row in rows}["InsufficientCpus"] == 2
    assert server.call("DELETE", "/v2/queue//big/delay").status_code == 204
    assert server.call("DELETE", "/v2/queue/nothing/delay").status_code == 404
    assert server.call("DELETE", f"/v2/deployments/{deployment}?force=TRUE").status_code == 202
    assert server.call("DELETE", f"/v2/deployments/{deployment}").status_code == 404
    server.ok("DELETE", "/v2/apps/big")


# --- errors and headers ---


def test_every_answer_has_the_headers(server):
    for path in ("/ping", "/v2/apps", "/v2/nothing", "/v2/apps/nothing"):
        headers = server.call("GET", path).headers
        assert headers["Content-Type"] == ("text/plain" if path == "/ping" else "application/json")
        assert headers["Cache-Control"] == "no-cache, no-store, must-revalidate"
        assert headers["Pragma"] == "no-cache"
        assert headers["Expires"] == "0"
        assert headers["X-Marathon-Leader"] == "http://127.0.0.1:8080"
        assert "Access-Control-Allow-Origin" not in headers


def test_unknown_uris_and_methods(server):
    for path in ("/", "/v2", "/v2/nothing", "/v2/deployments/a/b", "/v3/apps", "/v2/tasks/x"):
        response = server.call("GET", path)
        assert (response.status_code, response.json()) == (404, {"message": "URI not found"})
    wrong = server.call("POST", "/v2/info")
    assert (wrong.status_code, wrong.json()) == (405, {"message": "Method Not Allowed"})
    assert server.call("HEAD", "/v2/apps").status_code == 200


def test_ping_info_leader_metrics(server):
    assert server.call("GET", "/ping", headers={"Accept": "*/*"}).text == "pong"
    assert server.call("GET", "/ping", headers={"Accept": "application/json"}).json() == "pong"
    assert server.call("GET", "/ping", headers={"Accept": "image/png"}).status_code == 204
    assert server.ok("GET", "/v2/leader") == {"leader": "127.0.0.1:8080"}
    assert {"marathon_config", "zookeeper_config", "http_config"} <= set(server.ok("GET", "/v2/info"))
    assert set(server.ok("GET", "/metrics")) >= {"version", "gauges", "counters"}


def test_compression(server):
    server.ok("PUT", "/v2/groups", {"apps": [app(f"a{number}") for number in range(10)]})
    response = server.call("GET", "/v2/apps", headers={"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert len(response.json()["apps"]) == 10
    plain = server.call("GET", "/v2/apps", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers


BODIES = [
    ("POST", "/v2/apps"),
    ("PUT", "/v2/apps"),
    ("PATCH", "/v2/apps"),
    ("PUT", "/v2/apps/a"),
    ("PATCH", "/v2/apps/a"),
    ("POST", "/v2/groups"),
    ("PUT", "/v2/groups"),
    ("PUT", "/v2/groups/g"),
    ("POST", "/v2/groups/g"),
    ("PATCH", "/v2/groups/g"),
    ("POST", "/v2/tasks/delete"),
]


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_bodies_that_are_too_large_or_rubbish(server, method, path):
    server.ok("POST", "/v2/apps", app("/a"), status=201)
    server.ok("POST", "/v2/groups", {"id": "/g"}, status=201)
    before = server.stored()
    large = server.call(method, path, b'{"id": "' + b"x" * 10_000_000 + b'"}')
    assert large.status_code == 413
    assert large.json()["details"][0]["path"] == "/"
    for body in (b"", b"\x00\xff\xfe" * 100, b"{", b"[1,", b"\xef\xbb\xbf{}", b"not json", b'{"id": "\xff"}'):
        response = server.call(method, path, body)
        assert response.status_code == 400, (body, response.text)
        assert set(response.json()) == {"message", "details"}
    for value in (1, "text", True, [[]], [1], {"id": 5, "ids": [3], "enforceRole": "x", "apps": 3}):
        response = server.call(method, path, json.dumps(value))
        assert response.status_code == 422, (value, response.text)
        assert all(one["path"] for one in response.json()["details"])
    packed = server.call(method, path, b"\x1f\x8bnot gzip", headers={"Content-Encoding": "gzip"})
    assert packed.status_code == 400
    bomb = gzip.compress(b" " * 50_000_000)
    assert server.call(method, path, bomb, headers={"Content-Encoding": "gzip"}).status_code == 413
    assert server.stored() == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = [
    "id", "cmd", "args", "env", "instances", "cpus", "mem", "disk", "constraints", "container", "networks",
    "portDefinitions", "healthChecks", "upgradeStrategy", "unreachableStrategy", "dependencies", "labels", "version",
    "apps", "groups", "scaleBy", "enforceRole", "ids", "ports", "uris", "ipAddress", "fetch", "residency", "secrets",
    "backoffSeconds", "killSelection", "readinessChecks", "check", "role", "user", "acceptedResourceRoles", "gpus",
]  # fmt: skip
PIECES = [
    "v2", "apps", "groups", "tasks", "versions", "restart", "*", "queue", "delay", "deployments", "..", ".", "", "%2F",
    "%ff", "%00", "a b", "Ä", "x" * 300,
]  # fmt: skip
DOCUMENTS = st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=5)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(BODIES),
    body=DOCUMENTS.map(lambda one: one) | st.lists(DOCUMENTS, max_size=2) | JSON,
    force=st.booleans(),
)
def test_any_json_gets_a_documented_answer(server, route, body, force):
    before = server.stored()
    method, path = route
    response = server.call(method, path, json.dumps(body), params={"force": str(force)})
    assert response.status_code in (200, 201, 400, 403, 404, 409, 422), (response.status_code, response.text)
    if response.status_code >= 400:
        found = response.json()
        assert found["message"]
        assert all(one["path"].startswith(("/", "(")) for one in found.get("details", []) if isinstance(one, dict))
        assert server.stored() == before


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
    path=st.lists(st.sampled_from(PIECES), max_size=6),
    query=st.sampled_from(["", "?embed=x", "?label=a in (", "?force", "?host=x&scale=1", "?version=1"]),
)
def test_any_path_gets_a_documented_answer(server, method, path, query):
    request = requests.Request(method, server.url).prepare()
    request.url = f"{server.url}/v2/{'/'.join(path)}{query}"
    response = server.session.send(request, timeout=DEADLINE_S, allow_redirects=False)
    assert response.status_code < 500, (request.url, response.text)


# --- the event bus ---


def test_the_event_stream(server):
    assert server.call("GET", "/v2/events").status_code == 405
    with server.call("GET", "/v2/events", headers={"Accept": "text/event-stream"}, stream=True) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        lines = stream.iter_lines(chunk_size=1, delimiter=b"\r\n")
        server.ok("POST", "/v2/apps", app("/a"), status=201)
        kinds = []
        for line in lines:
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                assert event["timestamp"].endswith("Z")
                kinds.append(event["eventType"])
                if event["eventType"] == "deployment_success":
                    break
    assert kinds[:3] == ["event_stream_attached", "api_post_event", "group_change_success"]
    assert {"deployment_info", "deployment_step_success", "status_update_event", "instance_changed_event"} < set(kinds)


# --- the client of PyPI: strict about members ---


def test_the_client_goes_through_everything(server, client):
    created = client.create_app(
        "/g/a",
        marathon.models.MarathonApp(
            cmd="sleep 1",
            cpus=0.1,
            mem=16,
            instances=2,
            health_checks=[marathon.models.MarathonHealthCheck(protocol="HTTP", path="/", port_index=0)],
            constraints=[marathon.models.MarathonConstraint(field="hostname", operator="LIKE", value="n.*")],
            labels={"a": "b"},
        ),
    )
    assert created.id == "/g/a"
    server.on_loop(lambda cluster: [cluster.set_health(task, alive=True) for task in cluster.running(NAME)])
    assert client.list_deployments() == []
    for options in (
        {"embed_tasks": True, "embed_counts": True, "embed_deployments": True, "embed_readiness": True},
        {"embed_last_task_failure": True, "embed_failures": True, "embed_task_stats": True},
    ):
        (listed,) = client.list_apps(**options)
        assert listed.id == "/g/a"
    found = client.get_app("/g/a", embed_task_stats=True)
    assert found.tasks_healthy == 2
    found.labels = {"a": "c"}
    client.update_app("/g/a", found, force=True)
    client.scale_app("/g/a", instances=3, force=True)
    assert len(client.list_tasks("/g/a")) >= 2
    assert client.list_tasks()
    assert client.list_endpoints()
    client.restart_app("/g/a", force=True)
    versions = client.list_versions("/g/a")
    assert client.get_version("/g/a", versions[-1]).id == "/g/a"
    client.kill_task("/g/a", client.list_tasks("/g/a")[0].id)
    assert client.kill_tasks("/g/a")
    client.list_queue()
    assert client.get_info().marathon_config
    assert client.get_leader()["leader"]
    assert client.ping() == b'"pong"'  # it asks for JSON
    assert client.get_metrics()
    client.create_group(marathon.models.MarathonGroup(id="/h", apps=[marathon.models.MarathonApp(id="x", cmd="y")]))
    assert {one.id for one in client.list_groups()} == {"/g", "/h"}
    assert client.get_group("/h").apps[0].id == "/h/x"
    client.scale_group("/h", 2)
    client.delete_group("/h", force=True)
    client.create_app("/big", marathon.models.MarathonApp(cmd="y", cpus=1000))
    (deployment,) = [one for one in client.list_deployments() if one.affected_apps == ["/big"]]
    assert [item.app.id for item in client.list_queue()] == ["/big"]
    client.delete_deployment(deployment.id)
    with pytest.raises(marathon.exceptions.NotFoundError):
        client.get_app("/big")
    client.delete_app("/g/a", force=True)
    assert server.on_loop(lambda cluster: dict(cluster.view(NAME).objects(root.APP))) == {}
