"""Unpacking what may come from anybody: `.tar`, compressed or not, `.zip`, and single files in `.gz`.

Each member of an archive goes through the filter for data of `tarfile`: no absolute paths (a leading slash is dropped,
as tar and unzip do), nothing that leads out of the folder, no links out of it, no devices, no set-user-id bits. What
passes is written here, not by `tarfile`: never through a link, be it from this archive or from elsewhere, so that
nothing depends on whether the filter sees through every chain of links.
"""

from __future__ import annotations

import bz2  # noqa: F401
import encodings.cp437  # noqa: F401
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any, BinaryIO

from .budget import Budget, CannotFetch
from .transfers import CHUNK_BYTES

TARS = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
ZIP = ".zip"
GZIP = ".gz"
MEMBERS_MAX = 200_000
#: What a folder, a link or an empty file costs.
MEMBER_BYTES = 512

_BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def is_archive(name: str) -> bool:
    """By its name alone, as Mesos told."""
    return name.endswith((*TARS, ZIP, GZIP))


def unpack(archive: BinaryIO, name: str, folder: str, budget: Budget) -> None:
    """Into the folder. Raises CannotFetch, OSError for what is written."""
    try:
        if name.endswith(TARS):
            _unpack_all(_members_of_tar(archive), folder, budget)
        elif name.endswith(ZIP):
            _unpack_all(_members_of_zip(archive), folder, budget)
        else:
            single = tarfile.TarInfo(os.path.basename(name)[: -len(GZIP)])
            with gzip.open(archive) as content:
                _write(_checked(single, folder), content, folder, budget)
    except _BROKEN as error:
        raise CannotFetch(f"it cannot be unpacked: {error or type(error).__name__}") from None
    except (RuntimeError, NotImplementedError, UnicodeError, ValueError) as error:  # a password, an unknown method
        raise CannotFetch(f"it cannot be unpacked: {error}") from None


def _members_of_tar(archive: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    with tarfile.open(fileobj=archive, mode="r:*") as opened:
        for member in opened:
            yield member, opened.extractfile(member) if member.isreg() else None
            opened.members = []  # type: ignore[attr-defined]  # or an archive of many would fill the memory


def _members_of_zip(archive: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            member = tarfile.TarInfo(entry.filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            member.mode = (entry.external_attr >> 16) & 0o777 or 0o644
            if entry.is_dir():
                member.type = tarfile.DIRTYPE
                yield member, None
            elif kind == stat.S_IFLNK:
                member.type = tarfile.SYMTYPE
                with opened.open(entry) as link:
                    member.linkname = link.read(os.pathconf("/", "PC_PATH_MAX")).decode()
                yield member, None
            elif kind in (0, stat.S_IFREG):
                with opened.open(entry) as content:
                    yield member, content
            else:
                raise CannotFetch(f"{entry.filename!r} in it is neither a file nor a folder nor a link")


def _unpack_all(members: Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]], folder: str, budget: Budget) -> None:
    for number, (member, content) in enumerate(members):
        if number >= MEMBERS_MAX:
            raise CannotFetch(f"it has more than {MEMBERS_MAX} members")
        budget.take(MEMBER_BYTES)
        _write(_checked(member, folder), content, folder, budget)


def _checked(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Raises CannotFetch."""
    data_filter = getattr(tarfile, "data_filter", None)
    if data_filter is None:
        raise CannotFetch("archives are unpacked with Python 3.11.4 or later only")
    try:
        checked: tarfile.TarInfo = data_filter(member, folder)
    except tarfile.FilterError as error:
        raise CannotFetch(f"it is refused: {error}") from None
    return checked


def _write(member: tarfile.TarInfo, content: Any, folder: str, budget: Budget) -> None:
    parts = _parts(member.name)
    if member.isdir():
        _enter(folder, parts)
        return
    if not parts:
        raise CannotFetch(f"it is refused: {member.name!r} is no name")
    target = make_room(folder, parts)
    if member.issym():
        os.symlink(member.linkname, target)
    elif member.islnk():
        *parents, last = _parts(member.linkname)
        source = os.path.join(_enter(folder, parents), last)
        if not stat.S_ISREG(os.lstat(source).st_mode):
            raise CannotFetch(f"it is refused: {member.name!r} is a link to something that is not a file")
        os.link(source, target, follow_symlinks=False)
    else:
        with open(target, "xb") as file:
            while data := content.read(CHUNK_BYTES):
                budget.take(len(data))
                file.write(data)
            os.fchmod(file.fileno(), 0o755 if (member.mode or 0) & 0o100 else 0o644)


def _parts(name: str) -> list[str]:
    """Raises CannotFetch."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise CannotFetch(f"it is refused: {name!r} leads out of the task's folder")
    return parts


def make_room(folder: str, parts: Sequence[str]) -> str:
    """The path of a file that is to be made there, its folders made, an earlier one of its name removed. Raises
    CannotFetch."""
    path = os.path.join(_enter(folder, parts[:-1]), parts[-1])
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            raise CannotFetch(f"{'/'.join(parts)!r} would take the place of a folder")
        os.unlink(path)
    except FileNotFoundError:
        pass
    return path


def _enter(folder: str, parts: Sequence[str]) -> str:
    """The folder that is so many folders down, made where it is not there. Never through a link. Raises CannotFetch."""
    path = folder
    for part in parts:
        path = os.path.join(path, part)
        try:
            os.mkdir(path)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise CannotFetch(f"it is refused: {'/'.join(parts)!r} leads through a link or a file") from None
    return path
