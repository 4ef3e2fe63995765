"""Long answers are on their way, or packed, beside their making."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Final

import attrs
from aiohttp import hdrs, web

#: What is sent, or packed in another thread, at once. Shorter answers are sent when they are whole, like all others.
BLOCK_BYTES: Final = 2**20
#: Of zlib: jobs are much alike, so that the quickest level makes little more of them than the usual one.
_LEVEL: Final = 1
_GZIP: Final = 16 + zlib.MAX_WBITS


async def answer_in_parts(request: web.Request, parts: AsyncIterator[bytes], content_type: str) -> web.StreamResponse:
    """The parts as one body. If there is much of it, it is packed where the client takes gzip, and sent while it is
    made where the client takes it as it is.

    Raises ConnectionError when a client that it is being sent to has gone.
    """
    accepted = request.headers.get(hdrs.ACCEPT_ENCODING, "").casefold()
    if "gzip" in accepted:
        return await _answer_packed(parts, content_type)
    if "deflate" in accepted:
        return web.Response(body=b"".join([part async for part in parts]), content_type=content_type)
    return await _answer_plain(request, parts, content_type)


async def _answer_plain(request: web.Request, parts: AsyncIterator[bytes], content_type: str) -> web.StreamResponse:
    waiting: list[bytes] = []
    waiting_bytes = 0
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: content_type})
    try:
        async for part in parts:
            waiting.append(part)
            waiting_bytes += len(part)
            if waiting_bytes >= BLOCK_BYTES:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(b"".join(waiting))
                waiting, waiting_bytes = [], 0
        if not response.prepared:
            return web.Response(body=b"".join(waiting), content_type=content_type)
        await response.write_eof(b"".join(waiting))
    except BaseException:
        if response.prepared and request.transport is not None:
            request.transport.abort()  # what the client has must not look like the whole
        raise
    return response


async def _answer_packed(parts: AsyncIterator[bytes], content_type: str) -> web.Response:
    packer = _Packer()
    async for part in parts:
        await packer.add(part)
    if not packer.begun:
        return web.Response(body=packer.rest(), content_type=content_type)
    headers = {hdrs.CONTENT_ENCODING: "gzip"}
    return web.Response(body=await packer.finish(), content_type=content_type, headers=headers)


@attrs.define
class _Packer:
    """begun: some of it is packed already, or is being packed."""

    begun: bool = False
    _compressor: zlib._Compress = attrs.field(factory=lambda: zlib.compressobj(_LEVEL, wbits=_GZIP))
    _packed: list[bytes] = attrs.field(factory=list)
    _waiting: list[bytes] = attrs.field(factory=list)
    _waiting_bytes: int = 0
    _at_work: asyncio.Task[bytes] | None = None

    async def add(self, part: bytes) -> None:
        self._waiting.append(part)
        self._waiting_bytes += len(part)
        if self._waiting_bytes >= BLOCK_BYTES:
            await self._end_block()
            self.begun = True
            self._at_work = asyncio.create_task(asyncio.to_thread(self._compressor.compress, self.rest()))

    def rest(self) -> bytes:
        """What nobody has packed yet; it is up to the caller now."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return b"".join(waiting)

    async def finish(self) -> bytes:
        await self._end_block()
        last = self._compressor.compress(self.rest()) + self._compressor.flush()
        return b"".join([*self._packed, last])

    async def _end_block(self) -> None:
        if self._at_work is not None:
            self._packed.append(await self._at_work)
            self._at_work = None
