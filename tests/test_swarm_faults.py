"""`kill -9` of an engine, of an agent and of the server, while Docker's client is in the middle of something: nothing
hangs, nothing looks complete that is not, and afterwards everything is there once."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from engines import Engine, Lane
from swarm_pool import RunningPool, running_pool
from twin_engines import twins
from waiting import wait_until

pytestmark = pytest.mark.docker

ENDS_WITHIN_S = 60.0
TICKS = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.1; done"


@pytest.fixture(scope="module")
def breaking(engines: Lane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    with running_pool(twins(engines, "kappa", "mu"), tmp_path_factory.mktemp("breaking")) as running:
        yield running


@pytest.fixture
def broken(breaking: RunningPool) -> Iterator[RunningPool]:
    """All of it is mended and cleared afterwards."""
    try:
        yield breaking
    finally:
        wait_until(breaking.complete, "the pool is whole")
        breaking.clear()


def far(pool: RunningPool) -> Engine:
    return pool.engines[1]


def on_far(pool: RunningPool) -> tuple[str, str]:
    return "-e", f"constraint:node=={far(pool).name}"


def kill_engine(pool: RunningPool) -> Callable[[], None]:
    far(pool).kill()
    return far(pool).start


def kill_agent(pool: RunningPool) -> Callable[[], None]:
    pool.kill_agent(far(pool))
    return lambda: pool.start_agent(far(pool))


def kill_server(pool: RunningPool) -> Callable[[], None]:
    pool.server.kill()
    return pool.server.start


KILLS = pytest.mark.parametrize("kill", [kill_engine, kill_agent, kill_server])


@contextlib.contextmanager
def going(pool: RunningPool, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The client in the background, and what it has said so far."""
    with tempfile.NamedTemporaryFile() as said:
        client = subprocess.Popen(
            ["env", "DOCKER_BUILDKIT=0", "docker", "-H", pool.url, *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            yield client, said  # type: ignore[misc]
        finally:
            client.kill()
            client.wait()


def text(said: IO[bytes]) -> str:
    return Path(said.name).read_text(errors="replace")


def names(pool: RunningPool) -> list[str]:
    return sorted(pool.docker("ps", "-a", "--format", "{{.Names}}").split())


def ended(client: subprocess.Popen[bytes], said: IO[bytes]) -> int:
    try:
        return client.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{client.args} hangs: {text(said)[-500:]}") from None


@KILLS
@pytest.mark.parametrize("what", ["logs", "exec", "attach", "wait", "run"])
def test_streams_end_with_an_error(broken: RunningPool, kill: Callable[..., Callable[[], None]], what: str) -> None:
    if what != "run":
        broken.docker("run", "-d", "--name", "ticks", *on_far(broken), "busybox", "sh", "-c", TICKS)
    words = {
        "logs": ("logs", "-f", "ticks"),
        "exec": ("exec", "ticks", "sh", "-c", TICKS),
        "attach": ("attach", "--sig-proxy=false", "ticks"),
        "wait": ("wait", "ticks"),
        "run": ("run", "--name", "ticks", *on_far(broken), "busybox", "sh", "-c", TICKS),
    }[what]
    with going(broken, *words) as (client, said):
        if what == "wait":
            wait_until(lambda: client.poll() is None and "ticks" in names(broken), "it waits")
        else:
            wait_until(lambda: "tick 3" in text(said), f"{what} streams")
        mend = kill(broken)
        try:
            code = ended(client, said)
        finally:
            mend()
        # Docker's own client ends with 0 when a raw stream or that of `logs -f` is cut off, on one engine, too.
        assert code != 0 or what in ("logs", "attach", "exec"), text(said)
    wait_until(broken.complete, "the pool is whole again")
    assert names(broken) == ["ticks"]
    broken.docker("rm", "-f", "ticks")
    assert broken.run("ticks", *on_far(broken)) == far(broken).name, "name and place are free"


@KILLS
def test_a_build_fails(broken: RunningPool, kill: Callable[..., Callable[[], None]], tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 600\nRUN echo never\n")
    place = ("--build-arg", f"constraint:node=={far(broken).name}")
    with going(broken, "build", *place, "-t", "never", str(tmp_path)) as (client, said):
        wait_until(lambda: "begun" in text(said), "the step runs")
        mend = kill(broken)
        try:
            assert ended(client, said) != 0, text(said)
        finally:
            mend()
        assert "Successfully" not in text(said)
    wait_until(broken.complete, "the pool is whole again")
    assert "never" not in broken.docker("images")


@KILLS
def test_creations_are_all_or_nothing(broken: RunningPool, kill: Callable[..., Callable[[], None]]) -> None:
    """Whatever becomes of each, its name is that of one container, or free."""
    started = ("docker", "-H", broken.url, "run", "-d")
    clients = [
        subprocess.Popen(
            [*started, "--name", f"made{number}", *on_far(broken), "busybox", "sleep", "1000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for number in range(6)
    ]
    wait_until(lambda: any(client.poll() is not None for client in clients), "the first is there")
    mend = kill(broken)
    try:
        told = [client.communicate(timeout=ENDS_WITHIN_S)[0].decode() for client in clients]
    finally:
        for client in clients:
            client.kill()
        mend()
    wait_until(broken.complete, "the pool is whole again")
    assert any(client.returncode == 0 for client in clients), told
    done = {f"made{number}" for number, client in enumerate(clients) if client.returncode == 0}
    there = names(broken)
    assert done <= set(there), told
    assert len(there) == len(set(there))
    for number in range(6):
        if f"made{number}" in there:
            broken.docker("rm", "-f", f"made{number}")
    wait_until(lambda: "made" not in broken.server.cli("tasks"), f"names are free; {broken.server.cli('tasks')}")
    for number in range(6):
        broken.docker("create", "--name", f"made{number}", *on_far(broken), "busybox", "true")
