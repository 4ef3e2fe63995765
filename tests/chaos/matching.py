"""Which starts satisfy which due times: every due time wants a start of its own within its window.

Windows are intervals and starts are points, so that a sweep is enough: each start goes to the open window that closes
first. No other choice satisfies more due times (Glover's rule for convex bipartite graphs).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import attrs


@attrs.frozen
class Window:
    """Closed on both sides."""

    target_ms: int
    until_ms: int


def match(windows: Sequence[Window], starts: Sequence[int]) -> dict[int, int]:
    """Index of a window → index of its start, for as many windows as there can be."""
    by_opening = sorted(range(len(windows)), key=lambda index: windows[index].target_ms)
    waiting: list[tuple[int, int]] = []
    found: dict[int, int] = {}
    opened = 0
    for start in sorted(range(len(starts)), key=lambda index: starts[index]):
        at_ms = starts[start]
        while opened < len(by_opening) and windows[by_opening[opened]].target_ms <= at_ms:
            heapq.heappush(waiting, (windows[by_opening[opened]].until_ms, by_opening[opened]))
            opened += 1
        while waiting and waiting[0][0] < at_ms:
            heapq.heappop(waiting)
        if waiting:
            found[heapq.heappop(waiting)[1]] = start
    return found
