"""Logging what strangers cause: often enough to be seen, too rarely to fill a disk."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

KEYS_MAX: Final = 1_000
AGAIN_AFTER_S: Final = 10.0


class Sparing:
    """At most one warning per key and 10 seconds; of the rest, the next one says how many there were."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def warning(self, key: str, text: str) -> None:
        """key: such as an address."""
        now_s = self._clock()
        said_s, left_out = self._seen.pop(key, (now_s - AGAIN_AFTER_S, 0))
        if now_s - said_s < AGAIN_AFTER_S:
            self._seen[key] = (said_s, left_out + 1)
            return
        self._log.warning("%s%s", text, f" (and {left_out} times more before)" if left_out else "")
        self._seen[key] = (now_s, 0)
        while len(self._seen) > KEYS_MAX:
            self._seen.popitem(last=False)
