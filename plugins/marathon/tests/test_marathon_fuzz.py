"""Whatever is sent to Marathon's API gets a documented answer, and what is refused has changed nothing."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marathon_server import Server

DEADLINE_S = 20


def app(name: str = "/a", **more: Any) -> dict[str, Any]:
    return {"id": name, "cmd": "sleep 1", "cpus": 0.1, "mem": 16, **more}


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
def test_bodies_that_are_too_large_or_rubbish(server: Server, method: str, path: str) -> None:
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
    values: tuple[Any, ...] = (1, "text", True, [[]], [1], {"id": 5, "ids": [3], "enforceRole": "x", "apps": 3})
    for value in values:
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
def test_any_json_gets_a_documented_answer(server: Server, route: Any, body: Any, force: Any) -> None:
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
def test_any_path_gets_a_documented_answer(server: Server, method: str, path: str, query: Any) -> None:
    request = requests.Request(method, server.url).prepare()
    request.url = f"{server.url}/v2/{'/'.join(path)}{query}"
    response = server.session.send(request, timeout=DEADLINE_S, allow_redirects=False)
    assert response.status_code < 500, (request.url, response.text)


# --- every route of apps, groups, deployments and tasks, with documents that are nearly right ---

WHOLE_APP: Final[dict[str, Any]] = {
    "id": "/a",
    "cmd": "sleep 1",
    "env": {"A": "b"},
    "cpus": 0.1,
    "mem": 16,
    "instances": 2,
    "constraints": [["hostname", "UNIQUE"], ["zone", "LIKE", "z.*"]],
    "labels": {"a": "b"},
    "dependencies": ["g"],
    "acceptedResourceRoles": ["*"],
    "fetch": [{"uri": "http://host/a.tgz", "extract": True}],
    "portDefinitions": [{"port": 0, "name": "web", "protocol": "tcp", "labels": {"VIP_0": "x"}}],
    "healthChecks": [{"protocol": "HTTP", "path": "/", "portIndex": 0, "gracePeriodSeconds": 3}],
    "readinessChecks": [{"portName": "web", "httpStatusCodesForReady": [200]}],
    "upgradeStrategy": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0.5},
    "unreachableStrategy": {"inactiveAfterSeconds": 1, "expungeAfterSeconds": 2},
    "backoffSeconds": 1,
    "backoffFactor": 2,
    "taskKillGracePeriodSeconds": 1,
}
WHOLE_CONTAINER: Final[dict[str, Any]] = {
    "id": "/a",
    "args": ["a"],
    "mem": 16,
    "networks": [{"mode": "container", "name": "n", "labels": {}}],
    "container": {
        "type": "DOCKER",
        "docker": {"image": "i", "parameters": [{"key": "label", "value": "a=b"}], "forcePullImage": False},
        "volumes": [{"containerPath": "/a", "hostPath": "/b", "mode": "RO"}],
        "portMappings": [{"containerPort": 80, "hostPort": 0, "name": "web"}, {"containerPort": 0}],
    },
    "healthChecks": [{"protocol": "MESOS_TCP", "portIndex": 1}],
    "resourceLimits": {"cpus": 2, "mem": "unlimited"},
}
LEGACY_APP: Final[dict[str, Any]] = {
    "id": "/a",
    "cmd": "sleep 1",
    "uris": ["http://host/a.tgz"],
    "ports": [0, 8080],
    "container": {"docker": {"image": "i", "network": "BRIDGE", "portMappings": [{"containerPort": 80}]}},
}
WHOLE_GROUP: Final[dict[str, Any]] = {
    "id": "/g",
    "dependencies": ["/b"],
    "apps": [{"id": "one", "cmd": "sleep 1", "mem": 16, "dependencies": ["two"]}],
    "groups": [{"id": "inner", "dependencies": [], "apps": [{"id": "/g/inner/three", "cmd": "sleep 1", "mem": 16}]}],
}
TASK: Final = "a.instance-5a9f1f3e-0000-4000-8000-000000000000._app.1"
ROUTES: Final = {
    "/ping": "GET",
    "/v2/info": "GET",
    "/v2/apps": "GET POST PUT PATCH",
    "/v2/apps/a": "GET PUT PATCH DELETE",
    "/v2/apps/a/restart": "POST DELETE",
    "/v2/apps/a/tasks": "GET DELETE",
    f"/v2/apps/a/tasks/{TASK}": "DELETE",
    "/v2/apps/a/versions": "GET",
    "/v2/apps/a/versions/2001-01-01T00:00:00.000Z": "GET",
    "/v2/apps/g/*": "GET",
    "/v2/apps/g/*/tasks": "GET DELETE",
    "/v2/groups": "GET POST PUT DELETE",
    "/v2/groups/g": "GET POST PUT PATCH DELETE",
    "/v2/groups/g/apps": "GET",
    "/v2/groups/g/versions": "GET",
    "/v2/groups/g/versions/2001-01-01T00:00:00.000Z": "GET",
    "/v2/deployments": "GET",
    "/v2/deployments/5a9f1f3e-0000-4000-8000-000000000000": "DELETE",
    "/v2/tasks": "GET",
    "/v2/tasks/delete": "POST",
}
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
PARAMETERS: Final = (
    "force", "partialUpdate", "dryRun", "scale", "wipe", "host", "embed", "label", "id", "cmd", "status", "status[]",
)  # fmt: skip
VALUES: Final = st.sampled_from(
    ["", "true", "FALSE", "*", "n1", "a==b", "a in (b", "group.apps", "apps.tasks", "running", "\0", "\ud7ff", "%"]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
#: No number of instances that the simulated nodes would have to start.
JUNK: Final[st.SearchStrategy[Any]] = st.sampled_from(
    [None, True, False, 0, 1, -1, 2.5, 2**31, 2**53 + 1, -(2**63), 1e308, "", "a", "A", "/", "../..", "\0", "Ä",
     "x" * 2000, [], [[]], [None], ["a", "a"], {}, {"a": None}, {"secret": "s"}]
)  # fmt: skip
ABSENT: Final = object()


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document, as keys and indices."""
    yield at
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*at, key))


def put(document: Any, at: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value in a place, or with nothing in it."""
    if not at:
        return None if value is ABSENT else value
    changed = copy.deepcopy(document)
    around = changed
    for key in at[:-1]:
        around = around[key]
    if value is ABSENT:
        del around[at[-1]]
    else:
        around[at[-1]] = value
    return changed


def nearly(*documents: Any) -> st.SearchStrategy[Any]:
    """One of the documents, with something else in one place."""
    every = [(document, at) for document in documents for at in places(document)]
    return st.builds(
        lambda found, value: put(found[0], found[1], value), st.sampled_from(every), JUNK | st.just(ABSENT) | JSON
    )


BODY: Final = st.one_of(
    nearly(WHOLE_APP, WHOLE_CONTAINER, LEGACY_APP),
    nearly([WHOLE_APP, {"id": "/b", "cmd": "sleep 1", "instances": 1}]),
    nearly(WHOLE_GROUP, {"id": "/g", "scaleBy": 2}, {"enforceRole": True}, {"version": "2001-01-01T00:00:00.000Z"}),
    nearly({"ids": [TASK]}),
    st.just(ABSENT),
)


def test_the_whole_documents_are_right(server: Server) -> None:
    server.ok("POST", "/v2/groups", WHOLE_GROUP, status=201)
    for document in (WHOLE_APP, WHOLE_CONTAINER, LEGACY_APP):
        response = server.call("PUT", "/v2/apps/a?force=true&partialUpdate=false", document)
        assert response.status_code in (200, 201), response.text


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(list(ROUTES)),
    method=st.sampled_from(METHODS),
    body=BODY,
    parameters=st.dictionaries(st.sampled_from(PARAMETERS), VALUES, max_size=2),
)
def test_every_route_and_method_gets_a_documented_answer(
    server: Server, path: str, method: str, body: Any, parameters: Any
) -> None:
    before = server.stored()
    content = None if body is ABSENT else json.dumps(body)
    response = server.call(method, path, content, params=parameters)
    if method not in ROUTES[path].split():
        assert (response.status_code, response.json()) == (405, {"message": "Method Not Allowed"})
        assert set(response.headers["Allow"].split(", ")) == set(ROUTES[path].split())
    else:
        known = (200, 201, 202, 204, 400, 403, 404, 409, 422)
        assert response.status_code in known, (response.status_code, response.text)
    if response.status_code >= 400:
        assert response.json()["message"]
    if response.status_code >= 400 or method == "GET" or parameters.get("dryRun") == "true":
        assert server.stored() == before
