"""Marathon's apps as containers of a real engine: networks, ports, probes, what a task is told of itself."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from engines import Engine
from running import RunningOrlop, wait_until

pytestmark = [pytest.mark.real, pytest.mark.docker]

NETWORK = "inner"


@pytest.fixture(scope="module")
def orlop(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(
        tmp_path_factory.mktemp("containers"), docker=engine.url, ORLOP_AGENT__ADDRESS=engine.address
    )
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        engine.clear()


@pytest.fixture(scope="module")
def network(engine: Engine) -> Iterator[str]:
    """The subnet of a network of the engine's; it goes with the engine."""
    subnet = engine.address.replace("10.78.", "10.79.").rpartition(".")[0] + ".0/24"
    with closing(engine.client()) as client:
        client.create_network(NETWORK, ipam={"Config": [{"Subnet": subnet}]})
    with engine.reachable(subnet):
        yield subnet


def boxed(mappings: list[dict[str, Any]], **members: Any) -> dict[str, Any]:
    container = {"type": "DOCKER", "docker": {"image": "busybox:latest"}, "portMappings": mappings}
    return {"cpus": 0.01, "mem": 32, "container": container, **members}


def healthy(orlop: RunningOrlop, app_id: str) -> dict[str, Any]:
    """The app's only task, once it is healthy."""

    def task() -> Any:
        app = orlop.app(app_id)
        return app["tasks"] if app["tasksHealthy"] == 1 else None

    (found,) = wait_until(task, f"{app_id} is healthy")
    return dict(found)


def container_of(engine: Engine, task: str) -> Any:
    """The running container with this label, as the engine shows it."""
    with closing(engine.client()) as client:
        (found,) = client.containers(filters={"label": f"MESOS_TASK_ID={task}"})
        return client.inspect_container(found["Id"])


def variables_of(container: Any) -> dict[str, str]:
    return dict(item.split("=", 1) for item in container["Config"]["Env"])


def test_ports_that_only_the_container_has(orlop: RunningOrlop, engine: Engine, network: str) -> None:
    serve = "echo note >$MESOS_SANDBOX/health && exec httpd -f -p $PORT0 -h $MESOS_SANDBOX"
    often = {"intervalSeconds": 1, "gracePeriodSeconds": 60, "delaySeconds": 1}
    checks = [
        {"protocol": "HTTP", "path": "/health", "portIndex": 0, **often},
        {"protocol": "TCP", "port": 8000, **often},
        {"protocol": "COMMAND", "command": {"value": "test -s $MESOS_SANDBOX/health"}, **often},
    ]
    app = boxed([{"containerPort": 8000, "name": "http"}], cmd=serve, healthChecks=checks)
    orlop.call("POST", "/v2/apps", {"id": "/inner", "networks": [{"name": NETWORK}], **app})
    task = healthy(orlop, "/inner")
    assert task["ports"] == []
    (address,) = task["ipAddresses"]
    assert address["ipAddress"].startswith(network.removesuffix(".0/24")), "it is the container's, not the node's"
    assert [result["alive"] for result in task["healthCheckResults"]] == [True] * 3
    container = container_of(engine, task["id"])
    assert list(container["NetworkSettings"]["Networks"]) == [NETWORK]
    variables = variables_of(container)
    assert {name: value for name, value in variables.items() if name.startswith("PORT")} == {
        "PORT0": "8000",
        "PORT_8000": "8000",
        "PORT_HTTP": "8000",
        "PORTS": "",
    }
    assert variables["MESOS_TASK_ID"] == task["id"]
    assert variables["MARATHON_APP_ID"] == "/inner"
    assert variables["MARATHON_APP_ENFORCE_GROUP_ROLE"] == "FALSE"
    assert variables["HOST"] == task["host"]


def test_ports_of_a_bridge(orlop: RunningOrlop, engine: Engine) -> None:
    fixed = 31999
    mappings = [{"containerPort": 8000, "hostPort": fixed}, {"containerPort": 0, "hostPort": 0}]
    serve = "mkdir /www && echo one >/www/x && httpd -p 8000 -h /www && exec httpd -f -p $PORT1 -h /www"
    often = {"intervalSeconds": 1, "gracePeriodSeconds": 60, "delaySeconds": 1}
    checks = [
        {"protocol": "MESOS_HTTP", "path": "/x", "portIndex": 0, **often},
        {"protocol": "HTTP", "path": "/x", "portIndex": 1, **often},
    ]
    app = boxed(mappings, cmd=serve, healthChecks=checks, networks=[{"mode": "container/bridge"}])
    app["container"]["docker"]["parameters"] = [{"key": "label", "value": "own=1"}, {"key": "hostname", "value": "box"}]
    orlop.call("POST", "/v2/apps", {"id": "/bridge", **app})
    task = healthy(orlop, "/bridge")
    first, second = task["ports"]
    assert first == fixed
    for port in (first, second):
        assert urllib.request.urlopen(f"http://{engine.address}:{port}/x", timeout=5).read() == b"one\n"
    container = container_of(engine, task["id"])
    assert (container["Config"]["Labels"]["own"], container["Config"]["Hostname"]) == ("1", "box")
    variables = variables_of(container)
    assert {name: value for name, value in variables.items() if name.startswith("PORT")} == {
        "PORT": str(fixed),
        "PORT0": str(fixed),
        "PORT_8000": str(fixed),
        "PORT1": str(second),
        f"PORT_{second}": str(second),
        "PORTS": f"{fixed},{second}",
    }


def test_a_container_of_the_hosts_network(orlop: RunningOrlop, engine: Engine) -> None:
    serve = "mkdir /www && echo host >/www/x && exec httpd -f -p $PORT0 -h /www"
    checks = [{"protocol": "HTTP", "path": "/x", "portIndex": 0, "intervalSeconds": 1, "gracePeriodSeconds": 60}]
    app = boxed([], cmd=serve, healthChecks=checks)
    del app["container"]["portMappings"]
    orlop.call("POST", "/v2/apps", {"id": "/host", **app})
    task = healthy(orlop, "/host")
    (port,) = task["ports"]
    assert urllib.request.urlopen(f"http://{engine.address}:{port}/x", timeout=5).read() == b"host\n"
    assert [one["ipAddress"] for one in task["ipAddresses"]] == [engine.address]
    assert container_of(engine, task["id"])["HostConfig"]["NetworkMode"] == "host"


def test_memory_without_limit(orlop: RunningOrlop, engine: Engine) -> None:
    app = boxed([], cmd="exec sleep 1000", resourceLimits={"mem": "unlimited"}, networks=[{"mode": "container/bridge"}])
    orlop.call("POST", "/v2/apps", {"id": "/greedy", **app})
    orlop.wait_deployed()
    (task,) = orlop.app("/greedy")["tasks"]
    limits = container_of(engine, task["id"])["HostConfig"]
    assert limits["Memory"] > 2**50
