"""Archives that may come from anybody are unpacked into their folder, or refused; never elsewhere."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orlop.agent.fetcher import archives
from orlop.agent.fetcher.budget import Budget, CannotFetch

Member = tuple[str, bytes | str | None, bytes]


def packed_tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, mode
    return made


def packed_zip(*members: tuple[str, bytes, int]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "task"
    made.mkdir()
    return made


def unpack(content: bytes, name: str, folder: Path, bytes_max: int = 10_000_000) -> None:
    archives.unpack(io.BytesIO(content), name, str(folder), Budget(bytes_max))


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


GOOD = packed_tar(
    (member("bin/run", mode=0o4755), b"run"),
    (member("data"), b"data"),
    (member("empty", tarfile.DIRTYPE), b""),
    (member("lib/soft", tarfile.SYMTYPE, "../bin/run"), b""),
    (member("hard", tarfile.LNKTYPE, "data"), b""),
)


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.tar", bytes),
        ("a.tar.gz", gzip.compress),
        ("a.tgz", gzip.compress),
        ("a.tar.bz2", bz2.compress),
        ("a.tbz2", bz2.compress),
        ("a.tar.xz", lzma.compress),
        ("a.txz", lzma.compress),
    ],
)
def test_tar(name: str, compress: Callable[[bytes], bytes], folder: Path) -> None:
    assert archives.is_archive(name)
    unpack(compress(GOOD), name, folder)
    assert everything(folder) == {"bin", "bin/run", "data", "empty", "lib", "lib/soft", "hard"}
    assert (folder / "lib/soft").read_bytes() == b"run"
    assert (folder / "hard").samefile(folder / "data")
    assert stat.S_IMODE((folder / "bin/run").stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "data").stat().st_mode) == 0o644


def test_zip(folder: Path) -> None:
    content = packed_zip(
        ("bin/run", b"run", stat.S_IFREG | 0o755),
        ("data", b"data", 0),
        ("empty/", b"", stat.S_IFDIR | 0o755),
        ("link", b"bin/run", stat.S_IFLNK | 0o777),
    )
    unpack(content, "a.zip", folder)
    assert everything(folder) == {"bin", "bin/run", "data", "empty", "link"}
    assert (folder / "link").read_bytes() == b"run"
    assert os.access(folder / "bin/run", os.X_OK)
    assert stat.S_IMODE((folder / "data").stat().st_mode) == 0o644


def test_a_single_compressed_file(folder: Path) -> None:
    unpack(gzip.compress(b"words"), "deep/words.txt.gz", folder)
    assert (folder / "words.txt").read_bytes() == b"words"


def test_other_names_are_no_archives() -> None:
    assert not any(map(archives.is_archive, ("a", "tar", "a.rar", "a.tar.zst", "a.tgz.sig", "a.jar")))


def test_what_is_there_from_an_earlier_attempt_is_replaced(folder: Path) -> None:
    unpack(GOOD, "a.tar", folder)
    (folder / "data").write_bytes(b"older and longer")
    (folder / "data").chmod(0o400)
    unpack(GOOD, "a.tar", folder)
    assert (folder / "data").read_bytes() == b"data"


def test_an_absolute_name_stays_below_the_folder(folder: Path, tmp_path: Path) -> None:
    unpack(packed_tar((member(f"{tmp_path}/evil"), b"x")), "a.tar", folder)
    assert not (tmp_path / "evil").exists()
    assert (folder / str(tmp_path).lstrip("/") / "evil").read_bytes() == b"x"


EVIL = {
    "leads out": packed_tar((member("../evil"), b"x")),
    "leads out and in again": packed_tar((member("a/../../evil"), b"x")),
    "stays below, on a detour": packed_tar((member("a/../b"), b"x")),
    "link out": packed_tar((member("out", tarfile.SYMTYPE, "../.."), b"")),
    "absolute link": packed_tar((member("out", tarfile.SYMTYPE, "/etc/passwd"), b"")),
    "hard link out": packed_tar((member("out", tarfile.LNKTYPE, "../secret"), b"")),
    "hard link to a link": packed_tar(
        (member("here", tarfile.SYMTYPE, "nowhere"), b""), (member("out", tarfile.LNKTYPE, "here"), b"")
    ),
    "through a link": packed_tar(
        (member("in", tarfile.DIRTYPE), b""),
        (member("through", tarfile.SYMTYPE, "in"), b""),
        (member("through/evil"), b"x"),
    ),
    "device": packed_tar((member("null", tarfile.CHRTYPE), b"")),
    "pipe": packed_tar((member("pipe", tarfile.FIFOTYPE), b"")),
    "in place of a folder": packed_tar((member("a/b"), b"x"), (member("a"), b"x")),
    "no name": packed_tar((member("."), b"x")),
}


@pytest.mark.parametrize("kind", EVIL)
def test_an_evil_tar_is_refused(kind: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with pytest.raises(CannotFetch):
        unpack(EVIL[kind], "a.tar", folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "task"]
    assert not any(path.name in ("evil", "out", "null", "pipe") for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "entry",
    [
        ("../evil", b"x", stat.S_IFREG | 0o644),
        ("out", b"../..", stat.S_IFLNK | 0o777),
        ("out", b"/etc/passwd", stat.S_IFLNK | 0o777),
        ("null", b"", stat.S_IFCHR | 0o666),
    ],
)
def test_an_evil_zip_is_refused(entry: tuple[str, bytes, int], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotFetch):
        unpack(packed_zip(entry), "a.zip", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["task"]
    assert everything(folder) == set()


def test_a_link_that_was_there_before_is_not_followed(folder: Path, tmp_path: Path) -> None:
    """Whatever the filter of the standard library thinks of it."""
    (tmp_path / "elsewhere").mkdir()
    (folder / "lib").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotFetch):
        unpack(packed_tar((member("lib/evil"), b"x")), "a.tar", folder)
    with pytest.raises(CannotFetch, match="leads through a link"):
        archives.make_room(str(folder), ["lib", "evil"])
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tar.gz", gzip.compress(packed_tar((member("zeros"), bytes(5_000_000))))),
        ("a.zip", packed_zip(("zeros", bytes(5_000_000), 0))),
        ("zeros.gz", gzip.compress(bytes(5_000_000))),
        ("a.tar", packed_tar(*((member(f"{number}"), b"") for number in range(3000)))),
    ],
)
def test_a_bomb_is_stopped_at_the_bound(name: str, content: bytes, folder: Path) -> None:
    with pytest.raises(CannotFetch, match=r"too large: a task may bring 976\.6 KiB here"):
        unpack(content, name, folder, bytes_max=1_000_000)
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 1_000_000


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.txz", "a.zip", "a.gz"])
def test_what_is_no_archive_is_named(name: str, folder: Path) -> None:
    with pytest.raises(CannotFetch, match="it cannot be unpacked"):
        unpack(b"<html>not found</html>" * 100, name, folder)


@pytest.mark.parametrize(("name", "content"), [("a.tgz", gzip.compress(GOOD)), ("a.zip", packed_zip(("a", b"b", 0)))])
def test_a_piece_of_an_archive_is_refused(name: str, content: bytes, folder: Path) -> None:
    with pytest.raises(CannotFetch, match="it cannot be unpacked"):
        unpack(content[: len(content) // 2], name, folder)
