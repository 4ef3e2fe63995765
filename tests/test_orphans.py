"""A state that is older than what its node runs, or gone: what it does not know goes on as an orphan, and is shown."""

from __future__ import annotations

import os
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Engine
from running import DEADLINE_S, RunningOrlop, container_app, process_app, wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def orlop(tmp_path: Path) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def container_orlop(tmp_path: Path, engine: Engine) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(tmp_path, docker=engine.url)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        engine.clear()


def copy_state(source: Path, target: Path) -> None:
    """Of a store that nobody has open."""
    target.mkdir(exist_ok=True)
    for file in target.glob("state.db*"):
        file.unlink()
    for file in source.glob("state.db*"):
        shutil.copy(file, target)


def orphans(orlop: RunningOrlop) -> set[str]:
    return {orphan["task"] for orphan in orlop.get(f"{orlop.url}/v1/cluster")["orphans"]}


def metric(orlop: RunningOrlop, name: str) -> float:
    with urllib.request.urlopen(f"{orlop.url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def alive(pids: dict[str, str]) -> bool:
    return all(Path(f"/proc/{pid}").exists() for pid in pids.values())


@pytest.mark.parametrize("terms_since", [1, 3])
def test_an_older_copy_of_the_state_kills_nothing(orlop: RunningOrlop, tmp_path: Path, terms_since: int) -> None:
    """Taken in the same term or in an earlier one: either way the node has seen what the copy has not."""
    orlop.put(process_app("/old", 2))
    orlop.wait_deployed()
    old = orlop.running("/old")
    assert orlop.stop() == 0
    copy_state(orlop.data, tmp_path / "copy")
    for _ in range(terms_since - 1):
        orlop.start()
        orlop.put(process_app("/gone", 1))
        orlop.wait_deployed()
        orlop.call("DELETE", "/v2/apps/gone")
        wait_until(lambda: not orlop.running("/gone"), "it has ended")
        assert orlop.stop() == 0
    orlop.start()
    orlop.put(process_app("/new", 3))
    orlop.put(process_app("/old", 3))
    orlop.wait_deployed()
    new = orlop.running("/new")
    unknown = new.keys() | (orlop.running("/old").keys() - old.keys())
    assert len(unknown) == 4
    orlop.kill()
    copy_state(tmp_path / "copy", orlop.data)

    orlop.start()
    wait_until(lambda: orphans(orlop) == unknown, "they are found")
    assert metric(orlop, "orlop_orphans") == 4
    status = orlop.cli("status")
    assert "orphans    4 tasks run and are not in this cluster's state: they are left alone" in status
    assert all(f"{task} on " in status for task in unknown)
    assert orlop.running("/old") == old, "what the copy knows is the same as ever"
    orlop.put(process_app("/fresh", 2))
    orlop.wait_deployed()
    assert len(orlop.running("/fresh")) == 2, "the node obeys the older state"

    # The state outgrows the one that the orphans are from; each start is a full list that does not name them.
    for number in range(3):
        orlop.put(process_app("/fresh", 2, env={"ROUND": str(number)}))
        orlop.wait_deployed()
    assert orlop.stop() == 0
    orlop.start()
    wait_until(lambda: orphans(orlop) == unknown, "they are still known as such")
    assert alive(new)
    assert orlop.running("/old") == old

    victim = next(iter(new))
    os.kill(int(new[victim]), signal.SIGKILL)
    wait_until(lambda: orphans(orlop) == unknown - {victim}, "one that has ended is an orphan no more")
    assert metric(orlop, "orlop_orphans") == 3


@pytest.mark.docker
def test_containers_that_an_older_copy_does_not_know_go_on(
    container_orlop: RunningOrlop, engine: Engine, tmp_path: Path
) -> None:
    orlop = container_orlop
    orlop.put(container_app("/old", 1))
    orlop.wait_deployed()
    old = orlop.running("/old")
    assert orlop.stop() == 0
    copy_state(orlop.data, tmp_path / "copy")
    orlop.start()
    orlop.put(container_app("/new", 2))
    orlop.wait_deployed()
    new = orlop.running("/new")
    orlop.kill()
    copy_state(tmp_path / "copy", orlop.data)
    orlop.start()
    wait_until(lambda: orphans(orlop) == new.keys(), "they are found")
    orlop.put(container_app("/fresh", 1))
    orlop.wait_deployed()
    fresh = orlop.running("/fresh")
    client = engine.client()
    running = {container["Id"] for container in client.containers()}
    assert running == {*old.values(), *new.values(), *fresh.values()}
    client.remove_container(next(iter(new.values())), force=True)
    client.close()
    wait_until(lambda: len(orphans(orlop)) == 1, "one that has ended is an orphan no more")


def test_without_its_state_a_node_needs_an_operators_word(orlop: RunningOrlop) -> None:
    orlop.put(process_app("/old", 3))
    orlop.wait_deployed()
    old = orlop.running("/old")
    assert orlop.stop() == 0
    for file in orlop.data.glob("state.db*"):
        file.unlink()
    orlop.launch()
    assert orlop.process is not None
    assert orlop.process.wait(DEADLINE_S) == 1
    said = orlop.log.read_text()
    assert "the state is empty" in said
    assert "--rejoin" in said
    assert alive(old)

    orlop.start("--rejoin")
    wait_until(lambda: orphans(orlop) == old.keys(), "they are found")
    orlop.put(process_app("/old", 2))
    orlop.wait_deployed()
    assert len(orlop.running("/old")) == 2
    assert orlop.stop() == 0
    orlop.start()
    wait_until(lambda: orphans(orlop) == old.keys(), "they are still known as such")
    assert alive(old)
