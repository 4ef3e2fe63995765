"""What is done to a connection's socket of the system, below whatever is spoken on it."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Mapping
from typing import Any, Final

#: SO_LINGER: what is not sent yet is not waited for, and the other end is told.
_RESET: Final = struct.pack("ii", 1, 0)


def keep_alive(raw: Any, options: Mapping[str, int]) -> bool:
    """Lets the system find out that the other end of a TCP connection is dead. False: it is none.

    options: of TCP by their names in `socket`; what this system does not know is left out.
    """
    if raw is None or raw.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        if hasattr(socket, name):
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return True


def break_off_at_close(raw: Any) -> None:
    """The other end is to see, even if it reads nothing, that the connection breaks off: this is no orderly end."""
    with contextlib.suppress(OSError):  # it has ended already
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def has_ended(raw: Any, also: int = 0) -> bool:
    """Is the socket closed, has each end ended its direction, or was the connection reset? also: what counts beside
    that, as bits of `select.poll`."""
    if raw is None or raw.fileno() < 0:
        return True
    polled = select.poll()
    polled.register(raw.fileno(), also)  # the others are always told
    return bool(polled.poll(0))
