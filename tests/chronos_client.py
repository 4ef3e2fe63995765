"""What tests ask of PyPI's chronos-python, whichever server it is connected to."""

from __future__ import annotations

from typing import Any

import chronos
from running import wait_until


def job(name: str, **members: Any) -> dict[str, Any]:
    required = {"name": name, "command": "true", "owner": "a@example.com", "disabled": False, "async": False}
    if "parents" not in members:
        required["schedule"] = "R1//PT1H"
    return required | members


def counts(client: chronos.ChronosClient, name: str) -> tuple[int, int]:
    (found,) = [one for one in client.list() if one["name"] == name]
    return found["successCount"], found["errorCount"]


def use_every_method(client: chronos.ChronosClient) -> None:
    """Each does what Chronos' own does. There are no jobs before and after."""
    assert client.list() == []
    assert client.add(job("parent", schedule="R0//PT1H")) is None
    assert client.add(job("child", parents=["parent"])) is None
    assert client.run("parent") is None  # not by time: it may have ended before the child is known
    wait_until(lambda: counts(client, "child") == (1, 0), "the child has run")
    assert [one["name"] for one in client.list()] == ["child", "parent"]
    assert client.search(name="PAR", command="tru")[0]["name"] == "parent"
    assert client.search(name="nothing") == []
    statistics = client.job_stat("parent")
    assert statistics["histogram"]["count"] == 1
    assert [run["status"] for run in statistics["taskStatHistory"]] == ["Success"]
    assert client.update(job("parent", schedule="R1//PT2H", command="sleep 1000")) is None
    wait_until(lambda: "running" in client.scheduler_graph(), "the changed job runs")
    assert client.delete_tasks("parent") is None
    wait_until(lambda: "running" not in client.scheduler_graph(), "it is killed")
    assert client.run("parent") is None
    wait_until(lambda: "node,parent,fresh,1 running" in client.scheduler_graph(), "it runs once more")
    assert "link,parent,child" in client.scheduler_graph()
    for method in ("99th", "98th", "95th", "75th", "median", "mean"):
        rows = getattr(client, f"scheduler_stat_{method}")()
        assert {row["jobNameLabel"] for row in rows} == {"parent", "child"}
        assert rows == sorted(rows, key=lambda row: -row["time"])
    assert client.metrics()["counters"]["jobs.run.success.child"] == {"count": 1}
    assert client.delete("child") is None
    assert client.delete("parent") is None
    assert client.list() == []
