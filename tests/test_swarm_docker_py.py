"""docker-py's own integration tests: what passes on one engine passes on the pool, but for a few that are named."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import docker_py_suite
import pytest
from engines import Engine
from swarm_pool import RunningPool
from twin_engines import clean

EXPECTED: Final = Path(__file__).with_name("docker_py_expected.txt")
#: Of one bare engine's 242.
PASSED_MIN: Final = 240
#: What may fail on one engine, too, is tried so often.
TRIES: Final = 4


@attrs.frozen
class Expected:
    """Names of tests. always: pass each time. racing: pass when tried again. different: test → why it may fail."""

    always: frozenset[str]
    racing: frozenset[str]
    different: dict[str, str]


def read(path: Path) -> Expected:
    marked: dict[str, dict[str, str]] = {"": {}, "?": {}, "-": {}}
    for line in path.read_text().splitlines():
        mark, rest = (line[0], line[2:]) if line[0] in "?-#" else ("", line)
        if mark != "#":
            name, _, reason = rest.partition(": ")
            assert bool(mark) == bool(reason), line
            marked[mark][name] = reason
    return Expected(frozenset(marked[""]), frozenset(marked["?"]), marked["-"])


@pytest.fixture
def tagged(twin_members: Sequence[Engine]) -> None:
    """Both engines have the images that the tests would take from a registry."""
    for engine in twin_members:
        clean(engine)
        with contextlib.closing(engine.client()) as client:
            for image in set(docker_py_suite.IMAGES) - {"busybox:latest"}:
                client.tag("busybox:latest", *image.split(":"))


@pytest.mark.alone
@pytest.mark.real
@pytest.mark.timeout(docker_py_suite.SUITE_TIMEOUT_S)
@pytest.mark.usefixtures("tagged")
def test_what_passes_on_one_engine_passes_on_the_pool(
    pool: RunningPool, twin_members: list[Engine], tmp_path: Path
) -> None:
    expected = read(EXPECTED)
    folder = docker_py_suite.unpack(docker_py_suite.fetched_tests(), tmp_path)
    try:
        found = docker_py_suite.run(pool.url, folder)
        output = (folder / "output.txt").read_text()
        for _ in range(TRIES - 1):
            if again := [test for test in expected.racing if found.get(test) != "passed"]:
                found |= docker_py_suite.run(pool.url, folder, "-k", " or ".join(map(_last_name, again)))
    finally:
        for one in twin_members:
            clean(one)
    passed = {test for test, outcome in found.items() if outcome == "passed"}
    assert not (expected.always | expected.racing) - passed, output[-20_000:]
    assert len(passed) >= PASSED_MIN
    unknown = passed - expected.always - expected.racing - expected.different.keys()
    assert not unknown, f"pass, and should be among those of {EXPECTED.name} that always do"


def _last_name(test: str) -> str:
    return test.rpartition(".")[2]
