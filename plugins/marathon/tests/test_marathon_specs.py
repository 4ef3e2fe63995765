"""What an app's tasks are told to run: payloads, environment, ports, probes, parameters of Docker."""

from __future__ import annotations

from typing import Any

import pytest

from orlop.framework import Constraint, PartitionPolicy, ProbeKind, Resources, Spec
from orlop_marathon.model import AppRecord
from orlop_marathon.parsing import parse_app
from orlop_marathon.specs import build_spec, task_environment

VERSION = "2021-07-27T20:40:33.123Z"
BRIDGE = [{"mode": "container/bridge"}]


def spec_of(members: dict[str, Any], **options: Any) -> Spec:
    app = parse_app({"id": "/shop/web", **members})
    record = AppRecord(app=app, version=VERSION, last_scaling_at=VERSION, last_config_change_at=VERSION)
    return build_spec(record, **options)


def docker_of(members: dict[str, Any]) -> dict[str, Any]:
    """The create body, without its environment, its labels and the sandbox."""
    payload = dict(spec_of(members).payload)
    assert payload.pop("Env")
    assert payload.pop("Labels")["MARATHON_APP_ID"] == "/shop/web"
    assert payload.pop("orlop_labels") == ["MESOS_TASK_ID"]
    assert payload.pop("Volumes") == {"/mnt/mesos/sandbox": {}}
    return payload


# --- environment ---


def test_the_environment_of_a_process():
    spec = spec_of(
        {
            "cmd": "run",
            "cpus": 0.5,
            "env": {"A": "b", "MARATHON_APP_ID": "mine"},
            "labels": {"a.b--c": "d", "HAPROXY": "x"},
        }
    )
    assert spec.runtime == "process"
    assert spec.payload == {
        "command": "run",
        "environment": {
            "MARATHON_APP_ID": "mine",
            "MARATHON_APP_VERSION": VERSION,
            "MARATHON_APP_RESOURCE_CPUS": "0.5",
            "MARATHON_APP_RESOURCE_MEM": "128.0",
            "MARATHON_APP_RESOURCE_DISK": "0.0",
            "MARATHON_APP_RESOURCE_GPUS": "0",
            "MARATHON_APP_LABELS": "A_B_C HAPROXY",
            "MARATHON_APP_LABEL_A_B_C": "d",
            "MARATHON_APP_LABEL_HAPROXY": "x",
            "A": "b",
        },
    }
    assert (spec.host_variable, spec.all_ports_variable) == ("HOST", "PORTS")
    assert task_environment("shop_web.instance-x._app.1") == {"MESOS_TASK_ID": "shop_web.instance-x._app.1"}


def test_the_label_variable_is_there_without_labels_and_long_labels_are_not():
    variables = spec_of({"cmd": "a"}).payload["environment"]
    assert variables["MARATHON_APP_LABELS"] == ""
    variables = spec_of({"cmd": "a", "labels": {"a" * 493: "b", "c": "d" * 512, "e" * 492: "f" * 511}}).payload[
        "environment"
    ]
    assert variables["MARATHON_APP_LABELS"] == "E" * 492


def test_the_enforced_role_is_said_when_it_is_known():
    assert "MARATHON_APP_ENFORCE_GROUP_ROLE" not in spec_of({"cmd": "a"}).payload["environment"]
    variables = spec_of({"cmd": "a"}, enforce_group_role=True).payload["environment"]
    assert variables["MARATHON_APP_ENFORCE_GROUP_ROLE"] == "TRUE"


def test_docker_gets_its_environment_as_a_list():
    spec = spec_of({"container": {"docker": {"image": "i:1"}}, "env": {"A": "b=c"}})
    assert spec.runtime == "docker"
    assert "A=b=c" in spec.payload["Env"]
    assert "MARATHON_APP_DOCKER_IMAGE=i:1" in spec.payload["Env"]
    assert "MESOS_SANDBOX=/mnt/mesos/sandbox" in spec.payload["Env"]


# --- what is fetched ---


def test_what_is_fetched():
    fetch = [
        {"uri": "http://a/b.tgz", "extract": False, "executable": True, "cache": True, "destPath": "c/d"},
        {"uri": "http://a/e"},
    ]
    expected = [
        {"uri": "http://a/b.tgz", "output_file": "c/d", "extract": False, "executable": True, "cache": True},
        {"uri": "http://a/e", "output_file": "", "extract": True, "executable": False, "cache": False},
    ]
    assert spec_of({"cmd": "a", "fetch": fetch}).payload["artefacts"] == expected
    assert docker_of({"container": {"docker": {"image": "i"}}, "fetch": fetch})["orlop_artefacts"] == expected
    (old,) = spec_of({"cmd": "a", "uris": ["http://a/b.tgz?c=d"]}).payload["artefacts"]
    assert (old["uri"], old["extract"]) == ("http://a/b.tgz?c=d", True)
    assert "artefacts" not in spec_of({"cmd": "a"}).payload


# --- ports ---


def test_host_ports_are_any_free_ones_unless_they_are_required():
    definitions = [{"port": 8080, "name": "http-api"}, {"port": 0, "protocol": "udp"}]
    spec = spec_of({"cmd": "a", "portDefinitions": definitions})
    assert [port.number for port in spec.ports] == [None, None]
    assert spec.ports[0].environment == ("PORT", "PORT0", "PORT_8080", "PORT_HTTP-API")
    assert spec.ports[1].environment == ("PORT1", "PORT_{port}")
    assert spec.ports[1].protocol == "udp"
    required = spec_of({"cmd": "a", "portDefinitions": definitions, "requirePorts": True})
    assert [port.number for port in required.ports] == [8080, None]


def test_a_prefix_comes_before_port_variables_only():
    spec = spec_of({"cmd": "a"}, env_vars_prefix="MY_")
    assert spec.ports[0].environment == ("MY_PORT", "MY_PORT0", "MY_PORT_{port}", "MY_PORT_DEFAULT")
    assert (spec.host_variable, spec.all_ports_variable) == ("MY_HOST", "MY_PORTS")
    assert "MARATHON_APP_ID" in spec.payload["environment"]


def test_mappings_of_a_bridge():
    mappings = [{"containerPort": 80}, {"containerPort": 0, "hostPort": 31000, "protocol": "udp,tcp"}]
    spec = spec_of({"networks": BRIDGE, "container": {"docker": {"image": "i"}, "portMappings": mappings}})
    assert [(port.number, port.container, port.protocol) for port in spec.ports] == [
        (None, 80, "tcp"),
        (31000, 0, "udp,tcp"),
    ]
    assert spec.ports[0].environment == ("PORT", "PORT0", "PORT_80")
    assert spec.payload["HostConfig"]["NetworkMode"] == "bridge"


def test_ports_that_only_the_container_has_are_known_at_once():
    mappings = [{"containerPort": 80, "name": "web"}, {"containerPort": 0}, {"containerPort": 1025}]
    spec = spec_of({"networks": [{"name": "n"}], "container": {"docker": {"image": "i"}, "portMappings": mappings}})
    assert spec.ports == ()
    assert spec.payload["HostConfig"]["NetworkMode"] == "n"
    variables = dict(item.split("=", 1) for item in spec.payload["Env"])
    ports = {name: value for name, value in variables.items() if name.startswith("PORT")}
    assert ports == {
        "PORT": "1026",
        "PORT0": "80",
        "PORT_80": "80",
        "PORT_WEB": "80",
        "PORT1": "1026",
        "PORT_1026": "1026",
        "PORT2": "1025",
        "PORT_1025": "1025",
        "PORTS": "1026",
    }


def test_port_and_ports_are_not_of_fixed_ports_of_a_container():
    def ports(*mappings: dict[str, Any]) -> tuple[dict[str, str], list[tuple[str, ...]]]:
        container = {"docker": {"image": "i"}, "portMappings": list(mappings)}
        spec = spec_of({"networks": [{"name": "n"}], "container": container})
        variables = dict(item.split("=", 1) for item in spec.payload["Env"])
        found = {name: variables[name] for name in ("PORT", "PORTS", "PORT0") if name in variables}
        return found, [port.environment for port in spec.ports]

    assert ports({"containerPort": 80}) == ({"PORTS": "", "PORT0": "80"}, [])
    mixed = ports({"containerPort": 80}, {"containerPort": 81, "hostPort": 0})
    assert mixed == ({"PORT0": "80"}, [("PORT", "PORT1", "PORT_81")])


def test_an_app_without_ports_has_no_variables_for_them():
    spec = spec_of({"cmd": "a", "portDefinitions": []})
    assert spec.ports == ()
    assert not [name for name in spec.payload["environment"] if "PORT" in name]


# --- needs ---


def test_resources_are_mebibytes_and_rounded_up():
    spec = spec_of({"cmd": "a", "cpus": 0.1001, "mem": 0.5, "disk": 1.1})
    assert spec.resources == Resources.of({"cpus": 101, "mem": 2**19, "disk": 1153434})
    assert spec_of({"cmd": "a", "mem": 0, "gpus": 2}).resources == Resources.of({"cpus": 1000, "gpus": 2000})


def test_the_grace_of_kills():
    assert spec_of({"cmd": "a"}).policies.kill_grace_ms == 3000
    assert spec_of({"cmd": "a", "taskKillGracePeriodSeconds": 0.25}).policies.kill_grace_ms == 250


def test_constraints_as_the_kernel_knows_them():
    given = [["hostname", "UNIQUE"], ["@zone", "GROUP_BY", "2"], ["@hostname", "LIKE", "a.*"], ["rack", "IS", "r1"]]
    assert set(spec_of({"cmd": "a", "constraints": given}).constraints) == {
        Constraint(field="hostname", operator="UNIQUE"),
        Constraint(field="zone", operator="GROUP_BY", value="2"),
        Constraint(field="hostname", operator="LIKE", value="a.*"),
        Constraint(field="rack", operator="IS", value="r1"),
    }


@pytest.mark.parametrize(
    ("value", "equal", "different"),
    [
        ("1.50", ["1.5", "1.500", "01.5"], ["1.51", "15", "11.5"]),
        ("2", ["2", "2.0", "2.000"], ["20", "2.1", "12"]),
        ("-0", ["-0"], ["1"]),
    ],
)
def test_numbers_are_compared_as_numbers(value: str, equal: list[str], different: list[str]):
    import re

    (constraint,) = spec_of({"cmd": "a", "constraints": [["a", "IS", value]]}).constraints
    assert constraint.operator == "LIKE"
    assert all(re.fullmatch(constraint.value, text) for text in equal)
    assert not any(re.fullmatch(constraint.value, text) for text in different)


# --- probes ---


def test_a_check_of_marathons_own():
    check = {
        "path": "/h",
        "intervalSeconds": 3,
        "timeoutSeconds": 2,
        "maxConsecutiveFailures": 3,
        "ignoreHttp1xx": True,
    }
    (probe,) = spec_of({"cmd": "a", "healthChecks": [check]}).probes
    assert (probe.kind, probe.path, probe.port_index, probe.port) == (ProbeKind.HTTP, "/h", 0, None)
    assert (probe.interval_ms, probe.timeout_ms, probe.grace_ms, probe.delay_ms) == (3000, 2000, 300_000, 3000)
    # The fourth failure kills, so it has to be heard of.
    assert probe.report_after == 4
    assert probe.ignore_1xx


def test_checks_keep_their_order_one_probe_each():
    checks = [
        {"protocol": "COMMAND", "command": {"value": "true"}, "delaySeconds": 7},
        {"protocol": "MESOS_TCP", "portIndex": 1},
        {"protocol": "HTTPS", "port": 8443, "intervalSeconds": 60},
    ]
    probes = spec_of({"cmd": "a", "ports": [0, 0], "healthChecks": checks}).probes
    assert [probe.kind for probe in probes] == [ProbeKind.COMMAND, ProbeKind.TCP, ProbeKind.HTTPS]
    assert [(probe.port_index, probe.port) for probe in probes] == [(None, None), (1, None), (None, 8443)]
    assert [probe.delay_ms for probe in probes] == [7000, 15_000, 5000]
    assert probes[0].command == "true"
    (at_once,) = spec_of({"cmd": "a", "healthChecks": [{**checks[0], "delaySeconds": 0}]}).probes
    assert at_once.delay_ms == 1
    assert probes[2].path == "/"


def test_port_indices_count_mappings_and_probes_count_ports_of_the_node():
    mappings = [{"containerPort": 80}, {"containerPort": 81, "hostPort": 0}, {"containerPort": 82, "hostPort": 0}]
    checks = [{"portIndex": 2}, {"portIndex": 0}]
    container = {"docker": {"image": "i"}, "portMappings": mappings}
    probes = spec_of({"networks": [{"name": "n"}], "container": container, "healthChecks": checks}).probes
    assert [(probe.port_index, probe.port) for probe in probes] == [(1, None), (None, 80)]


NETWORK = [{"name": "n"}]


@pytest.mark.parametrize(
    ("networks", "check", "port", "own_address"),
    [
        (BRIDGE, {"portIndex": 0}, None, False),
        (BRIDGE, {"protocol": "MESOS_HTTP", "portIndex": 0}, None, False),
        (BRIDGE, {"port": 99}, 99, False),
        (BRIDGE, {"protocol": "MESOS_TCP", "port": 99}, 99, True),
        (NETWORK, {"portIndex": 0}, 80, True),
        (NETWORK, {"protocol": "TCP", "portIndex": 1}, 1025, True),
        (NETWORK, {"portIndex": 2}, None, False),
        (NETWORK, {"port": 99}, 99, True),
        ([{"mode": "host"}], {"protocol": "MESOS_HTTP", "port": 99}, 99, False),
    ],
)
def test_where_probes_connect_to(networks: Any, check: dict[str, Any], port: int | None, own_address: bool):
    container: dict[str, Any] = {"docker": {"image": "i"}}
    if networks[0] != {"mode": "host"}:
        mappings = [{"containerPort": 80}, {"containerPort": 0}, {"containerPort": 82, "hostPort": 0}]
        container["portMappings"] = mappings
    (probe,) = spec_of({"networks": networks, "container": container, "healthChecks": [check]}).probes
    assert (probe.port, probe.own_address, probe.ipv6) == (port, own_address, False)
    assert (probe.port_index is None) == (port is not None)


def test_what_runs_as_a_process_has_no_address_of_its_own():
    mappings = [{"containerPort": 80}]
    members = {"cmd": "a", "networks": NETWORK, "container": {"type": "MESOS", "portMappings": mappings}}
    (probe,) = spec_of({**members, "healthChecks": [{}]}).probes
    assert (probe.port, probe.own_address) == (80, False)


def test_probes_over_ipv6_go_to_the_container():
    mappings = [{"containerPort": 80}]
    container = {"docker": {"image": "i"}, "portMappings": mappings}
    check = {"protocol": "MESOS_HTTP", "ipProtocol": "IPv6"}
    (probe,) = spec_of({"networks": BRIDGE, "container": container, "healthChecks": [check]}).probes
    assert (probe.port, probe.own_address, probe.ipv6) == (80, True, True)


# --- payloads ---


def test_argument_vectors_run_without_a_shell():
    payload = spec_of({"args": ["a", "b"], "user": "nobody"}).payload
    assert (payload["arguments"], payload["user"]) == (["a", "b"], "nobody")
    assert "command" not in payload


def test_commands_and_arguments_in_containers():
    image = {"docker": {"image": "i"}}
    assert docker_of({"container": image}) == {"Image": "i", "HostConfig": {"NetworkMode": "host"}}
    with_arguments = docker_of({"container": image, "args": ["a"]})
    assert with_arguments["Cmd"] == ["a"]
    assert "Entrypoint" not in with_arguments
    shell = docker_of({"container": image, "cmd": "a b"})
    assert (shell["Entrypoint"], shell["Cmd"]) == (["/bin/sh"], ["-c", "a b"])


def test_everything_else_of_a_container():
    container = {
        "type": "DOCKER",
        "docker": {"image": "i", "privileged": True, "forcePullImage": True},
        "volumes": [
            {"containerPath": "/in", "hostPath": "/out", "mode": "RO"},
            {"containerPath": "rel", "hostPath": "/out"},
            {
                "containerPath": "/v",
                "external": {"name": "n", "provider": "dvdi", "options": {"dvdi/driver": "rexray"}},
            },
        ],
    }
    body = docker_of({"container": container, "user": "u", "tty": True})
    assert body == {
        "Image": "i",
        "User": "u",
        "Tty": True,
        "orlop_pull": "always",
        "HostConfig": {
            "NetworkMode": "host",
            "Privileged": True,
            "Binds": ["/out:/in:ro", "/out:/mnt/mesos/sandbox/rel:rw", "n:/v:rw"],
            "VolumeDriver": "rexray",
        },
    }


def test_limits_and_linux_settings_of_an_image_under_mesos():
    container = {
        "type": "MESOS",
        "docker": {"image": "i"},
        "linuxInfo": {"seccomp": {"unconfined": True}, "ipcInfo": {"mode": "PRIVATE", "shmSize": 2}},
    }
    body = docker_of({"container": container, "resourceLimits": {"cpus": 2, "mem": 256}, "gpus": 1})
    assert body["HostConfig"] == {
        "NetworkMode": "host",
        "Memory": 256 * 2**20,
        "NanoCpus": 2 * 10**9,
        "DeviceRequests": [{"Driver": "", "Count": 1, "Capabilities": [["gpu"]]}],
        "SecurityOpt": ["seccomp=unconfined"],
        "IpcMode": "private",
        "ShmSize": 2 * 2**20,
    }
    unlimited = docker_of({"container": {"docker": {"image": "i"}}, "resourceLimits": {"mem": "unlimited"}})
    assert unlimited["HostConfig"] == {"NetworkMode": "host", "Memory": 2**60, "MemorySwap": -1}


# --- parameters of Docker ---


def test_parameters_are_the_last_word():
    docker = {"image": "i", "parameters": [{"key": "net", "value": "mine"}, {"key": "entrypoint", "value": "/e"}]}
    body = docker_of({"cmd": "a", "container": {"docker": docker}})
    assert body["HostConfig"]["NetworkMode"] == "mine"
    assert body["Entrypoint"] == ["/e"]


@pytest.mark.parametrize(
    ("strategy", "policy"),
    [
        ({"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0}, PartitionPolicy()),
        ({"inactiveAfterSeconds": 60, "expungeAfterSeconds": 600}, PartitionPolicy(replace_after_ms=600_000)),
        ("disabled", PartitionPolicy(keep=True)),
    ],
)
def test_the_kernel_waits_for_a_lost_node_as_long_as_the_app_does(strategy: Any, policy: PartitionPolicy) -> None:
    assert spec_of({"unreachableStrategy": strategy}).policies.partition == policy
