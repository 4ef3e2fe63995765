"""Sessions between nodes and servers: messages that are late, lost, doubled, or stuck while the way is cut.

A session is like a TCP connection: what is sent arrives in order or not at all. While the way is cut in one direction,
messages of that direction wait; each end gives the session up when it has heard nothing for long enough, and the
other end may not know for a while: what was under way still arrives there, later than what the next session brings.
A message that is lost takes the session along, which each end notices in its own time.

What a node says of its tasks needs no order, and is held to it: in a network that doubles and reorders, statuses and
heartbeats overtake one another, and arrive again later. What a server says does need it (an acknowledgement comes
after all that was said of the task before); any other message that is doubled arrives twice in a row.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs

from orlop.model.messages import Heartbeat, Statuses
from orlop.testing.simulation.world import World

SILENCE_MS: Final = 6_000
PING_MS: Final = 2_000
AGAIN_MS: Final = 500
LATE_MS: Final = 3_000
_NEED_NO_ORDER: Final = (Heartbeat, Statuses)


@attrs.frozen(eq=False)
class _Parcel:
    """number: in the order of sending; 0 for what comes a second time."""

    message: Any
    number: int


class _Closed:
    def __init__(self, reason: str) -> None:
        self.reason = reason


_PING: Final = object()


class End:
    """One end of a session. received, closed: called for each message, and once at the end, with the reason.

    answers: does its process move at all? One that stands still keeps its connections, and is silent.
    """

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = name
        self.received: Callable[[Any], None] = lambda _: None
        self.closed: Callable[[str], None] = lambda _: None
        self.open = True
        self.answers: Callable[[], bool] = lambda: True
        self.heard_ms = session.world.now_ms
        self.other: End
        self._on_the_way: deque[_Parcel] = deque()
        self._arrives_ms = 0
        self._sent = 0
        self._arrived = 0

    def send(self, message: Any) -> None:
        """To the other end; lost when this end is closed."""
        if not self.open:
            return
        session, network = self.session, self.session.network
        self._sent += 1
        parcel = _Parcel(message, self._sent)
        if session.happens("a message is lost", network.loses):
            session.break_off()
            return
        loose = isinstance(message, _NEED_NO_ORDER)
        if loose and session.happens("", network.reorders):
            self._out_of_order(parcel)
        else:
            self._in_order(parcel)
        if session.happens("a message arrives twice", network.doubles):
            second = _Parcel(message, 0)
            if loose:
                self._out_of_order(second)
            else:
                self._in_order(second)

    def close(self, reason: str) -> None:
        """This end is done; the other one hears of it if the way is free."""
        if self.open:
            self.fail(reason)
            self._in_order(_Parcel(_Closed(reason), 0))

    def fail(self, reason: str) -> None:
        """This end is done; the other one may not know."""
        if self.open:
            self.open = False
            self.closed(reason)

    def _in_order(self, parcel: _Parcel) -> None:
        self._on_the_way.append(parcel)
        world = self.session.world
        self._arrives_ms = max(self._arrives_ms, world.now_ms + self.session.delay_ms())
        world.after(self._arrives_ms - world.now_ms, self._next_arrives)

    def _next_arrives(self) -> None:
        if not self._on_the_way:
            return
        if self.session.holds_up(self.name):
            self.session.world.after(AGAIN_MS, self._next_arrives)  # sent again until it comes through
        else:
            self._arrives(self._on_the_way.popleft())

    def _out_of_order(self, parcel: _Parcel) -> None:
        def arrives() -> None:
            if self.session.holds_up(self.name):
                self.session.world.after(AGAIN_MS, arrives)
            else:
                self._arrives(parcel)

        self.session.world.after(self.session.chance.randint(1, LATE_MS), arrives)

    def _arrives(self, parcel: _Parcel) -> None:
        other, message = self.other, parcel.message
        if not other.open or self.session.broken:
            return
        if parcel.number:
            if parcel.number < self._arrived:
                self.session.world.strike("a message is overtaken")
            self._arrived = max(self._arrived, parcel.number)
        other.heard_ms = self.session.world.now_ms
        if isinstance(message, _Closed):
            other.close(message.reason)
        elif message is not _PING:
            other.received(message)


class Session:
    """Both ends. broken: nothing more gets through, in either direction, whether the ends know or not."""

    def __init__(self, world: World, network: Network, node: str, server: str) -> None:
        self.world = world
        self.network = network
        self.chance = world.source(f"network/{node}/{server}")
        self.broken = False
        self.node_end, self.server_end = End(self, node), End(self, server)
        self.node_end.other, self.server_end.other = self.server_end, self.node_end
        world.after(PING_MS, self._keep_alive)

    def delay_ms(self) -> int:
        """Of the next message."""
        delay_ms = self.chance.choice((0, 1, 1, 3, 10))
        if self.network.slow_ms:
            self.world.strike("a message is late")
            delay_ms += self.chance.randint(0, self.network.slow_ms)
        return delay_ms

    def happens(self, kind: str, probability: float) -> bool:
        """Does it, this time? kind: under which name it is counted, if at all."""
        if not probability or self.chance.random() >= probability:
            return False
        if kind:
            self.world.strike(kind)
        return True

    def holds_up(self, sender: str) -> bool:
        """Is the sender's way to the other end cut?"""
        receiver = self.server_end.name if sender == self.node_end.name else self.node_end.name
        held_up = self.network.is_cut(sender, receiver)
        if held_up:
            both = self.network.is_cut(receiver, sender)
            self.world.strike("a way is cut" if both else "a way is cut in one direction")
        return held_up

    def break_off(self) -> None:
        """What is under way is lost, and each end finds out by itself."""
        self.broken = True
        for end in (self.node_end, self.server_end):
            noticed = functools.partial(end.fail, "the connection was reset")
            self.world.after(self.chance.randint(0, SILENCE_MS), noticed)

    def _keep_alive(self) -> None:
        ends = [end for end in (self.node_end, self.server_end) if end.open]
        for end in [one for one in ends if one.answers()]:
            if self.world.now_ms - end.heard_ms > SILENCE_MS:
                end.close("nothing was heard")
            else:
                end.send(_PING)
        if ends:
            self.world.after(PING_MS, self._keep_alive)


class Network:
    """What is wrong with it now. cut: ways, as (sender, receiver), names of nodes and servers.

    slow_ms: at most so much is added to each message's way. loses, doubles, reorders: how probable it is for each.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.cut: set[tuple[str, str]] = set()
        self.heal()

    def heal(self) -> None:
        """All is well."""
        self.cut.clear()
        self.slow_ms = 0
        self.loses = self.doubles = self.reorders = 0.0

    def is_cut(self, sender: str, receiver: str) -> bool:
        return (sender, receiver) in self.cut

    def connect(self, node: str, server: str) -> Session | None:
        """A new session; None when the two cannot reach each other."""
        if self.is_cut(node, server) or self.is_cut(server, node):
            return None
        return Session(self._world, self, node, server)
