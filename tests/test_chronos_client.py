"""The PyPI client chronos-python, in both of its dialects, against a real `orlop up` that runs real processes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chronos
import pytest
from chronos_client import counts, job, use_every_method
from running import RunningOrlop, wait_until

# The client leaves its connections to the garbage collector.
pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


@pytest.fixture(scope="module")
def orlop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOrlop]:
    running = RunningOrlop(tmp_path_factory.mktemp("chronos"))
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.fixture(params=[None, "v1"], ids=["2.x", "3.x"])
def client(request: pytest.FixtureRequest, orlop: RunningOrlop) -> Iterator[chronos.ChronosClient]:
    made = chronos.connect(orlop.chronos_address, scheduler_api_version=request.param)
    yield made
    for one in made.list():
        made.delete(one["name"])


def test_every_method(client: chronos.ChronosClient) -> None:
    use_every_method(client)


def test_statistics_of_a_job_that_never_ran(client: chronos.ChronosClient) -> None:
    client.add(job("a", schedule="R/2099-01-01T00:00:00Z/P1D"))
    zeros = dict.fromkeys(
        ("75thPercentile", "95thPercentile", "98thPercentile", "99thPercentile", "median", "mean"), 0.0
    )
    assert client.job_stat("a") == {"histogram": {**zeros, "count": 0}, "taskStatHistory": []}


def test_names_are_those_of_the_dialect(client: chronos.ChronosClient) -> None:
    named = job("with a blank #1", schedule="R0//PT1H")
    if client.scheduler_api_version is None:
        client.add(named)
        assert [one["name"] for one in client.list()] == ["with a blank #1"]
        client.run("with a blank #1")
        client.delete("with a blank #1")
    else:
        with pytest.raises(chronos.ChronosAPIError):
            client.add(named)
    assert client.list() == []


def test_what_is_refused_says_why(client: chronos.ChronosClient, caplog: pytest.LogCaptureFixture) -> None:
    for call, text in (
        (lambda: client.delete("nope"), "Job 'nope' not found"),
        (lambda: client.run("nope"), "Job 'nope' not found"),
        (lambda: client.delete_tasks("nope"), "Job 'nope' not found"),
        (lambda: client.add(job("a", schedule="nonsense")), "schedule: expected R[n]/start/period"),
        (lambda: client.add(job("a", parents=["nope"])), "there is no job 'nope'"),
    ):
        with pytest.raises(chronos.ChronosAPIError):
            call()
        assert text in caplog.text
        caplog.clear()
    assert client.list() == []


def test_what_a_process_is_told(orlop: RunningOrlop, client: chronos.ChronosClient, tmp_path: Path) -> None:
    out = tmp_path / "environment"
    variables = [{"name": "MINE", "value": "1"}, {"name": "CHRONOS_JOB_NAME", "value": "theirs"}]
    client.add(job("tell", command=f"env > {out}; echo", arguments=["a;", "b"], environmentVariables=variables))
    wait_until(lambda: counts(client, "tell") == (1, 0), "it has run")
    told = dict(line.split("=", 1) for line in out.read_text().splitlines() if "=" in line)
    (run,) = read(orlop, "/v1/scheduler/job/tell/runs")
    (attempt,) = run["attempts"]
    assert attempt["exitCode"] == 0
    assert attempt["taskId"] == told["MESOS_TASK_ID"] == told["mesos_task_id"]
    assert told["MESOS_TASK_ID"].endswith(":0:tell:a b")
    assert told["CHRONOS_JOB_NAME"] == "tell"
    assert told["CHRONOS_JOB_OWNER"] == "a@example.com"
    resources = [told[f"CHRONOS_RESOURCE_{kind}"] for kind in ("CPU", "MEM", "DISK")]
    assert resources == ["0.1", "128.0", "256.0"]
    assert told["CHRONOS_JOB_RUN_TIME"] == told["MESOS_TASK_ID"].split(":")[1]
    assert told["CHRONOS_JOB_RUN_ATTEMPT"] == "0"
    assert (told["CHRONOS_RUN_ID"], told["CHRONOS_RUN_CAUSE"]) == ("tell/0", "time")
    assert told["CHRONOS_NOMINAL_TIME"] == run["nominalTime"]
    assert told["MINE"] == "1"
    assert told["HOST"] == attempt["node"]


def test_runs_of_a_backfill_are_told_their_dates(
    orlop: RunningOrlop, client: chronos.ChronosClient, tmp_path: Path
) -> None:
    out = tmp_path / "told"
    command = f"echo $CHRONOS_RUN_CAUSE $CHRONOS_NOMINAL_TIME $CHRONOS_JOB_RUN_TIME >> {out}"
    client.add(job("fill", command=command, schedule="R/2024-02-28T00:00:00Z/P1D", disabled=True))
    window = ("--from", "2024-02-28T12:00:00Z", "--until", "2024-03-01T00:00:00Z")
    assert orlop.cli("chronos", "job", "backfill", "fill", *window) == "2 runs\n"
    wait_until(lambda: counts(client, "fill") == (2, 0), "both have run")
    assert out.read_text().splitlines() == [
        "backfill 2024-02-29T00:00:00.000Z 1709164800000",
        "backfill 2024-03-01T00:00:00.000Z 1709251200000",
    ]


def read(orlop: RunningOrlop, path: str) -> Any:
    with urllib.request.urlopen(f"http://{orlop.chronos_address}{path}", timeout=30) as answer:
        return json.load(answer)


def test_answers_are_as_clients_need_them(orlop: RunningOrlop) -> None:
    base = f"http://{orlop.chronos_address}"
    with urllib.request.urlopen(f"{base}/ping", timeout=30) as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (b"pong\n", "text/plain; charset=utf-8")
    for method, path, status in (
        ("GET", "/v1/scheduler/job/nope", 400),
        ("GET", "/nowhere", 404),
        ("PATCH", "/scheduler/jobs", 405),
        ("POST", "/scheduler/iso8601", 400),
    ):
        request = urllib.request.Request(base + path, method=method, data=b"{" if method == "POST" else None)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=30)
        body = json.load(error.value)
        assert error.value.code == status
        assert isinstance(body["message"], str)
        assert isinstance(body["status"], str)


def test_the_command_line(orlop: RunningOrlop, tmp_path: Path) -> None:
    file = tmp_path / "jobs.json"
    jobs = [
        {"name": "typed", "command": "echo typed $1", "schedule": "R0//PT1H", "retries": 0},
        {"name": "after", "command": "exit 3", "parents": ["typed"], "retries": 0},
    ]
    file.write_text(json.dumps(jobs))
    assert orlop.cli("chronos", "job", "add", str(file)) == "job typed is stored\njob after is stored\n"
    assert "run 0 succeeded" in orlop.cli("chronos", "job", "run", "typed", "--arguments", "in")
    assert orlop.cli("chronos", "job", "logs", "typed") == "typed in\n"
    assert "has not succeeded: exited with code 3" in orlop.cli("chronos", "job", "run", "after", code=1)
    (run,) = json.loads(orlop.cli("chronos", "job", "history", "typed", "-o", "json"))
    assert (run["run"], run["cause"], run["arguments"]) == (0, "manual", "in")
    assert "typed  1 succeeded, 0 failed" in orlop.cli("chronos", "job", "show", "typed")
    assert "└─ after" in orlop.cli("chronos", "graph")
    assert "Job 'nope' not found" in orlop.cli("chronos", "job", "show", "nope", code=4)
    file.write_text(json.dumps({"name": "slow", "command": "for i in 1 2 3; do echo $i; sleep 0.3; done",
                                "schedule": "R0//PT1H"}))  # fmt: skip
    orlop.cli("chronos", "job", "add", str(file))
    orlop.cli("chronos", "job", "run", "slow", "--detach")
    assert orlop.cli("chronos", "job", "logs", "-f", "slow") == "1\n2\n3\n"
    assert orlop.cli("chronos", "job", "logs", "-f", "slow") == "1\n2\n3\n", "what has ended, too"
    file.write_text(json.dumps({"name": "typed", "command": "sleep 1000", "schedule": "R0//PT1H", "overlap": "allow"}))
    orlop.cli("chronos", "job", "add", str(file))
    numbers = [orlop.cli("chronos", "job", "run", "typed", "--detach").split()[1] for _ in range(2)]
    orlop.cli("chronos", "job", "kill", "typed", "--run", "0")  # which has ended
    orlop.cli("chronos", "job", "kill", "typed", "--run", numbers[0])
    states = lambda: [one["state"] for one in read(orlop, "/v1/scheduler/job/typed/runs")]  # noqa: E731
    wait_until(lambda: states() == ["active", "killed", "succeeded"], "one of them is killed")
    for name in ("after", "typed", "slow"):
        orlop.cli("chronos", "job", "rm", name)


def test_everything_survives_kill_9(orlop: RunningOrlop, tmp_path: Path) -> None:
    client = chronos.connect(orlop.chronos_address)
    marks = tmp_path / "marks"
    client.add(job("often", schedule="R/2020-01-01T00:00:00Z/PT1S", command=f"echo $CHRONOS_NOMINAL_TIME >> {marks}"))
    wait_until(lambda: marks.exists() and len(marks.read_text().split()) >= 2, "it runs")
    orlop.kill()
    orlop.start()
    before = len(marks.read_text().split())
    wait_until(lambda: len(marks.read_text().split()) >= before + 3, "it goes on")
    seen = marks.read_text().split()
    assert len(seen) == len(set(seen)), "no due time was run twice"
    assert seen == sorted(seen)
    client.delete("often")
