"""One small message of a client's WebSocket, known by its bytes, before anything else looks at them.

Every agent says every second that it is alive. To be read as a message that takes a task's turn and several layers
each time, which with thousands of agents is most of what an idle server does.
"""

from __future__ import annotations

from typing import Final

_WHOLE_BINARY: Final = 0x82
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_SHORT_MAX: Final = 125
_MASK_BYTES: Final = 4
_HEAD_BYTES: Final = 2 + _MASK_BYTES


class FrameFollower:
    """Knows where frames begin in what a client sends. It begins where the first one does."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    def is_one(self, data: bytes) -> bool:
        """Is what has arrived just one short frame, from its beginning to its end? Each piece is to be shown to it."""
        at_beginning = not self._left and not self._head
        if at_beginning and len(data) >= _HEAD_BYTES and data[1] & _MASKED:
            length = data[1] & _LENGTH
            if length <= _SHORT_MAX and len(data) == _HEAD_BYTES + length:
                return True
        self._follow(data)
        return False

    def _follow(self, data: bytes) -> None:
        data, self._head = self._head + data, b""
        at = 0
        while True:
            passed = min(self._left, len(data) - at)
            self._left -= passed
            at += passed
            if at == len(data):
                return
            size = _size(data, at)
            if size is None:
                self._head = data[at:]
                return
            self._left = size


def _size(data: bytes, at: int) -> int | None:
    """Of the frame that begins there, with its head; None when the head is not complete."""
    if len(data) - at < 2:
        return None
    length = data[at + 1] & _LENGTH
    more = {126: 2, 127: 8}.get(length, 0)
    if len(data) - at < 2 + more:
        return None
    if more:
        length = int.from_bytes(data[at + 2 : at + 2 + more], "big")
    return 2 + more + (_MASK_BYTES if data[at + 1] & _MASKED else 0) + length


class KnownMessage:
    """A binary message of at most 125 bytes, to be recognised in a frame of a client, under whatever mask."""

    __slots__ = ("_repeats", "_size", "_value")

    def __init__(self, message: bytes) -> None:
        assert len(message) <= _SHORT_MAX
        self._size = len(message)
        self._repeats = -(-len(message) // _MASK_BYTES)
        self._value = int.from_bytes(message, "big")

    def is_in(self, frame: bytes) -> bool:
        """frame: one whole frame, see `FrameFollower.is_one`."""
        if len(frame) != _HEAD_BYTES + self._size or frame[0] != _WHOLE_BINARY:
            return False
        mask = (frame[2:_HEAD_BYTES] * self._repeats)[: self._size]
        return int.from_bytes(frame[_HEAD_BYTES:], "big") ^ int.from_bytes(mask, "big") == self._value
