"""When a node's certificate is renewed: in time, and when the cluster says that another one is wanted."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from orlop.agent.credentials import Credentials
from orlop.model.messages import RenewCertificate
from orlop.security import authority as signing
from orlop.security.files import UnsafeFile

log = logging.getLogger(__name__)

CHECK_S: Final = 600.0
#: After a renewal that was wished for has failed, and as long as it has not helped.
AGAIN_S: Final = 10.0


class Renewal:
    """Lives on the event loop. renew: gets the next certificate, and shows it; raises ConnectionError, ValueError."""

    def __init__(self, credentials: Credentials, renew: Callable[[], Awaitable[None]]) -> None:
        self._credentials = credentials
        self._renew = renew
        self._wish: RenewCertificate | None = None
        self._asked = asyncio.Event()

    def ask(self, wish: RenewCertificate) -> None:
        """The cluster says which certificate this node shall have. The last word counts."""
        self._wish = wish
        self._asked.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._asked.clear()
            wished = await self._look()
            pause_s = AGAIN_S if wished else CHECK_S
            try:
                async with asyncio.timeout(pause_s * (0.5 + random.random())):  # noqa: S311  (spreads them, no more)
                    await self._asked.wait()
            except TimeoutError:
                continue

    async def _look(self) -> bool:
        """Renews, if it is time or wished for. Is a wish not fulfilled yet?"""
        try:
            certificate = await asyncio.to_thread(self._credentials.certificate)
            if certificate is None:
                return False
            wished = await self._wished()
            if not wished and time.time() * 1000 < signing.renew_at(certificate):
                return False
            await self._renew()
            return await self._wished()
        except (ConnectionError, ValueError, UnsafeFile, OSError) as error:
            log.warning("this node's certificate is not renewed yet: %s", error)
            return self._wish is not None

    async def _wished(self) -> bool:
        wish = self._wish
        return wish is not None and await asyncio.to_thread(self._credentials.shall_change, wish)
