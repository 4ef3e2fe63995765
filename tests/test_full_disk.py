"""A full disk under the data folder while things happen: the API tells why, tasks go on, and all heals with room."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import RunningOrlop, process_app, wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    )
    if not mounted:
        assert "CI" not in os.environ, "CI must be able to mount a small disk"
        pytest.skip("needs root to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.check_call(["umount", "--lazy", str(folder)])


@pytest.fixture
def orlop(small_disk: Path) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(small_disk)
    cluster.log = small_disk.parent / "orlop.log"
    try:
        cluster.start()
        cluster.put(process_app("/web", 3, backoffSeconds=0))
        cluster.wait_deployed()
        yield cluster
    finally:
        cluster.close()


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            while True:
                try:
                    file.write(b"x" * size)
                except OSError:
                    break
    return filler


def test_a_task_that_ends_while_the_disk_is_full_is_replaced_when_there_is_room(
    orlop: RunningOrlop, small_disk: Path
) -> None:
    before = orlop.running("/web")
    assert orlop.process is not None
    server = orlop.process.pid
    filler = fill(small_disk)
    victim = next(iter(before))
    os.kill(int(before[victim]), signal.SIGKILL)

    wait_until(lambda: "records cannot be written" in orlop.log.read_text(), "its end cannot be recorded")
    reason = wait_until(lambda: orlop.get(f"{orlop.url}/v1/cluster")["read_only"], "the API tells why")
    assert "full" in reason
    with pytest.raises(urllib.error.HTTPError, match="503") as refused:
        orlop.put(process_app("/web", 5, backoffSeconds=0))
    assert "full" in refused.value.read().decode()
    assert len(orlop.task_processes()) == 2, "the others go on"
    assert orlop.running("/web") == before, "nothing is told before it is on disk"

    filler.unlink()

    def healed() -> bool:
        now = orlop.running("/web")
        return len(now) == 3 and victim not in now

    wait_until(healed, "another runs in its place")
    ended = orlop.get(f"{orlop.url}/v1/tasks/{victim}")
    assert (ended["outcome"], ended["signal"]) == ("failed", 9)
    wait_until(lambda: "process" in orlop.runtimes(), "the node can be used again")
    orlop.put(process_app("/web", 4, backoffSeconds=0))
    orlop.wait_deployed()
    assert len(orlop.running("/web")) == 4
    assert {task: pid for task, pid in before.items() if task != victim}.items() < orlop.running("/web").items()
    assert orlop.process.pid == server
    assert orlop.process.poll() is None, "all of it in one life"


def test_a_full_disk_is_told_although_nothing_is_written(orlop: RunningOrlop, small_disk: Path) -> None:
    assert "STORE" not in orlop.cli("status")
    filler = fill(small_disk)
    told = f"the disk of {orlop.data} is full: make room there"
    wait_until(lambda: told in orlop.cli("status"), "operators are told")
    assert f"WARNING orlop.server.leadership: {told}" in orlop.log.read_text()
    filler.unlink()
    wait_until(lambda: "STORE" not in orlop.cli("status"), "it is taken back")
    assert "the store's disk has room again" in orlop.log.read_text()


def test_orlop_started_on_a_full_disk_serves_when_there_is_room(orlop: RunningOrlop, small_disk: Path) -> None:
    before = orlop.running("/web")
    filler = fill(small_disk)
    orlop.kill()
    orlop.launch()
    wait_until(lambda: "full" in orlop.log.read_text(), "the log tells why it does not serve")
    assert len(orlop.task_processes()) == 3, "tasks go on"
    filler.unlink()
    assert orlop.process is not None
    if orlop.process.poll() is not None:  # it may give up; whoever watches over it starts it again
        orlop.launch()
    wait_until(lambda: orlop.answers(), "it serves")
    assert orlop.running("/web") == before
