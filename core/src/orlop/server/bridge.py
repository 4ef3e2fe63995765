"""From threads to the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)


class Bridge:
    """Carries calls from threads to the loop, in order, waking it once per burst.

    To wake it is a system call, during which the loop may take the interpreter: calls that are made one by one may each
    wake it, so that what belongs together is to be handed over together.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()

    def call(self, *functions: Callable[[], None]) -> None:
        """At least one, which follow one another without others between."""
        self._calls.extend(functions)
        if len(self._calls) == len(functions):  # else whoever has not drained them all goes on with these
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        while self._calls:
            function = self._calls[0]
            try:
                function()
            except Exception:
                log.exception("an effect could not be carried out")
            self._calls.popleft()
