"""A server with plugins that misbehave: reported, isolated, tried again; a third party's framework runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed_plugins import install
from running import RunningOrlop, wait_until

pytestmark = pytest.mark.real

MOODY = """
from pathlib import Path
from orlop.framework import Framework
from orlop.hookspecs import hookimpl

if not Path({cured!r}).exists():
    raise RuntimeError("not today")

class Moody(Framework):
    name = "moody"
    def reconcile(self, view):
        return ()

@hookimpl
def frameworks():
    return [Moody]
"""
HANGING = """
import threading
from orlop.framework import Framework
from orlop.hookspecs import hookimpl

class Hanging(Framework):
    name = "hanging"
    def reconcile(self, view):
        threading.Event().wait()

@hookimpl
def frameworks():
    return [Hanging]
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    return tmp_path / "plugins"


@pytest.fixture
def orlop(tmp_path: Path, plugins: Path) -> Iterator[RunningOrlop]:
    install(plugins, "moody", MOODY.format(cured=str(tmp_path / "cured")))
    install(plugins, "hanging", HANGING)
    cluster = RunningOrlop(
        tmp_path,
        PYTHONPATH=str(plugins),
        ORLOP_SERVER__HANDLER_TIMEOUT_S="0.5",
        ORLOP_PLUGINS__KEEPALIVE__COMMAND="exec sleep 1000",
        ORLOP_PLUGINS__KEEPALIVE__COPIES="2",
    )
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def plugin(orlop: RunningOrlop, name: str) -> dict[str, object]:
    return next(one for one in orlop.get(f"{orlop.url}/v1/plugins")["plugins"] if one["name"] == name)


def framework(orlop: RunningOrlop, name: str) -> dict[str, object] | None:
    frameworks = orlop.get(f"{orlop.url}/v1/frameworks")["frameworks"]
    return next((one for one in frameworks if one["name"] == name), None)


def test_others_go_on_and_the_sick_recovers(orlop: RunningOrlop, tmp_path: Path) -> None:
    assert plugin(orlop, "moody")["state"] == "failed"
    assert "not today" in str(plugin(orlop, "moody")["error"])
    assert "not today" in orlop.cli("plugins", "list")

    def keeping() -> list[dict[str, object]]:
        tasks = orlop.get(f"{orlop.url}/v1/tasks?framework=keepalive&state=running")["tasks"]
        return tasks if len(tasks) == 2 else []

    before = {task["id"] for task in wait_until(keeping, "the third party's framework runs")}

    def given_up() -> bool:
        with contextlib.suppress(OSError):
            return "did not return within 0.5 s, 3 times; it is off" in str(plugin(orlop, "hanging")["error"])
        return False

    pid = orlop.process and orlop.process.pid
    wait_until(given_up, "the server has begun anew without the hanging framework's plugin")
    wait_until(orlop.answers, "it answers again")
    assert orlop.process is not None
    assert (orlop.process.pid, orlop.process.poll()) == (pid, None)
    assert framework(orlop, "hanging") is None
    assert {task["id"] for task in wait_until(keeping, "its tasks went on")} == before
    orlop.call("POST", "/v2/apps", {"id": "/web", "cmd": "exec sleep 1000", "cpus": 0.01, "mem": 8})
    orlop.wait_deployed()

    (tmp_path / "cured").touch()

    def recovered() -> bool:
        try:
            found = framework(orlop, "moody")
        except OSError:
            return False
        return found is not None and found["state"] == "running"

    wait_until(recovered, "the moody plugin is tried again")
    assert {task["id"] for task in wait_until(keeping, "its tasks went on")} == before
    assert wait_until(lambda: orlop.app("/web")["tasksRunning"], "Marathon's own listener is back too") == 1


NOTES = """
import attrs
from orlop.framework import Ask, Framework, Process, Put
from orlop.hookspecs import hookimpl

@attrs.frozen
class Note:
    text: str
    {more}

class Notes(Framework):
    name = "notes"
    documents = {{"note": Note}}

    def reconcile(self, view):
        if "first" not in view.objects("note"):
            yield Put("note", "first", Note("of the first version"))
        if "task" not in view.live:
            yield Ask("task", run=Process("exec sleep 1000"))

@hookimpl
def frameworks():
    return [Notes]
"""


def test_a_plugin_that_cannot_read_its_objects_is_done_without(tmp_path: Path, plugins: Path) -> None:
    install(plugins, "notes", NOTES.format(more=""))
    with contextlib.closing(RunningOrlop(tmp_path, PYTHONPATH=str(plugins))) as orlop:

        def tasks() -> dict[str, str]:
            return {one["id"]: one["external_id"] for one in orlop.get(f"{orlop.url}/v1/tasks?state=running")["tasks"]}

        orlop.start()
        before = wait_until(tasks, "its task runs")
        assert orlop.stop() == 0

        (plugins / "notes.py").write_text(NOTES.format(more="owner: str"))
        orlop.start()
        error = str(plugin(orlop, "notes")["error"])
        assert error.startswith("note first of notes cannot be read: ")
        assert "a class that has changed needs a new version and a migration; it is off until the next start" in error
        assert tasks() == before
        orlop.call("POST", "/v2/apps", {"id": "/web", "cmd": "exec sleep 1000", "cpus": 0.01, "mem": 8})
        orlop.wait_deployed()
        assert orlop.stop() == 0

        (plugins / "notes.py").write_text(NOTES.format(more='owner: str = ""'))
        orlop.start()
        assert plugin(orlop, "notes")["state"] == "loaded"
        wait_until(lambda: (framework(orlop, "notes") or {}).get("state") == "running", "its framework runs")
        assert tasks().items() >= before.items()
