"""Docker's own CLIs cannot tell the pool from one engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from direct_engines import Host, Served, served
from engines import Engine
from swarm_side_by_side import CLIS, STORIES, play

THERE = [cli for cli in CLIS if Path(cli).exists()]


@pytest.fixture(scope="module")
def pool(members: list[Engine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    hosts = [Host(one.name, one.address, one.url.removeprefix("unix://")) for one in members]
    with served(hosts, tmp_path_factory.mktemp("pool")) as api:
        yield api


@pytest.mark.parametrize("cli", THERE)
@pytest.mark.parametrize("story", STORIES)
def test_the_cli_says_of_the_pool_what_it_says_of_one_engine(
    cli: str, story: str, pool: Served, members: list[Engine], engine: Engine, tmp_path: Path
) -> None:
    folders = [tmp_path / "pool", tmp_path / "engine"]
    for folder in folders:
        folder.mkdir()
    try:
        of_pool = play(cli, pool.url, STORIES[story], folders[0])
        of_engine = play(cli, engine.url, STORIES[story], folders[1])
    finally:
        for one in (*members, engine):
            one.clear()
    assert [str(one) for one in of_pool] == [str(one) for one in of_engine]
