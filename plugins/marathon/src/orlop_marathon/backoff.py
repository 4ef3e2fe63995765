"""The launch queue's patience: how long an app that keeps failing waits between starts.

One delay per app and configuration: a new configuration starts afresh, scaling keeps it (Marathon 1.11,
`RateLimiter`). Killed tasks do not count; tasks that end by themselves do, even with exit code 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from orlop.framework import Outcome, Task
from orlop_marathon.model import App

#: How a task must have ended to count.
FAILURES: Final = frozenset({Outcome.FAILED, Outcome.ERROR, Outcome.FINISHED})


@attrs.frozen(kw_only=True)
class Backoff:
    """The stored object `backoff`, by the app's id.

    config_version: the configuration it belongs to. delay_ms: the present delay. reference_utc_ms: of the last
    failure. counted: ids of recorded tasks that are counted and not replaced, so that none counts twice.
    """

    config_version: str
    delay_ms: float
    reference_utc_ms: int
    counted: tuple[str, ...] = ()

    @property
    def not_before_utc_ms(self) -> int:
        return self.reference_utc_ms + round(self.delay_ms)


def counts(task: Task) -> bool:
    """Is this ended task a failure of the app?"""
    ended = task.status.exit
    return ended is not None and ended.outcome in FAILURES and not task.desired_reason


def first_delay_ms(app: App) -> float:
    """The delay after the first failure."""
    return min(app.backoff_seconds, app.max_launch_delay_seconds) * 1000


def after_failures(
    app: App, config_version: str, known: Backoff | None, failed: Sequence[Task], now_utc_ms: int
) -> Backoff | None:
    """The delay after these failed tasks, in the order in which they ended; the known one when there are none.

    A task that ran for longer than `maxLaunchDelaySeconds` after the last failure makes the next one the first.
    """
    found = known if known is not None and known.config_version == config_version else None
    if found is not None and not found.delay_ms:
        found = None  # it was reset
    longest_ms = app.max_launch_delay_seconds * 1000
    for task in failed:
        if found is not None:
            reference = max(found.reference_utc_ms, task.started_utc_ms or 0)
            if now_utc_ms - reference > max(longest_ms, found.delay_ms):
                found = None
        delay = first_delay_ms(app) if found is None else min(found.delay_ms * app.backoff_factor, longest_ms)
        found = Backoff(config_version=config_version, delay_ms=delay, reference_utc_ms=now_utc_ms)
    return found
