"""TLS in which each direction ends by itself, as it does on a plain connection.

asyncio's own TLS closes a connection as soon as the other end has no more to say, and what was still to be said to it
is lost. Docker's clients end their direction first and wait for the output. So the records are made and read here, and
whoever gets the transport sees one that can do what a TCP connection's can: `write_eof`, and `eof_received` after which
writing goes on.

What has come is decrypted at once and given on whole; the other end is held back by not reading from it. An end of the
TCP connection without TLS's own is a broken connection: somebody in between may have cut it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from orlop.hijacking import EndsByItself

SHUTDOWN_WITHIN_S: Final = 3.0
#: What is decrypted in one step; a TLS record has at most 16 KiB.
PIECE_BYTES: Final = 65_536


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """A connection's transport for the protocol above, and the protocol of the connection's own transport below.

    handshaken: done when TLS stands and the protocol above has its `connection_made`; fails with OSError (ssl.SSLError
    is one).
    """

    def __init__(
        self,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext,
        *,
        server_side: bool = True,
        server_name: str | None = None,
    ) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._make_protocol = make_protocol
        self._context = context
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
        )
        self.handshaken: asyncio.Future[None] = loop.create_future()
        self.handshaken.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._below: asyncio.Transport | None = None
        self._above: asyncio.Protocol | None = None
        self._closing = False
        self._read_ended = False
        self._write_ended = False
        self._error: Exception | None = None
        self._closing_check: asyncio.TimerHandle | None = None

    # What the connection below tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "it is a socket's"
        self._below = transport
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        if self._closing or self._read_ended:
            return
        self._incoming.write(data)
        if self._above is None:
            self._shake_hands()
        else:
            self._read()

    def eof_received(self) -> bool:
        """True: the other direction goes on."""
        if not self._read_ended:
            self._fail(ConnectionResetError("the connection ended without an end of TLS"))
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = self._read_ended = True
        if self._closing_check is not None:
            self._closing_check.cancel()
        error = self._error or exc
        if not self.handshaken.done():
            self.handshaken.set_exception(error or ConnectionResetError("the connection ended"))
        self._below = None  # its socket is closed, and nobody is to be given it
        if self._above is not None:
            above, self._above = self._above, _Nobody()
            above.connection_lost(error)

    def pause_writing(self) -> None:
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        if self._above is not None:
            self._above.resume_writing()

    # TLS.

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return
        except (ssl.SSLError, OSError) as error:
            self._fail(error)
            return
        self._send()
        if self.handshaken.done():
            self.abort()
            return
        above = self._make_protocol()
        assert isinstance(above, asyncio.Protocol), "it is one of streams"
        self._above = above
        above.connection_made(self)
        self.handshaken.set_result(None)
        if not self._closing:
            self._read()

    def _read(self) -> None:
        """Gives on all that has come."""
        pieces: list[bytes] = []
        error: Exception | None = None
        try:
            while piece := self._tls.read(PIECE_BYTES):
                pieces.append(piece)
            self._read_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._read_ended = True
        except (ssl.SSLError, OSError) as reason:
            error = reason
        self._send()
        above = self._above
        if pieces and above is not None:
            above.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if error is not None:
            self._fail(error)
        elif self._read_ended and not self._closing and self._above is not None and not self._above.eof_received():
            self.close()

    def _send(self) -> None:
        if self._outgoing.pending and self._below is not None and not self._write_ended:
            self._below.write(self._outgoing.read())

    def _say_end(self) -> None:
        """Once all that has come is read: OpenSSL throws away what it finds unread."""
        with contextlib.suppress(ssl.SSLError, OSError):
            self._tls.unwrap()
        self._send()
        self._write_ended = True

    def _fail(self, error: Exception) -> None:
        """The connection is over; the other end is told why, if TLS has words for it."""
        if self._closing:
            return
        self._error = error
        self._send()
        self._write_ended = True
        self._close_below()

    def _close_below(self) -> None:
        self._closing = True
        if self._below is not None:
            self._below.close()
            self._closing_check = self._loop.call_later(
                SHUTDOWN_WITHIN_S, self._check_closing, self._below.get_write_buffer_size()
            )

    def _check_closing(self, left: int) -> None:
        """A client may take long for what is left, but must take some of it."""
        assert self._below is not None, "it is being closed"
        now_left = self._below.get_write_buffer_size()
        if now_left >= left:
            self._below.abort()
        else:
            self._closing_check = self._loop.call_later(SHUTDOWN_WITHIN_S, self._check_closing, now_left)

    # What the protocol above asks for.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._write_ended and not self._closing:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._closing or not data:
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
        except (ssl.SSLError, OSError) as error:
            self._fail(error)
            return
        self._send()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._closing or self._write_ended:
            return
        self._say_end()
        if self._below is not None:
            self._below.write_eof()

    def close(self) -> None:
        if self._closing:
            return
        if not self._write_ended and self._above is not None:
            self._say_end()
        self._close_below()

    def abort(self) -> None:
        self._closing = True
        if self._below is not None:
            self._below.abort()

    def is_closing(self) -> bool:
        return self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol), "it is one of streams"
        self._above = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._above is not None, "TLS stands"
        return self._above

    def pause_reading(self) -> None:
        if self._below is not None:
            self._below.pause_reading()

    def resume_reading(self) -> None:
        if self._below is not None:
            self._below.resume_reading()

    def is_reading(self) -> bool:
        return self._below is not None and self._below.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size() if self._below is not None else 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        assert self._below is not None, "TLS stands"
        return self._below.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._below is not None:
            self._below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._context
        if name == "peercert":
            return self._tls.getpeercert()
        return self._below.get_extra_info(name, default) if self._below is not None else default


class _Nobody(asyncio.Protocol):
    """Above a connection that was lost."""


async def accept_tls(
    connection: socket.socket, make_protocol: Callable[[], asyncio.BaseProtocol], context: ssl.SSLContext
) -> TlsTransport:
    """TLS with whoever has connected. The socket is the transport's from here on. Raises OSError."""
    tls = TlsTransport(make_protocol, context)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: tls, connection)
    return await _standing(tls)


async def open_tls_connection(
    host: str, port: int, context: ssl.SSLContext, limit: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As `asyncio.open_connection`, with half-close. Raises OSError."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = EndsByItself(reader, loop=loop)
    tls = TlsTransport(lambda: protocol, context, server_side=False, server_name=host)
    await loop.create_connection(lambda: tls, host, port)
    await _standing(tls)
    return reader, asyncio.StreamWriter(tls, protocol, reader, loop)


async def _standing(tls: TlsTransport) -> TlsTransport:
    try:
        await tls.handshaken
    except asyncio.CancelledError:
        tls.abort()
        raise
    return tls
