"""A pool as its users have it: a server whose agent has one engine, and remote agents of the others."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import docker
import pytest
import requests
from certificates import Certificates
from engines import Engine, Lane
from ports import free_port
from running import DEADLINE_S, RunningOrlop, end_processes_of, wait_until
from stream_checks import Entrance
from twin_engines import clear_all_but_containers, twins

#: What nodes of the session's pool say of themselves, in turn.
ATTRIBUTES: Final = ('{ storage = "ssd", rack = "r1" }', '{ storage = "disk", rack = "r2" }')


class RunningPool:
    """Real processes over real engines. url: DOCKER_HOST. settings: variables of all agents and the server.

    certificates: the cluster asks for authentication, so that agents come over TLS; and so do Docker's clients, with
    one of these, unless they use the Unix socket, which is the `url` then.
    """

    def __init__(
        self, engines: Sequence[Engine], folder: Path, certificates: Certificates | None = None, **settings: str
    ) -> None:
        self.engines = engines
        self.folder = folder
        address = f"127.0.0.1:{free_port()}"
        self.url = f"tcp://{address}" if certificates is None else f"unix://{folder}/docker.sock"
        self.entrances = {"tcp" if certificates is None else "tls": Entrance(f"tcp://{address}", certificates)}
        self._settings = settings
        self._secure = certificates is not None
        listening = [address]
        if certificates is not None:
            self.entrances["unix"] = Entrance(self.url)
            listening.append(self.url)
        self.server = RunningOrlop(
            folder,
            engines[0].url,
            ORLOP_AGENT__NAME=engines[0].name,
            ORLOP_PLUGINS__SWARM__LISTEN=json.dumps(listening),
            **_asking_for(certificates),
            **self._of(0),
        )
        self.agents: list[subprocess.Popen[bytes]] = []

    def _of(self, position: int) -> Mapping[str, str]:
        return {"ORLOP_AGENT__ATTRIBUTES": ATTRIBUTES[position % len(ATTRIBUTES)], **self._settings}

    def start(self) -> None:
        """Returns when all engines can be used."""
        self.server.start("--verbose")
        for position in range(1, len(self.engines)):
            self.agents.append(self._agent(position))
        wait_until(self.complete, f"the pool has {len(self.engines)} engines; logs in {self.folder}")

    def _agent(self, position: int) -> subprocess.Popen[bytes]:
        engine = self.engines[position]
        command = [sys.executable, "-m", "orlop", "agent", "--join", self.server.url]
        if self._secure:
            command += ["--token", self.server.cli("token", "create").strip()]
        with (self.folder / f"{engine.name}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--data", str(self.folder / engine.name), "--verbose"],
                cwd=self.folder,
                env={
                    **os.environ,
                    "ORLOP_AGENT__DOCKER": engine.url,
                    "ORLOP_AGENT__NAME": engine.name,
                    **self._of(position),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill_agent(self, engine: Engine) -> None:
        """kill -9 of the remote agent of this engine, which goes on."""
        agent = self.agents[self.engines.index(engine) - 1]
        agent.kill()
        agent.wait()

    def start_agent(self, engine: Engine) -> None:
        """After `kill_agent`; does not wait for it."""
        position = self.engines.index(engine)
        self.agents[position - 1] = self._agent(position)

    def die(self, engine: Engine) -> None:
        """The machine is gone: agent, engine, containers."""
        self.kill_agent(engine)
        engine.die()

    def revive(self, engine: Engine) -> None:
        """After `die`; does not wait until it is in the pool."""
        engine.revive()
        self.start_agent(engine)

    def restore(self) -> None:
        """Who is dead is revived; returns when all engines can be used and have been cleared."""
        for engine in self.engines[1:]:
            if not engine.running:
                self.revive(engine)
        wait_until(self.complete, "all engines are back")
        self.clear()

    def complete(self) -> bool:
        """Can all engines be used?"""
        try:
            with self.client() as client:
                status = client.info()["SystemStatus"]
        except (docker.errors.DockerException, requests.exceptions.RequestException):
            return False
        return [row[1] for row in status if row[0].strip(" └") == "Status"] == ["Healthy"] * len(self.engines)

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.APIClient]:
        with contextlib.closing(docker.APIClient(base_url=self.url, version="auto", timeout=60)) as client:
            yield client

    def docker(
        self, *words: str, code: int | None = 0, given: bytes = b"", deadline_s: float = 60.0, cli: str = "docker"
    ) -> str:
        """What the `docker` program says, on both of its outputs. code: what it has to end with; None: anything."""
        done = subprocess.run(
            [cli, "-H", self.url, *words], input=given, capture_output=True, timeout=deadline_s, check=False
        )
        told = (done.stdout + done.stderr).decode()
        assert code is None or done.returncode == code, f"docker {' '.join(words)}: {done.returncode}, {told}"
        return told

    def run(self, name: str, *options: str, command: str = "sleep 1000") -> str:
        """The node that a container which runs in the background is on."""
        self.docker("run", "-d", "--name", name, *options, "busybox", *command.split())
        return self.node(name)

    def node(self, name: str) -> str:
        return self.docker("inspect", "-f", "{{.Node.Name}}", name).strip()

    def clear(self) -> None:
        """Leaves the engines as they were, and the kernel without containers."""
        with self.client() as client:
            for container in client.containers(all=True):
                with contextlib.suppress(docker.errors.NotFound):
                    client.remove_container(container["Id"], force=True, v=True)
            clear_all_but_containers(client)

    def close(self) -> None:
        for agent in self.agents:
            agent.terminate()
        for agent in self.agents:
            agent.wait(DEADLINE_S)
        for engine in self.engines[1:]:
            end_processes_of(self.folder / engine.name)
        self.server.close()


def _asking_for(certificates: Certificates | None) -> Mapping[str, str]:
    """The server's variables."""
    if certificates is None:
        return {}
    return {
        "ORLOP_SERVER__AUTH": "on",
        "ORLOP_PLUGINS__SWARM__TLS_CERT": str(certificates.server_cert),
        "ORLOP_PLUGINS__SWARM__TLS_KEY": str(certificates.server_key),
        "ORLOP_PLUGINS__SWARM__TLS_CA": str(certificates.authority),
    }


@contextlib.contextmanager
def running_pool(
    engines: Sequence[Engine], folder: Path, certificates: Certificates | None = None, **settings: str
) -> Iterator[RunningPool]:
    """See `RunningPool`."""
    pool = RunningPool(engines, folder, certificates, **settings)
    try:
        pool.start()
        yield pool
    finally:
        pool.close()


@pytest.fixture(scope="session")
def twin_members(engines: Lane) -> list[Engine]:
    """Two engines with the very same image. They are the pool's; a test that stops one starts it again."""
    return twins(engines, "epsilon", "zeta")


@pytest.fixture(scope="session")
def pool(twin_members: list[Engine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    """One pool of real processes for the whole session. A test leaves its engines as `clear` does."""
    with running_pool(twin_members, tmp_path_factory.mktemp("pool")) as running:
        yield running


@pytest.fixture
def clean_pool(pool: RunningPool) -> Iterator[RunningPool]:
    """The session's pool, cleared afterwards."""
    try:
        yield pool
    finally:
        pool.clear()
