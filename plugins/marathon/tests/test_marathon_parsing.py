"""Reading: canonical and legacy forms, merges, and that any JSON whatsoever gives a model or a MarathonError."""

from __future__ import annotations

from typing import Any

import pytest
from marathon_documents import DOCKER, VERSION, faults, whole

from orlop_marathon import errors, parsing, wire
from orlop_marathon.errors import MarathonError
from orlop_marathon.model import ContainerType, Defaults, NetworkMode, UpgradeStrategy

# --- what comes out ---

GOLDEN: dict[str, Any] = {
    "id": "/x",
    "cmd": "sleep 1",
    "instances": 1,
    "cpus": 1,
    "mem": 128,
    "disk": 0,
    "gpus": 0,
    "executor": "",
    "role": "*",
    "labels": {},
    "backoffSeconds": 1,
    "backoffFactor": 1.15,
    "maxLaunchDelaySeconds": 300,
    "killSelection": "YOUNGEST_FIRST",
    "unreachableStrategy": {"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0},
    "upgradeStrategy": {"minimumHealthCapacity": 1, "maximumOverCapacity": 1},
    "requirePorts": False,
    "networks": [{"mode": "host"}],
    "portDefinitions": [{"port": 0, "protocol": "tcp", "name": "default"}],
}


def test_the_smallest_app_is_shown_with_its_defaults_and_nothing_else():
    assert wire.write(whole({"id": "x", "cmd": "sleep 1"})) == GOLDEN


def test_a_bridged_app_of_old_becomes_one_of_today():
    old = {
        "id": "/shop/web",
        "container": {
            "type": "DOCKER",
            "docker": {
                "image": "nginx",
                "network": "BRIDGE",
                "portMappings": [{"containerPort": 80, "servicePort": 9000}],
                "credential": {"principal": "ignored"},
            },
        },
        "uris": ["http://x/a.tar.gz?b=1", "http://x/plain"],
        "ports": [9000],
    }
    shown = wire.write(parsing.parse_app(old))
    assert shown["networks"] == [{"mode": "container/bridge"}]
    assert "portDefinitions" not in shown
    assert shown["container"] == {
        "type": "DOCKER",
        "volumes": [],
        "docker": {"image": "nginx", "forcePullImage": False, "privileged": False, "parameters": []},
        "portMappings": [
            {"containerPort": 80, "hostPort": 0, "servicePort": 9000, "protocol": "tcp", "labels": {}},
        ],
    }
    assert [(fetch["uri"], fetch["extract"]) for fetch in shown["fetch"]] == [
        ("http://x/a.tar.gz?b=1", True),
        ("http://x/plain", False),
    ]


def test_a_host_network_of_old_drops_the_mappings_that_were_never_used():
    docker = {"image": "i", "network": "HOST", "portMappings": [{"containerPort": 80}]}
    app = parsing.parse_app({"id": "x", "container": {"docker": docker}})
    assert app.host_networking
    assert app.container is not None
    assert app.container.port_mappings is None
    assert len(app.port_entries) == 1


def test_legacy_ports_become_definitions():
    app = parsing.parse_app({"id": "x", "cmd": "x", "ports": [80, 0]})
    assert app.service_ports == (80, 0)
    assert parsing.parse_app({"id": "x", "cmd": "x", "ports": []}).port_definitions == ()


def test_more_legacy_ports_than_mappings_pad_the_mappings():
    docker = {"image": "i", "network": "BRIDGE", "portMappings": [{"containerPort": 80}]}
    app = parsing.parse_app({"id": "x", "container": {"docker": docker}, "ports": [0, 0, 0]})
    assert [mapping.container_port for mapping in app.port_mappings] == [80, 0, 0]


@pytest.mark.parametrize(
    ("address", "mode", "name"),
    [
        ({}, NetworkMode.CONTAINER, "default-net"),
        ({"networkName": "blue"}, NetworkMode.CONTAINER, "blue"),
        ({"networkName": "mesos-bridge"}, NetworkMode.BRIDGE, None),
    ],
)
def test_an_ip_address_of_old_becomes_a_network(address: dict[str, Any], mode: NetworkMode, name: str | None):
    document = {"id": "x", "cmd": "x", "ipAddress": address}
    app = parsing.parse_app(document, defaults=Defaults(network_name="default-net"))
    assert [(network.mode, network.name) for network in app.networks] == [(mode, name)]
    assert app.container is not None
    assert app.container.type is ContainerType.MESOS


def test_discovery_ports_of_old_become_mappings():
    ports = [{"number": 80, "name": "http", "protocol": "tcp", "labels": {"a": "b"}}]
    app = parsing.parse_app({"id": "x", "cmd": "x", "ipAddress": {"networkName": "n", "discovery": {"ports": ports}}})
    (mapping,) = app.port_mappings
    assert (mapping.container_port, mapping.name, mapping.host_port) == (80, "http", None)


def test_networks_decide_about_ports():
    bridged = parsing.parse_app({"id": "x", "cmd": "x", "networks": [{"mode": "container/bridge"}]})
    assert wire.write(bridged)["container"]["portMappings"] == [
        {
            "containerPort": 0,
            "hostPort": 0,
            "servicePort": 0,
            "protocol": "tcp",
            "labels": {},
            "name": "default",
        }
    ]
    plain = parsing.parse_app({"id": "x", "cmd": "x", "networks": [{"name": "n"}], "requirePorts": True})
    assert plain.port_mappings[0].host_port is None
    assert not plain.require_ports
    none = parsing.parse_app({"id": "x", "networks": [{"name": "n"}], "container": {"portMappings": []}})
    assert none.port_mappings == ()
    assert none.container is not None
    assert none.container.port_mappings == ()


def test_enumerations_are_read_in_any_case():
    app = parsing.parse_app(
        {"id": "x", "cmd": "x", "killSelection": "oldest_first", "healthChecks": [{"protocol": "tcp"}]}
    )
    assert app.kill_selection.value == "OLDEST_FIRST"
    assert app.health_checks[0].protocol.value == "TCP"


def test_health_checks_keep_what_their_protocol_uses():
    given = {"path": "/a", "portIndex": 0}
    checks = [
        {"protocol": "COMMAND", "command": {"value": "true"}, **given},
        {"protocol": "TCP", **given},
        {"protocol": "HTTP", **given, "ignoreHttp1xx": True},
        {"protocol": "MESOS_HTTP", **given, "ignoreHttp1xx": True},
    ]
    shown = wire.write(parsing.parse_app({"id": "x", "cmd": "x", "healthChecks": checks}))["healthChecks"]
    used = [{"path", "portIndex", "ignoreHttp1xx", "command"} & check.keys() for check in shown]
    assert used == [{"command"}, {"portIndex"}, {"path", "portIndex", "ignoreHttp1xx"}, {"path", "portIndex"}]


def test_null_is_absent_and_unknown_members_are_ignored():
    document = {"id": "x", "cmd": "x", "args": None, "container": None, "healthChecks": None, "frobnicate": {"a": [1]}}
    assert parsing.parse_app(document) == parsing.parse_app({"id": "x", "cmd": "x"})


def test_whole_numbers_may_be_written_as_floats():
    assert parsing.parse_app({"id": "x", "cmd": "x", "instances": 2.0}).instances == 2


def test_ids_are_made_absolute():
    app = parsing.parse_app({"id": "web", "cmd": "x", "dependencies": ["../db", "/a", "../db"]}, base="/shop")
    assert app.id == "/shop/web"
    assert app.dependencies == ("/a", "/db")


def test_dependencies_are_relative_to_the_group_and_not_to_the_app():
    members = {"cmd": "x", "dependencies": ["db", "../cache", "./db"]}
    expected = ("/cache", "/shop/db")
    assert parsing.parse_app({"id": "web", **members}, base="/shop").dependencies == expected
    group = parsing.parse_group_update({"id": "/shop", "apps": [{"id": "/shop/web", **members}]})
    assert group.apps is not None
    assert group.apps[0].dependencies == expected
    app = parsing.parse_app({"id": "/shop/web", **members})
    assert app.dependencies == ("/cache", "/db")
    update = parsing.parse_app_update({"dependencies": ["db"]})
    assert parsing.merge(app, update).dependencies == ("/db",)


def test_strategies_follow_what_the_app_keeps():
    volume = {"containerPath": "data", "persistent": {"size": 1}}
    app = parsing.parse_app({"id": "x", "cmd": "x", "container": {"type": "MESOS", "volumes": [volume]}})
    assert app.upgrade_strategy == UpgradeStrategy(minimum_health_capacity=0.5, maximum_over_capacity=0.0)
    assert app.unreachable_strategy.disabled
    shown = wire.write(app)
    assert shown["unreachableStrategy"] == "disabled"
    assert shown["residency"] == {"relaunchEscalationTimeoutSeconds": 3600, "taskLostBehavior": "WAIT_FOREVER"}
    single = parsing.parse_app({"id": "x", "cmd": "x", "labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"}})
    assert single.upgrade_strategy == UpgradeStrategy(minimum_health_capacity=0.0, maximum_over_capacity=0.0)


def test_members_that_old_clients_do_not_know_are_shown_when_they_are_set():
    document = {
        "id": "x",
        "cmd": "x",
        "tty": True,
        "check": {"tcp": {"portIndex": 0}},
        "resourceLimits": {"cpus": "unlimited", "mem": 256},
        "executorResources": {"cpus": 0.2},
    }
    shown = wire.write(parsing.parse_app(document))
    assert shown["tty"] is True
    assert shown["check"]["tcp"] == {"portIndex": 0}
    assert shown["resourceLimits"] == {"cpus": "unlimited", "mem": 256}
    assert shown["executorResources"] == {"cpus": 0.2, "mem": 32, "disk": 10}


# --- what is refused ---


@pytest.mark.parametrize(
    ("document", "path", "text"),
    [
        ({"id": 3}, "/id", "error.expected.jsstring"),
        ({}, "/id", "error.path.missing"),
        ({"id": "x", "cpus": "2"}, "/cpus", "error.expected.jsnumber"),
        ({"id": "x", "cpus": True}, "/cpus", "error.expected.jsnumber"),
        ({"id": "x", "cpus": 0}, "/cpus", "error.min"),
        ({"id": "x", "instances": 2.5}, "/instances", "error.expected.int"),
        ({"id": "x", "instances": -1}, "/instances", "error.min"),
        ({"id": "x", "instances": 2**40}, "/instances", "error.max"),
        ({"id": "x", "mem": 10**400}, "/mem", "error.max"),
        ({"id": "x", "requirePorts": 1}, "/requirePorts", "error.expected.jsboolean"),
        ({"id": "x", "args": "a"}, "/args", "error.expected.jsarray"),
        ({"id": "x", "args": ["a", None]}, "/args(1)", "error.expected.jsstring"),
        ({"id": "x", "env": []}, "/env", "error.expected.jsobject"),
        ({"id": "x", "env": {"A": 1}}, "/env/A", "error.expected.jsstring"),
        ({"id": "x", "env": {"A": {"secret": 1}}}, "/env/A", "error.expected.jsstring"),
        ({"id": ""}, "/id", "error.minLength"),
        ({"id": "A"}, "/id", "error.pattern"),
        ({"id": "/a//b-/c"}, "/id", "error.pattern"),
        ({"id": "x", "dependencies": ["/a", "/A"]}, "/dependencies(1)", "error.pattern"),
        ({"id": "/a" * 600}, "/id", "error.maxLength"),
        ({"id": "x", "role": ""}, "/role", "error.minLength"),
        ({"id": "x", "executor": "//other"}, "/executor", "error.pattern"),
        ({"id": "x", "portDefinitions": [{"name": "a=b"}]}, "/portDefinitions(0)/name", "error.pattern"),
        ({"id": "x", "portDefinitions": [{"name": ""}]}, "/portDefinitions(0)/name", "error.pattern"),
        (
            {"id": "x", "container": {"portMappings": [{"name": "Web"}]}},
            "/container/portMappings(0)/name",
            "error.pattern",
        ),
        ({"id": "x", "networks": [{"name": "a b"}]}, "/networks(0)/name", "error.pattern"),
        ({"id": "x", "networks": [{"name": "a" * 64}]}, "/networks(0)/name", "error.maxLength"),
        ({"id": "x", "ports": [80, 70000]}, "/ports(1)", "error.max"),
        ({"id": "x", "uris": [""]}, "/uris(0)", "error.minLength"),
        ({"id": "x", "readinessChecks": [{"portName": "A"}]}, "/readinessChecks(0)/portName", "error.pattern"),
        (
            {"id": "x", "readinessChecks": [{"httpStatusCodesForReady": [200, 99]}]},
            "/readinessChecks(0)/httpStatusCodesForReady(1)",
            "error.min",
        ),
        ({"id": "x", "healthChecks": [{"portIndex": -1}]}, "/healthChecks(0)/portIndex", "error.min"),
        ({"id": "x", "labels": {"a": 1}}, "/labels/a", "error.expected.jsstring"),
        ({"id": "x", "cmd": ""}, "/cmd", "error.minLength"),
        ({"id": "x", "cmd": "\ud800"}, "/cmd", "error.expected.jsstring"),
        ({"id": "x", "killSelection": "NONE"}, "/killSelection", "error.unknown.enum.literal"),
        ({"id": "x", "unreachableStrategy": "enabled"}, "/unreachableStrategy", "error.unknown.enum.literal"),
        ({"id": "x", "fetch": [{"uri": "a" * 1025}]}, "/fetch(0)/uri", "error.maxLength"),
        (
            {"id": "x", "container": {"portMappings": [{}, {"hostPort": 70000}]}},
            "/container/portMappings(1)/hostPort",
            "error.max",
        ),
        ({"id": "x", "healthChecks": [{"portIndex": "a"}]}, "/healthChecks(0)/portIndex", "error.expected.jsnumber"),
        ([], "/", "error.expected.jsobject"),
    ],
)
def test_wrong_types_are_named_with_their_path(document: Any, path: str, text: str):
    status, message, details = faults(document)
    assert (status, message) == (422, "Invalid JSON")
    assert details == {path: [text]}


def test_all_faults_are_told_at_once():
    _, _, details = faults({"id": 1, "cpus": "a", "container": {"docker": {}, "volumes": [{"mode": "XX"}]}})
    assert set(details) == {
        "/id",
        "/cpus",
        "/container/docker/image",
        "/container/volumes(0)/containerPath",
        "/container/volumes(0)/mode",
    }


@pytest.mark.parametrize(
    ("document", "path", "text"),
    [
        ({"id": "/"}, "/id", "must not be root"),
        ({"id": "x", "acceptedResourceRoles": []}, "/acceptedResourceRoles", "must not be empty"),
        ({"id": "/a/tasks"}, "/id", "must not end with any of the following reserved keywords"),
        ({"id": "x", "constraints": [["a"]]}, "/constraints(0)", "Each constraint must have either 2 or 3 fields"),
        ({"id": "x", "uris": ["a"], "fetch": [{"uri": "b"}]}, "/uris", "may not be set in conjunction with fetch"),
        ({"id": "x", "ports": [1, 1]}, "/", "ports must be unique"),
        (
            {"id": "x", "ports": [1], "portDefinitions": [{"port": 2}]},
            "/",
            "cannot specify both ports and port definitions",
        ),
        ({"id": "x", "ports": [1], "ipAddress": {}}, "/", "cannot specify both an IP address and port"),
        ({"id": "x", "ipAddress": {}, "networks": [{}]}, "/", "must not specify both networks and ipAddress"),
        (
            {"id": "x", "container": {"docker": {**DOCKER, "network": "HOST"}}, "networks": [{"mode": "host"}]},
            "/",
            "must not specify both container.docker.network and networks",
        ),
        (
            {"id": "x", "container": {"docker": {**DOCKER, "portMappings": [{}]}, "portMappings": [{}]}},
            "/container",
            "cannot specify both portMappings and docker.portMappings",
        ),
        (
            {
                "id": "x",
                "container": {"docker": DOCKER},
                "ipAddress": {"discovery": {"ports": [{"number": 1, "name": "a"}]}},
            },
            "/ipAddress",
            "ipAddress/discovery is not allowed for Docker containers",
        ),
        (
            {"id": "x", "networks": [{"mode": "host"}], "container": {"docker": DOCKER, "portMappings": [{}]}},
            "/",
            "portMappings are not allowed with host-networking",
        ),
        (
            {"id": "x", "networks": [{"mode": "container/bridge"}], "portDefinitions": [{}]},
            "/",
            "portDefinitions are only allowed with host-networking",
        ),
        (
            {"id": "x", "container": {"volumes": [{"containerPath": "a"}]}},
            "/container/volumes(0)",
            "expected exactly one",
        ),
        ({"id": "x", "resourceLimits": {"cpus": "much"}}, "/resourceLimits", "'much' is an invalid resource limit"),
    ],
)
def test_contradictions_are_named(document: Any, path: str, text: str):
    status, message, details = faults(document)
    assert (status, message) == (422, "Object is not valid")
    assert list(details) == [path]
    assert details[path][0].startswith(text)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Please specify data in JSON format"),
        (b"  \n", "Please specify data in JSON format"),
        (b"hello", "Please specify data in JSON format"),
        (b'{"id": ', "Invalid JSON"),
        (b'{"id": NaN}', "Invalid JSON"),
        (b'{"mem": 1e999}', "Invalid JSON"),
        (b'["\\ud800"]', "Invalid JSON"),
        (b"[" * 3000, "Invalid JSON"),
        (b"\x0b0", "Please specify data in JSON format"),
        (b"\xff\xfe", "Please specify data in JSON format"),
    ],
)
def test_bodies_that_are_no_json(body: bytes, message: str):
    with pytest.raises(MarathonError) as caught:
        parsing.load_json(body)
    assert caught.value.status == 400
    assert caught.value.message == message
    assert isinstance(caught.value.body["details"], str)


# --- the rest of the errors, and odd members ---


def test_bodies_of_errors():
    locked = errors.locked(["d1"])
    assert locked.status == 409
    assert locked.body == {
        "message": "App is locked by one or more deployments. Override with the option '?force=true'. "
        "View details at '/v2/deployments/<DEPLOYMENT_ID>'.",
        "deployments": [{"id": "d1"}],
    }
    assert (errors.app_exists("/x").status, errors.app_exists("/x").message) == (
        409,
        "An app with id [/x] already exists.",
    )
    assert errors.unknown_app("/x").body == {"message": "App '/x' does not exist"}
    assert errors.unknown_app("/x", VERSION).message == f"App '/x' does not exist in version {VERSION}"
    assert errors.scale_and_wipe().status == 400
    assert errors.too_many_deployments(100).status == 403
    assert errors.too_many_deployments(100).message.startswith("Max number (100) of running deployments is achieved.")


def test_an_answer_names_a_bounded_number_of_faults():
    _, _, details = faults({"id": "x", "constraints": [["a"]] * 5000})
    assert len(details) == errors.MOST_DETAILS


def test_free_form_options_are_bounded_in_depth():
    options: Any = {}
    for _ in range(300):
        options = {"a": [options]}
    external = {"provider": "csi", "name": "n", "options": options}
    _, _, details = faults({"id": "x", "container": {"volumes": [{"containerPath": "a", "external": external}]}})
    ((path, texts),) = details.items()
    assert path == "/container/volumes(0)/external/options"
    assert "nested at most" in texts[0]


def test_names_that_the_unreachable_strategy_once_had():
    old = {"unreachableInactiveAfterSeconds": 1, "unreachableExpungeAfterSeconds": 2}
    strategy = parsing.parse_app({"id": "x", "unreachableStrategy": old}).unreachable_strategy
    assert (strategy.inactive_after_seconds, strategy.expunge_after_seconds) == (1, 2)
