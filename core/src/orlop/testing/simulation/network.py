"""Sessions between nodes and servers: messages in order, late, or stuck while the way is cut; and sessions that break.

A session is like a TCP connection: what is sent arrives in order or not at all. While the way is cut in one direction,
messages of that direction wait; each end gives the session up when it has heard nothing for long enough, and the
other end may not know for a while: what was under way still arrives there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from orlop.testing.simulation.world import World

SILENCE_MS: Final = 6_000
PING_MS: Final = 2_000


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
        self._on_the_way: deque[Any] = deque()
        self._arrives_ms = 0

    def send(self, message: Any) -> None:
        """To the other end; lost when this end is closed."""
        if self.open:
            self._on_the_way.append(message)
            self._move()

    def close(self, reason: str) -> None:
        """This end is done; the other one hears of it if the way is free."""
        if self.open:
            self.open = False
            self.closed(reason)
            self._on_the_way.append(_Closed(reason))
            self._move()

    def _move(self) -> None:
        """Sends the next one on its way, in order."""
        world = self.session.world
        self._arrives_ms = max(self._arrives_ms, world.now_ms + self.session.delay_ms())
        world.after(self._arrives_ms - world.now_ms, self._arrive)

    def _arrive(self) -> None:
        if not self._on_the_way:
            return
        if self.session.is_cut(self.name):
            self.session.world.after(PING_MS // 4, self._arrive)  # sent again until it comes through
            return
        message = self._on_the_way.popleft()
        other = self.other
        if not other.open:
            return
        other.heard_ms = self.session.world.now_ms
        if isinstance(message, _Closed):
            other.close(message.reason)
        elif message is not _PING:
            other.received(message)


class _Closed:
    def __init__(self, reason: str) -> None:
        self.reason = reason


_PING: Final = object()


class Session:
    """Both ends. is_cut: of a sender's name, is its way to the other one cut?"""

    def __init__(self, world: World, node: str, server: str, cut: Callable[[str, str], bool], slow_ms: int) -> None:
        self.world = world
        self._cut = cut
        self._slow_ms = slow_ms
        self._chance = world.source(f"network/{node}/{server}")
        self.node_end, self.server_end = End(self, node), End(self, server)
        self.node_end.other, self.server_end.other = self.server_end, self.node_end
        world.after(PING_MS, self._keep_alive)

    def delay_ms(self) -> int:
        return self._chance.choice((0, 1, 1, 3, 10)) + (self._chance.randint(0, self._slow_ms) if self._slow_ms else 0)

    def is_cut(self, sender: str) -> bool:
        receiver = self.server_end.name if sender == self.node_end.name else self.node_end.name
        return self._cut(sender, receiver)

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
    """Which ways are cut: (sender, receiver), names of nodes and servers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.cut: set[tuple[str, str]] = set()
        self.slow_ms = 0

    def is_cut(self, sender: str, receiver: str) -> bool:
        return (sender, receiver) in self.cut

    def connect(self, node: str, server: str) -> Session | None:
        """A new session; None when the two cannot reach each other."""
        if self.is_cut(node, server) or self.is_cut(server, node):
            return None
        return Session(self._world, node, server, self.is_cut, self.slow_ms)
