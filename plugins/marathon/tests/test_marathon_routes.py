"""Marathon's API over HTTP: real kernel, real framework, real server; the nodes are simulated.

What a client sees of it is checked with requests and with the `marathon` client of PyPI, whose models refuse every
member that they do not know.
"""

from __future__ import annotations

import collections
import collections.abc
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from marathon_server import Server

from orlop.testing.harness import Cluster
from orlop_marathon import root
from orlop_marathon.framework import Marathon

collections.Iterable = collections.abc.Iterable  # type: ignore[attr-defined]  # the client is from before 3.10
import marathon  # noqa: E402
import marathon.models  # noqa: E402

NAME = Marathon.name
DEADLINE_S = 20


def make_healthy(cluster: Cluster) -> None:
    for task in cluster.running(NAME):
        cluster.set_health(task, alive=True)


@pytest.fixture
def client(server: Server) -> Iterator[marathon.MarathonClient]:
    session = requests.Session()
    yield marathon.MarathonClient(server.url, session=session)
    session.close()


def app(name: str = "/a", **more: Any) -> dict[str, Any]:
    return {"id": name, "cmd": "sleep 1", "cpus": 0.1, "mem": 16, **more}


# --- apps ---


@pytest.mark.parametrize(
    ("accepted", "kind"),
    [
        ("text/plain", "text/plain"),
        ("text/plain;q=0.9, */*", "text/plain"),
        ("*/*", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
    ],
)
def test_lists_of_tasks_are_lines_for_who_wants_text(server: Server, accepted: str, kind: str) -> None:
    server.ok("POST", "/v2/apps", app("/g/a", instances=2), status=201)
    server.ok("POST", "/v2/apps", app("/b"), status=201)
    for path, lines in (("/v2/tasks", 2), ("/v2/apps/g/a/tasks", 1), ("/v2/apps/g/*/tasks", 1)):
        response = server.call("GET", path, headers={"Accept": accepted})
        assert response.headers["Content-Type"].partition(";")[0] == kind
        if kind == "text/plain":
            assert len(response.text.splitlines()) == lines
    assert server.call("GET", "/v2/apps/nope/tasks", headers={"Accept": accepted}).status_code == 404


@pytest.mark.parametrize("name", ["/a/tasks/b", "/tasks/b", "/a/versions/b", "/versions/b"])
def test_apps_whose_ids_look_like_tasks_and_versions(server: Server, name: str) -> None:
    server.ok("POST", "/v2/apps", app(name), status=201)
    assert server.ok("GET", f"/v2/apps{name}")["app"]["id"] == name
    server.ok("PUT", f"/v2/apps{name}", {"instances": 2})
    assert server.ok("GET", f"/v2/apps{name}")["app"]["instances"] == 2
    server.ok("DELETE", f"/v2/apps{name}")
    assert server.call("DELETE", f"/v2/apps{name}").status_code == 404


def test_creating(server: Server) -> None:
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
def test_ways_to_write_an_id(server: Server, path: str) -> None:
    server.ok("POST", "/v2/apps", app("/g/a"), status=201)
    request = requests.Request("GET", server.url).prepare()
    request.url = server.url + path
    response = server.session.send(request, timeout=DEADLINE_S, allow_redirects=False)
    assert response.status_code == 200
    assert response.json()["app"]["id"] == "/g/a"


def test_lists_and_their_filters(server: Server) -> None:
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


def test_updates(server: Server) -> None:
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


def test_what_was_read_can_be_written_back_without_effect(server: Server) -> None:
    server.ok("POST", "/v2/apps", app("/a", instances=2), status=201)
    found = server.ok("GET", "/v2/apps/a?embed=app.taskStats")["app"]
    before = {task["id"] for task in found["tasks"]}
    document = {**found, "executor": None, "args": None}
    del document["version"]
    server.ok("PUT", "/v2/apps/a", document)
    after = server.ok("GET", "/v2/apps/a")["app"]
    assert {task["id"] for task in after["tasks"]} == before
    assert after["version"] == found["version"]


def test_versions(server: Server) -> None:
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


def test_restart_without_body_or_content_type(server: Server) -> None:
    server.ok("POST", "/v2/apps", app("/a"), status=201)
    before = server.ok("GET", "/v2/apps/a/tasks")["tasks"]
    server.ok("POST", "/v2/apps/a/restart")
    after = server.ok("GET", "/v2/apps/a/tasks")["tasks"]
    assert {task["id"] for task in before}.isdisjoint(task["id"] for task in after)


def test_chunked_bodies(server: Server) -> None:
    body = json.dumps(app("/a")).encode()
    server.ok("POST", "/v2/apps", None, status=201, data=iter([body[:10], body[10:]]))


def test_killing_tasks(server: Server) -> None:
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


def test_deleting_an_app(server: Server) -> None:
    server.ok("POST", "/v2/apps", app("/a"), status=201)
    server.ok("DELETE", "/v2/apps/a")
    missing = server.call("DELETE", "/v2/apps/a")
    assert (missing.status_code, missing.json()) == (404, {"message": "App '/a' does not exist"})


def test_apps_below_a_group(server: Server) -> None:
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


def test_tasks_are_listed_by_their_state(server: Server) -> None:
    server.ok("POST", "/v2/apps", app("/a"), status=201)
    server.ok("POST", "/v2/apps", app("/big", cpus=1000), status=201)
    (task,) = server.ok("GET", "/v2/tasks")["tasks"]
    assert task["appId"] == "/a"  # what has no place yet is no task of Mesos
    assert len(server.ok("GET", "/v2/tasks?status=Running")["tasks"]) == 1
    assert server.ok("GET", "/v2/tasks?status[]=staging")["tasks"] == []
    assert len(server.ok("GET", "/v2/tasks?status=staging&status[]=running")["tasks"]) == 1
    assert len(server.ok("GET", "/v2/tasks?status=nonsense")["tasks"]) == 1
    server.ok("DELETE", "/v2/apps/big")


def test_what_is_wrong_is_said_before_what_exists(server: Server) -> None:
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


def test_groups(server: Server) -> None:
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


def test_a_blocked_deployment(server: Server) -> None:
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


def test_every_answer_has_the_headers(server: Server) -> None:
    for path in ("/ping", "/v2/apps", "/v2/nothing", "/v2/apps/nothing"):
        headers = server.call("GET", path).headers
        assert headers["Content-Type"] == ("text/plain" if path == "/ping" else "application/json")
        assert headers["Cache-Control"] == "no-cache, no-store, must-revalidate"
        assert headers["Pragma"] == "no-cache"
        assert headers["Expires"] == "0"
        assert headers["X-Marathon-Leader"] == "http://127.0.0.1:8080"
        assert "Access-Control-Allow-Origin" not in headers


def test_unknown_uris_and_methods(server: Server) -> None:
    for path in ("/", "/v2", "/v2/nothing", "/v2/deployments/a/b", "/v3/apps", "/v2/tasks/x"):
        response = server.call("GET", path)
        assert (response.status_code, response.json()) == (404, {"message": "URI not found"})
    wrong = server.call("POST", "/v2/info")
    assert (wrong.status_code, wrong.json()) == (405, {"message": "Method Not Allowed"})
    assert server.call("HEAD", "/v2/apps").status_code == 200


def test_ping_info_leader_metrics(server: Server) -> None:
    assert server.call("GET", "/ping", headers={"Accept": "*/*"}).text == "pong"
    assert server.call("GET", "/ping", headers={"Accept": "application/json"}).json() == "pong"
    assert server.call("GET", "/ping", headers={"Accept": "image/png"}).status_code == 204
    assert server.ok("GET", "/v2/leader") == {"leader": "127.0.0.1:8080"}
    info = server.ok("GET", "/v2/info")
    assert set(info) == {
        "name", "version", "buildref", "elected", "leader", "frameworkId",
        "marathon_config", "zookeeper_config", "http_config",
    }  # fmt: skip
    assert info["marathon_config"]["features"] == ["external_volumes", "gpu_resources"]
    assert info["marathon_config"]["reconciliation_interval"] is None
    assert set(server.ok("GET", "/metrics")) >= {"version", "gauges", "counters"}


def test_compression(server: Server) -> None:
    server.ok("PUT", "/v2/groups", {"apps": [app(f"a{number}") for number in range(10)]})
    response = server.call("GET", "/v2/apps", headers={"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert len(response.json()["apps"]) == 10
    plain = server.call("GET", "/v2/apps", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers


# --- the event bus ---


def test_the_event_stream(server: Server) -> None:
    assert server.call("GET", "/v2/events").status_code == 405
    with server.call("GET", "/v2/events", headers={"Accept": "text/event-stream"}, stream=True) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.headers["X-Marathon-Leader"] == "http://127.0.0.1:8080"
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


def test_the_client_goes_through_everything(server: Server, client: marathon.MarathonClient) -> None:
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
    server.on_loop(make_healthy)
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
