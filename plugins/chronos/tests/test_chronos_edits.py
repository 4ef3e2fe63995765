"""Definitions that replace others: what is kept, what is reset, and jobs that become dependent or scheduled."""

from __future__ import annotations

from typing import Any

import pytest
from chronos_cluster import ChronosCluster

from orlop_chronos import orders, reading

DEFAULTS: dict[str, Any] = {
    "shell": True, "epsilon": "", "executor": "", "executorFlags": "", "taskInfoData": "", "retries": 2, "owner": "",
    "ownerName": "", "description": "", "async": False, "cpus": 0.1, "disk": 256.0, "mem": 128.0, "disabled": False,
    "softError": False, "dataProcessingJobType": False, "fetch": [], "uris": [], "environmentVariables": [],
    "arguments": [], "highPriority": False, "runAsUser": "", "concurrent": False, "maxCompletionTime": 0,
    "constraints": [], "scheduleTimeZone": "", "successCount": 0, "errorCount": 0, "errorsSinceLastSuccess": 0,
    "lastSuccess": "", "lastError": "",
}  # fmt: skip
CHANGED: dict[str, Any] = {
    "shell": False, "epsilon": "PT5M", "executor": "e", "executorFlags": "f", "taskInfoData": "t", "retries": 7,
    "owner": "o", "ownerName": "n", "description": "d", "async": True, "cpus": 1.5, "disk": 1.0, "mem": 64.0,
    "disabled": True, "softError": True, "dataProcessingJobType": True, "uris": ["http://a/b"],
    "environmentVariables": [{"name": "A", "value": "1"}], "arguments": ["x"], "highPriority": True,
    "runAsUser": "nobody", "concurrent": True, "maxCompletionTime": 9, "constraints": [["rack", "EQUALS", "r"]],
    "scheduleTimeZone": "Europe/Paris", "successCount": 3, "errorCount": 4, "errorsSinceLastSuccess": 2,
    "lastSuccess": "2020-01-01T00:00:00.000Z", "lastError": "2020-01-02T00:00:00.000Z",
    "container": {"image": "busybox"}, "nodeLoss": "at-least-once", "overlap": "allow", "catchUp": "all",
    "exclude": ["SAT"], "jitter": 5.0, "alertAfter": "P1D", "retryDelay": 3.0,
}  # fmt: skip
SCHEDULE = "R/2999-01-01T00:00:00Z/P1D"


def test_each_member_can_be_written_and_returns_to_its_default() -> None:
    """The counters, too."""
    cluster = ChronosCluster()
    cluster.put("a", schedule=SCHEDULE, **CHANGED)
    shown = cluster.show("a")
    container = shown.pop("container")
    assert container["image"] == "busybox"
    assert {name: shown[name] for name in CHANGED if name != "container"} == {
        name: value for name, value in CHANGED.items() if name != "container"
    }
    cluster.put("a", schedule=SCHEDULE, command="other")
    assert cluster.show("a") == {"name": "a", "command": "other", "schedule": SCHEDULE, **DEFAULTS}


def test_nothing_that_is_shown_is_null() -> None:
    cluster = ChronosCluster()
    cluster.put("a")
    cluster.put("b", parents=["a"])
    assert None not in (*cluster.show("a").values(), *cluster.show("b").values())


def test_what_runs_goes_on_when_its_job_is_changed() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT1H", command="one")
    (task,) = cluster.running("a")
    cluster.put("a", schedule="R//PT1H", command="two")
    assert [one.id for one in cluster.running("a")] == [task.id]
    cluster.finish("a")
    cluster.advance(3600)
    (task,) = cluster.running("a")
    assert cluster.cluster.state.spec_of(task).payload["command"] == "two"


def test_a_scheduled_job_becomes_a_child_and_a_scheduled_one_again() -> None:
    cluster = ChronosCluster()
    cluster.put("parent", schedule="R0//PT1H")
    cluster.put("a", schedule="R//PT1H")
    cluster.finish("a")
    cluster.put("a", parents=["parent"])
    assert "schedule" not in cluster.show("a")
    cluster.advance(7200)
    assert cluster.states("a") == ["succeeded"], "not by time any more"
    cluster.give(orders.MarkSucceeded(name="parent"))
    cluster.finish("a")
    assert [run.cause.value for run in cluster.runs("a")] == ["time", "parent"]
    cluster.put("a", schedule="R//PT1H")
    cluster.finish("a")
    cluster.give(orders.MarkSucceeded(name="parent"))
    assert [run.cause.value for run in cluster.runs("a")] == ["time", "parent", "time"], "not by its parent any more"


@pytest.mark.parametrize("name", ["a b", "a#1", "Caps.and_more-1"])
def test_a_job_that_2x_has_named_can_be_changed_by_3x(name: str) -> None:
    cluster = ChronosCluster()
    for names, command in ((reading.NAMES_V2, "one"), (reading.NAMES_V3, "two")):
        document = {"name": name, "command": command, "schedule": SCHEDULE}
        definition = reading.read_job(document, cluster.now_ms, reading.Defaults())
        cluster.give(orders.PutJob(definition=definition, names=names))
        assert cluster.show(name)["command"] == command


def test_nothing_is_changed_by_a_definition_that_is_refused() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT1H")
    cluster.put("b", parents=["a"])
    before = [cluster.show(name) for name in "ab"]
    for members in ({"parents": ["z"]}, {"parents": ["b"]}, {"schedule": "x"}, {"cpus": "x"}):
        with pytest.raises(Exception, match=r"expected|there is no job|wait for itself"):
            cluster.put("a", command="other", **members)
    assert [cluster.show(name) for name in "ab"] == before
    cluster.finish("a")
    assert len(cluster.running("b")) == 1


def test_a_disabled_child_is_not_due_by_its_parents() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT1H")
    cluster.put("b", parents=["a"], disabled=True)
    cluster.finish("a")
    assert cluster.runs("b") == []


def test_marking_a_child_as_succeeded_takes_what_its_parents_have_done() -> None:
    cluster = ChronosCluster()
    for name in "ab":
        cluster.put(name)
    cluster.put("c", parents=["a", "b"])
    cluster.finish("a")
    cluster.give(orders.MarkSucceeded(name="c"))
    cluster.finish("b")
    assert cluster.runs("c") == []
    cluster.give(orders.MarkSucceeded(name="a"))
    assert len(cluster.running("c")) == 1


def test_a_child_whose_parent_has_ended_in_a_pause_runs_after_it() -> None:
    cluster = ChronosCluster()
    cluster.put("a")
    cluster.put("b", parents=["a"])
    cluster.give(orders.Pause(paused=True))
    cluster.finish("a")
    assert cluster.running("b") == []
    cluster.give(orders.Pause(paused=False))
    assert len(cluster.running("b")) == 1


@pytest.mark.parametrize("overlap", ["queue", "allow"])
def test_a_job_is_over_when_the_last_of_its_runs_is(overlap: str) -> None:
    """Not when one succeeds while others of the same outage are still to be run."""
    cluster = ChronosCluster()
    cluster.put("a", schedule="R3/2023-11-14T20:00:00Z/PT10M", catchUp="all", overlap=overlap)
    assert cluster.progress("a").left == 0
    for left in (2, 1, 0):
        cluster.cluster.end_task(cluster.running("a")[0])
        cluster.cluster.settle()
        assert cluster.show("a")["disabled"] is (left == 0)
    assert cluster.states("a") == ["succeeded"] * 3
