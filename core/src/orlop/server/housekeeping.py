"""What the leader does so that the store does not fill up: decisions here, the doing in `leadership.py`. Pure.

History is kept for ten minutes, for mirrors that lag; whatever the store's own settings are. When the store comes
near its bound, history goes first, all of it; if that does not help, new work is refused, so that there is room for
what tasks report, and for making room.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

from orlop.store.interface import Disk, Room

KEEP_HISTORY_MS: Final = 600_000
NOTE_EVERY_MS: Final = 60_000
TRIM_AT: Final = 0.8
TRIM_EVERY_MS: Final = 60_000
REFUSE_AT: Final = 0.9
ACCEPT_AT: Final = 0.85
#: An embedded store's disk is nearly full below the lesser of these.
DISK_LOW_BYTES: Final = 64 * 2**20
DISK_LOW_PART: Final = 0.05
#: Full below this part of that, and not low any more above this multiple.
DISK_FULL: Final = 1 / 64
DISK_ENOUGH: Final = 1.5


class Advice(enum.StrEnum):
    """What to do about the room there is."""

    NOTHING = "nothing"
    TRIM = "trim"


class Housekeeping:
    """See the module. refusal: why new work is refused; empty when it is not. disk: what is the matter with the disk of
    an embedded store, whether or not it refuses writes yet; empty when nothing is."""

    def __init__(self) -> None:
        self.refusal = ""
        self.disk = ""
        self._notes: deque[tuple[int, int]] = deque()
        self._trimmed_ms: int | None = None

    def note(self, revision: int, monotonic_ms: int) -> int | None:
        """The store is at this revision; the revision to compact to, if it is time."""
        if self._notes and monotonic_ms < self._notes[-1][0] + NOTE_EVERY_MS:
            return None
        self._notes.append((monotonic_ms, revision))
        old = None
        while self._notes and self._notes[0][0] <= monotonic_ms - KEEP_HISTORY_MS:
            old = self._notes.popleft()[1]
        return old

    def judge(self, room: Room | None, monotonic_ms: int) -> Advice:
        """How full the store is now."""
        if room is None or not room.limit_bytes:
            self.refusal = ""
            return Advice.NOTHING
        full = room.used_bytes / room.limit_bytes
        if full < ACCEPT_AT:
            self.refusal = ""
        if full < TRIM_AT:
            return Advice.NOTHING
        if self._trimmed_ms is None or monotonic_ms >= self._trimmed_ms + TRIM_EVERY_MS:
            self._trimmed_ms = monotonic_ms
            return Advice.TRIM
        if full >= REFUSE_AT:
            self.refusal = f"the store is {full:.0%} full: make room, then work is accepted again"
        return Advice.NOTHING

    def look_at(self, disk: Disk) -> None:
        """How much room there is beside the store: it writes into what it has kept of its file for some time, so that
        nobody would hear of a full disk from it before."""
        low = min(DISK_LOW_BYTES, DISK_LOW_PART * disk.total_bytes)
        if disk.free_bytes >= low * (DISK_ENOUGH if self.disk else 1):
            self.disk = ""
        else:
            how = "full" if disk.free_bytes < low * DISK_FULL else "nearly full"
            self.disk = f"the disk of {disk.folder} is {how}: make room there, {disk.free_bytes // 1024} KiB are left"
