"""Which nodes are silent. Pure: heartbeats and time in, transitions out; never stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import attrs

from orlop.kernel.events import NodeSilent

#: Between two ticks; they come every second.
DEAF_AFTER_MS: Final = 3_000


@attrs.frozen(kw_only=True)
class LivenessSettings:
    """Milliseconds of silence until a node counts as unreachable, and as gone; and after a planned stop."""

    unreachable_after_ms: int = 15_000
    gone_after_ms: int = 60_000
    restart_grace_ms: int = 120_000


@attrs.define
class _Heard:
    """told_ms: the silence that was last told, beside the transitions."""

    at_ms: int
    goodbye: bool = False
    reported: int = 0
    told_ms: int = -1


class Liveness:
    """Counts silence from the last message, and for nodes that were never heard of, from the takeover.

    Silence counts only while somebody listens: a server that was stopped, or had no time, for more than
    DEAF_AFTER_MS has missed what was said meanwhile, and blames nobody for it.
    """

    def __init__(self, settings: LivenessSettings, nodes: Iterator[str], monotonic_ms: int) -> None:
        self._settings = settings
        self._ticked_ms = monotonic_ms
        self._heard = {node: _Heard(monotonic_ms) for node in nodes}

    def heard(self, node: str, monotonic_ms: int) -> None:
        """Any message of the node's session."""
        self._heard[node] = _Heard(monotonic_ms)

    def goodbye(self, node: str, monotonic_ms: int) -> None:
        """A planned stop: the grace is longer."""
        self._heard[node] = _Heard(monotonic_ms, goodbye=True)

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
        deaf_ms = monotonic_ms - self._ticked_ms
        self._ticked_ms = monotonic_ms
        if deaf_ms > DEAF_AFTER_MS:
            for heard in self._heard.values():
                heard.at_ms = min(heard.at_ms + deaf_ms, monotonic_ms)
        found: list[NodeSilent] = []
        for node, heard in self._heard.items():
            silence = monotonic_ms - heard.at_ms
            settings = self._settings
            unreachable = settings.restart_grace_ms if heard.goodbye else settings.unreachable_after_ms
            gone = max(settings.gone_after_ms, unreachable)
            stage = 2 if silence >= gone else 1 if silence >= unreachable else 0
            passed = max((time for time in times(node) if time <= silence), default=-1) if stage else -1
            told = [
                NodeSilent(node=node, gone=at == 2, silent_ms=silence) for at in range(heard.reported + 1, stage + 1)
            ]
            if not told and passed > heard.told_ms:
                told = [NodeSilent(node=node, gone=stage == 2, silent_ms=silence)]
            heard.reported, heard.told_ms = max(heard.reported, stage), max(heard.told_ms, passed)
            found += told
        return found
