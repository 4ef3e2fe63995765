"""What the Docker API of the pool needs of the engines behind it.

The routes know engines by these protocols alone. The real ones speak HTTP/1.1 over a stream to the node's agent; a
test may connect to an engine's socket directly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, Protocol

import attrs
from multidict import CIMultiDictProxy

#: How an engine answers to a path that is not in its simplest form: of a name such as `..`, which nothing has.
MOVED: Final = (301, 307, 308)


class EngineUnavailable(ConnectionError):
    """The node's engine cannot be reached, or went away before it answered; what was asked may have been done."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"the engine of node {node} is not available: {reason}")
        self.node = node
        self.reason = reason


class Connection(Protocol):
    """Raw bytes to and from an engine; each direction ends by itself (half-close)."""

    async def read(self) -> bytes:
        """What has come, at most 256 KiB; empty at the end of this direction. Raises ConnectionError."""

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more. Raises ConnectionError."""

    async def write_eof(self) -> None:
        """No more will be written; reading goes on. Raises ConnectionError."""

    async def close(self) -> None:
        """Ends both directions at once. Never raises."""


class Dial(Protocol):
    """Makes connections to one engine."""

    async def __call__(self) -> Connection:
        """Raises EngineUnavailable."""


class Response(Protocol):
    """An engine's answer; its body is still to come. To be closed, or read to its end."""

    status: int
    reason: str
    headers: CIMultiDictProxy[str]

    async def read(self, limit: int = 64 * 2**20) -> bytes:
        """The whole body. Raises EngineUnavailable; ValueError when it is longer than `limit` bytes."""

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, each piece at once. Raises EngineUnavailable, or as the request's body does."""

    async def close(self) -> None:
        """Wants no more of it: the engine sees its client gone. Never raises."""


@attrs.frozen
class Upgraded:
    """The answer to a request that asks for the connection itself (`attach`, `exec … start`, `session`).

    head: the answer's head as the engine wrote it, up to and including its empty line. connection: what comes after
    it, both ways; None when the engine has refused, and `response` then is its ordinary answer.
    """

    status: int
    head: bytes
    connection: Connection | None
    response: Response | None


@attrs.frozen(kw_only=True)
class EngineNode:
    """A node of the pool that has, or should have, an engine. unavailable: why it cannot be used; empty when it can.

    address: the node's own, for what is published on it. attributes: the operator's.
    """

    id: str
    name: str
    address: str
    attributes: Mapping[str, str] = attrs.field(factory=dict)
    unavailable: str = ""


class Engine(Protocol):
    """One node's engine. Paths are without the version's prefix, and quoted; it adds the prefix of a version that
    client and engine both know, or else of the engine's nearest.

    oldest: the version of the API that it knows from, as somebody has found out and written here. newest: up to which,
    as its last answer said. Both are empty until then.
    """

    node: EngineNode
    oldest: str
    newest: str

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterator[bytes] | None = None,
        version: str = "",
    ) -> Response:
        """query: encoded, without "?". headers: beside Host and those of the framing. version: of the API, the
        client's ("1.41"), brought to the nearest that the engine knows; empty: the engine's own.

        Raises EngineUnavailable.
        """

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
        """headers: the client's, `Connection` and `Upgrade` included if it sent them. Raises EngineUnavailable."""


class Pool(Protocol):
    """All engines."""

    def nodes(self) -> Sequence[EngineNode]:
        """In the order of their names. Raises orlop.framework.NotAvailable."""

    def engine(self, node_id: str) -> Engine:
        """Raises EngineUnavailable."""

    def engines(self) -> Sequence[Engine]:
        """Those that can be used, in the order of their names. Raises orlop.framework.NotAvailable."""
