"""`kill -9` of an engine, of an agent and of the server, while Docker's client is in the middle of something: nothing
hangs, nothing looks complete that is not, and afterwards everything is there once.

What clients see of it is what they see of one engine that they use directly, when it is killed.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
import pytest
from engines import Engine, Lane
from swarm_pool import RunningPool, running_pool
from twin_engines import twins
from waiting import wait_until

pytestmark = pytest.mark.docker

ENDS_WITHIN_S = 60.0
#: A stream that is cut ends at once; the rest is for a machine that does other things, too.
CUT_WITHIN_S = 10.0
#: More than all buffers on the way hold.
LARGE_BYTES = 200_000_000
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


@attrs.frozen
class Client:
    """Docker's client in the background. said, complained: files of its outputs."""

    process: subprocess.Popen[bytes]
    said: Path
    complained: Path

    def ended(self) -> int:
        try:
            return self.process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.process.args!r} hangs: {self.text()[-500:]}") from None

    def text(self) -> str:
        return self.said.read_text(errors="replace") + self.complained.read_text(errors="replace")


@contextlib.contextmanager
def going(url: str, *words: str) -> Iterator[Client]:
    with tempfile.NamedTemporaryFile() as said, tempfile.NamedTemporaryFile() as complained:
        process = subprocess.Popen(
            ["env", "DOCKER_BUILDKIT=0", "docker", "-H", url, *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=complained,
        )
        try:
            yield Client(process, Path(said.name), Path(complained.name))
        finally:
            process.kill()
            process.wait()


def names(pool: RunningPool) -> list[str]:
    return sorted(pool.docker("ps", "-a", "--format", "{{.Names}}").split())


@attrs.frozen
class Seen:
    """What a client has seen of the end. took_s: until then, from the kill on."""

    code: int
    complaint: str
    took_s: float


def seen_of(url: str, place: tuple[str, ...], kill: Callable[[], object]) -> Mapping[str, Seen]:
    """Has clients in the middle of their streams, of a container "ticks" and their own, "ran", and kills."""
    ticking = ("busybox", "sh", "-c", TICKS)
    subprocess.run(["docker", "-H", url, "run", "-d", "--name", "ticks", *place, *ticking], check=True)
    commands = {
        "wait": ("wait", "ticks"),
        "logs": ("logs", "-f", "ticks"),
        "exec": ("exec", "ticks", "sh", "-c", TICKS),
        "attach": ("attach", "--sig-proxy=false", "ticks"),
        "run": ("run", "--name", "ran", *place, *ticking),
    }
    with contextlib.ExitStack() as stack:
        clients = {what: stack.enter_context(going(url, *words)) for what, words in commands.items()}
        for what, client in clients.items():
            wait_until(lambda what=what, client=client: what == "wait" or "tick 3" in client.text(), f"{what} streams")
        assert all(client.process.poll() is None for client in clients.values())
        kill()
        began = time.monotonic()
        return {
            what: Seen(client.ended(), without_time(client.complained.read_text()), time.monotonic() - began)
            for what, client in clients.items()
        }


def without_time(complaint: str) -> str:
    return re.sub(r'time="[^"]*" ', "", complaint)


@pytest.fixture(scope="module")
def of_one_engine(engines: Lane) -> Mapping[str, Seen]:
    """What clients see who use an engine directly that is killed."""
    alone = engines.engine("nemo")
    return seen_of(alone.url, (), alone.kill)


@KILLS
def test_streams_end_as_those_of_an_engine_that_is_killed(
    broken: RunningPool, of_one_engine: Mapping[str, Seen], kill: Callable[..., Callable[[], None]]
) -> None:
    mends: list[Callable[[], None]] = []
    try:
        seen = seen_of(broken.url, on_far(broken), lambda: mends.append(kill(broken)))
    finally:
        for mend in mends:
            mend()
    for what in ("logs", "attach", "run"):
        assert (seen[what].code, seen[what].complaint) == (of_one_engine[what].code, of_one_engine[what].complaint), (
            what
        )
        assert seen[what].code != 0
        assert "unexpected EOF" in seen[what].complaint, "a part is not passed off as the whole"
    # One that has not got through yet is told that there is nobody.
    assert seen["wait"].code == of_one_engine["wait"].code == 1
    assert seen["wait"].complaint
    # The client asks for the command's exit code, and not always says so when nobody answers it.
    assert seen["exec"].code in (1, 255)
    assert of_one_engine["exec"].code in (1, 255)
    if kill is not kill_server:
        assert f"the engine of node {far(broken).name} is not available" in seen["exec"].complaint
    assert max(one.took_s for one in seen.values()) < CUT_WITHIN_S

    wait_until(broken.complete, "the pool is whole again")
    assert names(broken) == ["ran", "ticks"]
    broken.docker("rm", "-f", "ticks", "ran")
    assert broken.run("ticks", *on_far(broken)) == far(broken).name, "name and place are free"


@KILLS
def test_an_archive_that_is_cut_is_no_archive(broken: RunningPool, kill: Callable[..., Callable[[], None]]) -> None:
    make = f"head -c {LARGE_BYTES} /dev/zero >/tmp/large && echo made; sleep 1000"
    broken.docker("run", "-d", "--name", "large", *on_far(broken), "busybox", "sh", "-c", make)
    wait_until(lambda: "made" in broken.docker("logs", "large"), "there is something large")
    words = ["docker", "-H", broken.url, "cp", "large:/tmp/large", "-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        assert client.stdout is not None
        first = client.stdout.read(1)
        mend = kill(broken)
        try:
            rest, complaint = client.communicate(timeout=ENDS_WITHIN_S)
        finally:
            client.kill()
            mend()
    assert len(first + rest) < LARGE_BYTES
    assert (client.returncode, complaint) == (1, b"unexpected EOF\n")


@KILLS
def test_a_build_fails(broken: RunningPool, kill: Callable[..., Callable[[], None]], tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 600\nRUN echo never\n")
    place = ("--build-arg", f"constraint:node=={far(broken).name}")
    with going(broken.url, "build", *place, "-t", "never", str(tmp_path)) as client:
        wait_until(lambda: "begun" in client.text(), "the step runs")
        mend = kill(broken)
        try:
            assert client.ended() != 0, client.text()
        finally:
            mend()
        assert "Successfully" not in client.text()
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
