"""The Dockerfile of a build's context, found in the head of a stream, and the images that it names."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from orlop_swarm.dockerfiles import IMAGES_MAX, images
from orlop_swarm.http import contexts

MANY = 2**20


def archive(*files: tuple[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM busybox", ["busybox"]),
        ("from busybox:1 as one\nFROM One\nFROM scratch\nCOPY --from=0 /a /b\nCOPY --from=ONE /a /b", ["busybox:1"]),
        ("FROM a\nCOPY --chown=1 --from=tools:2 /x /y\nCOPY x --from=no /y", ["a", "tools:2"]),
        ("FROM a\nRUN --mount=type=bind,from=tools:3,target=/t ls --mount=type=x,from=no", ["a", "tools:3"]),
        ("# a comment\nARG TAG=7\nARG NAME\nARG BASE=app:$TAG\nFROM --platform=linux/amd64 ${BASE}", ["app:7"]),
        ("ARG NAME\nFROM ${NAME:-other}", ["given"]),
        ("ARG UNSET\nFROM ${UNSET:-other}", ["other"]),
        ("ARG OTHER=1\nFROM x${OTHER:+-slim}\nARG TAG=2", ["x-slim"]),
        ("FROM \\\n# in between\n  long\\\n\nRUN true", ["long"]),
        ("# escape=`\nFROM `\n  windows", ["windows"]),
        ('ARG Q="quoted"\nFROM "$Q"', ["quoted"]),
        ("FROM a AS one\nFROM b AS two\nFROM c", ["a", "b"]),
        ("FROM\nCOPY\nARG\nnonsense \x00", []),
        ("\n".join(f"FROM image{number}" for number in range(100)), [f"image{number}" for number in range(IMAGES_MAX)]),
    ],
)
def test_images_that_a_build_needs(text: str, expected: list[str]) -> None:
    target = "TWO" if " AS two" in text else ""
    assert images(text, {"NAME": "given", "UNSET": None}, target) == expected


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("before", [0, MANY])
async def test_the_dockerfile_is_found_and_the_context_goes_on_as_it_came(
    pack: Callable[[bytes], bytes], before: int
) -> None:
    files = [(".git/pack", os.urandom(before)), ("Dockerfile", b"FROM one"), ("z", os.urandom(MANY))]
    for name, expected in (("", "FROM one"), ("./Dockerfile", "FROM one"), ("sub/../Dockerfile", "FROM one")):
        assert await read(pack(archive(*files)), name) == expected
    assert await read(pack(archive(*files, ("of/mine", b"FROM two"))), "of/mine") == "FROM two"


async def test_a_name_in_small_letters_will_do_if_there_is_no_other() -> None:
    small = ("dockerfile", b"FROM small")
    assert await read(archive(small, ("z", b"z" * MANY)), "") == "FROM small"
    assert await read(archive(small, ("z", b"z" * MANY), ("Dockerfile", b"FROM one")), "") == "FROM one"


async def test_what_is_far_behind_or_no_archive_is_not_looked_for_and_goes_on() -> None:
    late = archive(("a", b"\0" * 2 * contexts.HEAD_BYTES_MAX), ("Dockerfile", b"FROM late"))
    for body in (late, gzip.compress(late), gzip.compress(late) + os.urandom(MANY)):
        assert await read(body, "") == ""
    for body in (b"", b"\x1f\x8b" + os.urandom(MANY), os.urandom(MANY), archive(("Dockerfile", b"FROM x"))[:514]):
        assert await read(body, "") == ""


async def read(body: bytes, name: str) -> str:
    """What is found. Fails when the body that would go on is another one."""
    contents: list[Any] = []

    async def handle(request: web.Request) -> web.Response:
        context = await contexts.read(request, name)
        rest = context.body
        whole = rest if isinstance(rest, bytes) else b"".join([piece async for piece in rest])
        contents.extend((context.dockerfile, whole))
        return web.Response()

    async def chunks() -> Any:
        for begin in range(0, len(body), 100_000):
            yield body[begin : begin + 100_000]

    application = web.Application()
    application.router.add_post("/", handle)
    async with TestClient(TestServer(application)) as client, client.post("/", data=chunks()) as response:
        assert response.status == 200
    dockerfile, whole = contents
    assert whole == body
    return str(dockerfile)
