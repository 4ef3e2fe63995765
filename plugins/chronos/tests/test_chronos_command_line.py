"""`orlop chronos …`, against the real API over a simulated cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from served_api import ServedApi

from orlop.cli.main import cli
from orlop.testing.harness import Cluster
from orlop_chronos import command_line
from orlop_chronos.framework import Chronos
from orlop_chronos.http import application
from orlop_chronos.settings import Config

B = "/chronos/v1/scheduler"


class Api(ServedApi):
    """Where the server has it: below /chronos."""

    def __init__(self) -> None:
        cluster = Cluster(Chronos(), check_idempotence=False)
        cluster.add_node("n1", cpus=64, mem="64GiB")
        cluster.settle()
        super().__init__(cluster, self._make_application)

    @staticmethod
    def _make_application(host: Any) -> web.Application:
        made = web.Application()
        made.add_subapp("/chronos", application(host, Config()))
        return made

    def put(self, name: str, **members: Any) -> None:
        document = {"name": name, "command": "true", **members}
        if "parents" not in members:
            document.setdefault("schedule", "R0//PT1H")
        path = "/dependency" if "parents" in members else "/iso8601"
        response = self.call("POST", B + path, document)
        assert response.status_code == 204, response.text

    def get(self, path: str) -> Any:
        response = self.call("GET", B + path)
        assert response.status_code == 200, response.text
        return response.json()

    def order(self, method: str, path: str) -> None:
        response = self.call(method, B + path)
        assert response.status_code == 204, response.text

    def run(self, *arguments: str, code: int = 0) -> Result:
        """`orlop chronos …`, which must end with this code."""
        result = CliRunner().invoke(cli, ["--server", self.url, "chronos", *arguments])
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        return result

    def end_tasks(self, code: int = 0) -> None:
        def end(cluster: Cluster) -> None:
            for task in cluster.running():
                cluster.end_task(task, code=code)

        self.on_loop(end)


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as made:
        yield made


# --- running and killing ---


def test_the_run_that_was_asked_for_is_followed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though others ask for runs of the same job in the same moment."""
    api.put("a", concurrent=True)
    send = command_line.Client.send

    def in_between(self: Any, method: str, path: str, body: Any = None, **query: Any) -> Any:
        api.order("PUT", "/job/a")
        answer = send(self, method, path, body, **query)
        api.order("PUT", "/job/a")
        return answer

    monkeypatch.setattr(command_line.Client, "send", in_between)
    monkeypatch.setattr(command_line.time, "sleep", lambda _: api.end_tasks())
    shown = api.run("job", "run", "a").stdout.splitlines()
    assert [line.split()[:3] for line in shown] == [["run", "1", "active"], ["run", "1", "succeeded"]]
    assert api.run("job", "run", "a", "--detach").stdout == "run 4\n"


def test_chronos_clients_learn_of_no_run_but_in_a_header(api: Api) -> None:
    api.put("a", concurrent=True)
    for number in range(2):
        response = api.call("PUT", f"{B}/job/a")
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["Orlop-Run"] == str(number)


def test_a_run_that_is_skipped_at_once_is_told(api: Api) -> None:
    api.put("a", overlap="forbid")
    api.order("PUT", "/job/a")
    for more in ((), ("--detach",)):
        failed = api.run("job", "run", "a", *more, code=1)
        assert "run 0 was still going on" in failed.stderr


def test_a_run_that_fails(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.put("a", retries=0)
    monkeypatch.setattr(command_line.time, "sleep", lambda _: api.end_tasks(3))
    assert "run 0 of 'a' has not succeeded: exit code 3" in api.run("job", "run", "a", code=1).stderr


def test_what_is_killed_is_told(api: Api) -> None:
    api.put("a", concurrent=True)
    for _ in range(3):
        api.order("PUT", "/job/a")
    assert api.run("job", "kill", "a", "--run", "1").stdout == "stopped: run 1\n"
    assert api.run("job", "kill", "a", "--run", "1").stdout == "run 1 had ended already\n"
    assert "Job 'a' has no run 99" in api.run("job", "kill", "a", "--run", "99", code=4).stderr
    assert api.run("job", "kill", "a").stdout == "stopped: run 0, run 2\n"
    assert api.run("job", "kill", "a").stdout == "nothing of it ran\n"
    assert api.call("DELETE", f"{B}/task/kill/a").status_code == 204
    assert api.call("DELETE", f"{B}/task/kill/a?run=99").status_code == 404


# --- jobs that are called as Chronos' words are ---


@pytest.mark.parametrize(
    "name", ["success", "stat", "enable", "disable", "runs", "next", "backfill", "search", "summary", "all", "kill"]
)
def test_a_job_that_is_called_as_a_word_of_the_paths(api: Api, name: str) -> None:
    others = [other for other in ("success", "enable", "runs", "disable", "next") if other != name]
    for job in (name, *others):
        api.put(job)
    api.run("job", "run", name, "--detach")
    api.end_tasks()
    api.run("job", "pause", name)
    assert api.get(f"/job/{name}")["disabled"]
    api.run("job", "resume", name)
    assert not api.get(f"/job/{name}")["disabled"]
    assert "succeeded" in api.run("job", "history", name).stdout
    assert f"{name}  1 succeeded" in api.run("job", "show", name).stdout
    api.run("job", "next", name)
    api.run("job", "kill", name)
    window = ("--from", "2026-01-01T00:00:00Z", "--until", "2026-01-02T00:00:00Z")
    api.run("job", "backfill", name, *window)
    assert all(api.get(f"/job/{other}")["successCount"] == 0 for other in others), "of others nothing is changed"
    api.run("job", "rm", name, "--yes")
    assert sorted(job["name"] for job in api.get("/jobs")) == sorted(others)


def test_chronos_own_words_stay_its_own(api: Api) -> None:
    api.put("enable")
    assert api.call("PUT", f"{B}/job/success/enable").text == "marked job enable as successful: true"
    assert api.get("/job/stat/enable")["histogram"]["count"] == 0
    assert api.get("/job/enable/runs") == [], "as it was called before"
