"""`orlop chronos …`, against the real API over a simulated cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from served_api import ServedApi

from orlop.cli.failures import Unreachable
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

    def run(self, *arguments: str, code: int = 0, standard_input: str = "") -> Result:
        """`orlop chronos …`, which must end with this code."""
        result = CliRunner().invoke(cli, ["--server", self.url, "chronos", *arguments], input=standard_input)
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


# --- when a job is due ---


def test_a_draft_is_due_as_if_it_were_stored_now(api: Api) -> None:
    """It is 14 November 2023, 22:13:20."""
    draft = {"name": "a", "schedule": "R/2020-01-01T00:00:00Z/PT1H", "command": "true"}
    shown = api.run("job", "next", "--draft", "-", "--count", "3", "-o", "name", standard_input=json.dumps(draft))
    times = [f"2023-11-{text}:00:00.000Z" for text in ("14T22", "14T23", "15T00")]
    assert shown.stdout.splitlines() == times
    assert api.get("/jobs") == [], "nothing is stored"
    api.put(**draft)
    run = api.get("/jobs/a/runs")[0]
    assert run["state"] == "active"
    assert [run["nominalTime"], *(one["nominalTime"] for one in api.get("/jobs/a/next?count=2"))] == times


@pytest.mark.parametrize(
    ("members", "times"),
    [
        ({"schedule": "R3/2020-01-01T00:00:00Z/PT1H"}, ["14T22", "14T23", "15T00"]),
        ({"schedule": "R2/2023-11-14T20:00:00Z/PT1H", "catchUp": "all"}, ["14T20", "14T21"]),
        ({"schedule": "R2/2023-11-14T21:00:00Z/PT1H", "catchUp": "none"}, ["14T23", "15T00"]),
        ({"schedule": "R2/2999-11-14T21:00:00Z/PT1H", "disabled": True}, []),
        ({"schedule": "R/2023-11-14T21:00:00Z/PT1H", "name": "known"}, ["14T23", "15T00"]),
    ],
)
def test_drafts(api: Api, members: dict[str, Any], times: list[str]) -> None:
    api.put("known", schedule="R/2023-11-14T21:00:00Z/PT1H")
    answer = api.call("POST", f"{B}/next?count={len(times) or 9}", {"command": "true", **members})
    assert [one["nominalTime"][8:13] for one in answer.json()] == times


def test_a_draft_that_cannot_be_read(api: Api, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        assert str(path) in api.run("job", "next", "--draft", str(path), code=2).stderr


def test_jitter_is_told(api: Api) -> None:
    api.put("a", schedule="R/2023-11-15T20:00:00Z/P1D", jitter=3000)
    (due,) = api.get("/jobs/a/next?count=1")
    assert due["startTime"] > due["nominalTime"]
    assert f"next {due['nominalTime']}, put off until {due['startTime']}" in api.run("job", "show", "a").stdout
    api.put("b", schedule="R/2023-11-15T20:00:00Z/P1D")
    assert "next 2023-11-15T20:00:00.000Z\n" in api.run("job", "show", "b").stdout


# --- disabled and paused ---


def test_a_disabled_job_is_due_never(api: Api) -> None:
    api.put("a", schedule="R/2023-11-15T20:00:00Z/P1D", disabled=True)
    assert api.get("/jobs/a/next") == []
    shown = api.run("job", "next", "a")
    assert shown.stdout.split() == ["DUE", "LOCAL", "STARTS"]
    assert "it is disabled" in shown.stderr
    assert "it is disabled" in api.run("job", "show", "a").stdout
    assert api.run("job", "next", "a", "-o", "json").stderr == ""


def test_a_pause_of_everything_can_be_seen(api: Api) -> None:
    api.put("a", schedule="R/2023-11-14T20:00:00Z/PT1H", disabled=True)
    api.put("b", schedule="R/2023-11-15T20:00:00Z/P1D")
    commands = (("job", "ls"), ("job", "show", "b"), ("job", "next", "b"))
    assert api.get("/pause") == {"paused": False}
    assert all("paused" not in api.run(*command).output for command in commands)
    assert json.loads(api.run("pause", "-o", "json").stdout) == {"paused": True}
    assert api.get("/pause") == {"paused": True}
    for command in commands:
        assert "everything is paused" in api.run(*command).output
    states = {line.split()[0]: line.split()[2] for line in api.run("job", "ls").stdout.splitlines()[1:]}
    assert states == {"a": "disabled", "b": "paused"}
    api.run("job", "resume", "a")
    assert api.get("/jobs/a/next?count=1")[0]["nominalTime"] == "2023-11-14T23:00:00.000Z", "of what is missed nothing"
    api.run("resume")
    assert all("paused" not in api.run(*command).output for command in commands)


# --- what cannot be done ---


@pytest.mark.parametrize(
    "command",
    [
        ("show", "x y"), ("history", "x y"), ("next", "x y"), ("logs", "x y"), ("logs", "-f", "x y"), ("run", "x y"),
        ("kill", "x y"), ("kill", "x y", "--run", "3"), ("pause", "x y"), ("resume", "x y"), ("rm", "x y", "--yes"),
        ("backfill", "x y", "--from", "2026-01-01T00:00:00Z", "--until", "2026-01-02T00:00:00Z"),
    ],
)  # fmt: skip
def test_a_job_that_there_is_not(api: Api, command: tuple[str, ...]) -> None:
    expected = "orlop: Job 'x y' not found (see `orlop chronos job ls`)\n"
    assert api.run("job", *command, code=4).stderr == expected


def test_members_that_no_job_has_are_told(api: Api) -> None:
    api.put("a", owner="me")
    shown = api.run("job", "show", "a", "-o", "json").stdout
    assert api.run("job", "add", "-", standard_input=shown).stderr == "", "whatever is shown is known"
    typed = json.dumps(
        {"name": "b", "command": "true", "shedule": "@daily", "Schedule": "@daily", "schedule": "R0//P1D"}
    )
    told = api.run("job", "add", "-", standard_input=typed)
    assert told.stdout == "job b is stored\n"
    assert told.stderr == "job b: not known, and of no account: shedule, Schedule\n"


def test_jobs_may_stand_before_their_parents(api: Api) -> None:
    """As in the list of all jobs of another cluster, which is in the order of names."""
    api.put("z")
    api.put("m", parents=["z"])
    api.put("a", parents=["m", "z"])
    listed = api.get("/jobs")
    assert [one["name"] for one in listed] == ["a", "m", "z"]
    api.order("DELETE", "/job/z?children=delete")
    assert api.get("/jobs") == []
    api.run("job", "add", "-", standard_input=json.dumps(listed))
    assert api.get("/jobs") == listed


def test_jobs_that_wait_for_each_other_are_refused(api: Api) -> None:
    jobs = [{"name": "a", "command": "x", "parents": ["b"]}, {"name": "b", "command": "x", "parents": ["a"]}]
    failed = api.run("job", "add", "-", standard_input=json.dumps(jobs), code=1)
    assert "[0] job 'a': parents[0]: there is no job 'b'; jobs after it were not tried: 1" in failed.stderr
    assert api.get("/jobs") == []


def test_which_of_several_jobs_is_refused(api: Api) -> None:
    jobs = [{"name": name, "command": "true", "schedule": "R0//PT1H"} for name in ("a", "b", "c", "d")]
    jobs[1]["schedule"] = "now and then"
    failed = api.run("job", "add", "-", standard_input=json.dumps(jobs), code=1)
    assert "[1] job 'b': schedule: expected R[n]/start/period" in failed.stderr
    assert "; jobs before it are stored: 1; jobs after it were not tried: 2" in failed.stderr
    assert [job["name"] for job in api.get("/jobs")] == ["a"]
    del jobs[3]["name"]
    failed = api.run("job", "add", "-", standard_input=json.dumps(jobs), code=1)
    assert "[3].name: expected the job's name, a text; nothing is stored" in failed.stderr
    failed = api.run("job", "add", "-", standard_input=json.dumps(jobs[1]), code=1)
    assert failed.stderr.startswith("orlop: schedule: expected")


def test_a_run_that_fits_on_no_node_waits_and_says_why(api: Api) -> None:
    api.put("a", cpus=1000)
    api.run("job", "run", "a", "--detach")
    (run,) = api.get("/jobs/a/runs")
    assert (run["state"], run["reason"]) == ("waiting", "0 of 1 nodes fit: not enough cpus (1)")
    assert "0 of 1 nodes fit: not enough cpus" in api.run("job", "history", "a").stdout
    failed = api.run("job", "run", "a", "--timeout", "0", code=3)
    assert "run 1 has not ended" in failed.stderr
    assert api.get("/jobs/summary")["jobs"][0]["state"] == "queued"
    assert api.call("GET", "/chronos/metrics").json()["gauges"][
        "org.apache.mesos.chronos.scheduler.jobs.TaskManager.queueSize"
    ] == {"value": 2}


# --- for programs ---


def test_every_order_answers_in_json(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line.time, "sleep", lambda _: api.end_tasks())

    def told(*arguments: str, **options: Any) -> Any:
        return json.loads(api.run("job", *arguments, "-o", "json", **options).stdout)

    document = {"name": "a", "command": "true", "schedule": "R3/2023-11-01T00:00:00Z/P1D", "disabled": True}
    assert told("add", "-", standard_input=json.dumps([document, {**document, "name": "b"}])) == {"stored": ["a", "b"]}
    run = told("run", "a")
    assert (run["run"], run["state"]) == (0, "succeeded")
    run = told("run", "a", "--detach")
    assert (run["run"], run["state"]) == (1, "active")
    assert told("kill", "a") == {"job": "a", "stopped": [1]}
    assert told("resume", "a") == {"job": "a", "disabled": False}
    assert told("pause", "a") == {"job": "a", "disabled": True}
    assert told("backfill", "b", "--from", "2023-11-02T00:00:00Z", "--until", "2023-11-09T00:00:00Z") == {"runs": 2}
    assert told("rm", "a", "--children", "detach", "--yes") == {"job": "a", "children": "detach"}


def test_names_of_jobs_are_completed(api: Api) -> None:
    for name in ("alpha", "also", "beta"):
        api.put(name)

    def completed(words: str, position: int) -> list[str]:
        environment = {
            "_ORLOP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position),
            "ORLOP_SERVER": api.url,
        }  # fmt: skip
        result = CliRunner().invoke(cli, [], env=environment, prog_name="orlop", complete_var="_ORLOP_COMPLETE")
        return [line.partition(",")[2] for line in result.stdout.splitlines() if line]

    for verb in ("show", "run", "kill", "pause", "resume", "rm", "backfill", "history", "logs", "next"):
        assert completed(f"orlop chronos job {verb} al", 4) == ["alpha", "also"]


# --- what people type ---


def test_the_graph_is_drawn(api: Api, tmp_path: Path) -> None:
    api.put("a")
    api.put("b", parents=["a"])
    for command in (("graph",), ("job", "graph")):
        assert api.run(*command).stdout.split() == ["a", "└─", "b"]
        assert json.loads(api.run(*command, "-o", "json").stdout) == api.get("/jobs/summary")
        picture = tmp_path / "graph.svg"
        assert api.run(*command, "--svg", str(picture)).stdout == ""
        assert picture.read_text() == api.call("GET", f"{B}/graph/svg").text
        picture.unlink()


@pytest.mark.parametrize(
    "verb", ["show", "run", "kill", "pause", "resume", "rm", "backfill", "history", "logs", "next"]
)
def test_a_name_that_is_empty(api: Api, verb: str) -> None:
    """As of a variable that is not set: it must not be taken for all jobs, or for another path."""
    api.put("a")
    more = ("--from", "2026-01-01", "--until", "2026-01-02") if verb == "backfill" else ()
    assert "expected a job's name, got an empty text" in api.run("job", verb, "", *more, code=2).stderr
    assert [job["disabled"] for job in api.get("/jobs")] == [False]


def test_names_alone(api: Api) -> None:
    for name in ("a", "b"):
        api.put(name, concurrent=True)
        api.order("PUT", f"/job/{name}")
        api.order("PUT", f"/job/{name}")
    assert api.run("job", "ls", "-o", "name").stdout == "a\nb\n"
    assert api.run("job", "show", "a", "-o", "name").stdout == "a\n"
    assert api.run("job", "history", "a", "-o", "name").stdout == "1\n0\n"


def test_a_server_that_goes_away_does_not_end_the_looking(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.put("a")
    get = command_line.Client.get
    asked = 0

    def gone_twice(self: Any, path: str, **query: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked in (2, 3):
            raise Unreachable("cannot reach it: Connection refused")
        return get(self, path, **query)

    monkeypatch.setattr(command_line.Client, "get", gone_twice)
    monkeypatch.setattr(command_line.time, "sleep", lambda _: api.end_tasks() if asked == 3 else None)
    assert api.run("job", "run", "a").stdout.splitlines() == [
        "run 0 active on n1",
        "what run 0 does is not known: cannot reach it: Connection refused",
        "run 0 succeeded on n1",
    ]


def test_a_server_that_stays_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.put("a")

    def gone(*_: Any, **__: Any) -> Any:
        raise Unreachable("cannot reach it: Connection refused")

    monkeypatch.setattr(command_line.Client, "get", gone)
    failed = api.run("job", "run", "a", "--timeout", "0", code=3)
    assert "run 0 has not ended after 0 s; what run 0 does is not known: cannot reach it" in failed.stderr


def test_a_backfill_of_nothing_says_so(api: Api) -> None:
    api.put("a", schedule="R/2023-11-14T00:00:00Z/P1D", disabled=True)
    window = ("--from", "2023-10-01", "--until", "2023-10-31")
    told = api.run("job", "backfill", "a", *window)
    assert (told.stdout, told.stderr) == ("0 runs\n", "its schedule has no due time there\n")
    assert api.run("job", "backfill", "a", "--from", "2023-11-14", "--until", "2023-11-15").stdout == "2 runs\n"


def test_output_that_is_lost_with_its_node(api: Api) -> None:
    api.put("a", retries=0)
    api.order("PUT", "/job/a")
    api.on_loop(lambda cluster: cluster.lose_node("n1"))
    assert "the output is lost: node n1 is gone" in api.run("job", "logs", "a", code=4).stderr


def test_what_people_are_shown_does_nothing_to_their_terminal(api: Api) -> None:
    api.put("a", command="echo \x1b[31mred\nsecond line")
    assert "runs echo [31mred second line\n" in api.run("job", "show", "a").stdout


@pytest.mark.parametrize("command", [("job", "ls"), ("job", "graph"), ("graph",), ("job", "show", "a")])
def test_the_server_may_stand_behind_the_command(api: Api, command: tuple[str, ...]) -> None:
    api.put("a")
    result = CliRunner().invoke(cli, ["--server", "http://127.0.0.1:1", "chronos", *command, "--server", api.url])
    assert result.exit_code == 0, result.output


def test_when_a_run_is_tried_again_is_told(api: Api) -> None:
    api.put("a", retries=1, retryDelay=90)
    api.order("PUT", "/job/a")
    assert api.get("/jobs/a/runs")[0]["nextAttemptTime"] == ""
    api.end_tasks(3)
    assert api.get("/jobs/a/runs")[0]["nextAttemptTime"] == "2023-11-14T22:14:50.000Z"
    for command in ("history", "show"):
        assert "exit code 3; tried again at 2023-11-14T22:14:50.000Z" in api.run("job", command, "a").stdout
    api.on_loop(lambda cluster: cluster.advance(90))
    (run,) = api.get("/jobs/a/runs")
    assert (run["state"], run["nextAttemptTime"], len(run["attempts"])) == ("active", "", 2)


def test_a_job_that_is_not_due_any_more_says_so(api: Api) -> None:
    api.put("a", schedule="R0//PT1H")
    assert api.run("job", "next", "a").stderr == "it is not due any more by itself\n"


@pytest.mark.parametrize(
    ("name", "from_", "until", "reason"),
    [
        ("a", "2023-11-02", "2023-11-01", "until: expected a time after from"),
        ("a", "yesterday", "2023-11-01", "from: expected a time such as 2014-10-10T18:32:00Z, got 'yesterday'"),
        ("a", "2023-11-01", "", "until: expected a time such as 2014-10-10T18:32:00Z"),
        ("a", "1990-01-01", "2023-11-01", "expected a stretch with at most 1000 due times"),
        ("b", "2023-11-01", "2023-11-02", "Job 'b' has parents and no schedule to go by"),
    ],
)
def test_a_backfill_that_cannot_be(api: Api, name: str, from_: str, until: str, reason: str) -> None:
    api.put("a", schedule="R/1980-01-01T00:00:00Z/P1D", disabled=True)
    api.put("b", parents=["a"])
    failed = api.run("job", "backfill", name, "--from", from_, "--until", until, code=1)
    assert failed.stderr == f"orlop: {reason}\n"
    assert api.get(f"/jobs/{name}/runs") == []
