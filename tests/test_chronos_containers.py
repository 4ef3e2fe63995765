"""Chronos' jobs as containers of a real engine: what they are called, what they are told, and their volumes."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from engines import Engine
from running import RunningOrlop, wait_until

pytestmark = [pytest.mark.real, pytest.mark.docker]

IMAGE = {"type": "DOCKER", "image": "busybox:latest", "network": "BRIDGE"}
#: Bytes that a node keeps of the beginning and of the end of each stream.
KEPT = 65_536


@pytest.fixture(scope="module")
def orlop(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(tmp_path_factory.mktemp("jobs"), docker=engine.url, ORLOP_AGENT__ADDRESS=engine.address)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        engine.clear()


def call(orlop: RunningOrlop, method: str, path: str, body: Any = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"http://{orlop.chronos_address}/v1/scheduler{path}", data, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def put(orlop: RunningOrlop, name: str, **members: Any) -> None:
    rest = {"schedule": "R0//PT1H", "retries": 0, "cpus": 0.01, "mem": 32, "concurrent": True}
    call(orlop, "POST", "/iso8601", {"name": name, "container": IMAGE, **rest, **members})


def test_a_container_is_called_after_its_task(orlop: RunningOrlop, engine: Engine) -> None:
    variables = [{"name": "MINE", "value": "1"}, {"name": "CHRONOS_JOB_NAME", "value": "theirs"}]
    put(orlop, "box", command="exec sleep", arguments=["1000"], environmentVariables=variables, owner="me")
    call(orlop, "PUT", "/job/box")

    def running() -> Any:
        (attempt,) = call(orlop, "GET", "/jobs/box/runs")[0]["attempts"]
        return attempt if attempt["startTime"] else None

    attempt = wait_until(running, "it runs")
    with closing(engine.client()) as client:
        container = client.inspect_container(f"orlop-{attempt['task']}")
    assert attempt["taskId"].startswith("ct:")
    assert attempt["taskId"].endswith(":0:box:1000")
    assert container["Config"]["Labels"]["MESOS_TASK_ID"] == attempt["taskId"]
    assert container["HostConfig"]["NetworkMode"] == "bridge"
    assert [container["Path"], *container["Args"]] == ["/bin/sh", "-c", "exec sleep 1000"]
    told = dict(one.split("=", 1) for one in container["Config"]["Env"])
    assert told["MESOS_TASK_ID"] == told["mesos_task_id"] == attempt["taskId"]
    assert (told["MINE"], told["CHRONOS_JOB_NAME"], told["CHRONOS_JOB_OWNER"]) == ("1", "box", "me")
    assert told["CHRONOS_RUN_CAUSE"] == "manual"
    assert told["HOST"] == attempt["node"]
    call(orlop, "DELETE", "/task/kill/box")
    wait_until(lambda: call(orlop, "GET", "/jobs/box/runs")[0]["state"] == "killed", "it is killed")


def test_what_is_in_an_external_volume_is_there_in_the_next_run(orlop: RunningOrlop) -> None:
    external = {"name": "jobs-data", "provider": "local", "options": []}
    volumes = [{"containerPath": "/data", "mode": "RW", "external": external}]
    put(orlop, "note", command="cat /data/notes; echo note >> /data/notes", container={**IMAGE, "volumes": volumes})
    for _ in range(2):
        orlop.cli("chronos", "job", "run", "note")
    assert orlop.cli("chronos", "job", "logs", "note") == "note\n"
    volumes[0]["mode"] = "RO"
    put(orlop, "note", command="echo note >> /data/notes", container={**IMAGE, "volumes": volumes})
    orlop.cli("chronos", "job", "run", "note", code=1)
    assert "Read-only file system" in orlop.cli("chronos", "job", "logs", "note")


def test_the_beginning_and_the_end_of_the_output_outlive_the_container(orlop: RunningOrlop, engine: Engine) -> None:
    """A node keeps 50 containers that have ended; of older ones it keeps that."""
    put(orlop, "long", command="echo first; yes 0123456 | head -c 400000; echo last; echo bad >&2")
    orlop.cli("chronos", "job", "run", "long")
    (attempt,) = call(orlop, "GET", "/jobs/long/runs")[0]["attempts"]
    assert len(orlop.cli("chronos", "job", "logs", "long")) == 400_000 + len("first\nlast\nbad\n")
    put(orlop, "others", command="true", schedule="R/2024-01-01T00:00:00Z/P1D", disabled=True, mem=8)
    orlop.cli("chronos", "job", "backfill", "others", "--from", "2024-01-01", "--until", "2024-02-25")
    label = {"label": f"orlop.task={attempt['task']}"}
    with closing(engine.client()) as client:
        assert client.containers(all=True, filters=label)
        wait_until(lambda: not client.containers(all=True, filters=label), "its container is gone", 120)
    text = orlop.cli("chronos", "job", "logs", "long")
    assert text.startswith("first\n0123456\n")
    assert "0123456\nlast\n" in text
    assert "bad\n" in text
    assert 2 * KEPT <= len(text) < 2 * KEPT + 1_000
