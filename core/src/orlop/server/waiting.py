"""Whoever waits, on an event loop, until a condition holds of what somebody else changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Waiting:
    """False while nobody waits, which may be asked from any thread; all else belongs to the event loop."""

    def __init__(self) -> None:
        self._events: set[asyncio.Event] = set()

    def __bool__(self) -> bool:
        return bool(self._events)

    async def until(self, look: Callable[[], T], condition: Callable[[T], bool], timeout_s: float) -> T:
        """What `look` returned once `condition` held of it: now, or after a call of `changed`.

        timeout_s: real seconds. Raises TimeoutError, and what `look` and `condition` raise.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                changed = asyncio.Event()
                self._events.add(changed)  # before the look: what is decided in another thread is then not missed
                try:
                    found = look()
                    if condition(found):
                        return found
                    await changed.wait()
                finally:
                    self._events.discard(changed)

    def changed(self) -> None:
        """Whoever waits looks again."""
        for event in self._events:
            event.set()
