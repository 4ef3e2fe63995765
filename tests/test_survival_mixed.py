"""`kill -9` of Orlop 20 times at random moments, with processes and containers, and deployments of both in flight."""

from __future__ import annotations

import collections
import os
import random
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import Engine
from running import RunningOrlop, container_app, process_app, wait_until

pytestmark = [pytest.mark.real, pytest.mark.docker]

KILLS = 20
INSTANCES = {"/steady": 40, "/steady-box": 6, "/moving": 6, "/moving-box": 3}
#: Of Orlop's starts, those that are cut short by the next kill; in seconds, how long it may live in either case.
CUT_SHORT = 0.3
STARTING_S, WORKING_S = 1.5, 0.8


@pytest.fixture
def orlop(tmp_path: Path, engine: Engine) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(tmp_path, docker=engine.url)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        engine.clear()


def environment_of(pid: int) -> dict[str, str]:
    """Empty when it has just ended."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(variable.split("=", 1) for variable in content.split("\0") if "=" in variable)


def processes(orlop: RunningOrlop) -> list[dict[str, str]]:
    """The environments of the processes that run in tasks of their own; each task here has one."""
    found = [environment_of(pid) for pid in orlop.task_processes()]
    return [environment for environment in found if "MESOS_TASK_ID" in environment]


def containers(engine: Engine, everything: bool = False) -> list[dict[str, Any]]:
    client = engine.client()
    try:
        return [one for one in client.containers(all=everything) if "orlop.task" in one["Labels"]]
    finally:
        client.close()


def check_nothing_runs_twice(orlop: RunningOrlop, engine: Engine) -> None:
    """No task has two processes or containers, and no key two tasks that run."""
    listed = containers(engine)
    keys = {task["id"]: task["key"] for task in orlop.get(f"{orlop.url}/v1/tasks?all=true")["tasks"]}
    owners = [("task", environment["MESOS_TASK_ID"]) for environment in processes(orlop)]
    owners += [("task", one["Labels"]["orlop.task"]) for one in listed]
    owners += [("key", keys[one["Labels"]["orlop.task"]]) for one in listed]
    twice = {owner: count for owner, count in collections.Counter(owners).items() if count > 1}
    assert not twice


def deploy(orlop: RunningOrlop, number: int) -> None:
    """A new version of both kinds, half of the instances at a time."""
    members = {"env": {"ROUND": str(number)}, "upgradeStrategy": {"minimumHealthCapacity": 0.5}}
    orlop.put(process_app("/moving", INSTANCES["/moving"], **members))
    orlop.put(container_app("/moving-box", INSTANCES["/moving-box"], **members))


def live_for(orlop: RunningOrlop, seconds: float) -> None:
    """Then kills it; it must not have ended by itself."""
    assert orlop.process is not None
    with pytest.raises(subprocess.TimeoutExpired):
        orlop.process.wait(seconds)
    orlop.kill()


def test_kill_9_of_orlop_20_times_at_random_moments(orlop: RunningOrlop, engine: Engine) -> None:
    seed = int(os.environ.get("ORLOP_TEST_SEED", secrets.randbits(32)))
    print(f"to have the same moments again: ORLOP_TEST_SEED={seed}")
    chance = random.Random(seed)
    orlop.put(process_app("/steady", INSTANCES["/steady"]))
    orlop.put(container_app("/steady-box", INSTANCES["/steady-box"]))
    deploy(orlop, 0)
    orlop.wait_deployed()
    steady = orlop.running("/steady") | orlop.running("/steady-box")
    assert len(steady) == INSTANCES["/steady"] + INSTANCES["/steady-box"]

    for number in range(1, KILLS + 1):
        if number > 1 and chance.random() < CUT_SHORT:
            orlop.launch()
            live_for(orlop, chance.uniform(0, STARTING_S))
            continue
        if number > 1:
            orlop.start()
            check_nothing_runs_twice(orlop, engine)
        deploy(orlop, number)
        live_for(orlop, chance.uniform(0, WORKING_S))
        last = number
    orlop.start()
    orlop.wait_deployed()

    assert orlop.running("/steady") | orlop.running("/steady-box") == steady, "same tasks, pids, containers"
    for app, count in INSTANCES.items():
        wait_until(lambda app=app, count=count: len(orlop.running(app)) == count, f"all of {app} run")
    boxes = orlop.running("/steady-box") | orlop.running("/moving-box")

    def as_told() -> bool:
        plain = collections.Counter(environment.get("MARATHON_APP_ID") for environment in processes(orlop))
        ours = {one["Labels"]["orlop.task"]: one["Id"] for one in containers(engine)}
        return plain == {app: INSTANCES[app] for app in ("/steady", "/moving")} and ours == boxes

    wait_until(as_told, "what runs is what Orlop says, and nothing else")
    check_nothing_runs_twice(orlop, engine)
    rounds = {environment["ROUND"] for environment in processes(orlop) if "ROUND" in environment}
    client = engine.client()
    for container in orlop.running("/moving-box").values():
        variables = client.inspect_container(container)["Config"]["Env"]
        rounds |= {variable.removeprefix("ROUND=") for variable in variables if variable.startswith("ROUND=")}
    client.close()
    assert rounds == {str(last)}, "the deployments went on to their end"

    for app in INSTANCES:
        orlop.call("DELETE", f"/v2/apps{app}?force=true")
    orlop.wait_deployed()
    wait_until(lambda: not orlop.task_processes() and not containers(engine), "everything has stopped")
    wait_until(
        lambda: all(one["Names"][0].startswith("/orlop.ended.") for one in containers(engine, everything=True)),
        "containers are left for their output only",
    )
