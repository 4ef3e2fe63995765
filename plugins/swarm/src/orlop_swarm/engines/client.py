"""An engine's HTTP API over byte streams: requests, answers as they come, and connections handed over.

A connection that has carried a whole request and its whole answer is kept for the next one, a few of them for each
engine. While it waits it is read from, so that one whose engine has gone is found out before anything is sent on it.
An engine that goes away afterwards may have done what it was asked for: only requests that change nothing are sent
again, and only if nothing has come back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Final

from multidict import CIMultiDictProxy

from orlop.docker_versions import nearest, number
from orlop_swarm.engines.exchange import BrokenAnswer, End, Event, Exchange, Head, UpgradingAnswer, upgrading_request
from orlop_swarm.engines.interface import Connection, Dial, EngineNode, EngineUnavailable, Upgraded

#: As many as a client that works side by side may need at once: a new one to an agent elsewhere is several round trips.
IDLE_MAX: Final = 16
SAFE: Final = frozenset(("GET", "HEAD"))


class _Link:
    """A connection and what is said on it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.exchange = Exchange()
        self.events: deque[Event] = deque()
        self._early: asyncio.Task[bytes] | None = None

    def watch(self) -> None:
        """Reads ahead while nothing is expected."""
        self._early = asyncio.get_running_loop().create_task(self.connection.read())
        self._early.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def stale(self) -> bool:
        """Has something come, or the end, although nothing was asked?"""
        return self._early is not None and self._early.done()

    async def read(self) -> bytes:
        early = self._early
        if early is None:
            return await self.connection.read()
        data = await asyncio.shield(early)
        self._early = None
        return data

    async def event(self) -> Event:
        """The next one. Raises BrokenAnswer, ConnectionError."""
        while not self.events:
            self.events.extend(self.exchange.receive(await self.read()))
        return self.events.popleft()

    async def close(self) -> None:
        if self._early is not None:
            self._early.cancel()
        await self.connection.close()


class HttpResponse:
    """See `Response`."""

    def __init__(self, client: EngineClient, link: _Link, head: Head, sending: asyncio.Task[None] | None) -> None:
        self.status = head.status
        self.reason = head.reason
        self.headers: CIMultiDictProxy[str] = head.headers
        self._client = client
        self._link: _Link | None = link
        self._sending = sending

    async def read(self, limit: int = 64 * 2**20) -> bytes:
        """See `Response`."""
        found: list[bytes] = []
        size = 0
        async for piece in self.pieces():
            size += len(piece)
            if size > limit:
                await self.close()
                raise ValueError(f"the engine's answer is longer than {limit} bytes")
            found.append(piece)
        return b"".join(found)

    async def pieces(self) -> AsyncIterator[bytes]:
        """See `Response`."""
        while (link := self._link) is not None:
            try:
                event = await _event(link, self._sending)
            except (BrokenAnswer, ConnectionError) as error:
                await self.close()
                raise self._client.unavailable(error) from error
            except BaseException:
                await self.close()
                raise
            if event is End.END:
                self._link = None
                await self._client.ended(link, self._sending)
                return
            assert isinstance(event, bytes)
            yield event

    async def close(self) -> None:
        """See `Response`."""
        link, self._link = self._link, None
        if link is not None:
            await _stop(self._sending)
            await link.close()


class EngineClient:
    """See the module, and `Engine` for the methods. dial: makes connections to the engine."""

    def __init__(self, node: EngineNode, dial: Dial) -> None:
        self.node = node
        self._dial = dial
        self._idle: deque[_Link] = deque()
        self._closed = False
        self.oldest = ""
        self.newest = ""

    def unavailable(self, reason: object) -> EngineUnavailable:
        """What is raised for it."""
        if isinstance(reason, EngineUnavailable):
            return reason
        return EngineUnavailable(self.node.name, str(reason) or "it went away")

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterator[bytes] | None = None,
        version: str = "",
    ) -> HttpResponse:
        """See `Engine`. Raises ValueError for what HTTP cannot say."""
        target = self._target(path, query, version)
        again = method in SAFE and not body
        while True:
            link, kept = await self._link()
            try:
                return await self._exchange(link, method, target, headers or {}, body)
            except (BrokenAnswer, ConnectionError) as error:
                await link.close()
                if not (kept and again):
                    raise self.unavailable(error) from error
            except BaseException:
                await link.close()
                raise

    async def _exchange(
        self,
        link: _Link,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None,
    ) -> HttpResponse:
        exchange = link.exchange
        length = len(body) if isinstance(body, bytes) else 0 if body is None else None
        out = exchange.request(method, target, headers, length)
        sending: asyncio.Task[None] | None = None
        if body is None or isinstance(body, bytes):
            await link.connection.write(out + (exchange.data(body) if body else b"") + exchange.end())
        else:
            await link.connection.write(out)
            sending = asyncio.get_running_loop().create_task(_send(link, body))
        try:
            head = await _event(link, sending)
        except BaseException:
            await _stop(sending)
            raise
        assert isinstance(head, Head)
        self._learn(head)
        return HttpResponse(self, link, head, sending)

    async def upgrade(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        version: str = "",
    ) -> Upgraded:
        """See `Engine`. Raises ValueError for what HTTP cannot say."""
        request = upgrading_request(method, self._target(path, query, version), headers or {}, body)
        connection = await self._connect()
        try:
            answer = UpgradingAnswer()
            await connection.write(request)
            while not answer.receive(await connection.read()):
                continue
            head, rest = answer.parts()
            assert answer.head is not None
            self._learn(answer.head)
            if answer.is_connection:
                return Upgraded(answer.head.status, head, _Handed(connection, rest), None)
            return Upgraded(answer.head.status, head, None, self._refused(method, connection, head + rest))
        except (BrokenAnswer, ConnectionError) as error:
            await connection.close()
            raise self.unavailable(error) from error
        except BaseException:
            await connection.close()
            raise

    def _refused(self, method: str, connection: Connection, said: bytes) -> HttpResponse:
        """An ordinary answer. Raises BrokenAnswer."""
        link = _Link(connection)
        link.exchange.request(method, "/", {}, 0)
        link.exchange.end()
        link.events.extend(link.exchange.receive(said))
        head = link.events.popleft()
        assert isinstance(head, Head)
        return HttpResponse(self, link, head, None)

    async def ended(self, link: _Link, sending: asyncio.Task[None] | None) -> None:
        """An answer is over."""
        if sending is not None and not sending.done():
            # It has answered without wanting the rest of the body.
            await _stop(sending)
            await link.close()
        elif self._closed or len(self._idle) >= IDLE_MAX or link.events or not link.exchange.reusable:
            await link.close()
        else:
            link.exchange.next()
            link.watch()
            self._idle.append(link)

    async def close(self) -> None:
        """Lets go of the connections that are not in use, and keeps none from now on."""
        self._closed = True
        while self._idle:
            await self._idle.popleft().close()

    async def _link(self) -> tuple[_Link, bool]:
        """A connection, and whether it was in use before."""
        while self._idle:
            link = self._idle.pop()
            if not link.stale:
                return link, True
            await link.close()
        return _Link(await self._connect()), False

    async def _connect(self) -> Connection:
        try:
            return await self._dial()
        except ConnectionError as error:
            raise self.unavailable(error) from error

    def _target(self, path: str, query: str, version: str) -> str:
        prefix = f"/v{nearest(version, self.oldest, self.newest)}" if version else ""
        return f"{prefix}{path}?{query}" if query else f"{prefix}{path}"

    def _learn(self, head: Head) -> None:
        said = head.headers.get("Api-Version", "")
        if number(said) is not None:
            self.newest = said


class _Handed:
    """A connection that was handed over; some of its bytes have come already."""

    def __init__(self, connection: Connection, rest: bytes) -> None:
        self._connection = connection
        self._rest = rest

    async def read(self) -> bytes:
        """See `Connection`."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        return await self._connection.read()

    async def write(self, data: bytes) -> None:
        """See `Connection`."""
        await self._connection.write(data)

    async def write_eof(self) -> None:
        """See `Connection`."""
        await self._connection.write_eof()

    async def close(self) -> None:
        """See `Connection`."""
        await self._connection.close()


async def _send(link: _Link, body: AsyncIterator[bytes]) -> None:
    async for piece in body:
        if piece:
            await link.connection.write(link.exchange.data(piece))
    await link.connection.write(link.exchange.end())


async def _event(link: _Link, sending: asyncio.Task[None] | None) -> Event:
    """What the engine says next. A client whose body breaks off ends the request, for the engine waits for the rest; an
    engine that does not want all of it says so and closes, so that what fails first is not the reading.

    Raises BrokenAnswer, ConnectionError, and what the body has raised.
    """
    if sending is None or link.events:
        return await link.event()
    coming = asyncio.ensure_future(link.event())
    try:
        if not sending.done():
            await asyncio.wait((coming, sending), return_when=asyncio.FIRST_COMPLETED)
        failed = sending.exception() if sending.done() and not sending.cancelled() else None
        if failed is not None and not isinstance(failed, ConnectionError):
            raise failed
        return await coming
    finally:
        coming.cancel()


async def _stop(sending: asyncio.Task[None] | None) -> None:
    if sending is not None:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await sending
