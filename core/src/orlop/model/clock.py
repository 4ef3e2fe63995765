"""Time as a value. Nothing below the shells reads a clock: they are handed a `Now`."""

from __future__ import annotations

import functools
from datetime import UTC, datetime

import attrs


@attrs.frozen
class Now:
    """One instant, stamped by a shell.

    utc_ms: milliseconds since 1970-01-01 UTC. For what is stored and shown.
    monotonic_ms: milliseconds of a clock that never steps. For durations within one process's life.
    """

    utc_ms: int
    monotonic_ms: int


def format_utc(utc_ms: int) -> str:
    """`2021-07-27T20:40:33.123Z`: always UTC, always milliseconds, always `Z`."""
    return f"{_format_second(utc_ms // 1000)}.{utc_ms % 1000:03d}Z"


@functools.lru_cache(maxsize=1024)
def _format_second(utc_s: int) -> str:
    """Many times that are shown together are of the same few seconds."""
    return f"{datetime.fromtimestamp(utc_s, UTC):%Y-%m-%dT%H:%M:%S}"


def parse_utc(text: str) -> int:
    """Milliseconds since 1970 of an ISO 8601 date-time; a missing zone means UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
