"""Which nodes are silent. Pure: heartbeats and time in, transitions out; never stored.

Between the death of a node and the word about it lie at most `unreachable_after` and one tick. A network's hiccup is
no death: an agent speaks every 1.5 s, and after a hiccup it is heard again within 1.5 s (`agent/lifeline.py`), so
that one that is 3.5 s shorter than `unreachable_after` is surely not taken for one. Half a second of these is left for
processes that are slow.

How long a node may be silent depends on how it was last heard of:
- It spoke, and then nothing came any more: `unreachable_after`. Its machine or its network is dead.
- Its connection was closed without a goodbye: `crash_grace`. Somebody has closed it, so that its machine is alive,
  and its agent, which has died, is probably started again.
- It said goodbye: `restart_grace`.
- It has not been heard of since this server leads: `takeover_grace`, for agents must find the new leader first.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import attrs

from orlop.kernel.events import NodeSilent

#: Between two calls of `Liveness.tick`.
TICK_MS: Final = 250
#: So long may agents need to find the new leader: they notice a dead one after `SILENT_S` (`agent/lifeline.py`), and
#: then ask the servers in turn.
TAKEOVER_GRACE_MS: Final = 20_000


class Last(enum.Enum):
    """How a node was last heard of. See the module."""

    NEVER = enum.auto()
    SPOKE = enum.auto()
    CLOSED = enum.auto()
    GOODBYE = enum.auto()


@attrs.frozen(kw_only=True)
class LivenessSettings:
    """Milliseconds of silence until a node counts as unreachable, and as gone; the graces are at least as long.

    deaf_after_ms: what the time between two ticks counts at the most, which is longer while nobody listens.
    """

    unreachable_after_ms: int = 8_500
    gone_after_ms: int = 8_500
    crash_grace_ms: int = 15_000
    restart_grace_ms: int = 120_000
    takeover_grace_ms: int = TAKEOVER_GRACE_MS
    deaf_after_ms: int = 2 * TICK_MS

    def unreachable_ms(self, last: Last) -> int:
        """Of silence, until a node counts as unreachable that was last heard of like this."""
        match last:
            case Last.NEVER:
                return max(self.unreachable_after_ms, self.takeover_grace_ms)
            case Last.CLOSED:
                return max(self.unreachable_after_ms, self.crash_grace_ms)
            case Last.GOODBYE:
                return self.restart_grace_ms
            case Last.SPOKE:
                return self.unreachable_after_ms

    def gone_ms(self, last: Last) -> int:
        """Of silence, until it counts as gone."""
        return max(self.gone_after_ms, self.unreachable_ms(last))


@attrs.define
class _Heard:
    """told_ms: the silence that was last told, beside the transitions."""

    at_ms: int
    last: Last
    reported: int = 0
    told_ms: int = -1


class Liveness:
    """Counts silence from the last message, and for nodes that were never heard of, from the takeover.

    Silence counts only while somebody listens: a server that was stopped, or had no time, has missed what was said
    meanwhile, and blames nobody for it.
    """

    def __init__(self, settings: LivenessSettings, nodes: Iterator[str], monotonic_ms: int) -> None:
        self._settings = settings
        self._ticked_ms = monotonic_ms
        self._heard = {node: _Heard(monotonic_ms, Last.NEVER) for node in nodes}
        self._soonest_ms = min(settings.unreachable_ms(last) for last in Last)

    def heard(self, node: str, monotonic_ms: int) -> None:
        """Any message of the node's session."""
        self._heard[node] = _Heard(monotonic_ms, Last.SPOKE)

    def goodbye(self, node: str, monotonic_ms: int) -> None:
        """A planned stop."""
        self._heard[node] = _Heard(monotonic_ms, Last.GOODBYE)

    def closed(self, node: str) -> None:
        """The node's session has ended; silence counts from its last message as before."""
        heard = self._heard.get(node)
        if heard is not None and heard.last is Last.SPOKE:
            heard.last = Last.CLOSED

    def forget(self, node: str) -> None:
        """Nobody waits for it any more."""
        self._heard.pop(node, None)

    def refused(self, event: NodeSilent) -> None:
        """What was told did not become durable: tell it again."""
        heard = self._heard.get(event.node)
        if heard is not None:
            heard.reported = min(heard.reported, 1 if event.gone else 0)
            heard.told_ms = -1

    def tick(self, monotonic_ms: int, times: Callable[[str], Iterable[int]] = lambda _: ()) -> list[NodeSilent]:
        """What the kernel must be told now, each thing once, unless it was `refused`.

        times: milliseconds of a silent node's silence at which something else than its state changes.
        """
        deaf_ms = monotonic_ms - self._ticked_ms - self._settings.deaf_after_ms
        self._ticked_ms = monotonic_ms
        if deaf_ms > 0:
            for heard in self._heard.values():
                heard.at_ms = min(heard.at_ms + deaf_ms, monotonic_ms)
        spoken_ms = monotonic_ms - self._soonest_ms
        found: list[NodeSilent] = []
        for node, heard in self._heard.items():
            if heard.at_ms <= spoken_ms:
                found += self._of_silent(node, heard, monotonic_ms - heard.at_ms, times)
        return found

    def _of_silent(
        self, node: str, heard: _Heard, silence: int, times: Callable[[str], Iterable[int]]
    ) -> list[NodeSilent]:
        settings = self._settings
        stage = 1 if silence >= settings.unreachable_ms(heard.last) else 0
        stage = 2 if silence >= settings.gone_ms(heard.last) else stage
        passed = max((time for time in times(node) if time <= silence), default=-1) if stage else -1
        told = [NodeSilent(node=node, gone=at == 2, silent_ms=silence) for at in range(heard.reported + 1, stage + 1)]
        if not told and passed > heard.told_ms:
            told = [NodeSilent(node=node, gone=stage == 2, silent_ms=silence)]
        heard.reported, heard.told_ms = max(heard.reported, stage), max(heard.told_ms, passed)
        return told
