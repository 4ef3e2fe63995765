"""Orlop killed and started again, tasks killed: what runs goes on, nothing runs twice, everything heals."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import RunningOrlop, wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def orlop(tmp_path: Path) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(tmp_path)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.close()


def running(orlop: RunningOrlop, app_id: str) -> dict[str, str]:
    """task id → pid of an app's running tasks."""
    tasks = orlop.get(f"{orlop.url}/v1/tasks?group={app_id}&state=running")["tasks"]
    return {task["id"]: task["external_id"] for task in tasks}


def sleepers(orlop: RunningOrlop, app_id: str) -> list[int]:
    """Main processes of an app's tasks, as the machine sees them."""
    found = []
    for pid in orlop.task_processes():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"MARATHON_APP_ID={app_id}".encode() in environment:
            found.append(pid)
    return found


def create(orlop: RunningOrlop, app_id: str, instances: int, **members: object) -> None:
    document = {"id": app_id, "cmd": "exec sleep 1000", "cpus": 0.001, "mem": 1, "instances": instances, **members}
    orlop.call("PUT", f"/v2/apps{app_id}?force=true", document)


def test_a_killed_task_is_replaced(orlop: RunningOrlop) -> None:
    create(orlop, "/web", 3, backoffSeconds=0)
    orlop.wait_deployed()
    before = running(orlop, "/web")
    victim = next(iter(before))
    os.kill(int(before[victim]), signal.SIGKILL)

    def healed() -> dict[str, str] | None:
        now = running(orlop, "/web")
        return now if len(now) == 3 and victim not in now else None

    after = wait_until(healed, "a new task runs")
    assert set(before.items()) - {(victim, before[victim])} < set(after.items()), "the others went on"
    ended = orlop.get(f"{orlop.url}/v1/tasks/{victim}")
    assert (ended["outcome"], ended["signal"]) == ("failed", 9)
    assert len(sleepers(orlop, "/web")) == 3


def test_kill_9_of_orlop_20_times_at_random_moments(orlop: RunningOrlop) -> None:
    seed = 20261123
    chance = random.Random(seed)
    create(orlop, "/steady", 50)
    orlop.wait_deployed()
    steady = running(orlop, "/steady")
    assert len(steady) == 50
    for round_number in range(20):
        create(orlop, "/moving", 10, env={"ROUND": str(round_number)}, upgradeStrategy={"minimumHealthCapacity": 0.5})
        assert orlop.process is not None
        with pytest.raises(subprocess.TimeoutExpired):
            orlop.process.wait(chance.uniform(0.0, 0.6))
        orlop.kill()
        orlop.start()
    orlop.wait_deployed()
    assert running(orlop, "/steady") == steady, "same tasks, same pids"
    wait_until(lambda: len(running(orlop, "/moving")) == 10, "the deployment went on to its end")
    wait_until(lambda: len(sleepers(orlop, "/moving")) == 10, "no task runs twice, no old one is left")
    assert len(sleepers(orlop, "/steady")) == 50
    rounds = {
        variable
        for pid in sleepers(orlop, "/moving")
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if variable.startswith(b"ROUND=")
    }
    assert rounds == {b"ROUND=19"}, "all run the last version"


def test_exit_codes_survive_while_orlop_is_away(orlop: RunningOrlop, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    command = f"while [ ! -e {gate} ]; do sleep 0.05; done; exit 7"
    create(orlop, "/short", 1, cmd=command, backoffSeconds=3600)
    orlop.wait_deployed()
    (task,) = running(orlop, "/short")
    orlop.kill()
    gate.touch()
    wait_until(lambda: not sleepers(orlop, "/short"), "the task ends without Orlop")
    orlop.start()
    ended = wait_until(
        lambda: one if (one := orlop.get(f"{orlop.url}/v1/tasks/{task}"))["outcome"] else None, "its end is known"
    )
    assert (ended["outcome"], ended["exit_code"]) == ("failed", 7)


def test_a_planned_stop_leaves_tasks_alone(orlop: RunningOrlop) -> None:
    create(orlop, "/web", 2)
    orlop.wait_deployed()
    before = running(orlop, "/web")
    assert orlop.stop() == 0
    assert len(sleepers(orlop, "/web")) == 2
    orlop.start()
    assert wait_until(lambda: running(orlop, "/web"), "the tasks are known again") == before


def test_delete_stops_everything(orlop: RunningOrlop) -> None:
    create(orlop, "/gone", 5, cmd="trap '' TERM; sleep 1000 & wait", taskKillGracePeriodSeconds=0.2)
    orlop.wait_deployed()
    orlop.call("DELETE", "/v2/apps/gone")
    wait_until(lambda: not sleepers(orlop, "/gone"), "the whole process groups are gone")
    orlop.wait_deployed()
    assert not orlop.get(f"{orlop.url}/v1/tasks?group=/gone")["tasks"]
