"""Docker's own CLIs cannot tell the pool from one engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path

import pytest
from engines import Engine
from swarm_pool import RunningPool
from swarm_side_by_side import CLIS, STORIES, play
from twin_engines import clean

THERE = [cli for cli in CLIS if Path(cli).exists()]


@pytest.mark.real
@pytest.mark.parametrize("cli", THERE)
@pytest.mark.parametrize("story", STORIES)
def test_the_cli_says_of_the_pool_what_it_says_of_one_engine(
    cli: str, story: str, pool: RunningPool, twin_members: list[Engine], engine: Engine, tmp_path: Path
) -> None:
    folders = [tmp_path / "pool", tmp_path / "engine"]
    for folder in folders:
        folder.mkdir()
    try:
        with ThreadPoolExecutor() as both:
            of_pool, of_engine = both.map(partial(play, cli), (pool.url, engine.url), repeat(STORIES[story]), folders)
    finally:
        for one in (*twin_members, engine):
            clean(one)
    assert [str(one) for one in of_pool] == [str(one) for one in of_engine]
