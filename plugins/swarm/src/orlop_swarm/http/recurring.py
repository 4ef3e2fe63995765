"""What is looked at again and again beside an application, as long as that lives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from aiohttp import web

from orlop.framework import NotAvailable

LOOK_EVERY_S: Final = 1.0
LOOKED_WITHIN_S: Final = 60.0

_LOG: Final = logging.getLogger(__name__)


def beside(look: Callable[[], Awaitable[None]], what: str) -> Callable[[web.Application], AsyncIterator[None]]:
    """A cleanup context of an application. look: may raise NotAvailable. what: is looked at, for the log."""

    async def context(_: web.Application) -> AsyncIterator[None]:
        looking = asyncio.create_task(_look_for_ever(look, what))
        yield
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking

    return context


async def _look_for_ever(look: Callable[[], Awaitable[None]], what: str) -> None:
    while True:
        try:
            async with asyncio.timeout(LOOKED_WITHIN_S):
                await look()
        except (NotAvailable, TimeoutError):
            pass
        except Exception:  # noqa: BLE001 - it must live: nobody else looks
            _LOG.exception("a bug in the look at %s", what)
        await asyncio.sleep(LOOK_EVERY_S)
