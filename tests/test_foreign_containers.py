"""Containers that somebody starts on an engine directly, beside a real Orlop: seen, left alone, and room for nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from engines import Engine
from running import RunningOrlop, container_app, process_app, wait_until

pytestmark = [pytest.mark.real, pytest.mark.docker]

MIB = 2**20


@pytest.fixture
def orlop(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(
        tmp_path_factory.mktemp("foreign"),
        docker=engine.url,
        ORLOP_AGENT__ADDRESS=engine.address,
        ORLOP_AGENT__NAME="n1",
        ORLOP_AGENT__RESOURCES__CPUS="2",
        ORLOP_AGENT__RESOURCES__MEM="1GiB",
    )
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        engine.clear()


def node(orlop: RunningOrlop) -> dict[str, Any]:
    (found,) = orlop.get(f"{orlop.url}/v1/nodes")["nodes"]
    return dict(found)


def start_by_hand(engine: Engine, name: str, **host: Any) -> str:
    with closing(engine.client()) as client:
        made = client.create_container(
            "busybox", ["sleep", "1000"], name=name, host_config=client.create_host_config(**host)
        )
        client.start(made["Id"])
        return str(made["Id"])


def seen(orlop: RunningOrlop, containers: int, running: int, mem: int) -> None:
    def as_expected() -> bool:
        found = node(orlop)["foreign"]
        return found is not None and found == {
            "containers": containers,
            "running": running,
            "resources": {"mem": {"amount": mem, "unit": "bytes"}} if mem else {},
        }

    wait_until(as_expected, f"{containers} foreign containers are seen, of which {running} run and take {mem}")


def test_what_others_run_takes_room_until_it_stops(orlop: RunningOrlop, engine: Engine) -> None:
    seen(orlop, 0, 0, 0)
    orlop.put(container_app("/own", 1))
    wait_until(lambda: orlop.app("/own")["tasksRunning"] == 1, "it runs")
    theirs = start_by_hand(engine, "theirs", mem_limit="768m")
    seen(orlop, 1, 1, 768 * MIB)
    orlop.put(process_app("/large", 1, mem=512))

    def explained() -> str:
        return subprocess.run(
            [sys.executable, "-m", "orlop", "explain", "/large"],
            env={**os.environ, "ORLOP_SERVER": orlop.url},
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    wait_until(lambda: "not enough mem beside foreign containers" in explained(), "it waits, and says for what")
    assert orlop.app("/own")["tasksRunning"] == 1, "what runs goes on"
    orlop.kill()
    orlop.start()
    seen(orlop, 1, 1, 768 * MIB)
    assert orlop.app("/large")["tasksRunning"] == 0
    with closing(engine.client()) as client:
        client.kill(theirs)
    seen(orlop, 1, 0, 0)
    wait_until(lambda: orlop.app("/large")["tasksRunning"] == 1, "there is room again")
