"""One session between an agent and a server: a pair of ends that carry messages.

In one process the ends are two queues; across a network they will be a WebSocket. Both sides only ever see a `Link`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from orlop.model.messages import ToAgent, ToServer

Outgoing = TypeVar("Outgoing", contravariant=True)
Incoming = TypeVar("Incoming", covariant=True)

QUEUED_MESSAGES_MAX: Final = 10_000


class LinkClosed(Exception):
    """The other end is gone; the text says why, where that is known."""


class Link(Protocol[Outgoing, Incoming]):
    """One end of a session."""

    def send(self, message: Outgoing) -> None:
        """Queues a message. Raises LinkClosed when the session has ended, or its queue is full."""

    async def receive(self) -> Incoming:
        """The next message. Raises LinkClosed."""

    def hear(self, call: Callable[[], None]) -> None:
        """Calls it for heartbeats from now on, where that is cheaper than to receive them; they may come both ways."""

    def close(self, reason: str = "") -> None:
        """Ends the session for both sides."""


Sent = TypeVar("Sent")
Received = TypeVar("Received")


class LocalLink(Generic[Sent, Received]):
    """An end of a session within one event loop."""

    def __init__(self, inbox: asyncio.Queue[Received | None], outbox: asyncio.Queue[Sent | None]) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._closed: str | None = None

    def send(self, message: Sent) -> None:
        if self._closed is not None:
            raise LinkClosed(self._closed)
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.close("the other end does not keep up")
            raise LinkClosed("the other end does not keep up") from None

    async def receive(self) -> Received:
        message = await self._inbox.get()
        if message is None:
            self._closed = self._closed or "closed by the other end"
            self._inbox.put_nowait(None)
            raise LinkClosed(self._closed)
        return message

    def hear(self, call: Callable[[], None]) -> None:
        """Here they are received."""

    def close(self, reason: str = "") -> None:
        if self._closed is None:
            self._closed = reason or "closed"
            for queue in (self._outbox, self._inbox):
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait(None)


AgentEnd = LocalLink[ToServer, ToAgent]
ServerEnd = LocalLink[ToAgent, ToServer]


def local_session() -> tuple[AgentEnd, ServerEnd]:
    """Both ends of a session within this event loop."""
    to_server: asyncio.Queue[ToServer | None] = asyncio.Queue(QUEUED_MESSAGES_MAX)
    to_agent: asyncio.Queue[ToAgent | None] = asyncio.Queue(QUEUED_MESSAGES_MAX)
    return LocalLink(to_agent, to_server), LocalLink(to_server, to_agent)
