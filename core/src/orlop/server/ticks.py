"""Waiting for what is looked at now and then: together, so that an idle server wakes up once for all of it."""

from __future__ import annotations

import asyncio


def until_next_s(now_s: float, every_s: float) -> float:
    """Seconds from `now_s` until the next multiple of `every_s`: more than none, `every_s` at most."""
    return every_s - now_s % every_s


async def next_tick(every_s: float) -> None:
    """Returns when the loop's clock shows a multiple of `every_s`."""
    await asyncio.sleep(until_next_s(asyncio.get_running_loop().time(), every_s))
