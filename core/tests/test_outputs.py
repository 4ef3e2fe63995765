"""What is kept of tasks' output when all else of them is gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.agent.runtimes.interface import UnknownTask
from orlop.agent.runtimes.outputs import EXCERPT_BYTES, Excerpt, Outputs, excerpt_of


@given(st.lists(st.integers(0, EXCERPT_BYTES * 2), max_size=6))
def test_an_excerpt_is_the_beginning_and_the_end(sizes: list[int]) -> None:
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    whole = b"".join(pieces)
    found = excerpt_of(pieces)
    assert found.head == whole[:EXCERPT_BYTES]
    assert found.tail == whole[EXCERPT_BYTES:][-EXCERPT_BYTES:]
    assert found.left_out == max(0, len(whole) - 2 * EXCERPT_BYTES)


def test_what_is_missing_is_said() -> None:
    assert bytes(Excerpt(b"a", b"z", 3)) == b"a\n[... 3 bytes are left out ...]\nz"
    assert bytes(Excerpt(b"a", b"z")) == b"az"


def test_a_task_that_wrote_nothing_is_not_one_that_nobody_knows(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "outputs")
    outputs.keep("quiet", {})
    assert outputs.read("quiet", "stdout") == outputs.read("quiet", "stderr") == b""
    for unknown in ("unknown", "", "..", "../outputs/quiet", "quiet\0"):
        with pytest.raises(UnknownTask, match="has no output on this node"):
            outputs.read(unknown, "stdout")


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "outputs")
    outputs.keep("a", {"stdout": Excerpt(b"secret")})
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "outputs", tmp_path / "outputs" / "a.stdout")]
    assert modes == [0o700, 0o600]


@pytest.mark.parametrize(("bytes_max", "files_max"), [(100, 10_000), (10_000, 10)])
def test_the_oldest_go_when_there_is_no_room(bytes_max: int, files_max: int, tmp_path: Path) -> None:
    folder = tmp_path / "outputs"
    for number in range(30):
        # Each time made anew, as by an agent that was restarted: what there is has to be counted.
        outputs = Outputs(folder, bytes_max, files_max)
        outputs.keep(f"t{number}", {"stdout": Excerpt(b"0123456789")})
        os.utime(folder / f"t{number}.stdout", (number, number))
    left = sorted(int(path.stem[1:]) for path in folder.iterdir())
    assert left == list(range(30 - len(left), 30))
    assert 8 <= len(left) <= 10


def test_keeping_again_replaces(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path, bytes_max=25)
    for _ in range(10):
        outputs.keep("a", {"stdout": Excerpt(b"0123456789")})
    outputs.keep("b", {"stdout": Excerpt(b"0123456789")})
    assert outputs.read("a", "stdout") == outputs.read("b", "stdout") == b"0123456789"
