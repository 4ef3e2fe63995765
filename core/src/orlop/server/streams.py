"""Streams to nodes, as the server sees them: it asks an agent to dial, and uses what was dialled.

Nodes need no open port: each stream is a connection that the agent makes, under an id that the server has asked for
on the node's session, that is used once, and that is good for this node only. A few idle ones are asked for in
advance, so that `orlop logs` need not wait for a connection to be made.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from orlop.agent.session import LinkClosed
from orlop.agent.streams import StreamClosed, StreamEnd, WebSocketStream, local_stream
from orlop.framework import NotAvailable
from orlop.model.messages import OpenStreams
from orlop.model.streams import Accepted, Fault, StreamRequest, decode_answer, encode
from orlop.model.wire import WireError

log = logging.getLogger(__name__)

#: Per node, while there are not too many nodes.
IDLE_WANTED: Final = 2
IDLE_TOTAL_MAX: Final = 1_000
#: How long after an idle one was taken its replacement is asked for, while there is another one.
ORDERED_AFTER_S: Final = 0.03
#: An id that was not dialled within this time is forgotten.
DIALLED_WITHIN_S: Final = 60.0
#: How long a request may wait for a connection, and for its answer.
OPENED_WITHIN_S: Final = 10.0
ASKED_PER_NODE_MAX: Final = 100

Ask = Callable[[OpenStreams], None]
Serve = Callable[[StreamEnd], Awaitable[None]]


class Refused(Exception):
    """The node does not do it; the text is its reason."""

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault


class DialledStream(WebSocketStream):
    """A stream that an agent has dialled. `closed` is set when it is of no more use."""

    def __init__(self, web_socket: object) -> None:
        super().__init__(web_socket)  # type: ignore[arg-type]
        self.closed = asyncio.Event()

    async def close(self, reason: str = "") -> None:
        """See `StreamEnd`."""
        await super().close(reason)
        self.closed.set()


@attrs.define
class _Node:
    """ask: sends on the node's session. asked: ids and when they were asked for. idle: dialled and not in use.
    ordering: when more will be asked for."""

    ask: Ask | None = None
    asked: dict[str, float] = attrs.field(factory=dict)
    idle: deque[DialledStream] = attrs.field(factory=deque)
    waiting: deque[asyncio.Future[DialledStream]] = attrs.field(factory=deque)
    ordering: asyncio.TimerHandle | None = None


class Streams:
    """Lives on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._nodes: dict[str, _Node] = {}
        self._node_of: dict[str, str] = {}
        self._local: dict[str, Serve] = {}
        self._background: set[asyncio.Future[None]] = set()
        self._idle_total = 0

    def attach_local(self, node: str, serve: Serve) -> None:
        """A node in this process: its streams need no connection."""
        self._local[node] = serve

    def session_began(self, node: str, ask: Ask) -> None:
        """The node can be asked to dial, from now on in this way."""
        known = self._nodes.setdefault(node, _Node())
        known.ask = ask
        for stream_id in known.asked:
            self._node_of.pop(stream_id, None)
        known.asked.clear()
        self._order(node, known)

    def session_ended(self, node: str, ask: Ask) -> None:
        """It cannot be asked in this way any more. What was dialled stays."""
        known = self._nodes.get(node)
        if known is not None and known.ask == ask:
            self._away(node, known)

    @staticmethod
    def _away(node: str, known: _Node) -> None:
        """It cannot be asked, and will not dial for those who wait."""
        known.ask = None
        while known.waiting:
            waiter = known.waiting.popleft()
            if not waiter.done():
                waiter.set_exception(NotAvailable(f"node {node} has no session with this server at the moment"))

    def let_go(self) -> None:
        """This server leads no more: nodes will dial the one that does."""
        for node, known in self._nodes.items():
            self._away(node, known)
            for stream in tuple(known.idle):
                closing = asyncio.ensure_future(stream.close("this server does not lead"))
                self._background.add(closing)
                closing.add_done_callback(self._background.discard)

    def claim(self, stream_id: str, node: str | None) -> str | None:
        """Takes the id out of those asked for: its node, or None when it is not one, or another node's.

        node: who dials, by its certificate; None where there are no certificates.
        """
        found = self._node_of.get(stream_id)
        if found is None or node not in (None, found):
            return None
        del self._node_of[stream_id]
        asked_at = self._nodes[found].asked.pop(stream_id)
        return found if self._clock() - asked_at < DIALLED_WITHIN_S else None

    def arrived(self, node: str, stream: DialledStream) -> None:
        """A claimed stream is connected."""
        known = self._nodes.setdefault(node, _Node())
        while known.waiting:
            waiter = known.waiting.popleft()
            if not waiter.done():
                waiter.set_result(stream)
                self._order(node, known)  # of many that wait not all could be asked for at once
                return
        known.idle.append(stream)
        self._idle_total += 1
        watch = asyncio.ensure_future(self._watch(known, stream))
        self._background.add(watch)
        watch.add_done_callback(self._background.discard)

    async def _watch(self, known: _Node, stream: DialledStream) -> None:
        """Lets go of an idle stream that breaks off, or on which the agent speaks first, which it must not."""
        if stream in known.idle:  # or it was taken at once, and whoever did so receives on it
            await stream.broken()
        if stream in known.idle:
            known.idle.remove(stream)
            self._idle_total -= 1
            await stream.close()

    async def open(self, node: str, request: StreamRequest) -> StreamEnd:
        """A stream on which the node has accepted the request.

        Raises Refused with the node's reason; NotAvailable when it cannot be reached.
        """
        if node in self._local:
            return await self._ask_for(self._connect_locally(node), request)
        deadline = self._clock() + OPENED_WITHIN_S
        while (left_s := deadline - self._clock()) > 0:
            stream = await self._take(node, left_s)
            try:
                return await self._ask_for(stream, request)
            except StreamClosed as error:
                log.debug("a stream of node %s was broken: %s", node, error)
        raise NotAvailable(f"node {node} does not answer within {OPENED_WITHIN_S:g} s")

    def _connect_locally(self, node: str) -> StreamEnd:
        ours, its = local_stream()
        serving = asyncio.ensure_future(self._local[node](its))
        self._background.add(serving)
        serving.add_done_callback(self._background.discard)
        return ours

    async def _take(self, node: str, timeout_s: float) -> DialledStream:
        known = self._nodes.setdefault(node, _Node())
        if known.idle:
            stream = known.idle.popleft()
            self._idle_total -= 1
            if known.idle:
                self._order_later(node, known)
            else:
                self._order(node, known)
            return stream
        waiter: asyncio.Future[DialledStream] = asyncio.get_running_loop().create_future()
        known.waiting.append(waiter)
        self._order(node, known)
        try:
            return await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            raise NotAvailable(f"node {node} has not made a connection within {OPENED_WITHIN_S:g} s") from None

    def _order_later(self, node: str, known: _Node) -> None:
        """Dialling keeps both sides busy, just when whoever has taken a stream wants to use it."""
        if known.ordering is None:
            known.ordering = asyncio.get_running_loop().call_later(ORDERED_AFTER_S, self._order, node, known)

    def _order(self, node: str, known: _Node) -> None:
        """Asks for as many as are wanted beyond those that are there or under way."""
        if known.ordering is not None:
            known.ordering.cancel()
            known.ordering = None
        if known.ask is None:
            self._away(node, known)
            return
        now_s = self._clock()
        for stream_id in [one for one, at_s in known.asked.items() if now_s - at_s >= DIALLED_WITHIN_S]:
            del known.asked[stream_id], self._node_of[stream_id]
        waiting = sum(not waiter.done() for waiter in known.waiting)
        spare = IDLE_WANTED if len(self._node_of) + self._idle_total < IDLE_TOTAL_MAX else 0
        count = min(spare + waiting - len(known.idle), ASKED_PER_NODE_MAX) - len(known.asked)
        ids = tuple(secrets.token_hex(16) for _ in range(count))
        for stream_id in ids:
            known.asked[stream_id] = now_s
            self._node_of[stream_id] = node
        if ids:
            try:
                known.ask(OpenStreams(ids=ids))
            except LinkClosed:
                self._away(node, known)

    async def _ask_for(self, stream: StreamEnd, request: StreamRequest) -> StreamEnd:
        """Raises Refused, NotAvailable, StreamClosed; then the stream is closed."""
        try:
            async with asyncio.timeout(OPENED_WITHIN_S):
                await stream.send(encode(request))
                answer = decode_answer(await stream.receive() or b"")
        except WireError as error:
            await stream.close(str(error))
            raise NotAvailable(f"the node's answer cannot be read: {error}") from error
        except TimeoutError:
            await stream.close("no answer in time")
            raise NotAvailable(f"the node does not answer within {OPENED_WITHIN_S:g} s") from None
        except BaseException:
            await stream.close()
            raise
        if not isinstance(answer, Accepted):
            await stream.close()
            raise Refused(answer.fault, answer.reason)
        return stream
