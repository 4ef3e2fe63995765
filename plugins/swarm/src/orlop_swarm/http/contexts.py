"""The context of a build: a tar archive, which may be compressed, with a Dockerfile in it.

Theory of operation. A build's place depends on the images that its Dockerfile names, so the head of the archive is read
before it goes anywhere, and sent on in front of the rest. Clients send a folder in the order of its names, and the
Dockerfile is a capital: mostly it comes early. What does not show it within `HEAD_BYTES_MAX`, packed or unpacked, is
placed without it.
"""

from __future__ import annotations

import asyncio
import bz2
import io
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import AsyncIterator
from typing import Final, Protocol

import attrs
from aiohttp import ClientPayloadError, web

from orlop_swarm.http import relaying
from orlop_swarm.http.problems import Problem

#: So much of a context is kept in memory, and so much of it unpacked.
HEAD_BYTES_MAX: Final = 8 * 2**20
#: It is looked into when so much has come, and each time that it is four times as much.
FIRST_LOOK_BYTES: Final = 64 * 1024
LOOK_AGAIN: Final = 4
#: A Dockerfile is no longer than this.
DOCKERFILE_BYTES_MAX: Final = 2**20
#: What the unpacking of an archive may take: that of `xz -9`.
LZMA_MEMORY_BYTES: Final = 80 * 2**20


@attrs.frozen
class Context:
    """dockerfile: its text; empty: it was not found. body: of the request, whole, from its begin."""

    dockerfile: str
    body: bytes | AsyncIterator[bytes]


async def read(request: web.Request, name: str) -> Context:
    """name: of the Dockerfile, as a path in the archive; empty: what engines look for. Raises Problem (400)."""
    if relaying.is_small(request):
        body = await relaying.small_body(request)
        found = await asyncio.to_thread(_found, body, name, whole=True)
        return Context(found or "", body)
    head, look_at, found = bytearray(), FIRST_LOOK_BYTES, None
    while found is None and len(head) < HEAD_BYTES_MAX and not request.content.at_eof():
        head += await _piece(request)
        if len(head) >= look_at or request.content.at_eof():
            found = await asyncio.to_thread(_found, bytes(head), name, whole=request.content.at_eof())
            look_at *= LOOK_AGAIN
    return Context(found or "", _from_its_begin(bytes(head), request))


async def _piece(request: web.Request) -> bytes:
    try:
        return await request.content.readany()
    except (ClientPayloadError, web.RequestPayloadError) as error:
        raise Problem(400, f"the request's body cannot be read: {error}") from None


async def _from_its_begin(head: bytes, request: web.Request) -> AsyncIterator[bytes]:
    if head:
        yield head
    async for piece in request.content.iter_any():
        yield piece


def _found(head: bytes, name: str, *, whole: bool) -> str | None:
    """The Dockerfile's text; None when more has to come first. whole: no more will come."""
    wanted = [posixpath.normpath("/" + one) for one in ([name] if name else ["Dockerfile", "dockerfile"])]
    seen: dict[str, str] = {}
    try:
        unpacked = _unpacked(head)
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
            for entry in archive:
                path = posixpath.normpath("/" + entry.name)
                if path in wanted and entry.isreg() and entry.size <= DOCKERFILE_BYTES_MAX:
                    if entry.offset_data + entry.size > len(unpacked):
                        return None
                    file = archive.extractfile(entry)
                    seen[path] = file.read().decode(errors="replace") if file is not None else ""
                    if path == wanted[0]:
                        return seen[path]
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
        pass  # cut off, or no archive at all
    return next(iter(seen.values()), "") if whole else None


class _Unpacking(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _unpacked(head: bytes) -> bytes:
    """As much of it as there is, and not more than the bound: a small archive may unpack to a very large one."""
    unpacking: _Unpacking
    if head.startswith(b"\x1f\x8b"):
        unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    elif head.startswith(b"BZh"):
        unpacking = bz2.BZ2Decompressor()
    elif head.startswith(b"\xfd7zXZ\x00"):
        unpacking = lzma.LZMADecompressor(memlimit=LZMA_MEMORY_BYTES)
    else:
        return head
    return unpacking.decompress(head, HEAD_BYTES_MAX)
