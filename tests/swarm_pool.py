"""A pool as its users have it: a server whose agent has one engine, and remote agents of the others."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import docker
import pytest
import requests
from engines import Engine, Lane
from running import DEADLINE_S, RunningOrlop, free_port, wait_until
from twin_engines import tags_of, twins

#: What nodes of the session's pool say of themselves, in turn.
ATTRIBUTES: Final = ('{ storage = "ssd", rack = "r1" }', '{ storage = "disk", rack = "r2" }')


class RunningPool:
    """Real processes over real engines. url: DOCKER_HOST. settings: variables of all agents and the server."""

    def __init__(self, engines: Sequence[Engine], folder: Path, **settings: str) -> None:
        self.engines = engines
        self.folder = folder
        port = free_port()
        self.url = f"tcp://127.0.0.1:{port}"
        self._settings = settings
        self.server = RunningOrlop(
            folder,
            engines[0].url,
            ORLOP_AGENT__NAME=engines[0].name,
            ORLOP_PLUGINS__SWARM__LISTEN=f'["127.0.0.1:{port}"]',
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
            client.prune_networks()
            for volume in client.volumes()["Volumes"] or ():
                client.remove_volume(volume["Name"], force=True)
            for tag in tags_of(client):
                if tag != "busybox:latest":
                    client.remove_image(tag, force=True)
            client.prune_images({"dangling": True})

    def close(self) -> None:
        for agent in self.agents:
            agent.terminate()
        for agent in self.agents:
            agent.wait(DEADLINE_S)
        self.server.close()


@contextlib.contextmanager
def running_pool(engines: Sequence[Engine], folder: Path, **settings: str) -> Iterator[RunningPool]:
    pool = RunningPool(engines, folder, **settings)
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
