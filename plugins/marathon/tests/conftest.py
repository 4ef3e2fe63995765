"""What the tests of Marathon share: its API over HTTP, and its framework alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from marathon_server import Server
from marathon_world import World

from orlop_marathon.settings import Config


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with Server(Config()) as made:
        yield made


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    yield shared
    shared.reset()


@pytest.fixture
def world() -> World:
    return World()
