"""What the docker runtime's tests against a real engine share."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import docker.errors
import pytest
from docker_driver import NUMBERS
from engines import Engine

from orlop.agent.runtimes.interface import (
    RuntimeContext,
)


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[docker.APIClient]:
    with contextlib.closing(engine.client()) as client:
        yield client


@pytest.fixture
def context(engine: Engine, tmp_path: Path) -> RuntimeContext:
    return RuntimeContext(
        cluster_id="c1", node_id=f"node-{next(NUMBERS)}", data=tmp_path, tasks=tmp_path, docker=engine.url
    )


@pytest.fixture(autouse=True)
def _no_containers_left(engine: Engine) -> Iterator[None]:
    yield
    if not engine.running:
        engine.start()
    engine.clear()
    gc.collect()  # here, where what it may find of docker-py is not an error


@pytest.fixture
def hanging(engine: Engine) -> Iterator[Callable[[], None]]:
    """Makes the engine hang, at the latest until the test's end."""
    yield engine.hang
    engine.go_on()
