"""Replies to the field, and the query parameters that shape them."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marathon.models import MarathonApp

from orlop.framework import Node, ProbeResult, Resources, Task, TaskState
from orlop.model.nodes import NodeInfo
from orlop.model.tasks import Placement, Status
from orlop_marathon import queries, rendering
from orlop_marathon.errors import MarathonError
from orlop_marathon.failures import TaskFailure
from orlop_marathon.groups import Tree
from orlop_marathon.model import App, AppRecord, GroupRecord
from orlop_marathon.parsing import parse_app
from orlop_marathon.queries import GroupEmbed

VERSION = "2021-07-27T20:40:33.123Z"
T0 = 1_627_418_433_123  # VERSION in milliseconds


def record_of(**members: Any) -> AppRecord:
    app = parse_app({"id": "/shop/web", "cmd": "a", **members})
    return AppRecord(app=app, version=VERSION, last_scaling_at=VERSION, last_config_change_at=VERSION)


NODE = Node(
    info=NodeInfo(
        id="n1", name="node1", address="10.0.0.1", resources=Resources(), attributes={"zone": "z", "rack": "r"}
    )
)


def task(
    state: TaskState = TaskState.RUNNING,
    *,
    version: str = VERSION,
    probes: tuple[ProbeResult, ...] = (),
    addresses: tuple[str, ...] = (),
    started: int | None = T0 + 2000,
    created: int = T0,
) -> Task:
    return Task(
        id="t1",
        framework="marathon",
        key="/shop/web#11111111-1111-1111-1111-111111111111",
        spec="s",
        group="/shop/web",
        name="shop_web.instance-11111111-1111-1111-1111-111111111111._app.1",
        labels={"app": "/shop/web", "version": version, "n": "1"},
        created_utc_ms=created,
        placement=Placement(node="n1", ports=(31000,), at_utc_ms=T0 + 1000),
        started_utc_ms=started if state is TaskState.RUNNING else None,
        status=Status(task="t1", state=state, probes=probes, addresses=addresses),
    )


ALIVE = ProbeResult(alive=True, first_success_utc_ms=T0 + 3000, last_success_utc_ms=T0 + 4000)
DEAD = ProbeResult(alive=False, consecutive_failures=2, last_failure_utc_ms=T0, last_failure_cause="refused")


# --- tasks ---


def test_a_running_task():
    assert rendering.task_json(task(probes=(ALIVE,)), record_of(ports=[9000]), NODE) == {
        "id": "shop_web.instance-11111111-1111-1111-1111-111111111111._app.1",
        "appId": "/shop/web",
        "host": "node1",
        "slaveId": "n1",
        "state": "TASK_RUNNING",
        "ports": [31000],
        "servicePorts": [9000],
        "ipAddresses": [{"ipAddress": "10.0.0.1", "protocol": "IPv4"}],
        "stagedAt": "2021-07-27T20:40:34.123Z",
        "startedAt": "2021-07-27T20:40:35.123Z",
        "version": VERSION,
        "localVolumes": [],
        "role": "*",
        "zone": "z",
        "healthCheckResults": [
            {
                "alive": True,
                "consecutiveFailures": 0,
                "instanceId": "shop_web.instance-11111111-1111-1111-1111-111111111111",
                "firstSuccess": "2021-07-27T20:40:36.123Z",
                "lastSuccess": "2021-07-27T20:40:37.123Z",
            }
        ],
    }


def test_what_is_not_known_of_a_task_is_left_out():
    shown = rendering.task_json(task(TaskState.STARTING, probes=(ProbeResult(),)), None, None)
    assert {"startedAt", "healthCheckResults", "zone", "region"}.isdisjoint(shown)
    assert (shown["host"], shown["ipAddresses"], shown["servicePorts"]) == ("", [], [0])


def test_where_an_app_is_reached_for_scripts():
    app = record_of(ports=[9000, 9001]).app
    starting, running, more = task(TaskState.STARTING), task(), task()
    assert more.placement is not None
    more = attrs.evolve(more, placement=attrs.evolve(more.placement, ports=(31005, 31006)))
    shown = rendering.endpoints_text(app, [(starting, NODE), (more, NODE), (running, NODE)])
    assert shown == "shop_web\t9000\tnode1:31000\tnode1:31005\t\nshop_web\t9001\tnode1:0\tnode1:31006\t\n"
    without = record_of(portDefinitions=[]).app
    assert rendering.endpoints_text(without, [(running, NODE)]) == "shop_web\t \tnode1\t\n"
    assert rendering.endpoints_text(without, []) == "shop_web\t \t\n"


def test_a_port_of_the_container_alone_is_reached_at_the_container():
    mappings = [{"containerPort": 80, "servicePort": 1}, {"containerPort": 81, "hostPort": 0, "servicePort": 2}]
    app = record_of(
        networks=[{"mode": "container", "name": "n"}], container={"portMappings": mappings, "type": "MESOS"}
    )
    shown = rendering.endpoints_text(app.app, [(task(addresses=("172.17.0.2",)), NODE)])
    assert shown == "shop_web\t1\t172.17.0.2:80\t\nshop_web\t2\tnode1:31000\t\n"


def test_a_task_with_a_network_of_its_own_shows_its_own_addresses():
    record = record_of(networks=[{"mode": "container/bridge"}])
    shown = rendering.task_json(task(addresses=("172.17.0.2", "fd00::2")), record, NODE)
    assert [address["protocol"] for address in shown["ipAddresses"]] == ["IPv4", "IPv6"]
    assert rendering.task_json(task(), record, NODE)["ipAddresses"] == []


def test_there_is_a_service_port_for_every_port():
    assert rendering.task_json(task(), record_of(ports=[]), NODE)["servicePorts"] == [0]
    assert rendering.task_json(task(), record_of(ports=[1, 2]), NODE)["servicePorts"] == [1, 2]


# --- apps ---


def test_members_of_replies_only():
    failure = TaskFailure(
        app_id="/shop/web",
        host="node1",
        message="m",
        state="TASK_FAILED",
        task_id="t",
        timestamp=VERSION,
        version=VERSION,
        slave_id="n1",
    )
    tasks = [task(probes=(ALIVE,)), task(probes=(DEAD,)), task(), task(TaskState.ASSIGNED)]
    shown = rendering.app_json(
        record_of(),
        counts=rendering.counts(tasks),
        deployments=["d"],
        tasks=[],
        last_task_failure=failure,
        readiness=[],
        task_stats={},
    )
    assert (shown["tasksStaged"], shown["tasksRunning"], shown["tasksHealthy"], shown["tasksUnhealthy"]) == (1, 3, 1, 1)
    assert shown["deployments"] == [{"id": "d"}]
    assert shown["tasks"] == shown["readinessCheckResults"] == []
    assert shown["lastTaskFailure"] == {
        "appId": "/shop/web",
        "host": "node1",
        "message": "m",
        "state": "TASK_FAILED",
        "taskId": "t",
        "timestamp": VERSION,
        "version": VERSION,
        "slaveId": "n1",
    }
    assert shown["version"] == VERSION
    assert shown["versionInfo"] == {"lastScalingAt": VERSION, "lastConfigChangeAt": VERSION}


def test_nothing_is_embedded_that_is_not_given():
    shown = rendering.app_json(record_of())
    assert set(shown) - {"version", "versionInfo"} == set(rendering.wire.write(record_of().app))


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"container": {"docker": {"image": "i", "parameters": [{"key": "init", "value": "true"}]}}},
        {
            "networks": [{"mode": "container/bridge"}],
            "container": {
                "docker": {"image": "i"},
                "portMappings": [{"containerPort": 80, "name": "http-api", "labels": {"a": "b"}}],
                "volumes": [{"containerPath": "/a", "hostPath": "/b"}],
            },
            "healthChecks": [{"path": "/"}, {"protocol": "COMMAND", "command": {"value": "true"}}],
            "readinessChecks": [{}],
        },
        {"constraints": [["hostname", "UNIQUE"], ["rack", "LIKE", "a"]], "unreachableStrategy": "disabled"},
        {"fetch": [{"uri": "a"}], "dependencies": ["/b"], "acceptedResourceRoles": ["*"], "env": {"A": "b"}},
    ],
    ids=range(5),
)
def test_the_usual_client_knows_every_member(members: dict[str, Any]):
    shown = rendering.app_json(
        record_of(**members),
        counts=rendering.counts([]),
        deployments=["d"],
        tasks=[rendering.task_json(task(probes=(ALIVE, DEAD)), record_of(), NODE)],
        readiness=[],
        task_stats=rendering.task_stats_json(record_of(), [task()], T0),
    )
    app = MarathonApp.from_json(shown)
    assert (app.id, app.tasks[0].ports, app.tasks[0].service_ports) == ("/shop/web", [31000], [0])
    assert app.version_info.last_scaling_at.microsecond == 123_000


def test_statistics():
    old = "2021-07-01T00:00:00.000Z"
    tasks = [
        task(started=T0, probes=(ALIVE,)),
        task(started=T0 + 6000),
        task(version=old, started=T0 - 60_000, created=T0 - 90_000),
        task(TaskState.ASSIGNED, version=old, created=T0 - 90_000),
    ]
    stats = rendering.task_stats_json(record_of(), tasks, T0 + 10_000)
    assert set(stats) == {"startedAfterLastScaling", "withLatestConfig", "withOutdatedConfig", "totalSummary"}
    assert stats["withLatestConfig"]["stats"] == {
        "counts": {"staged": 0, "running": 2, "healthy": 1, "unhealthy": 0},
        "lifeTime": {"averageSeconds": 7.0, "medianSeconds": 10.0},  # the later one of the middle
    }
    assert stats["totalSummary"]["stats"]["counts"]["staged"] == 1
    assert rendering.task_stats_json(record_of(), [], T0) == {}
    waiting = rendering.task_stats_json(record_of(), [task(TaskState.STARTING)], T0)
    assert "lifeTime" not in waiting["totalSummary"]["stats"]


def test_counts_are_of_what_mesos_would_say():
    lost = attrs.evolve(task(), unreachable=True)
    tasks = [task(TaskState.PREPARING), task(TaskState.STARTING), task(), task(TaskState.STOPPING), lost]
    assert rendering.counts(tasks) == rendering.Counts(staged=1, running=1)


# --- groups ---


def test_groups_are_shown_with_all_below():
    group = GroupRecord(id="/shop", dependencies=("/db",), version=VERSION, enforce_role=False)
    tree = Tree({"/shop/web": record_of()}, {"/shop": group})
    shown = rendering.group_json(tree, "/", GroupEmbed(), lambda record, embed: {"id": record.app.id})
    assert shown == {
        "id": "/",
        "dependencies": [],
        "version": "1970-01-01T00:00:00.000Z",
        "apps": [],
        "pods": [],
        "groups": [
            {
                "id": "/shop",
                "dependencies": ["/db"],
                "version": VERSION,
                "apps": [{"id": "/shop/web"}],
                "pods": [],
                "groups": [],
                "enforceRole": False,
            }
        ],
    }


def test_groups_are_shown_as_far_as_asked_for():
    tree = Tree({"/shop/web": record_of()}, {})
    shown = rendering.group_json(tree, "/", GroupEmbed(apps=False), lambda record, embed: {})
    assert (shown["apps"], shown["pods"], [one["id"] for one in shown["groups"]]) == ([], [], ["/shop"])
    assert shown["groups"][0]["apps"] == []
    shown = rendering.group_json(tree, "/shop", GroupEmbed(groups=False), lambda record, embed: {"id": record.app.id})
    assert (shown["apps"], shown["groups"]) == ([{"id": "/shop/web"}], [])


# --- query parameters ---


@pytest.mark.parametrize(
    ("values", "embedded"),
    [
        ([], set()),
        (["apps.tasks"], {"tasks", "deployments"}),
        (["app.counts", "group.apps.readiness", "taskStats"], {"counts", "readiness", "taskStats"}),
        (["apps.failures"], {"tasks", "lastTaskFailure", "deployments"}),
        (["apps.count"], {"counts"}),
        (["nonsense", "apps.", ""], set()),
    ],
)
def test_what_to_embed(values: list[str], embedded: set[str]):
    assert queries.parse_embed(values) == embedded


def test_what_to_show_of_groups():
    assert queries.parse_group_embed([]) == GroupEmbed()
    assert queries.parse_group_embed(["group.apps"]) == GroupEmbed(groups=False)
    assert queries.parse_group_embed(["group.groups"]) == GroupEmbed(apps=False)
    assert queries.parse_group_embed(["nonsense"]) == GroupEmbed(groups=False, apps=False)
    counts = queries.parse_group_embed(["group.apps", "group.apps.counts", "apps.tasks"])
    assert (counts.groups, counts.apps, counts.app) == (False, True, {"counts"})
    alone = queries.parse_group_embed(["group.groups", "group.apps.counts"])
    assert not alone.apps


def labelled(**labels: str) -> App:
    return parse_app({"id": "/Shop".lower(), "cmd": "Sleep 10", "labels": labels})


@pytest.mark.parametrize(
    ("selector", "labels", "chosen"),
    [
        ("a", {"a": ""}, True),
        ("a", {}, False),
        ("a==b", {"a": "b"}, True),
        (" a  ==  b ", {"a": "c"}, False),
        ("a!=b", {"a": "c"}, True),
        ("a!=b", {}, False),
        ("a in (b, c)", {"a": "c"}, True),
        ("a in(b)", {"a": "c"}, False),
        ("a notin (b,c)", {"a": "d"}, True),
        ("a notin (b,c)", {}, False),
        ("a in ()", {"a": ""}, False),
        ("a,b==c", {"a": "", "b": "c"}, True),
        ("a,b==c", {"a": "", "b": "d"}, False),
        (r"\!\!\! in (\-\-\-, \&\&\&, \+\+\+)", {"!!!": "&&&"}, True),
        ("in in (in)", {"in": "in"}, True),
        ("in,notin", {"in": "", "notin": ""}, True),
        ("a.b-c_d==1.0", {"a.b-c_d": "1.0"}, True),
    ],
)
def test_label_selectors(selector: str, labels: dict[str, str], chosen: bool):
    assert queries.parse_selector(selector)(labels) is chosen


@pytest.mark.parametrize(
    "selector",
    [
        "a=b",
        "a==",
        "==b",
        "a in",
        "a in b",
        "a in (b",
        "a in (b,)",
        "a,,b",
        "a,",
        ",a",
        "a b",
        "a!b",
        "a\\",
        "x" * 5000,
    ],
)
def test_bad_selectors_are_refused(selector: str):
    with pytest.raises(MarathonError) as caught:
        queries.parse_selector(selector)
    assert caught.value.status == 422
    assert caught.value.message.startswith("Can not parse label selector")


@given(st.text("ab=!(),\\ innot", max_size=20), st.dictionaries(st.text("abin", max_size=2), st.text("ab", max_size=2)))
def test_any_selector_selects_or_is_refused(selector: str, labels: dict[str, str]):
    try:
        chosen = queries.parse_selector(selector)(labels)
    except MarathonError:
        return
    assert isinstance(chosen, bool)


def test_filters_of_lists():
    app = labelled(a="b")
    assert queries.app_filter(None, None, None)(app)
    assert queries.app_filter("SHO", "sleep", "a==b")(app)
    assert not queries.app_filter("x", None, None)(app)
    assert not queries.app_filter(None, "x", None)(app)
    assert not queries.app_filter(None, None, "c")(app)
    assert not queries.app_filter(None, "a", None)(parse_app({"id": "x", "args": ["a"]}))
