"""How long to wait before the next attempt. Pure: randomness is an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_S: Final = 1.0
MAX_S: Final = 15.0
#: A session of this length shows that all is well again.
WELL_AFTER_S: Final = 10.0


class Backoff:
    """Full jitter: anything between nothing and a bound that doubles, so that a thousand agents do not come at once.

    random: a number from 0 to 1. The very first attempt does not wait.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._attempts = 0
        self._began_s: float | None = None

    def pause_s(self, now_s: float) -> float:
        """Before an attempt that begins at this moment of a monotonic clock."""
        if self._began_s is not None and now_s - self._began_s >= WELL_AFTER_S:
            self._attempts = 1
        self._began_s = None
        bound = min(MAX_S, FIRST_S * 2 ** (self._attempts - 1)) if self._attempts else 0.0
        self._attempts = min(self._attempts + 1, 30)
        return bound * self._random()

    def began(self, now_s: float) -> None:
        """The attempt has led to a session."""
        self._began_s = now_s
