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
        #: Will the loop look at the calls again? Read after a call is added, and cleared before the last look.
        self._awake = False

    def call(self, *functions: Callable[[], None]) -> None:
        """In this order, without others between."""
        self._calls.extend(functions)
        if not self._awake:
            self._awake = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        while True:
            while self._calls:
                function = self._calls.popleft()
                try:
                    function()
                except Exception:
                    log.exception("an effect could not be carried out")
            self._awake = False
            if not self._calls:
                return
            self._awake = True
