"""Notices that the clock of the day was set. Pure: what the clocks show in, by how much they moved apart out.

A timer waits for as long as the clock said when it was set. When the clock is set forward meanwhile (its time server is
found again, a virtual machine goes on after hours), the timer's moment passes and nobody looks. So whoever waits for a
date compares the clock of the day with the one that never steps, every `LOOK_MS`, and waits anew when they have moved
apart. That counts from the last time, so that a clock that is slowed down or hurried for hours is noticed as well.
"""

from __future__ import annotations

from typing import Final

from orlop.model.clock import Now

#: Between two looks.
LOOK_MS: Final = 1_000
#: By less than that a timer may be off.
TOLERATED_MS: Final = 250


class ClockWatch:
    """See the module. now: as of the beginning."""

    def __init__(self, now: Now) -> None:
        self._apart_ms = now.utc_ms - now.monotonic_ms

    def moved_ms(self, now: Now) -> int:
        """By how much the clock of the day was set forward (or, less than 0, back) since that was last told; 0 for
        not at all."""
        moved_ms = now.utc_ms - now.monotonic_ms - self._apart_ms
        if abs(moved_ms) < TOLERATED_MS:
            return 0
        self._apart_ms += moved_ms
        return moved_ms
