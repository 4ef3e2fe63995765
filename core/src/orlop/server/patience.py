"""How long is waited for code that may never return.

Looks at what is under way are counted, not time: a process that was stopped, or whose machine has slept, does not hang.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType

import attrs


@attrs.frozen
class Work:
    """What a thread is doing. thread: its identifier. number: another one for each piece of work. since_ms: monotonic
    milliseconds."""

    thread: int
    number: int
    since_ms: int = 0


class Patience:
    """Ends when the very same piece of work is under way at so many looks in a row.

    calls: frames that were on its stack at all of these looks, the innermost first.
    """

    def __init__(self, looks: int) -> None:
        self._looks = looks
        self._work: Work | None = None
        self._seen = 0
        self.calls: list[FrameType] = []

    def is_over(self, work: Work, calls: Sequence[FrameType] = ()) -> bool:
        """To be asked at each look. calls: on the work's stack at this one. True once for each piece of work."""
        if work == self._work:
            self._seen += 1
            self.calls = [one for one in self.calls if one in calls]
        else:
            self._work, self._seen, self.calls = work, 1, list(calls)
        return self._seen == self._looks

    def rest(self) -> None:
        """Nothing is under way; what it knows is let go of."""
        self._work, self.calls = None, []
