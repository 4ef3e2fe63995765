"""Who is connected to the supervisor: its agent, as a rule. What is said is the loop's; see the package for it."""

from __future__ import annotations

import json
import selectors
import socket

from .logfile import log

CLIENTS_MAX = 16
LINE_BYTES_MAX = 8 * 2**20
UNREAD_BYTES_MAX = 64 * 2**20
READ_BYTES = 2**18


class Client:
    """A connection: lines in, lines out. What the client does not read in time costs it the connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._incoming = bytearray()
        self.outgoing = bytearray()

    def read(self) -> list[bytes] | None:
        """The whole lines that have come; None at the end. Raises ValueError for a line beyond all bounds."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self._incoming += data
        if len(self._incoming) > LINE_BYTES_MAX and b"\n" not in data:
            raise ValueError(f"a request may have {LINE_BYTES_MAX} bytes")
        *lines, rest = bytes(self._incoming).split(b"\n")
        self._incoming[:] = rest
        return lines

    def write(self, news: dict) -> None:
        self.outgoing += json.dumps(news, separators=(",", ":")).encode() + b"\n"

    def flush(self) -> bool:
        """False when the connection is of no use any more."""
        try:
            while self.outgoing:
                del self.outgoing[: self.socket.send(self.outgoing)]
        except BlockingIOError:
            return len(self.outgoing) <= UNREAD_BYTES_MAX
        except OSError:
            return False
        return True


class Clients:
    """All connections. Each is told `greeting()` first; `on_lines(client, lines)` is called with what it says. True
    while there are any."""

    def __init__(self, selector: selectors.BaseSelector, listener: socket.socket, greeting, on_lines) -> None:
        self._selector = selector
        self._listener = listener
        self._greeting = greeting
        self._on_lines = on_lines
        self._clients: list[Client] = []

    def __bool__(self) -> bool:
        return bool(self._clients)

    def listen(self) -> None:
        """From now on, connections are taken."""
        self._selector.register(self._listener, selectors.EVENT_READ, self._on_connect)

    def tell(self, news: dict) -> None:
        """All of them."""
        for client in self._clients:
            client.write(news)

    def _on_connect(self, _listener: object, _: int) -> None:
        try:
            connection, _address = self._listener.accept()
        except OSError:
            return
        if len(self._clients) >= CLIENTS_MAX:
            self._drop(self._clients[0])
        client = Client(connection)
        self._clients.append(client)
        self._selector.register(connection, selectors.EVENT_READ, lambda _, events: self._on_client(client, events))
        client.write(self._greeting())

    def _on_client(self, client: Client, events: int) -> None:
        if not events & selectors.EVENT_READ or client not in self._clients:
            return
        try:
            lines = client.read()
        except ValueError as error:
            log(f"a client was dropped: {error}")
            lines = None
        if lines is None:
            self._drop(client)
            return
        self._on_lines(client, lines)

    def flush(self) -> None:
        """Sends what they take; who takes nothing any more is dropped."""
        for client in list(self._clients):
            if not client.flush():
                self._drop(client)
                continue
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.outgoing else 0)
            key = self._selector.get_key(client.socket)
            if key.events != events:
                self._selector.modify(client.socket, events, key.data)

    def _drop(self, client: Client) -> None:
        self._clients.remove(client)
        self._selector.unregister(client.socket)
        client.socket.close()
