"""Docker's own CLIs cannot tell the pool from one engine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from engines import Engine
from swarm_pool import RunningPool
from swarm_side_by_side import STORIES, differences, play_on_both
from twin_engines import clean


@pytest.fixture(scope="module")
def alike(twin_members: list[Engine], engine: Engine) -> list[Engine]:
    """All engines, with busybox alone, whatever tests before have left."""
    engines = [*twin_members, engine]
    clean_all(engines)
    return engines


def clean_all(engines: Sequence[Engine]) -> None:
    with ThreadPoolExecutor() as all_at_once:
        list(all_at_once.map(clean, engines))


@pytest.mark.real
@pytest.mark.parametrize(("title", "cli"), [(title, cli) for title, story in STORIES.items() for cli in story.clients])
def test_the_cli_says_of_the_pool_what_it_says_of_one_engine(
    title: str, cli: str, pool: RunningPool, alike: list[Engine], engine: Engine, tmp_path: Path
) -> None:
    """An engine leaves some of what it says to chance, such as the order of a map: what differs has to do so twice."""

    def differing(folder: Path) -> dict[int, str]:
        folder.mkdir()
        try:
            of_pool, of_engine = play_on_both(cli, (pool.url, engine.url), lines, folder)
        finally:
            clean_all(alike)
        return dict(differences(lines, of_pool, of_engine))

    lines = STORIES[title].lines
    found = differing(tmp_path / "first")
    if found:
        found = {line: said for line, said in differing(tmp_path / "second").items() if line in found}
    assert not found, "\n\n".join(found.values())
