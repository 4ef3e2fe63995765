"""Each endpoint of Chronos' two dialects: the same below both prefixes, with the codes and bodies that clients need."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from served_api import ServedApi

from orlop.framework import Outcome
from orlop.testing.harness import Cluster
from orlop_chronos import orders, reading
from orlop_chronos.framework import Chronos
from orlop_chronos.http import application, reports
from orlop_chronos.settings import Config

V2, V3 = "/scheduler", "/v1/scheduler"
MANAGER = "org.apache.mesos.chronos.scheduler.jobs.TaskManager"
RUN_TIME = 1_700_000_000_000  # when the harness' time begins


class Api(ServedApi):
    """One node with room for one task of a whole processor."""

    def __init__(self, cpus: float = 1, **settings: Any) -> None:
        cluster = Cluster(Chronos(Config(**settings)), check_idempotence=False)
        cluster.add_node("n1", cpus=cpus, mem="64GiB")
        cluster.settle()
        super().__init__(cluster, lambda host: application(host, Config(**settings)))

    def put(self, name: str, **members: Any) -> None:
        document = {"name": name, "command": f"run {name}", "cpus": 0.01, "retries": 0, **members}
        if "parents" not in members:
            document.setdefault("schedule", "R0//PT1H")
        path = "/dependency" if "parents" in members else "/iso8601"
        response = self.call("POST", V3 + path, document)
        assert response.status_code == 204, response.text

    def get(self, path: str) -> Any:
        response = self.call("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    def start(self, name: str) -> None:
        assert self.call("PUT", f"{V3}/job/{name}").status_code == 204

    def pass_time(self, seconds: float) -> None:
        self.on_loop(lambda cluster: cluster.advance(seconds))

    def end(self, name: str, **how: Any) -> None:
        def end(cluster: Cluster) -> None:
            (task,) = [task for task in cluster.running() if task.group == name]
            cluster.end_task(task, **how)

        self.on_loop(end)

    def run_for(self, name: str, seconds: float, code: int = 0) -> None:
        self.start(name)
        self.pass_time(seconds)
        self.end(name, code=code)


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as made:
        yield made


# --- each endpoint, below both prefixes ---

JSON, TEXT = "application/json", "text/plain"
JOB = {"name": "new", "command": "x", "schedule": "R0//PT1H"}
CHILD = {"name": "new", "command": "x", "parents": ["a"]}
#: Of two jobs `a` and `b`, which waits for it: (method, path, body, status, content type, part of the body).
ENDPOINTS: list[tuple[str, str, Any, int, str, str]] = [
    ("GET", "/jobs", None, 200, JSON, '[{"name":"a",'),
    ("GET", "/jobs/summary", None, 200, JSON, '{"jobs":[{"name":"a","status":"fresh","state":"idle"'),
    ("GET", "/jobs/search?name=B", None, 200, JSON, '[{"name":"b",'),
    ("GET", "/jobs/search?any=run+b", None, 200, JSON, '[{"name":"b",'),
    ("GET", "/job/a", None, 200, JSON, '{"name":"a",'),
    ("GET", "/job/z", None, 400, JSON, "Job 'z' not found"),
    ("POST", "/iso8601", JOB, 204, "", ""),
    ("PUT", "/iso8601", JOB, 204, "", ""),
    ("POST", "/iso8601", {**JOB, "name": "a"}, 204, "", ""),
    ("POST", "/iso8601", {**JOB, "schedule": "x"}, 400, JSON, "schedule: expected"),
    ("POST", "/iso8601", {**JOB, "schedule": "R/1970-01-01T00:00:00Z/PT1H"}, 400, JSON, "1970-01-01T00:00:01Z"),
    ("POST", "/iso8601", {**JOB, "uris": ["a"], "fetch": [{"uri": "b"}]}, 400, JSON, "either fetch or uris"),
    ("POST", "/dependency", CHILD, 204, "", ""),
    ("PUT", "/dependency", CHILD, 204, "", ""),
    ("PUT", "/dependency", {**CHILD, "name": "b", "parents": []}, 400, JSON, "parents: expected at least one"),
    ("PUT", "/dependency", {**CHILD, "parents": ["z"]}, 400, JSON, "parents[0]: there is no job 'z'"),
    ("PUT", "/dependency", {**CHILD, "name": "a", "parents": ["b"]}, 400, JSON, "a -> b -> a"),
    ("DELETE", "/job/b", None, 204, "", ""),
    ("DELETE", "/job/z", None, 400, JSON, "Job 'z' not found"),
    ("PUT", "/job/a?arguments=x", None, 204, "", ""),
    ("PUT", "/job/z", None, 400, JSON, "Job 'z' not found"),
    ("PUT", "/job/success/a", None, 200, JSON, "marked job a as successful: true"),
    ("PUT", "/job/success/z", None, 200, JSON, "marked job z as successful: false"),
    ("GET", "/job/stat/a", None, 200, JSON, '"count":0},"taskStatHistory":[]}'),
    ("GET", "/job/stat/z", None, 400, JSON, "Job 'z' not found"),
    ("POST", "/job/a/task/x/progress", {"numAdditionalElementsProcessed": 1}, 400, JSON, "dataProcessingJobType"),
    ("DELETE", "/task/kill/a", None, 204, "", ""),
    ("DELETE", "/task/kill/z", None, 400, JSON, "Job 'z' not found"),
    ("DELETE", "/task/all", None, 204, "", ""),
    ("PUT", "/task/ct:1:0:z:", {"statusCode": 0}, 400, JSON, "not found"),
    ("GET", "/stats/median", None, 200, JSON, '[{"jobNameLabel":"a","time":0.0},{"jobNameLabel":"b","time":0.0}]'),
    ("GET", "/stats/fastest", None, 200, JSON, "[]"),
    ("GET", "/graph/dot", None, 200, TEXT, "1 -> 2;"),
    ("GET", "/graph/csv", None, 200, TEXT, "node,a,fresh,idle\nnode,b,fresh,idle\nlink,a,b\n"),
    ("GET", "/leader", None, 200, JSON, '{"leader":"127.0.0.1:4400"}'),
    ("PATCH", "/jobs", None, 405, JSON, "Method Not Allowed"),
    ("GET", "/none", None, 404, JSON, "Not Found"),
]


@pytest.mark.parametrize("prefix", [V2, V3])
@pytest.mark.parametrize(("method", "path", "body", "status", "content_type", "text"), ENDPOINTS)
def test_each_endpoint(
    api: Api, prefix: str, method: str, path: str, body: Any, status: int, content_type: str, text: str
) -> None:
    api.put("a")
    api.put("b", parents=["a"])
    response = api.call(method, prefix + path, body)
    assert response.status_code == status, response.text
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    if status == 204:
        assert response.content == b""
        return
    assert response.headers["Content-Type"].partition(";")[0] == content_type
    assert text in (response.json()["message"] if status >= 400 else response.text)
    assert content_type != JSON or "\n" not in response.text


@pytest.mark.parametrize(
    ("path", "content_type", "text"),
    [("/ping", TEXT, "pong\n"), ("/leader", JSON, '{"leader":"127.0.0.1:4400"}'), ("/metrics", JSON, '{"version":')],
)
def test_what_has_no_prefix(api: Api, path: str, content_type: str, text: str) -> None:
    response = api.call("GET", path)
    assert (response.status_code, response.headers["Content-Type"].partition(";")[0]) == (200, content_type)
    assert response.text.startswith(text)
    assert path != "/ping" or "no-cache" in response.headers["Cache-Control"]


@pytest.mark.parametrize("prefix", [V2, V3])
def test_a_search_finds_ten_unless_it_is_told_otherwise(api: Api, prefix: str) -> None:
    for number in range(12):
        api.put(f"a{number}")
    assert len(api.get(f"{prefix}/jobs/search?name=a")) == 10
    assert len(api.get(f"{prefix}/jobs/search?name=a&offset=5")) == 7
    assert len(api.get(f"{prefix}/jobs/search?name=a&limit=11")) == 11


@pytest.mark.parametrize("prefix", [V2, V3])
def test_every_task_is_stopped(prefix: str) -> None:
    with Api() as api:
        for name in ("a", "b", "c"):
            api.put(name, cpus=0.5)
            api.start(name)
        assert [one["state"] for one in api.get(f"{V3}/jobs/summary")["jobs"]] == ["1 running", "1 running", "queued"]
        assert api.call("DELETE", f"{prefix}/task/all").status_code == 204
        for name in ("a", "b", "c"):
            (run,) = api.get(f"{V3}/jobs/{name}/runs")
            assert run["state"] == "killed"
        assert {one["state"] for one in api.get(f"{V3}/jobs/summary")["jobs"]} == {"idle"}


def test_a_marked_job_starts_its_children_and_has_no_failures_since(api: Api) -> None:
    api.put("a", errorsSinceLastSuccess=3, successCount=1)
    api.put("b", parents=["a"])
    assert api.call("PUT", f"{V2}/job/success/a").status_code == 200
    shown = api.get(f"{V3}/job/a")
    assert (shown["successCount"], shown["errorsSinceLastSuccess"]) == (2, 0)
    assert shown["lastSuccess"] == "2023-11-14T22:13:20.000Z"
    assert api.get(f"{V3}/jobs/b/runs")[0]["state"] == "active"


@pytest.mark.parametrize(
    ("settings", "leader"),
    [
        ({"listen": "10.0.0.7:4400"}, "10.0.0.7:4400"),
        ({"listen": "0.0.0.0:4400"}, "127.0.0.1:4400"),
        ({"listen": "[::]:4400", "hostname": "cron1"}, "cron1:4400"),
        ({"listen": "0.0.0.0:4400", "hostname": "cron1:80"}, "cron1:80"),
        ({"listen": ""}, "127.0.0.1:5050"),
    ],
)
def test_the_leader_is_named_as_its_clients_reach_it(settings: dict[str, str], leader: str) -> None:
    class Host:
        address = "127.0.0.1:5050"

    assert reports.leader_address(Host(), Config(**settings)) == leader  # type: ignore[arg-type]


# --- statistics as Chronos gives them ---


def test_percentiles_are_between_the_two_nearest(api: Api) -> None:
    """Of the values 1 to 10 s, as Dropwizard counts: at 0.75 * (10 + 1) = 8.25 it is 8 s and a quarter of the next."""
    api.put("a", schedule="R//P1D", disabled=True)
    for seconds in (3, 1, 2, 10, 4, 9, 5, 8, 6, 7):
        api.run_for("a", seconds)
    api.run_for("a", 60, code=1)
    expected = {
        "75thPercentile": 8250.0, "95thPercentile": 10000.0, "98thPercentile": 10000.0, "99thPercentile": 10000.0,
        "median": 5500.0, "mean": 5500.0, "count": 10,
    }  # fmt: skip
    assert api.get(f"{V3}/job/stat/a")["histogram"] == expected, "successes alone"
    for key, value in expected.items():
        (row,) = api.get(f"{V2}/stats/{key}")
        assert key == "count" or row == {"jobNameLabel": "a", "time": value / 1000}
    assert api.get("/metrics")["histograms"] == {"jobs.run.time.a": expected}


def test_the_slowest_job_is_first(api: Api) -> None:
    for name, seconds in (("a", 1), ("b", 3), ("c", 2)):
        api.put(name)
        api.run_for(name, seconds)
    api.put("d")
    assert [(row["jobNameLabel"], row["time"]) for row in api.get(f"{V3}/stats/99thPercentile")] == [
        ("b", 3.0), ("c", 2.0), ("a", 1.0), ("d", 0.0),
    ]  # fmt: skip


def test_the_last_five_attempts_are_listed(api: Api) -> None:
    api.put("a", schedule="R//P1D", disabled=True, nodeLoss="at-most-once")
    api.run_for("a", 1)
    api.run_for("a", 59)
    api.run_for("a", 3_600)
    api.run_for("a", 108_061, code=9)
    api.start("a")
    api.pass_time(2)
    api.call("DELETE", f"{V3}/task/kill/a")
    api.start("a")
    api.pass_time(3)
    api.end("a", outcome=Outcome.LOST)
    items = api.get(f"{V3}/job/stat/a")["taskStatHistory"]
    assert [(item["status"], item["duration"]) for item in items] == [
        ("Fail", "3s"), ("Fail", "2s"), ("Fail", "30h1m1s"), ("Success", "1h0s"), ("Success", "59s"),
    ], "newest first; what was killed and what was lost has failed"  # fmt: skip
    first = items[-1]
    assert (first["startTime"], first["endTime"]) == ("11/14/23 22:13:21", "11/14/23 22:14:20")
    assert (first["slaveId"], first["jobName"]) == ("n1", "a")
    assert first["taskId"] == f"ct:{RUN_TIME + 1_000}:0:a:"
    assert "numElementsProcessed" not in first


def test_results_and_states_are_shown_everywhere(api: Api) -> None:
    for name in ("bad", "good", "runs"):
        api.put(name, schedule="R//P1D", disabled=True)
    api.run_for("good", 1)
    api.run_for("bad", 1, code=1)
    api.start("runs")
    assert api.call("GET", f"{V3}/graph/csv").text.splitlines() == [
        "node,bad,failure,idle", "node,good,success,idle", "node,runs,fresh,1 running",
    ]  # fmt: skip
    summary = api.get(f"{V3}/jobs/summary")["jobs"]
    assert [(one["status"], one["state"]) for one in summary] == [
        ("failure", "idle"), ("success", "idle"), ("fresh", "1 running"),
    ]  # fmt: skip
    bad = api.get(f"{V3}/job/bad")
    assert (bad["successCount"], bad["errorCount"], bad["errorsSinceLastSuccess"]) == (0, 1, 1)
    assert bad["lastError"] == "2023-11-14T22:13:22.000Z"
    assert bad["lastSuccess"] == ""
    counters = api.get("/metrics")["counters"]
    assert counters["jobs.run.failure.bad"] == counters["jobs.run.success.good"] == {"count": 1}
    assert counters["jobs.run.success.bad"] == counters["jobs.run.failure.good"] == {"count": 0}


def test_only_a_later_success_is_one(api: Api) -> None:
    at = [f"2020-01-01T00:00:00.00{number}Z" for number in range(3)]
    for name, success, error in (("a", at[1], at[1]), ("b", at[2], at[1]), ("c", at[0], at[1]), ("d", at[0], "")):
        api.put(name, lastSuccess=success, lastError=error)
    found = [one["status"] for one in api.get(f"{V3}/jobs/summary")["jobs"]]
    assert found == ["failure", "success", "failure", "success"]


# --- priority ---


def test_jobs_of_high_priority_are_placed_first(api: Api) -> None:
    """Though they were asked for last."""
    api.put("first", cpus=1)
    api.put("low", cpus=1)
    api.put("high", cpus=1, highPriority=True)
    for name in ("first", "low", "high"):
        api.start(name)
    gauges = api.get("/metrics")["gauges"]
    assert gauges == {f"{MANAGER}.queueSize": {"value": 1}, f"{MANAGER}.highQueueSize": {"value": 1}}
    api.end("first")
    states = {one["name"]: one["state"] for one in api.get(f"{V3}/jobs/summary")["jobs"]}
    assert states == {"first": "idle", "low": "queued", "high": "1 running"}


# --- what would hold everything up ---


def test_ten_thousand_parents() -> None:
    """As many as a job may have."""
    with Api(cpus=10) as api:
        names = [f"p{number}" for number in range(10_000)]

        def define(cluster: Cluster, some: list[str]) -> None:
            for name in some:
                document = {"name": name, "command": "x", "schedule": "R0//PT1H"}
                definition = reading.read_job(document, RUN_TIME, reading.Defaults())
                cluster.command("chronos", orders.PutJob(definition=definition, names=reading.NAMES_V3))

        for first in range(0, len(names), 500):
            api.on_loop(functools.partial(define, some=names[first : first + 500]))
        child = {"name": "child", "command": "x", "parents": names}
        too_many = api.call("POST", f"{V3}/dependency", {**child, "parents": [*names, "other"]})
        assert "parents: expected at most 10000 elements, got 10001" in too_many.json()["message"]
        circle = {"name": "p7", "command": "x", "parents": ["child"]}
        assert api.call("POST", f"{V3}/dependency", child).status_code == 204
        assert "p7 -> child -> p7" in api.call("POST", f"{V3}/dependency", circle).json()["message"]
        assert api.get(f"{V3}/job/child")["parents"] == names
        api.put("other")
        api.start("other")
        assert api.get(f"{V3}/jobs/other/runs")[0]["state"] == "active", "others go on"
        assert api.call("PUT", f"{V3}/job/success/p0").status_code == 200
        assert api.get(f"{V3}/jobs/child/runs") == []
        assert api.call("DELETE", f"{V3}/job/child").status_code == 204


def test_a_task_is_named_in_a_path_as_it_is(api: Api) -> None:
    """Arguments in it may have slashes."""
    api.put("a", arguments=["/tmp/x y", "%2F"], dataProcessingJobType=True, **{"async": True})
    api.start("a")
    (run,) = api.get(f"{V3}/jobs/a/runs")
    name = run["attempts"][0]["taskId"]
    assert name == f"ct:{RUN_TIME}:0:a:/tmp/x y %2F"
    task = requests.utils.quote(name, safe="")
    progress = api.call("POST", f"{V2}/job/a/task/{task}/progress", {"numAdditionalElementsProcessed": 1})
    assert progress.status_code == 204, progress.text
    assert api.call("PUT", f"{V2}/task/{task}", {"statusCode": "1"}).status_code == 204
    api.end("a")
    assert api.get(f"{V3}/jobs/a/runs")[0]["state"] == "failed"
