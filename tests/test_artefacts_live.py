"""What Marathon and Chronos have fetched, with a real `orlop up`, real processes and real containers."""

from __future__ import annotations

import io
import json
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import Engine
from file_server import FileServer
from running import RunningOrlop, process_app, wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def orlop(tmp_path: Path) -> Iterator[RunningOrlop]:
    running = RunningOrlop(tmp_path)
    try:
        running.start()
        yield running
    finally:
        running.close()


def packed(**files: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def chronos(orlop: RunningOrlop, method: str, path: str, body: Any = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": "application/json"}
    url = f"http://{orlop.chronos_address}/v1/scheduler{path}"
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def tasks_of(orlop: RunningOrlop, app_id: str, state: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orlop.get(f"{orlop.url}/v1/tasks?group={app_id}&state={state}")["tasks"]
    return found


def test_orlop_is_killed_in_the_middle_and_the_app_starts_once(orlop: RunningOrlop, file_server: FileServer) -> None:
    file_server.files = {"/app.tgz": packed(note=b"note\n")}
    file_server.hung.add("/app.tgz")
    command = "cat note && echo started && exec sleep 1000"
    app = process_app("/fetched", 1, cmd=command, fetch=[{"uri": file_server.url("/app.tgz")}])
    orlop.call("POST", "/v2/apps", app)
    wait_until(lambda: file_server.asked, "it is fetched")
    (task,) = wait_until(lambda: tasks_of(orlop, "/fetched", "preparing"), "it is being prepared")
    wait_until(
        lambda: f"fetching {file_server.url('/app.tgz')}" in orlop.cli("explain", task["id"]), "it says what it does"
    )
    orlop.kill()
    file_server.hung.clear()
    orlop.start()
    (running,) = wait_until(lambda: tasks_of(orlop, "/fetched", "running"), "it runs")
    assert running["id"] == task["id"]
    wait_until(lambda: orlop.cli("logs", task["id"]) == "note\nstarted\n", "it has started once, with what it wants")
    assert file_server.statuses("/app.tgz") == [200, 200]


def test_an_app_is_deleted_in_the_middle(orlop: RunningOrlop, file_server: FileServer) -> None:
    file_server.files = {"/slow": b"slow"}
    file_server.hung.add("/slow")
    orlop.call("POST", "/v2/apps", process_app("/slow", 1, fetch=[{"uri": file_server.url("/slow")}]))
    wait_until(lambda: file_server.asked, "it is fetched")
    orlop.call("DELETE", "/v2/apps/slow?force=true")
    orlop.wait_deployed()
    assert not tasks_of(orlop, "/slow", "preparing")
    assert not tasks_of(orlop, "/slow", "stopping")


def test_a_failed_fetch_fails_the_task(orlop: RunningOrlop, file_server: FileServer) -> None:
    orlop.call("POST", "/v2/apps", process_app("/none", 1, uris=[file_server.url("/none.tgz")]))
    said = f"{file_server.url('/none.tgz')} cannot be fetched: the server answers 404 Not Found"

    def failure() -> str:
        app = orlop.call("GET", "/v2/apps/none?embed=app.lastTaskFailure")["app"]
        return str(app.get("lastTaskFailure", {}).get("message", ""))

    assert said in wait_until(failure, "the app says why")


def test_a_job_whose_command_is_a_uri(orlop: RunningOrlop, file_server: FileServer) -> None:
    file_server.files = {"/tools/job.sh": b'#!/bin/sh\necho "$1" && cat note\n', "/a.tgz": packed(note=b"note\n")}
    job = {
        "name": "fetched",
        "schedule": "R1//PT1H",
        "command": file_server.url("/tools/job.sh?version=2"),
        "arguments": ["hello"],
        "uris": [file_server.url("/a.tgz")],
        "cpus": 0.01,
        "mem": 16,
    }
    chronos(orlop, "POST", "/iso8601", job)
    wait_until(lambda: chronos(orlop, "GET", "/job/fetched")["successCount"] == 1, "it has succeeded")
    assert orlop.cli("chronos", "job", "logs", "fetched") == "hello\nnote\n"
    chronos(orlop, "POST", "/iso8601", {**job, "name": "none", "command": file_server.url("/none"), "retries": 0})
    (run,) = wait_until(
        lambda: [run for run in chronos(orlop, "GET", "/job/none/runs") if "404" in json.dumps(run)], "it says why"
    )
    assert f"{file_server.url('/none')} cannot be fetched: the server answers 404 Not Found" in json.dumps(run)


@pytest.mark.docker
def test_containers_of_both(tmp_path: Path, engine: Engine, file_server: FileServer) -> None:
    file_server.files = {"/a.tgz": packed(note=b"note\n"), "/job": b"#!/bin/sh\ncat $MESOS_SANDBOX/note\n"}
    orlop = RunningOrlop(tmp_path, docker=engine.url)
    box = {"cpus": 0.01, "mem": 32}
    container = {"type": "DOCKER", "docker": {"image": "busybox:latest"}}
    fetch = [{"uri": file_server.url("/a.tgz"), "cache": True}]
    try:
        orlop.start()
        command = "cat $MESOS_SANDBOX/note; exec sleep 1000"
        orlop.call("POST", "/v2/apps", {"id": "/box", "cmd": command, "container": container, "fetch": fetch, **box})
        (task,) = wait_until(lambda: tasks_of(orlop, "/box", "running"), "it runs")
        wait_until(lambda: orlop.cli("logs", task["id"]) == "note\n", "it has what it wants")
        job = {"name": "box", "schedule": "R1//PT1H", "command": file_server.url("/job"), "fetch": fetch, **box}
        chronos(orlop, "POST", "/iso8601", {**job, "container": {"type": "DOCKER", "image": "busybox:latest"}})
        wait_until(lambda: chronos(orlop, "GET", "/job/box")["successCount"] == 1, "the job has succeeded")
        assert file_server.statuses("/a.tgz") == [200, 304]
        plain = {**job, "name": "plain", "command": "test -d $MESOS_SANDBOX && touch $MESOS_SANDBOX/a", "fetch": []}
        chronos(orlop, "POST", "/iso8601", {**plain, "container": {"type": "DOCKER", "image": "busybox:latest"}})
        wait_until(lambda: chronos(orlop, "GET", "/job/plain")["successCount"] == 1, "it has a folder of its own, too")
    finally:
        orlop.close()
        engine.clear()
