"""Keeps an agent's session going through hiccups of the network: heard again soon after them, and given up in time.

TCP sends again what was lost after pauses that double. After five seconds without a network it may keep silent for
five more, and a node that is well is taken for dead. Linux, from 4.19 on, tries for a last time when what it has sent
was not acknowledged for TCP_USER_TIMEOUT, and breaks the connection only if that time is over then. So the time is
set to a little more than what has passed, and moved on while it passes: there is always a last try, a second or so
away. The connection breaks by it only when this process stands still for SLACK_S, and then the agent dials again.

That costs the server nothing, and many agents behind one hiccup do not dial again all at once.

A server whose machine acknowledges what it does not read is found by a ping. What counts as an answer is every byte,
so that one that sends something large over a slow line is not taken for silent.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from typing import Any, Final

import attrs

from orlop.agent.websocket import WebSocket, cut_connection

#: How often is it looked whether what was sent has arrived?
LOOK_S: Final = 0.25
#: The next try after a hiccup comes after at most these two together, and the time until TCP first tries again, twice.
SLACK_S: Final = 0.75
#: Nothing of what was sent arrives for so long: there is nobody. Longer than any hiccup that is no alarm, with the
#: next try after it.
STUCK_S: Final = 7.5
#: A ping after so much silence; without a byte for so long there is nobody, or one that does nothing any more.
PING_S: Final = 8.0
SILENT_S: Final = 15.0

#: `struct tcp_info` of <linux/tcp.h>, of which Linux gives so many bytes as it knows: tcpi_unacked, then
#: tcpi_bytes_acked and tcpi_bytes_received.
_INFO_BYTES: Final = 256
_OUTSTANDING: Final = struct.Struct("=24xI")
_BYTES: Final = struct.Struct("=120xQQ")


@attrs.frozen(kw_only=True)
class Sample:
    """What a connection says of itself. outstanding: segments sent and not acknowledged. Bytes so far: the others."""

    outstanding: int
    acknowledged: int
    received: int


@attrs.frozen(kw_only=True)
class Care:
    """What to do for it. unacknowledged_s: so long may stay without an acknowledgement what was sent, from then on.

    give_up: why, empty when it is not to be given up.
    """

    unacknowledged_s: float
    ping: bool = False
    give_up: str = ""


class Lifeline:
    """Decides. now_s: of a monotonic clock, when the connection was made."""

    def __init__(self, now_s: float) -> None:
        self._acknowledged = self._received = -1
        self._moved_s = self._heard_s = self._pinged_s = now_s

    def look(self, sample: Sample, now_s: float) -> Care:
        """To be asked every LOOK_S."""
        if not sample.outstanding or sample.acknowledged != self._acknowledged:
            self._acknowledged, self._moved_s = sample.acknowledged, now_s
        if sample.received != self._received:
            self._received, self._heard_s, self._pinged_s = sample.received, now_s, now_s
        stuck_s = now_s - self._moved_s
        ping = now_s - self._pinged_s >= PING_S
        if ping:
            self._pinged_s = now_s
        give_up = ""
        if stuck_s >= STUCK_S:
            give_up = f"nothing of what was sent has arrived for {STUCK_S:g} s"
        elif now_s - self._heard_s >= SILENT_S:
            give_up = f"nothing was heard for {SILENT_S:g} s"
        return Care(unacknowledged_s=stuck_s + SLACK_S, ping=ping, give_up=give_up)


def can_keep_awake() -> bool:
    """Does the system tell what `keep_awake` needs?"""
    return sys.platform == "linux"


async def keep_awake(web_socket: WebSocket) -> str:
    """Looks after a connection until it is given up, and cut; why. Raises OSError when it is closed."""
    loop = asyncio.get_running_loop()
    raw = web_socket.get_extra_info("socket")
    lifeline = Lifeline(loop.time())
    while raw is not None:
        care = lifeline.look(_sample(raw), loop.time())
        if care.give_up:
            cut_connection(web_socket)
            return care.give_up
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(care.unacknowledged_s * 1000))
        if care.ping:
            await web_socket.ping()
        await asyncio.sleep(LOOK_S)
    return "it is closed"


def _sample(raw: Any) -> Sample:
    """Raises OSError when the socket is closed."""
    info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    (outstanding,) = _OUTSTANDING.unpack_from(info)
    acknowledged, received = _BYTES.unpack_from(info)
    return Sample(outstanding=outstanding, acknowledged=acknowledged, received=received)
