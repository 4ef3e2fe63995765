"""Docker's longer answers and bodies as its clients see them: files, images, and what is told as it happens."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Final

from stream_checks import LARGE, WITHIN_S, Way

SMALL_BYTES: Final = 2**20
TICKING: Final = "trap 'exit 3' TERM; i=0; while [ ! -e /end ]; do i=$((i+1)); echo tick $i; sleep 0.1; done; exit 4"


def packed(**files: bytes) -> bytes:
    """An archive of these files."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as writer:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            writer.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def header(name: str, size: int) -> bytes:
    """What begins an archive: the file's bytes follow."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf()


def file_of(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as reader:
        found = reader.extractfile(name)
        assert found is not None
        return found.read()


def good(told: tuple[int, bytes]) -> bytes:
    code, out = told
    assert code == 0, out[-500:]
    return out


def files_go_in_and_come_out(way: Way) -> None:
    """Fifty megabytes."""
    good(way.call("cp", "-", f"{way.container}:/tmp", sent=packed(large=LARGE)))
    assert file_of(good(way.call("cp", f"{way.container}:/tmp/large", "-")), "large") == LARGE
    assert file_of(good(way.call("export", way.container)), "tmp/large") == LARGE
    way.execute("rm", "/tmp/large")


def images_are_built_saved_and_loaded(way: Way) -> None:
    given = os.urandom(SMALL_BYTES)
    name = f"made-{secrets.token_hex(4)}"
    where = ("--build-arg", way.place[1])
    context = packed(Dockerfile=b"FROM busybox\nCOPY given /\nRUN echo a step\n", given=given)
    said = good(way.call("build", *where, "-t", name, "-", sent=context))
    assert b"\na step\n" in said
    made = good(way.call("inspect", "-f", "{{.Id}}", name))
    archive = good(way.call("save", name))
    good(way.call("rmi", name))
    assert name.encode() in good(way.call("load", sent=archive))
    assert good(way.call("inspect", "-f", "{{.Id}}", name)) == made
    assert way.run(name, "cat", "/given") == (0, given)
    good(way.call("rmi", name))


@contextlib.contextmanager
def following(way: Way, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Such a command, and its output, which is to be read while it goes on."""
    with subprocess.Popen(way.command(*words), stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        try:
            yield running, running.stdout
        finally:
            running.kill()


def what_happens_is_told_at_once(way: Way) -> None:
    name = f"ticks-{secrets.token_hex(4)}"
    good(way.call("create", "--name", name, *way.place, "busybox", "sh", "-c", TICKING))
    told = ("--filter", f"container={name}", "--format", "{{.Action}}")
    with following(way, "events", "--since", "1h", *told) as (_, events):
        assert events.readline() == b"create\n"
        good(way.call("start", name))
        assert events.readline() == b"start\n"
        with (
            following(way, "wait", name) as (waiting, ended),
            following(way, "logs", "-f", name) as (logging, logs),
            following(way, "stats", "--format", "{{.Name}}", name) as (_, stats),
        ):
            assert [logs.readline() for _ in range(3)] == [b"tick 1\n", b"tick 2\n", b"tick 3\n"]
            assert name.encode() in stats.readline() + stats.readline()
            assert waiting.poll() is logging.poll() is None
            good(way.call("exec", name, "touch", "/end"))
            assert logs.read().splitlines()[-1].startswith(b"tick ")
            assert logging.wait(WITHIN_S) == 0
            assert ended.readline() == b"4\n"
        while (event := events.readline()) != b"die\n":
            assert event.startswith(b"exec_"), event
    good(way.call("rm", name))


CONTENT_CHECKS: Final[Sequence[Callable[[Way], None]]] = (
    files_go_in_and_come_out,
    images_are_built_saved_and_loaded,
    what_happens_is_told_at_once,
)
