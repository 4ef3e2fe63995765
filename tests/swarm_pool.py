"""A pool as its users have it: a server whose agent has one engine, and remote agents of the others."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import docker
import pytest
import requests
from engines import Engine, Lane
from running import DEADLINE_S, RunningOrlop, free_port, wait_until
from twin_engines import twins


class RunningPool:
    """Real processes over real engines. url: DOCKER_HOST."""

    def __init__(self, engines: Sequence[Engine], folder: Path) -> None:
        self._engines = engines
        self._folder = folder
        port = free_port()
        self.url = f"tcp://127.0.0.1:{port}"
        self.server = RunningOrlop(
            folder,
            engines[0].url,
            ORLOP_AGENT__NAME=engines[0].name,
            ORLOP_PLUGINS__SWARM__LISTEN=f'["127.0.0.1:{port}"]',
        )
        self.agents: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Returns when all engines can be used."""
        self.server.start("--verbose")
        for engine in self._engines[1:]:
            self.agents.append(self._agent(engine))
        wait_until(self._complete, f"the pool has {len(self._engines)} engines; logs in {self._folder}")

    def _agent(self, engine: Engine) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "orlop", "agent", "--join", self.server.url]
        with (self._folder / f"{engine.name}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--data", str(self._folder / engine.name), "--verbose"],
                cwd=self._folder,
                env={**os.environ, "ORLOP_AGENT__DOCKER": engine.url, "ORLOP_AGENT__NAME": engine.name},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _complete(self) -> bool:
        try:
            with contextlib.closing(docker.APIClient(base_url=self.url, version="auto")) as client:
                status = client.info()["SystemStatus"]
        except (docker.errors.DockerException, requests.exceptions.RequestException):
            return False
        return [row[1] for row in status if row[0].strip(" └") == "Status"] == ["Healthy"] * len(self._engines)

    def close(self) -> None:
        for agent in self.agents:
            agent.terminate()
        for agent in self.agents:
            agent.wait(DEADLINE_S)
        self.server.close()


@contextlib.contextmanager
def running_pool(engines: Sequence[Engine], folder: Path) -> Iterator[RunningPool]:
    pool = RunningPool(engines, folder)
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
    """One pool of real processes for the whole session. A test leaves its engines as `twin_engines.clean` does."""
    with running_pool(twin_members, tmp_path_factory.mktemp("pool")) as running:
        yield running
