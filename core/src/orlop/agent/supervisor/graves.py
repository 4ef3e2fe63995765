"""Control groups of ended tasks, until they are removed. Not while tasks are being started: for the kernel it is as
much work as a good part of a start. Times are seconds of a monotonic clock."""

from __future__ import annotations

from . import remains

#: Between attempts to remove control groups whose processes are still dying, and how many there are.
INTERVAL_S = 0.05
ATTEMPTS_MAX = 200
#: While tasks are being started, those of ended ones wait, but no more of them than that; so many are removed between
#: two looks at what else there is to do.
WAITING_MAX = 2_000
TOGETHER = 32


class Graves:
    """True while there are any. See the module."""

    def __init__(self) -> None:
        self._waiting: list[tuple[list[str], int]] = []
        self._busy: list[tuple[list[str], int]] = []
        self._at_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, groups: list[str]) -> None:
        self._waiting.append((groups, 0))

    def put_off(self, now_s: float) -> None:
        """A task is being started."""
        self._at_s = now_s + INTERVAL_S

    def pause_s(self, now_s: float) -> float:
        """Until the next `bury`, while there are any."""
        return max(0.0, self._at_s - now_s)

    def bury(self, now_s: float) -> list[str]:
        """Removes some of them, if it is time; those that cannot be emptied and are left behind. Those that are busy
        are tried again when all have been tried."""
        left: list[str] = []
        if not self._waiting or (now_s < self._at_s and len(self._waiting) < WAITING_MAX):
            return left
        taken, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
        for groups, attempts in taken:
            busy = remains.remove_control_groups(groups)
            if not busy:
                continue
            remains.kill_control_groups(busy)
            if attempts < ATTEMPTS_MAX:
                self._busy.append((busy, attempts + 1))
            else:
                left += busy
        if self._waiting:
            self._at_s = now_s
        else:
            self._waiting, self._busy = self._busy, []
            self.put_off(now_s)
        return left
