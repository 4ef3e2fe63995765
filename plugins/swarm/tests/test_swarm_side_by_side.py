"""Docker's own CLIs cannot tell the pool from one engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from engines import Engine
from swarm_pool import RunningPool
from swarm_side_by_side import STORIES, THERE, play_on_both
from twin_engines import clean


@pytest.mark.real
@pytest.mark.parametrize("cli", THERE)
@pytest.mark.parametrize("story", STORIES)
def test_the_cli_says_of_the_pool_what_it_says_of_one_engine(
    cli: str, story: str, pool: RunningPool, twin_members: list[Engine], engine: Engine, tmp_path: Path
) -> None:
    try:
        of_pool, of_engine = play_on_both(cli, (pool.url, engine.url), STORIES[story], tmp_path)
    finally:
        for one in (*twin_members, engine):
            clean(one)
    assert of_pool == of_engine
