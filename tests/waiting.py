"""Waiting for a condition with a deadline, for all tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

T = TypeVar("T")
#: Called with nothing. Not `Callable[[], ...]`: mypy would refuse each lambda that binds a loop's variable.
Condition = Callable[..., T | Literal[False] | None]

DEADLINE_S = 60.0
POLL_S = 0.01


def wait_until(condition: Condition[T], what: str | Callable[[], str], deadline_s: float = DEADLINE_S) -> T:
    """The condition's first true value; an assertion that names `what` after the deadline, as it is said then."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what if isinstance(what, str) else what()}"
        time.sleep(POLL_S)
    return value


async def eventually(condition: Condition[T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The same on an event loop."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        await asyncio.sleep(POLL_S)
    return value


def is_alive(pid: int) -> bool:
    """Zombies do not count."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
