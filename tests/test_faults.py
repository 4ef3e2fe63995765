"""Bad input and a full disk, against a real Orlop: refused with a reason, nothing changed, tasks go on."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import RunningOrlop, wait_until

pytestmark = pytest.mark.real

WITH_BODY = [
    ("POST", "/v2/apps"),
    ("PUT", "/v2/apps"),
    ("PATCH", "/v2/apps"),
    ("PUT", "/v2/apps/web"),
    ("PATCH", "/v2/apps/web"),
    ("POST", "/v2/groups"),
    ("PUT", "/v2/groups"),
    ("POST", "/v2/groups/some"),
    ("PUT", "/v2/groups/some"),
    ("PATCH", "/v2/groups/some"),
    ("POST", "/v2/tasks/delete"),
]
WITHOUT_BODY = [
    ("POST", "/v2/apps/nothing/restart"),
    ("DELETE", "/v2/apps/nothing"),
    ("DELETE", "/v2/apps/nothing/tasks"),
    ("DELETE", "/v2/apps/nothing/tasks/nothing"),
    ("DELETE", "/v2/groups/nothing"),
    ("DELETE", "/v2/deployments/nothing"),
    ("DELETE", "/v2/queue/nothing/delay"),
    *(
        ("GET", path)
        for path in (
            "/v2/apps",
            "/v2/apps/web",
            "/v2/apps/web/tasks",
            "/v2/apps/web/versions",
            "/v2/groups",
            "/v2/groups/versions",
            "/v2/deployments",
            "/v2/tasks",
            "/v2/info",
            "/ping",
        )
    ),
]


@pytest.fixture(scope="module")
def orlop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(tmp_path_factory.mktemp("faults"))
    try:
        cluster.start()
        cluster.call("POST", "/v2/apps", {"id": "/web", "cmd": "exec sleep 1000", "cpus": 0.01, "mem": 8})
        cluster.wait_deployed()
        yield cluster
    finally:
        cluster.close()


def send(address: str, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def everything(orlop: RunningOrlop) -> Any:
    """All apps and groups, with their versions."""
    return orlop.call("GET", "/v2/groups")


rubbish = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["id", "cpus", "instances", "container", "env"]), inner, max_size=4)
        ),
        max_leaves=10,
    ).map(lambda value: json.dumps(value).encode()),
)


@pytest.mark.parametrize(("method", "path"), WITH_BODY + WITHOUT_BODY)
def test_rubbish_is_refused_and_changes_nothing(orlop: RunningOrlop, method: str, path: str) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(rubbish)
    def refused(body: bytes) -> None:
        before = everything(orlop)
        status, answer = send(orlop.marathon_address, method, path, body)
        assert status < 500, answer
        if status >= 400:
            assert json.loads(answer)["message"]
        if status >= 400 or method == "GET":
            assert everything(orlop) == before

    try:
        refused()
    finally:
        orlop.call(
            "PUT", "/v2/apps/web?force=true&partialUpdate=false", {"cmd": "exec sleep 1000", "cpus": 0.01, "mem": 8}
        )
        orlop.wait_deployed()


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"id": "/Bad_Id", "cmd": "true"}, "/id"),
        ({"id": "/x", "cmd": "true", "cpus": "much"}, "/cpus"),
        ({"id": "/x", "cmd": "true", "instances": -1}, "/instances"),
        ({"id": "/x", "cmd": "true", "instances": 10**12}, "/instances"),
        ({"id": "/x", "cmd": "true", "portDefinitions": [{"port": 8000}, {"port": 8000}]}, "/portDefinitions"),
        ({"id": "/x", "cmd": "true", "constraints": [["hostname", "NEAR", "x"]]}, "/constraints(0)"),
        ({"id": "/x", "cmd": "true", "upgradeStrategy": {"minimumHealthCapacity": 2}}, "/upgradeStrategy"),
    ],
)
def test_what_is_wrong_is_named(orlop: RunningOrlop, document: dict[str, Any], path: str) -> None:
    status, answer = send(orlop.marathon_address, "POST", "/v2/apps", json.dumps(document).encode())
    assert status == 422, answer
    assert any(row["path"].startswith(path) for row in json.loads(answer)["details"]), answer


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
def test_10_mb_bodies_are_refused(orlop: RunningOrlop, method: str, path: str) -> None:
    try:
        status, answer = send(orlop.marathon_address, method, path, b'{"id": "' + b"x" * 10_000_000 + b'"}')
    except (BrokenPipeError, ConnectionResetError):
        return  # refused before it was read
    assert 400 <= status < 500, answer


MISSPELT = {
    "id": "/misspelt",
    "cmd": "exec sleep 1000",
    "cpus": 0.01,
    "mem": 8,
    "comand": "x",
    "healthChecks": [{"protocol": "COMMAND", "command": {"value": "true"}, "delaySeconds": 1, "intervallSeconds": 3}],
}


def test_unknown_members_are_ignored_and_strictness_warns(orlop: RunningOrlop, tmp_path: Path) -> None:
    file = tmp_path / "app.json"
    file.write_text(json.dumps(MISSPELT))
    said = orlop.cli("marathon", "app", "add", str(file), "--strict", code=1)
    assert "warning: /comand is not known" in said
    assert "warning: /healthChecks(0)/intervallSeconds is not known" in said
    assert "nothing was changed" in said
    assert send(orlop.marathon_address, "GET", "/v2/apps/misspelt", b"")[0] == 404
    status, answer = send(orlop.marathon_address, "POST", "/v2/apps", json.dumps(MISSPELT).encode())
    assert status == 201
    assert b"comand" not in answer.replace(b'"command"', b"")
    assert b"intervallSeconds" not in answer
    orlop.wait_deployed()
    assert "warning: /comand is not known" in orlop.cli("marathon", "app", "add", str(file))
    right = {name: value for name, value in MISSPELT.items() if name not in ("comand", "healthChecks")}
    file.write_text(json.dumps(right))
    assert "warning" not in orlop.cli("marathon", "app", "add", str(file), "--strict")
    orlop.cli("marathon", "app", "rm", "/misspelt", "--yes")


def test_unknown_keys_of_our_own_are_errors(orlop: RunningOrlop, tmp_path: Path) -> None:
    status, answer = send(orlop.address, "GET", "/v1/tasks?colour=red", b"")
    assert (status, "colour" in json.loads(answer)["error"] or json.loads(answer).get("path")) != (200, None)
    file = tmp_path / "orlop.toml"
    file.write_text("[server]\nlisten = '127.0.0.1:1'\nlissten = 'x'\n[plugins.marathon]\nport = 1\n")
    said = orlop.cli("config", "check", "--config", str(file), code=1)
    assert "lissten" in said
    assert str(file) in said


def test_a_stranger_page_may_not_ask(orlop: RunningOrlop) -> None:
    connection = http.client.HTTPConnection(orlop.address, timeout=30)
    connection.request("GET", "/v1/cluster", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 403
    connection.close()


def fill(path: Path) -> None:
    """Writes to the file until the disk is full."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 65_536)
            except OSError:
                return


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    )
    if not mounted:
        assert "CI" not in os.environ, "CI must be able to mount a small disk"
        pytest.skip("needs root to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.check_call(["umount", "--lazy", str(folder)])


def test_a_full_disk_refuses_writes_and_harms_no_task(small_disk: Path) -> None:
    orlop = RunningOrlop(small_disk)
    orlop.log = small_disk.parent / "orlop.log"
    try:
        orlop.start()
        app = {"id": "/web", "cmd": "exec sleep 1000", "cpus": 0.01, "mem": 8, "instances": 3}
        orlop.call("POST", "/v2/apps", app)
        orlop.wait_deployed()
        before = {task["id"] for task in orlop.app("/web")["tasks"]}
        filler = small_disk / "filler"
        fill(filler)
        labels = {"fill": "x" * 200_000}

        def refused() -> bytes | None:
            body = json.dumps({"labels": labels}).encode()
            status, answer = send(orlop.marathon_address, "PATCH", "/v2/apps/web?force=true", body)
            return answer if status == 503 else None

        answer = wait_until(refused, "writes are refused")
        assert b"disk" in answer or b"space" in answer, answer
        assert orlop.get(f"{orlop.url}/v1/cluster")["read_only"]
        assert len(orlop.task_processes()) >= 3, "tasks go on"
        filler.unlink()

        def accepted() -> bool:
            body = json.dumps({"instances": 4}).encode()
            return send(orlop.marathon_address, "PATCH", "/v2/apps/web?force=true", body)[0] == 200

        wait_until(accepted, "writes are accepted again")
        orlop.wait_deployed()
        assert orlop.app("/web")["tasksRunning"] == 4
        assert not orlop.get(f"{orlop.url}/v1/cluster")["read_only"]
        assert before, "there was something to harm"
    finally:
        orlop.close()
