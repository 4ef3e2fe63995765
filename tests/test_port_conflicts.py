"""Ports that two want: one gets it, the other waits or fails with the reason, and runs when the port is free."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import Engine
from ports import free_port
from running import RunningOrlop, container_app, process_app, wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def orlop(tmp_path: Path) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(tmp_path, ORLOP_AGENT__RESOURCES__PORTS="20000-65000")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def with_port(app_id: str, port: int) -> dict[str, Any]:
    return process_app(app_id, 1, portDefinitions=[{"port": port}], requirePorts=True, backoffSeconds=0)


def test_the_second_app_of_a_port_waits_for_it_and_says_so(orlop: RunningOrlop) -> None:
    port = 31_777
    orlop.put(with_port("/first", port))
    orlop.wait_deployed()
    first = orlop.running("/first")
    orlop.put(with_port("/second", port))
    wait_until(lambda: orlop.get(f"{orlop.url}/v1/asks")["asks"], "the second waits")
    explained = orlop.cli("explain", "/second")
    assert f"port {port}" in explained, explained
    assert orlop.running("/first") == first, "the first is not troubled by it"
    assert orlop.call("GET", "/v2/queue")["queue"][0]["app"]["id"] == "/second"
    orlop.call("DELETE", "/v2/apps/first?force=true")
    orlop.wait_deployed()
    assert len(orlop.running("/second")) == 1
    task = orlop.app("/second")["tasks"][0]
    assert task["ports"] == [port]


@pytest.mark.docker
def test_a_container_whose_port_somebody_else_has_waits_says_so_and_heals(tmp_path: Path, engine: Engine) -> None:
    port = free_port()
    client = engine.client()
    config = client.create_host_config(port_bindings={80: port})
    stranger = client.create_container("busybox", ["sleep", "1000"], ports=[80], host_config=config)["Id"]
    client.start(stranger)
    orlop = RunningOrlop(tmp_path, docker=engine.url, ORLOP_AGENT__RESOURCES__PORTS="1025-65000")
    try:
        orlop.start()
        app = container_app("/box", 1, backoffSeconds=0.1, backoffFactor=1, networks=[{"mode": "container/bridge"}])
        app["container"]["portMappings"] = [{"containerPort": 80, "hostPort": port}]
        orlop.put(app)
        told = f"port {port} is taken by a foreign container"
        wait_until(lambda: told in orlop.cli("explain", "/box"), "it waits, and says for what")
        assert "lastTaskFailure" not in orlop.app("/box"), "it was never tried in vain"
        client.remove_container(stranger, force=True)
        wait_until(lambda: len(orlop.running("/box")) == 1, "it runs when the port is free")
        ours = [one for one in client.containers() if "orlop.task" in one["Labels"]]
        assert [[bound["PublicPort"] for bound in one["Ports"]][:1] for one in ours] == [[port]]
    finally:
        with contextlib.suppress(Exception):
            client.remove_container(stranger, force=True)
        client.close()
        orlop.close()
        engine.clear()
