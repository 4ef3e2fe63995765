"""One HTTP/1.1 connection to an engine, as bytes: what to send, and what has come. Pure; `client.py` moves the bytes.

h11 does the grammar. What it is not asked to do: an upgraded connection's bytes are handed on from behind the head, as
they are, and the head itself is kept as the engine wrote it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import attrs
import h11
from multidict import CIMultiDict, CIMultiDictProxy

HEAD_BYTES_MAX: Final = 64 * 1024
#: Media types of an answer that is raw bytes both ways, although the connection was not upgraded.
RAW_TYPES: Final = ("application/vnd.docker.raw-stream", "application/vnd.docker.multiplexed-stream")
_HEAD_END: Final = b"\r\n\r\n"
_HOST: Final = ("Host", "docker")


class BrokenAnswer(Exception):
    """The engine says what is no HTTP, or ends in the middle; the text says what."""


@attrs.frozen
class Head:
    status: int
    reason: str
    headers: CIMultiDictProxy[str]


class End(enum.Enum):
    """Of an answer."""

    END = "end"


Event = Head | bytes | End


class Exchange:
    """Requests and their answers, one after another, on one connection. `receive` says what the bytes mean."""

    def __init__(self) -> None:
        self._http = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._ended = False

    def request(self, method: str, target: str, headers: Mapping[str, str], length: int | None) -> bytes:
        """The head of a request. length: of its body in bytes; None: not known, so it goes in chunks."""
        fields = [_HOST, *headers.items()]
        if length is None:
            fields.append(("Transfer-Encoding", "chunked"))
        elif length or method not in ("GET", "HEAD", "DELETE"):
            fields.append(("Content-Length", str(length)))
        return self._send(lambda: h11.Request(method=method, target=target, headers=_encoded(fields)))

    def data(self, piece: bytes) -> bytes:
        """A part of the request's body."""
        return self._send(lambda: h11.Data(data=piece))

    def end(self) -> bytes:
        """The end of the request."""
        return self._send(h11.EndOfMessage)

    def _send(self, make: Callable[[], h11.Event]) -> bytes:
        try:
            return self._http.send(make()) or b""
        except h11.LocalProtocolError as error:
            raise ValueError(f"this cannot be said in HTTP: {error}") from error

    def receive(self, data: bytes) -> Iterator[Event]:
        """What has come with these bytes; none: the engine has ended its direction. Raises BrokenAnswer."""
        self._ended = self._ended or not data
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                if isinstance(event, h11.Response):
                    yield _head_of(event.status_code, event.reason, event.headers.raw_items())
                elif isinstance(event, h11.Data):
                    yield bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    yield End.END
                    return
                elif isinstance(event, h11.ConnectionClosed):
                    raise BrokenAnswer("it closed the connection before it answered")
        except h11.RemoteProtocolError as error:
            raise BrokenAnswer(str(error)) from error

    @property
    def reusable(self) -> bool:
        """Are request and answer over, so that another request may follow?"""
        states = (self._http.our_state, self._http.their_state)
        return states == (h11.DONE, h11.DONE) and not self._ended and not self._http.trailing_data[0]

    def next(self) -> None:
        """Another request follows. Only when `reusable`."""
        self._http.start_next_cycle()


def upgrading_request(method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole request whose answer may be the connection itself. Raises ValueError."""
    fields = [_HOST, *headers.items(), ("Content-Length", str(len(body)))]
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    if any(character in line for line in lines for character in "\r\n\0"):
        raise ValueError("this cannot be said in HTTP: a line has a line end in it")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


class UpgradingAnswer:
    """The beginning of an answer that may be the connection itself."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.head: Head | None = None

    def receive(self, data: bytes) -> bool:
        """Is the head complete? Raises BrokenAnswer; no data: the engine has ended its direction."""
        if not data:
            raise BrokenAnswer("it closed the connection before it answered")
        self._bytes += data
        while (end := self._bytes.find(_HEAD_END)) >= 0:
            head = _parsed(bytes(self._bytes[: end + len(_HEAD_END)]))
            if head.status == 101 or head.status >= 200:
                self.head, self._length = head, end + len(_HEAD_END)
                return True
            del self._bytes[: end + len(_HEAD_END)]  # 100 Continue, and what may come of its kind
        if len(self._bytes) > HEAD_BYTES_MAX:
            raise BrokenAnswer(f"the head of its answer is longer than {HEAD_BYTES_MAX} bytes")
        return False

    @property
    def is_connection(self) -> bool:
        """Is what follows the head raw bytes both ways?"""
        assert self.head is not None
        headers = self.head.headers
        framed = "content-length" in headers or "transfer-encoding" in headers
        raw = headers.get("content-type", "").partition(";")[0].strip() in RAW_TYPES
        return self.head.status == 101 or (self.head.status == 200 and raw and not framed)

    def parts(self) -> tuple[bytes, bytes]:
        """The head as it was written, and what has come after it."""
        return bytes(self._bytes[: self._length]), bytes(self._bytes[self._length :])


def _parsed(head: bytes) -> Head:
    first, *lines = head[: -len(_HEAD_END)].decode("utf-8", "surrogateescape").split("\r\n")
    protocol, _, rest = first.partition(" ")
    status, _, reason = rest.partition(" ")
    if not protocol.startswith("HTTP/1.") or not (status.isascii() and status.isdigit() and len(status) == 3):
        raise BrokenAnswer("its answer is not HTTP/1.1")
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BrokenAnswer("its answer has a header that is none")
        headers.add(name, value.strip())
    return Head(int(status), reason, CIMultiDictProxy(headers))


def _head_of(status: int, reason: bytes, items: Iterable[tuple[bytes, bytes]]) -> Head:
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in items:
        headers.add(_decoded(name), _decoded(value))
    return Head(status, _decoded(reason), CIMultiDictProxy(headers))


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _encoded(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in fields]
