"""A Docker Engine that is killed or hangs: known within seconds, processes go on, containers are there once after."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Engine, Lane
from running import RunningOrlop, container_app, process_app, wait_until

pytestmark = [pytest.mark.real, pytest.mark.docker]


def containers(engine: Engine) -> dict[str, str]:
    """Container id → task, of what runs there."""
    client = engine.client()
    try:
        return {one["Id"]: one["Labels"].get("orlop.task", "") for one in client.containers()}
    finally:
        client.close()


@pytest.fixture
def engine(engine: Engine) -> Iterator[Engine]:
    """The session's engine, which runs and is empty afterwards."""
    yield engine
    engine.go_on()
    if not engine.running:
        engine.start()
    engine.clear()


def started(folder: Path, engine: Engine) -> RunningOrlop:
    """With two processes and two containers."""
    orlop = RunningOrlop(folder, docker=engine.url, ORLOP_AGENT__ADDRESS=engine.address)
    try:
        orlop.start()
        orlop.put(process_app("/plain", 2))
        orlop.put(container_app("/box", 2, backoffSeconds=0.1))
        orlop.wait_deployed()
    except BaseException:
        orlop.close()
        raise
    return orlop


@pytest.fixture
def orlop(tmp_path: Path, engine: Engine) -> Iterator[RunningOrlop]:
    cluster = started(tmp_path, engine)
    try:
        yield cluster
    finally:
        engine.go_on()
        cluster.close()


def lost(orlop: RunningOrlop) -> bool:
    return orlop.runtimes() == ["process"]


def test_an_engine_that_hangs(orlop: RunningOrlop, engine: Engine) -> None:
    boxes, plain = orlop.running("/box"), orlop.running("/plain")
    engine.hang()
    wait_until(lambda: lost(orlop), "the engine is known to hang")
    reason = f"the Docker Engine at {engine.url} cannot be used: it does not answer"
    assert reason in orlop.cli("status")
    assert f"docker: {reason}" in orlop.cli("nodes")

    orlop.put(process_app("/plain", 4))
    orlop.wait_deployed()
    assert plain.items() < orlop.running("/plain").items(), "processes start, and those that ran go on"
    orlop.put(container_app("/box", 3, backoffSeconds=0.1))
    wait_until(lambda: len(orlop.app("/box")["tasks"]) + 1 == 3, "the third waits")
    assert "its docker runtime cannot be used now" in orlop.cli("explain", "/box")
    with pytest.raises(urllib.error.HTTPError, match="503") as refused:
        orlop.get(f"{orlop.url}/v1/tasks/{next(iter(boxes))}/logs")
    assert reason in refused.value.read().decode()
    assert orlop.running("/box") == boxes, "they run as before, as far as anybody can know"

    engine.go_on()
    wait_until(lambda: not lost(orlop), "the engine is known to go on")
    orlop.wait_deployed()
    after = wait_until(lambda: now if len(now := orlop.running("/box")) == 3 else None, "the third runs")
    assert boxes.items() < after.items(), "the same containers"
    assert containers(engine) == {container: task for task, container in after.items()}, "and no others"
    assert "docker on" not in orlop.cli("status")


def test_a_stop_and_a_start_do_not_wait_for_an_engine_that_hangs(orlop: RunningOrlop, engine: Engine) -> None:
    boxes, plain = orlop.running("/box"), orlop.running("/plain")
    engine.hang()
    orlop.put(container_app("/box", 4, backoffSeconds=0.1))  # calls that nobody answers
    assert orlop.stop() == 0
    orlop.start()
    wait_until(lambda: orlop.running("/plain") == plain, "the processes are known again")
    wait_until(lambda: lost(orlop), "the engine is known to hang")
    assert orlop.running("/box") == boxes, "it is not said that they have ended"
    orlop.put(process_app("/plain", 3))
    wait_until(lambda: len(orlop.running("/plain")) == 3, "processes start")
    engine.go_on()
    orlop.wait_deployed()
    after = wait_until(lambda: now if len(now := orlop.running("/box")) == 4 else None, "all four run")
    assert boxes.items() < after.items()
    assert containers(engine) == {container: task for task, container in after.items()}


def test_an_engine_that_is_killed_and_keeps_its_containers(tmp_path: Path, engines: Lane) -> None:
    """With `--live-restore` they go on without it, and are found again."""
    engine = engines.engine("live", "--live-restore")
    orlop = started(tmp_path, engine)
    try:
        boxes = orlop.running("/box")
        engine.kill()
        wait_until(lambda: lost(orlop), "the loss is known")
        assert orlop.running("/box") == boxes
        engine.start()
        wait_until(lambda: not lost(orlop), "the return is known")
        orlop.put(container_app("/box", 3))
        orlop.wait_deployed()
        after = orlop.running("/box")
        assert boxes.items() < after.items(), "adopted"
        assert containers(engine) == {container: task for task, container in after.items()}
    finally:
        orlop.close()
        engine.clear()
        engine.kill()


def test_an_engine_that_is_killed_and_ends_its_containers(orlop: RunningOrlop, engine: Engine) -> None:
    """Without `--live-restore` the next engine ends what the killed one has left, and Orlop replaces it."""
    boxes, plain = orlop.running("/box"), orlop.running("/plain")
    engine.kill()
    wait_until(lambda: lost(orlop), "the loss is known")
    engine.start()

    def replaced() -> dict[str, str] | None:
        now = orlop.running("/box")
        return now if len(now) == 2 and not now.keys() & boxes.keys() else None

    after = wait_until(replaced, "others run in their place")
    wait_until(lambda: containers(engine) == {container: task for task, container in after.items()}, "and no more")
    assert orlop.running("/plain") == plain
