"""What need not be asked of engines each time: which images all nodes have, and which networks are copies.

Most containers are made from a few images that are everywhere, and to ask all engines each time costs more than all
else that the pool adds. So what they have said is believed for a while, if they all have one and the same image: then
it says nothing about the place. Whatever may change images through the pool ends that, and an engine that turns out
not to have it any more says so itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: Somebody may change an engine's images without the pool.
BELIEVED_S: Final = 10.0
REMEMBERED_MAX: Final = 1_000
NETWORKS_REMEMBERED_MAX: Final = 10_000


class Everywhere:
    """References of images. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[tuple[str, frozenset[str]], float] = {}
        #: Grows when images may have changed: what was asked before says nothing then.
        self.changes = 0

    def has(self, reference: str, nodes: frozenset[str]) -> bool:
        """Had all of them the same image a moment ago? nodes: names."""
        return self._until.get((reference, nodes), 0) > self._clock()

    def told(self, reference: str, nodes: frozenset[str], changes: int) -> None:
        """They all have it. changes: as they were when this was asked."""
        if changes == self.changes:
            if len(self._until) >= REMEMBERED_MAX:
                self._until.clear()
            self._until[reference, nodes] = self._clock() + BELIEVED_S

    def forget(self) -> None:
        """Images may have changed."""
        self.changes += 1
        self._until.clear()


class NetworkIds:
    """By the id of a copy of a network, the id of the one that clients see. Both stay the same as long as they live."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}

    def __contains__(self, network: str) -> bool:
        return network in self._shown

    def shown(self, network: str) -> str:
        """Itself, when nothing else is known."""
        return self._shown.get(network, network)

    def told(self, network: str, shown: str) -> None:
        if len(self._shown) >= NETWORKS_REMEMBERED_MAX:
            self._shown.clear()
        self._shown[network] = shown
