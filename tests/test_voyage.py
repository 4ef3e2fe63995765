"""The maiden voyage: four apps with dependencies, posted with the PyPI client, as processes and as containers."""

from __future__ import annotations

import collections
import collections.abc
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import Engine
from running import RunningOrlop, wait_until

# The client is older than Python 3.10; this is the work-around its users know.
collections.Iterable = collections.abc.Iterable  # type: ignore[attr-defined]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from marathon import MarathonClient
    from marathon.models import MarathonGroup

pytestmark = pytest.mark.real

CHECK = {
    "protocol": "HTTP",
    "path": "/health",
    "portIndex": 0,
    "intervalSeconds": 1,
    "gracePeriodSeconds": 30,
    "timeoutSeconds": 5,
    "maxConsecutiveFailures": 3,
}
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(os.environ.get("RELEASE", "").encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT0"])), Handler).serve_forever()
"""


def as_process(members: dict[str, Any], script: Path) -> dict[str, Any]:
    return {"cmd": f"exec {sys.executable} -S {script}", "cpus": 0.01, "mem": 64} | members


def as_container(members: dict[str, Any], _: Path) -> dict[str, Any]:
    serve = 'mkdir -p /www && echo -n "$RELEASE" >/www/health && exec httpd -f -p 8000 -h /www'
    mapping = {"containerPort": 8000, "hostPort": 0, "name": "http"}
    container = {"type": "DOCKER", "docker": {"image": "busybox:latest"}, "portMappings": [mapping]}
    return {
        "cmd": serve,
        "cpus": 0.01,
        "mem": 32,
        "container": container,
        "networks": [{"mode": "container/bridge"}],
    } | members


def group(make: Any, script: Path) -> MarathonGroup:
    checked = {"healthChecks": [CHECK]}
    apps = [
        make({"id": "/shop/store", "instances": 1, **checked}, script),
        make({"id": "/shop/api", "instances": 3, "dependencies": ["/shop/store"], **checked}, script),
        make({"id": "/shop/worker", "instances": 1, "dependencies": ["/shop/store"]}, script),
        make({"id": "/shop/web", "instances": 1, "dependencies": ["/shop/api"], **checked}, script),
    ]
    for app in apps:
        app.setdefault("env", {"RELEASE": "1"})
    return MarathonGroup.from_json({"id": "/shop", "apps": apps, "groups": [], "dependencies": []})


class Prober(threading.Thread):
    """Asks every instance of an app that runs, all the time; keeps the lowest number that answered."""

    def __init__(self, orlop: RunningOrlop, app_id: str, host: str) -> None:
        super().__init__(daemon=True)
        self._orlop, self._app_id, self._host = orlop, app_id, host
        self._done = threading.Event()
        self.counts: list[int] = []

    def run(self) -> None:
        while not self._done.is_set():
            ports = [task["ports"][0] for task in self._orlop.app(self._app_id)["tasks"] if task["ports"]]
            self.counts.append(sum(map(self._answers, ports)))

    def _answers(self, port: int) -> bool:
        try:
            return urllib.request.urlopen(f"http://{self._host}:{port}/health", timeout=2).status == 200
        except OSError:
            return False

    def stop(self) -> list[int]:
        self._done.set()
        self.join(30)
        return self.counts


def sail(orlop: RunningOrlop, make: Any, host: str, script: Path) -> None:
    client = MarathonClient(orlop.marathon)
    client.create_group(group(make, script))
    orlop.wait_deployed(120)
    started = {
        app: min(task["startedAt"] for task in orlop.app(app)["tasks"])
        for app in ("/shop/store", "/shop/api", "/shop/worker", "/shop/web")
    }
    assert started["/shop/store"] < min(started["/shop/api"], started["/shop/worker"]), "the store came first"
    assert started["/shop/api"] < started["/shop/web"], "the web front came last"
    assert len(client.list_tasks("/shop/api")) == 3

    prober = Prober(orlop, "/shop/api", host)
    prober.start()
    api = client.get_app("/shop/api")
    api.env = {"RELEASE": "2"}
    api.upgrade_strategy.minimum_health_capacity = 0.67  # of 3: at least ceil(2.01) = 3
    client.update_app("/shop/api", api)
    orlop.wait_deployed(120)
    counts = prober.stop()
    assert len(counts) > 3, "the prober had something to see"
    assert min(counts) >= 3, f"the promised capacity at every moment: {counts}"
    releases = {
        urllib.request.urlopen(f"http://{host}:{task['ports'][0]}/health", timeout=5).read()
        for task in orlop.app("/shop/api")["tasks"]
    }
    assert releases == {b"2"}

    before = {task.id for task in client.list_tasks("/shop/worker")}
    client.restart_app("/shop/worker")
    orlop.wait_deployed(120)
    assert not before & {task.id for task in client.list_tasks("/shop/worker")}

    client.scale_app("/shop/worker", instances=3)
    orlop.wait_deployed(120)
    assert orlop.app("/shop/worker")["tasksRunning"] == 3
    client.scale_app("/shop/worker", instances=1)
    orlop.wait_deployed(120)
    wait_until(lambda: orlop.app("/shop/worker")["tasksRunning"] == 1, "scaled down")

    client.scale_app("/shop/worker", instances=2)
    worker = orlop.app("/shop/worker")
    stuck = orlop.call("PATCH", "/v2/apps/shop/worker?force=true", {"cpus": 10_000})
    assert orlop.call("GET", "/v2/deployments"), "it cannot be placed, so it is under way"
    explained = orlop.cli("explain", "/shop/worker")
    assert "not enough cpus (1)" in explained
    document = orlop.get(f"{orlop.url}/v1/explain/%2Fshop%2Fworker")
    assert document["asks"][0]["explanation"]["ruled_out"][0]["nodes"] == 1
    client.delete_deployment(stuck["deploymentId"])
    orlop.wait_deployed(120)
    after = orlop.app("/shop/worker")
    assert (after["cpus"], after["instances"]) == (worker["cpus"], worker["instances"]), "rolled back"

    client.delete_group("/shop", force=True)
    orlop.wait_deployed(120)
    assert client.list_apps() == []
    wait_until(lambda: not orlop.get(f"{orlop.url}/v1/tasks")["tasks"], "everything has stopped")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "server.py"
    path.write_text(SERVER)
    return path


def test_as_processes(tmp_path: Path, script: Path) -> None:
    orlop = RunningOrlop(tmp_path)
    try:
        orlop.start()
        sail(orlop, as_process, "127.0.0.1", script)
    finally:
        orlop.close()


@pytest.fixture
def container_orlop(tmp_path: Path, engine: Engine) -> Iterator[RunningOrlop]:
    orlop = RunningOrlop(tmp_path, docker=engine.url, ORLOP_AGENT__ADDRESS=engine.address)
    try:
        orlop.start()
        yield orlop
    finally:
        orlop.close()
        engine.clear()


@pytest.mark.docker
def test_as_containers(container_orlop: RunningOrlop, engine: Engine, script: Path) -> None:
    sail(container_orlop, as_container, engine.address, script)


@pytest.mark.docker
def test_the_engine_stopped_and_started(container_orlop: RunningOrlop, engine: Engine, script: Path) -> None:
    orlop = container_orlop
    app = as_container({"id": "/box", "instances": 2, "healthChecks": [CHECK], "backoffSeconds": 0.1}, script)
    orlop.call("POST", "/v2/apps", app)
    orlop.wait_deployed(120)
    engine.stop()
    wait_until(lambda: orlop.get(f"{orlop.url}/v1/nodes")["nodes"][0]["runtimes"] == ["process"], "the loss is known")
    engine.start()
    began = time.monotonic()
    wait_until(lambda: orlop.app("/box")["tasksHealthy"] == 2, "adopted or replaced", 120)
    tasks = orlop.get(f"{orlop.url}/v1/tasks?group=/box&state=running")["tasks"]
    ours = {task["external_id"] for task in tasks}
    running = {one["Id"] for one in engine.client().containers()}
    assert ours <= running, f"the state is true {time.monotonic() - began:.1f} s after the return"


@pytest.mark.docker
def test_containers_survive_kill_9(container_orlop: RunningOrlop, script: Path) -> None:
    orlop = container_orlop
    orlop.call("POST", "/v2/apps", as_container({"id": "/box", "instances": 3}, script))
    orlop.wait_deployed(120)
    before = {t["id"]: t["external_id"] for t in orlop.get(f"{orlop.url}/v1/tasks?state=running")["tasks"]}
    orlop.kill()
    orlop.start()

    def same() -> bool:
        now = orlop.get(f"{orlop.url}/v1/tasks?state=running")["tasks"]
        return {task["id"]: task["external_id"] for task in now} == before

    wait_until(same, "the same containers, adopted")
    assert len(before) == 3
