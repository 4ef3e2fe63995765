"""The Docker API of several servers on a real etcd: through any of them, while the one that leads is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import docker
import pytest
import requests
from engines import Engine, Lane
from etcd_members import EtcdCluster, EtcdFactory
from running import DEADLINE_S, processes_naming, wait_until
from servers import ServerProcess, Servers
from test_swarm_faults import CUT_WITHIN_S, going, seen_of
from test_swarm_rescheduling import held
from twin_engines import twins

pytestmark = [pytest.mark.real, pytest.mark.docker]

WORDS = 200
#: Each name that was tried is looked at in the end, and a server without a leader refuses hundreds in a second.
REFUSED_PAUSE_S = 0.1


@pytest.fixture(scope="module")
def members(etcds: EtcdFactory) -> Iterator[EtcdCluster]:
    with contextlib.closing(etcds.cluster(3)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def pair(engines: Lane) -> list[Engine]:
    return twins(engines, "eta", "theta")


@pytest.fixture
def servers(members: EtcdCluster, pair: list[Engine], tmp_path: Path) -> Iterator[Servers]:
    """Three of them, with a remote agent for each engine; the Docker API shows both engines."""
    cluster = Servers(tmp_path, members.url(tmp_path.name))
    agents = []
    try:
        cluster.start()
        agents += [agent_of(engine, cluster.all, tmp_path) for engine in pair]
        wait_until(
            lambda: len(healthy(cluster.leader())) == 2, lambda: f"both engines are in the pool; {cluster.logs()}"
        )
        yield cluster
    finally:
        for agent in agents:
            agent.terminate()
        for agent in agents:
            agent.wait(DEADLINE_S)
        for pid in processes_naming(str(tmp_path)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        cluster.close()
        for engine in pair:
            engine.clear()


def agent_of(engine: Engine, servers: Sequence[ServerProcess], folder: Path) -> subprocess.Popen[bytes]:
    joined = [word for server in servers for word in ("--join", server.url)]
    with (folder / f"{engine.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "orlop", "agent", "--data", str(folder / engine.name), *joined],
            env={
                **os.environ,
                "ORLOP_AGENT__NAME": engine.name,
                "ORLOP_AGENT__DOCKER": engine.url,
                "ORLOP_AGENT__RUNTIMES": '["docker"]',
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@contextlib.contextmanager
def client_of(server: ServerProcess) -> Iterator[docker.APIClient]:
    address = f"tcp://{server.swarm_address}"
    with contextlib.closing(docker.APIClient(base_url=address, version="1.40", timeout=30)) as client:
        yield client


def healthy(server: ServerProcess) -> list[str]:
    with contextlib.suppress(docker.errors.DockerException, requests.exceptions.RequestException):
        with client_of(server) as client:
            rows = client.info()["SystemStatus"]
        return [row[1] for row in rows if row[0].endswith("Status") and row[1] == "Healthy"]
    return []


def docker_of(server: ServerProcess, *words: str, given: bytes = b"") -> str:
    done = subprocess.run(
        ["docker", "-H", f"tcp://{server.swarm_address}", *words],
        input=given,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def on_engines(pair: list[Engine]) -> list[str]:
    """Names of the containers that are really there, with those that are there twice twice."""
    found = []
    for engine in pair:
        with contextlib.closing(engine.client()) as client:
            found += [row["Names"][0].removeprefix("/") for row in client.containers(all=True)]
    return sorted(found)


def test_every_server_serves_docker_and_its_streams(servers: Servers) -> None:
    leader = servers.leader()
    for number, server in enumerate((leader, *servers.others(leader))):
        docker_of(server, "run", "-d", "--name", f"one{number}", "busybox", "sleep", "1000")
        words = "".join(f"word {word}\n" for word in range(WORDS))
        assert docker_of(server, "exec", "-i", f"one{number}", "cat", given=words.encode()) == words
        assert docker_of(server, "run", "-i", "--rm", "busybox", "cat", given=b"abc\n") == "abc\n"
    for server in servers.all:
        assert f"Primary: {leader.address}\n" in docker_of(server, "info")
        names = docker_of(server, "ps", "--format", "{{.Names}}").split()
        assert sorted(names) == ["one0", "one1", "one2"]


def test_what_clients_are_in_the_middle_of_ends_with_the_leader(
    servers: Servers, pair: list[Engine], tmp_path: Path
) -> None:
    """They come by a standby, which goes on."""
    leader = servers.leader()
    standby = servers.others(leader)[0]
    url = f"tcp://{standby.swarm_address}"
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 600\n")
    with going(url, "build", "-t", "never", str(folder)) as building:
        wait_until(lambda: "begun" in building.text(), "the step runs")
        seen = seen_of(url, ("-e", f"constraint:node=={pair[1].name}"), leader.kill)
        assert building.ended() != 0
    assert all(one.code != 0 and one.complaint for one in seen.values()), seen
    assert max(one.took_s for one in seen.values()) < CUT_WITHIN_S
    wait_until(lambda: len(healthy(standby)) == 2, lambda: f"both engines are in the pool; {servers.logs()}")
    assert sorted(docker_of(standby, "ps", "--format", "{{.Names}}").split()) == ["ran", "ticks"]
    assert docker_of(standby, "exec", "ticks", "echo", "inside") == "inside\n"
    assert "never" not in docker_of(standby, "images")


def test_what_moves_is_moved_by_the_next_leader(servers: Servers, pair: list[Engine], tmp_path: Path) -> None:
    leader = servers.leader()
    standby = servers.others(leader)[0]
    staying, leaving = pair
    there = ("-e", f"constraint:node==~{leaving.name}", "-e", "reschedule:on-node-failure")
    names = [f"moves{number}" for number in range(4)]
    for name in names:
        docker_of(standby, "run", "-d", "--name", name, *there, "busybox", "sleep", "1000")
    assert held(leaving).keys() == set(names)
    for pid in processes_naming(str(tmp_path / leaving.name)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    leaving.die()
    leader.kill()
    wait_until(lambda: held(staying) == dict.fromkeys(names, "running"), lambda: f"all move; {servers.logs()}", 90)
    leaving.revive()
    again = agent_of(leaving, servers.all, tmp_path)
    try:
        wait_until(lambda: not held(leaving), lambda: f"the copies are removed; {servers.logs()}")
        assert on_engines([staying]) == names
    finally:
        again.terminate()
        again.wait(DEADLINE_S)


def test_what_was_created_is_there_once_although_the_leader_is_killed(servers: Servers, pair: list[Engine]) -> None:
    leader = servers.leader()
    standby = servers.others(leader)[0]
    acknowledged: list[str] = []
    tried: list[str] = []
    stop = threading.Event()

    def create_all_the_time() -> None:
        number = 0
        while not stop.is_set():
            name = f"made{number}"
            number += 1
            tried.append(name)
            with (
                contextlib.suppress(docker.errors.DockerException, requests.exceptions.RequestException),
                client_of(standby) as client,
            ):
                client.create_container("busybox", "sleep 1000", name=name)
                acknowledged.append(name)
                continue
            stop.wait(REFUSED_PAUSE_S)

    creating = threading.Thread(target=create_all_the_time)
    creating.start()
    try:
        wait_until(lambda: len(acknowledged) >= 3, lambda: f"some are created; {servers.logs()}")
        leader.kill()
        before = len(acknowledged)
        wait_until(
            lambda: len(acknowledged) >= before + 3, lambda: f"some more are created; {servers.logs()}", 2 * DEADLINE_S
        )
    finally:
        stop.set()
        creating.join()

    def settled() -> bool:
        """The pool shows what is there: all that was acknowledged, and nothing twice."""
        with client_of(standby) as client:
            rows = client.containers(all=True)
        if any(row["Status"] == "Host Down" for row in rows):
            return False  # its agent has still to find the new leader
        return sorted(row["Names"][0].removeprefix("/") for row in rows) == on_engines(pair)

    wait_until(settled, lambda: f"the pool shows what its engines have; {servers.logs()}")
    there = on_engines(pair)
    assert len(there) == len(set(there))
    assert set(acknowledged) <= set(there) <= set(tried)
    for name in tried:
        with client_of(standby) as client:
            if name not in there:  # its name was not taken by an attempt that failed
                client.create_container("busybox", name=name)
            client.remove_container(name)
    assert on_engines(pair) == []
