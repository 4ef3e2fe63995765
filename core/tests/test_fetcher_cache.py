"""What is kept for other tasks: bounded, whole, and never taken away from under somebody."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from file_server import FileServer

from orlop.agent.fetcher.budget import Budget, CannotFetch
from orlop.agent.fetcher.cache import KEY_LENGTH, Cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


def take(cache: Cache, uri: str) -> bytes:
    with cache.get(uri, Budget(1_000_000)) as content:
        return content.read()


def contents(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if len(path.name) == KEY_LENGTH]


def test_a_use_is_one_question(folder: Path, file_server: FileServer) -> None:
    file_server.files = {"/a": b"a"}
    cache = Cache(str(folder), 1000)
    assert [take(cache, file_server.url("/a")) for _ in range(3)] == [b"a"] * 3
    assert file_server.statuses("/a") == [200, 304, 304]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_queries_and_credentials_make_another_content(folder: Path, file_server: FileServer) -> None:
    file_server.files = {"/a": b"a"}
    cache = Cache(str(folder), 1000)
    for uri in (file_server.url("/a"), file_server.url("/a?b=c"), file_server.url("/a", credentials="me:secret@")):
        take(cache, uri)
    assert [status for _, status in file_server.asked] == [200, 200, 200]
    assert len(contents(folder)) == 3


def test_half_a_download_is_no_content(folder: Path, file_server: FileServer) -> None:
    file_server.files, file_server.short = {"/a": b"whole"}, {"/a"}
    cache = Cache(str(folder), 1000)
    with pytest.raises(CannotFetch, match="the server ended after 5 of 6 bytes"):
        cache.get(file_server.url("/a"), Budget(1000))
    assert list(folder.iterdir()) == []
    file_server.short.clear()
    assert take(cache, file_server.url("/a")) == b"whole"
    file_server.files["/a"], file_server.short = b"newer", {"/a"}
    assert take(cache, file_server.url("/a")) == b"whole", "what is here is good enough"


def test_what_killed_downloads_have_left_is_removed(folder: Path, file_server: FileServer) -> None:
    file_server.files = {"/a": b"a"}
    cache = Cache(str(folder), 1000)
    take(cache, file_server.url("/a"))
    left, busy = folder / ("0" * KEY_LENGTH + ".part"), folder / ("1" * KEY_LENGTH + ".part")
    for part in (left, busy):
        part.write_bytes(b"half")
        part.with_suffix(".lock").touch()
    with busy.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cache.shrink()
        assert busy.exists(), "somebody is downloading it"
    assert not left.exists()
    assert not left.with_suffix(".lock").exists()
    cache.shrink()
    assert not busy.exists()
    assert len(contents(folder)) == 1


def test_what_was_not_used_for_longest_goes_first(folder: Path, file_server: FileServer) -> None:
    file_server.files = {f"/{name}": name.encode() * 400 for name in "abc"}
    cache = Cache(str(folder), 1000)
    ages: dict[Path, int] = {}
    for age, name in enumerate("abc"):
        take(cache, file_server.url(f"/{name}"))
        (made,) = set(contents(folder)) - set(ages)
        ages[made] = age
        os.utime(made, (age, age))
    taken = cache.get(file_server.url("/a"), Budget(1000))
    with taken:
        cache.shrink()
        assert {path.read_bytes()[:1] for path in contents(folder)} == {b"a", b"c"}
        Cache(str(folder), 0).shrink()
        assert list(folder.iterdir()) == []
        assert taken.read() == b"a" * 400, "whoever has it can read it"


def test_a_record_that_cannot_be_read_is_no_record(folder: Path, file_server: FileServer) -> None:
    file_server.files = {"/a": b"a"}
    cache = Cache(str(folder), 1000)
    take(cache, file_server.url("/a"))
    (content,) = contents(folder)
    for text in ("", "[]", '{"v": 2, "conditions": {"If-None-Match": "x"}}', '{"v": 1}'):
        content.with_name(content.name + ".known").write_text(text)
        assert take(cache, file_server.url("/a")) == b"a"
    assert file_server.statuses("/a") == [200] * 5


def test_what_was_known_of_one_content_is_not_said_of_another(folder: Path, file_server: FileServer) -> None:
    file_server.files = {"/a": b"one"}
    cache = Cache(str(folder), 1000)
    assert take(cache, file_server.url("/a")) == b"one"
    file_server.stated, file_server.files["/a"] = False, b"two"
    assert take(cache, file_server.url("/a")) == b"two"
    file_server.stated, file_server.files["/a"] = True, b"one"
    assert take(cache, file_server.url("/a")) == b"one"
