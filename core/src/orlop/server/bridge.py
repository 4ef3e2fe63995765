"""From threads to the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)


class Bridge:
    """Carries calls from threads to the loop, in order, waking it once per burst."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()

    def call(self, function: Callable[[], None]) -> None:
        self._calls.append(function)
        if len(self._calls) == 1:
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        while self._calls:
            function = self._calls[0]
            try:
                function()
            except Exception:
                log.exception("an effect could not be carried out")
            self._calls.popleft()
