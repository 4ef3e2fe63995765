"""The HTTP API: what each path answers, and that whatever is sent is answered and holds nothing up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from served_api import ServedApi

from orlop.testing.harness import Cluster
from orlop_chronos import rendering
from orlop_chronos.framework import Chronos
from orlop_chronos.http import application, calls, packing, reports
from orlop_chronos.settings import Config

V2 = "/scheduler"
V3 = "/v1/scheduler"


class Api(ServedApi):
    def __init__(self) -> None:
        cluster = Cluster(Chronos(), check_idempotence=False)
        cluster.add_node("n1", cpus=640, mem="64GiB")
        cluster.settle()
        super().__init__(cluster, lambda host: application(host, Config(max_body_bytes=100_000)))

    def read(self, path: str) -> Any:
        response = self.call("GET", path)
        assert response.status_code == 200, response.text
        assert b"\n" not in response.content
        return response.json()

    def put(self, name: str, prefix: str = V3, **members: Any) -> None:
        document = {"name": name, "command": f"run {name}", **members}
        if "parents" not in members:
            document.setdefault("schedule", "R//PT1H")
        path = "/dependency" if "parents" in members else "/iso8601"
        response = self.call("POST", prefix + path, document)
        assert (response.status_code, response.content) == (204, b""), response.text

    def reset(self) -> None:
        for job in self.read(f"{V3}/jobs"):
            assert self.call("DELETE", f"{V3}/job/{job['name'].replace('#', '%23')}").status_code == 204


@pytest.fixture(scope="module")
def shared() -> Iterator[Api]:
    with Api() as made:
        yield made


@pytest.fixture
def api(shared: Api) -> Iterator[Api]:
    yield shared
    shared.reset()


@pytest.mark.parametrize(
    ("members", "shown"),
    [
        (
            {"schedule": "R1/9999-12-31T23:59:59Z/PT1H", "jitter": 2**31 - 1},
            [("9999-12-31T23:59:59.000Z", "9999-12-31T23:59:59.000Z")],
        ),
        (
            {"schedule": "R2/9999-12-31T23:59:59/PT9H", "scheduleTimeZone": "Asia/Tokyo", "alertAfter": "P2147483647Y"},
            [
                ("9999-12-31T14:59:59.000Z", "9999-12-31T23:59:59.000+09:00"),
                # In Tokyo it is the year 10000.
                ("9999-12-31T23:59:59.000Z", "9999-12-31T23:59:59.000Z"),
            ],
        ),
        ({"schedule": "R/9999-12-31T00:00:00Z/P1D", "exclude": ["9999-12-31"], "jitter": 5}, []),
        ({"schedule": "R/9999-12-01T00:00:00Z/P2147483647Y"}, [("9999-12-01T00:00:00.000Z",) * 2]),
    ],
)
def test_the_end_of_the_calendar(api: Api, members: dict[str, Any], shown: list[tuple[str, str]]) -> None:
    draft = api.call("POST", f"{V3}/next", {"command": "x", **members})
    assert draft.status_code == 200, draft.text
    api.put("a", **members)
    told = api.read(f"{V3}/job/a/next")
    assert [(one["nominalTime"], one["localTime"]) for one in told] == shown
    assert all(one["nominalTime"] <= one["startTime"] <= "9999-12-31T23:59:59.999Z" for one in told)
    assert draft.json() == told
    assert api.read(f"{V3}/job/a")["name"] == "a"
    assert len(api.read(f"{V3}/jobs/summary")["jobs"]) == 1


def test_a_job_as_it_is_shown(api: Api) -> None:
    api.put("a", owner="me", environmentVariables=[{"name": "A", "value": "1"}], constraints=[["rack", "EQUALS", "r"]])
    shown = api.read(f"{V3}/job/a")
    assert list(shown) == [
        "name", "command", "shell", "epsilon", "executor", "executorFlags", "taskInfoData", "retries", "owner",
        "ownerName", "description", "async", "successCount", "errorCount", "lastSuccess", "lastError", "cpus", "disk",
        "mem", "disabled", "softError", "dataProcessingJobType", "errorsSinceLastSuccess", "fetch", "uris",
        "environmentVariables", "arguments", "highPriority", "runAsUser", "concurrent", "maxCompletionTime",
        "constraints", "schedule", "scheduleTimeZone",
    ]  # fmt: skip
    assert shown["environmentVariables"] == [{"name": "A", "value": "1"}]
    assert shown["constraints"] == [["rack", "EQUALS", "r"]]
    assert api.read(f"{V3}/jobs") == [shown]


def test_what_was_sent_comes_back(api: Api) -> None:
    """Tools compare what they have with what the server has, member by member."""
    container = {
        "type": "DOCKER", "image": "busybox", "network": "USER", "networkName": "net", "forcePullImage": True,
        "networkInfos": [
            {
                "name": "net", "protocol": "IPv4", "labels": [{"key": "a", "value": "b"}],
                "portMappings": [{"hostPort": "80", "containerPort": "8080", "protocol": "tcp"}],
            }
        ],
        "volumes": [{"containerPath": "/b", "hostPath": "/a", "mode": "RO"}],
        "parameters": [{"key": "privileged", "value": "true"}],
    }  # fmt: skip
    sent = {
        "name": "a", "command": "x", "schedule": "R/2999-01-01T00:00:00Z/P1D", "scheduleTimeZone": "Europe/Paris",
        "shell": False, "arguments": ["a", "b"], "epsilon": "PT5M", "async": True, "retries": 7, "owner": "o, p",
        "ownerName": "n", "description": "hash \u00e9 \\ \"", "cpus": 1.5, "mem": 64.0, "disk": 1.0, "disabled": True,
        "softError": True, "dataProcessingJobType": True, "fetch": [
            {"uri": "http://a/b", "executable": True, "cache": True, "extract": False, "output_file": "c"}
        ],
        "highPriority": True, "runAsUser": "nobody", "concurrent": True, "maxCompletionTime": 9, "container": container,
        "executor": "e", "executorFlags": "f", "taskInfoData": "t", "catchUp": "all", "catchUpWindow": "P1D",
        "nodeLoss": "at-least-once", "retryDelay": 5.0, "jitter": 3.0, "exclude": ["SAT"], "alertAfter": "P2D",
    }  # fmt: skip
    assert api.call("PUT", f"{V2}/iso8601", sent).status_code == 204
    shown = api.read(f"{V2}/job/a")
    assert {name: shown[name] for name in sent} == sent
    assert api.read(f"{V2}/jobs")[0]["uris"] == ["http://a/b"]


def test_uris_and_fetch_mirror_each_other_in_the_list_alone(api: Api) -> None:
    api.put("a", uris=["http://a/b"])
    (listed,) = api.read(f"{V3}/jobs")
    assert listed["fetch"] == [{"uri": "http://a/b", "executable": False, "cache": False, "extract": True}]
    assert api.read(f"{V3}/job/a")["fetch"] == []


def test_epsilon_is_of_the_dialect(api: Api) -> None:
    api.put("a", V2)
    api.put("b", V3)
    assert [job["epsilon"] for job in api.read(f"{V3}/jobs")] == ["PT60S", ""]


def test_neither_schedule_nor_parents_is_once_and_now(api: Api) -> None:
    assert api.call("POST", f"{V3}/iso8601", {"name": "a", "command": "x"}).status_code == 204
    assert api.read(f"{V3}/jobs/summary")["jobs"][0]["state"] == "1 running"


def test_summary_and_graphs(api: Api) -> None:
    api.put("a b", V2, schedule="R0//PT1H")
    api.put("c", parents=["a b"])
    common = {"status": "fresh", "state": "idle", "disabled": False}
    assert api.read(f"{V3}/jobs/summary") == {
        "jobs": [
            {"name": "a b", "schedule": "R0//PT1H", "parents": [], **common},
            {"name": "c", "schedule": "", "parents": ["a b"], **common},
        ]
    }
    csv = api.call("GET", f"{V3}/graph/csv")
    assert csv.text == "node,a b,fresh,idle\nnode,c,fresh,idle\nlink,a b,c\n"
    assert csv.headers["Content-Type"].startswith("text/plain")
    dot = api.call("GET", f"{V2}/graph/dot").text
    assert dot == 'digraph G {\n  1 [ label="a b" ];\n  2 [ label="c" ];\n  1 -> 2;\n}\n'


def test_search(api: Api) -> None:
    for name in ("Alpha", "beta", "gamma"):
        api.put(name, schedule="R0//PT1H")
    found = {
        query: [job["name"] for job in api.read(f"{V3}/jobs/search?{query}")]
        for query in ("name=A", "name=a&command=BETA", "any=gam", "name=a&limit=1&offset=1", "", "command=nothing")
    }
    assert found == {
        "name=A": ["Alpha", "beta", "gamma"], "name=a&command=BETA": ["beta"], "any=gam": ["gamma"],
        "name=a&limit=1&offset=1": ["beta"], "": ["Alpha", "beta", "gamma"], "command=nothing": [],
    }  # fmt: skip
    assert api.call("GET", f"{V3}/jobs/search?limit=x").status_code == 400


@pytest.mark.parametrize(("prefix", "extract"), [(V2, False), (V3, True)])
def test_what_is_fetched_is_unpacked_by_default_in_chronos_3_alone(api: Api, prefix: str, extract: bool) -> None:
    api.put("a", prefix, fetch=[{"uri": "http://x/a.tgz"}, {"uri": "http://x/b.tgz", "extract": not extract}])
    (job,) = api.read(f"{prefix}/jobs")
    assert [one["extract"] for one in job["fetch"]] == [extract, not extract]


def test_statistics_and_history(api: Api) -> None:
    api.put("a")
    api.on_loop(lambda cluster: cluster.advance(5))
    running = api.read(f"{V3}/job/stat/a")["taskStatHistory"]
    assert [(item["status"], item["endTime"], "duration" in item) for item in running] == [("Running", "N/A", False)]
    api.on_loop(lambda cluster: cluster.end_task(cluster.running()[0], code=0))
    statistics = api.read(f"{V3}/job/stat/a")
    assert statistics["histogram"]["median"] == 5000.0
    (item,) = statistics["taskStatHistory"]
    assert (item["status"], item["duration"], item["jobName"]) == ("Success", "5s", "a")
    (run,) = api.read(f"{V3}/job/a/runs")
    assert (run["state"], run["cause"], run["attempts"][0]["exitCode"]) == ("succeeded", "time", 0)
    assert (run["attempts"][0]["node"], run["attempts"][0]["outputLost"]) == ("n1", False)
    api.on_loop(lambda cluster: cluster.lose_node("n1"))
    (run,) = api.read(f"{V3}/job/a/runs")
    assert (run["attempts"][0]["node"], run["attempts"][0]["outputLost"]) == ("n1", True)
    api.on_loop(lambda cluster: cluster.return_node("n1"))
    assert api.read(f"{V3}/stats/mean") == [{"jobNameLabel": "a", "time": 5.0}]
    assert api.read(f"{V3}/stats/nonsense") == []


def test_next_due_times_of_a_job_and_of_a_draft(api: Api) -> None:
    draft = {"schedule": "R3/2999-03-30T01:30:00Z/P1D", "scheduleTimeZone": "Europe/Paris"}
    answer = api.call("POST", f"{V3}/next?count=5", draft)
    assert [one["localTime"] for one in answer.json()] == [
        "2999-03-30T01:30:00.000+01:00", "2999-03-31T01:30:00.000+01:00", "2999-04-01T01:30:00.000+02:00",
    ]  # fmt: skip
    assert api.read(f"{V3}/jobs") == []
    api.put("a", **draft)
    assert api.read(f"{V3}/job/a/next?count=2") == answer.json()[:2]
    api.put("b", parents=["a"])
    assert api.call("GET", f"{V3}/job/b/next").status_code == 400


def test_the_page_and_its_parts(api: Api) -> None:
    page = api.call("GET", "/")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    parts = re.findall(r'(?:href|src)="(page/[^"]+)"', page.text)
    assert len(parts) == 4
    for part in parts:
        assert api.call("GET", f"/{part}").status_code == 200
    again = api.call("GET", "/", headers={"If-None-Match": page.headers["ETag"]})
    assert (again.status_code, again.text) == (304, "")


def test_the_graph_as_a_picture(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.put("a")
    api.put("b", parents=["a"])
    picture = api.call("GET", f"{V3}/graph/svg")
    assert picture.headers["Content-Type"].startswith("image/svg+xml")
    assert picture.text.startswith("<svg")
    assert picture.text.count("<rect") == 2
    monkeypatch.setattr(reports, "MOST_DRAWN", 1)
    assert "more than 1 jobs" in api.call("GET", f"{V3}/graph/svg").json()["message"]


def test_how_long_runs_take_is_counted_from_their_start(api: Api) -> None:
    """Not from when they were due, which of a backfill is long ago."""
    api.put("a", schedule="R/2020-01-01T00:00:00Z/P1D", disabled=True)
    query = "from=2020-01-01T00:00:00Z&until=2020-01-01T00:00:00Z"
    assert api.call("POST", f"{V3}/jobs/a/backfill?{query}").json() == {"runs": 1}
    api.on_loop(lambda cluster: cluster.advance(3))
    api.on_loop(lambda cluster: cluster.end_task(cluster.running()[0], code=0))
    assert api.read(f"{V3}/job/stat/a")["histogram"]["99thPercentile"] == 3000.0
    assert api.read(f"{V3}/stats/99thPercentile") == [{"jobNameLabel": "a", "time": 3.0}]
    assert api.read("/metrics")["histograms"]["jobs.run.time.a"]["mean"] == 3000.0


@pytest.mark.parametrize(
    "path", [f"{V3}/jobs", f"{V2}/jobs/summary", f"{V3}/job/a", f"{V3}/jobs/a/runs", f"{V3}/pause", "/ping", "/metrics"]
)
def test_what_can_be_had_can_be_asked_about(api: Api, path: str) -> None:
    api.put("a")
    asked, had = api.call("HEAD", path), api.call("GET", path)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["Content-Type"] == had.headers["Content-Type"]
    assert api.call("HEAD", f"{V3}/iso8601").status_code == 405


def test_async_jobs(api: Api) -> None:
    api.put("a", V2, **{"async": True})
    (run,) = api.read(f"{V2}/job/a/runs")
    api.on_loop(lambda cluster: cluster.end_task(cluster.running()[0]))
    task = requests.utils.quote(run["attempts"][0]["taskId"], safe="")
    for body in ({}, {"statusCode": "x"}, {"statusCode": True}):
        assert api.call("PUT", f"{V2}/task/{task}", body).status_code == 400
    assert api.call("PUT", f"{V2}/task/{task}", {"statusCode": "0"}).status_code == 204
    assert api.read(f"{V2}/job/a")["successCount"] == 1


def test_pausing_everything(api: Api) -> None:
    assert api.call("PUT", f"{V3}/pause").status_code == 204
    api.put("a")
    assert api.read(f"{V3}/job/a/runs") == []
    assert api.call("PUT", f"{V3}/resume").status_code == 204
    assert len(api.read(f"{V3}/job/a/runs")) == 1


def test_progress_of_a_task(api: Api) -> None:
    api.put("a", dataProcessingJobType=True)
    (run,) = api.read(f"{V3}/job/a/runs")
    task = requests.utils.quote(run["attempts"][0]["taskId"], safe="")
    path = f"{V3}/job/a/task/{task}/progress"
    assert api.call("POST", path, {"numAdditionalElementsProcessed": 5}).status_code == 204
    for body in ({}, {"numAdditionalElementsProcessed": -1}, {"numAdditionalElementsProcessed": True}):
        assert api.call("POST", path, body).status_code == 400
    assert api.call("POST", f"{V3}/job/a/task/x/progress", {"numAdditionalElementsProcessed": 5}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", f"{V3}/job/nope", None, 400, "Job 'nope' not found"),
        ("PUT", f"{V3}/job/nope", None, 400, "Job 'nope' not found"),
        ("DELETE", f"{V2}/job/nope", None, 400, "Job 'nope' not found"),
        ("GET", f"{V3}/job/stat/nope", None, 400, "Job 'nope' not found"),
        ("DELETE", f"{V2}/task/kill/nope", None, 400, "Job 'nope' not found"),
        ("POST", f"{V3}/iso8601", "{", 400, "expected JSON"),
        ("POST", f"{V3}/iso8601", "[]", 400, "expected a JSON object"),
        ("POST", f"{V3}/iso8601", '{"name": "a b", "command": "x"}', 400, "name: expected letters"),
        ("POST", f"{V3}/iso8601", '{"name": "a/b", "command": "x"}', 400, "name: expected letters"),
        ("POST", f"{V2}/iso8601", '{"name": " a", "command": "x"}', 400, "name: expected letters"),
        ("POST", f"{V2}/iso8601", r'{"name": "a\nb", "command": "x"}', 400, "name: expected letters"),
        ("POST", f"{V2}/iso8601", r'{"name": "a\tb", "command": "x"}', 400, "name: expected letters"),
        ("POST", f"{V2}/iso8601", r'{"name": "a\u0001", "command": "x"}', 400, "name: expected letters"),
        ("POST", f"{V3}/iso8601", '{"name": "a", "comand": "x"}', 400, "command: expected what the shell runs"),
        ("POST", f"{V3}/iso8601", '{"name": "' + "a" * 300 + '", "command": "x"}', 400, "at most 255"),
        ("POST", f"{V3}/iso8601", '{"name": "a", "schedule": "x"}', 400, "schedule: expected R[n]/start/period"),
        ("POST", f"{V3}/dependency", '{"name": "a", "parents": []}', 400, "parents: expected at least one"),
        ("POST", f"{V3}/dependency", '{"name": "a", "parents": ["a"]}', 400, "its own parent"),
        (
            "POST",
            f"{V3}/dependency",
            '{"name": "a", "parents": ["b"], "command": "x"}',
            400,
            "parents[0]: there is no job 'b'",
        ),
        ("POST", f"{V3}/iso8601", "x" * 200_000, 413, "at most 100000 bytes"),
        ("DELETE", f"{V3}/job/nope?children=eat", None, 400, "children: expected one of"),
        ("POST", f"{V3}/job/nope/backfill?from=x&until=y", None, 400, "from: expected a time"),
        ("GET", "/nowhere", None, 404, "Not Found"),
        ("PATCH", f"{V3}/jobs", None, 405, "Method Not Allowed"),
    ],
)
def test_what_is_refused(api: Api, method: str, path: str, body: str | None, status: int, text: str) -> None:
    response = api.call(method, path, body)
    assert response.status_code == status
    answer = response.json()
    assert text in answer["message"]
    assert answer["status"]
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert api.read(f"{V3}/jobs") == []


@pytest.mark.parametrize(
    "schedule",
    [
        "R/1970-01-02T00:00:00Z/PT1S", "R/9999-12-31T23:59:58Z/PT1S", "R1/9999-12-31T23:59:59Z/P9999Y",
        "R1000000000/1970-01-02T00:00:00Z/PT1S", "R/0099-01-01T00:00:00Z/P1Y", "R1//PT0S", "R2147483647//PT1S",
        "* * * * * *", "0 0 29 2 *", "0 0 1 1 *", "59 59 23 31 12 *",
    ],
)  # fmt: skip
def test_schedules_that_might_hold_everything_up(api: Api, schedule: str) -> None:
    response = api.call(
        "POST", f"{V3}/iso8601", {"name": "odd", "command": "x", "schedule": schedule, "catchUp": "all"}
    )
    assert response.status_code in (204, 400), response.text
    api.put("even", schedule="R1//PT1H")
    assert api.read(f"{V3}/jobs/summary")["jobs"][0]["state"] == "1 running", "others go on"


def test_very_many_parents(api: Api) -> None:
    names = [f"p{number}" for number in range(300)]
    for name in names:
        api.put(name, schedule="R0//PT1H")
    api.put("child", parents=names)
    assert api.read(f"{V3}/job/child")["parents"] == names
    assert api.call("POST", f"{V3}/dependency", {"name": "x", "parents": ["p1"] * 10_001}).status_code == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=8,
)
member_names = st.sampled_from(
    ["command", "shell", "epsilon", "retries", "owner", "async", "cpus", "mem", "disk", "disabled", "fetch", "uris",
     "environmentVariables", "arguments", "container", "constraints", "parents", "schedule", "scheduleTimeZone",
     "catchUp", "catchUpWindow", "overlap", "nodeLoss", "triggerRule", "retryDelay", "retryBackoff", "jitter",
     "exclude", "alertAfter", "maxCompletionTime", "lastSuccess", "successCount", "concurrent", "runAsUser",
     "highPriority"]
)  # fmt: skip
schedule_texts = st.one_of(
    st.text(max_size=30),
    st.from_regex(r"R[0-9]{0,12}/[0-9TZ:+.W-]{0,25}/P[0-9YMWDTHS.]{0,12}", fullmatch=True),
    st.from_regex(r"([0-9*/,L#-]{1,5} ){4,5}[0-9*/,L#-]{1,5}", fullmatch=True),
)


@given(
    prefix=st.sampled_from([V2, V3]),
    path=st.sampled_from(["/iso8601", "/dependency", "/next"]),
    members=st.dictionaries(member_names, json_values, max_size=4),
    schedule=schedule_texts,
)
@settings(max_examples=150)
def test_any_definition_is_stored_or_refused(
    shared: Api, prefix: str, path: str, members: dict[str, Any], schedule: str
) -> None:
    document = {"name": "fuzzed", "command": "x", "schedule": schedule, **members}
    try:
        response = shared.call("POST", prefix + path, document)
    except ValueError:  # no JSON, such as a lone surrogate
        return
    assert response.status_code in (200, 204, 400), response.text
    if response.status_code == 400:
        assert response.json()["message"]
    shared.reset()


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"]),
    path=st.lists(
        st.sampled_from(
            ["scheduler", "v1", "job", "jobs", "stat", "task", "kill", "graph", "csv", "a", "%00", "%2F", "%"]
        ),
        max_size=6,
    ),
    body=st.binary(max_size=50),
)
@settings(max_examples=150)
def test_any_request_is_answered(shared: Api, method: str, path: list[str], body: bytes) -> None:
    response = shared.call(method, "/" + "/".join(path), body)
    assert response.status_code < 500, response.text


def test_a_body_that_is_not_packed_as_it_says_is_told_on_one_line(api: Api) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json", "Connection": "close"}
    response = api.call("POST", f"{V3}/iso8601", '{"name": "a"}', headers=headers)
    assert response.status_code == 400
    message = response.json()["message"]
    assert message.startswith("the request's body cannot be read: ")
    assert "\n" not in message


@pytest.mark.parametrize("accepted", ["gzip", "deflate", "identity"])
@pytest.mark.parametrize("block_bytes", [1, 2_000, 10_000_000])
def test_lists_are_whole_however_they_are_packed(
    api: Api, monkeypatch: pytest.MonkeyPatch, block_bytes: int, accepted: str
) -> None:
    monkeypatch.setattr(calls, "AT_A_STRETCH", 2)
    monkeypatch.setattr(packing, "BLOCK_BYTES", block_bytes)
    names = [f"job-{number}" for number in range(5)]
    for name in names:
        api.put(name)
    response = api.call("GET", f"{V3}/jobs", headers={"Accept-Encoding": accepted})
    assert response.headers.get("Content-Encoding", "identity") == accepted
    assert [job["name"] for job in response.json()] == names


def test_an_empty_list_is_whole_however_it_is_packed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BLOCK_BYTES", 1)
    response = api.call("GET", f"{V3}/jobs", headers={"Accept-Encoding": "gzip"})
    assert (response.headers["Content-Encoding"], response.text) == ("gzip", "[]")


def test_a_long_list_is_sent_while_it_is_made(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BLOCK_BYTES", 1)
    response = api.call("GET", f"{V3}/jobs", headers={"Accept-Encoding": "identity", "Origin": "http://page"})
    assert (response.headers["Transfer-Encoding"], response.text) == ("chunked", "[]")
    assert response.headers["Access-Control-Allow-Origin"] == "*"


def test_a_list_that_fails_half_way_does_not_look_whole(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("half way")

    monkeypatch.setattr(packing, "BLOCK_BYTES", 1)
    monkeypatch.setattr(rendering, "job", fail)
    api.put("a")
    try:
        with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
            api.call("GET", f"{V3}/jobs", headers={"Accept-Encoding": "identity"})
    finally:
        monkeypatch.undo()


def test_lists_are_whole_though_others_have_their_turn_in_between(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "AT_A_STRETCH", 2)
    names = [f"job-{number}" for number in range(5)]
    for name in reversed(names):
        api.put(name)
    assert [job["name"] for job in api.read(f"{V3}/jobs")] == names
    assert [job["name"] for job in api.read(f"{V3}/jobs/summary")["jobs"]] == names
    assert [job["name"] for job in api.read(f"{V3}/jobs/search?name=JOB&offset=1&limit=3")] == names[1:4]
    assert len(api.call("GET", f"{V3}/graph/csv").text.splitlines()) == 5


@pytest.mark.parametrize("prefix", [V2, V3])
def test_a_slash_at_the_end_of_a_path_changes_nothing(api: Api, prefix: str) -> None:
    api.put("a")
    for path in (f"{prefix}/jobs", f"{prefix}/job/a", f"{prefix}/graph/csv", "/ping", "/leader"):
        plain, slash = api.call("GET", path), api.call("GET", path + "/")
        assert (slash.status_code, slash.content) == (plain.status_code, plain.content) == (200, plain.content)
    assert api.call("PUT", f"{prefix}/pause/").status_code == 204
    assert api.read(f"{prefix}/pause") == {"paused": True}
    assert api.call("PUT", f"{prefix}/resume/").status_code == 204
    assert api.call("PUT", f"{prefix}/jobs/a/disable/").status_code == 204
    assert api.read(f"{prefix}/job/a")["disabled"]
    assert api.call("DELETE", f"{prefix}/job/a/").status_code == 204
    assert api.read(f"{prefix}/jobs") == []


@pytest.mark.parametrize("prefix", [V2, V3])
@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_no_path_can_hold(api: Api, prefix: str, name: str) -> None:
    response = api.call("POST", f"{prefix}/iso8601", {"name": name, "command": "x"})
    assert (response.status_code, response.json()["message"]) == (400, f"name: expected more than dots, got '{name}'")


@pytest.mark.parametrize("method", ["PUT /job/a", "POST /jobs/a/runs"])
def test_arguments_that_no_program_can_be_given(api: Api, method: str) -> None:
    api.put("a", schedule="R0//P1D")
    verb, path = method.split()
    response = api.call(verb, f"{V3}{path}?arguments=a%00b")
    assert (response.status_code, response.json()["message"]) == (
        400, "arguments: expected a text without NUL characters",
    )  # fmt: skip
    assert api.read(f"{V3}/jobs/a/runs") == []
    assert api.call(verb, f"{V3}{path}?arguments={'x' * 7_000}").status_code in (200, 204)


@pytest.mark.parametrize("members", [{"uris": ["http://h/x"]}, {"fetch": [{"uri": "http://h/x", "executable": True}]}])
def test_what_is_in_the_list_can_be_written_back(api: Api, members: dict[str, Any]) -> None:
    """The list shows `uris` and `fetch`, whichever was given."""
    api.put("a", **members)
    (listed,) = api.read(f"{V3}/jobs")
    assert api.call("POST", f"{V3}/iso8601", listed).status_code == 204
    assert api.read(f"{V3}/jobs") == [listed]
    refused = api.call("POST", f"{V3}/iso8601", {**listed, "uris": ["http://h/y"]})
    assert "either fetch or uris" in refused.json()["message"]


def test_a_job_with_parents_has_no_schedule(api: Api) -> None:
    """Clients refuse to write back what has both."""
    api.put("a")
    api.put("b", parents=["a"], schedule="R//PT1H")
    assert "schedule" not in api.read(f"{V3}/job/b")


def test_a_run_that_there_is_not(api: Api) -> None:
    api.put("a", schedule="R0//P1D")
    for method in ("GET", "DELETE"):
        response = api.call(method, f"{V3}/jobs/a/runs?run=7")
        assert (response.status_code, response.json()["message"]) == (404, "Job 'a' has no run 7")
