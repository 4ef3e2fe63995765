"""The timer service: calls back at UTC times. Runs on APScheduler, whose jobs only enqueue.

APScheduler waits for as long as it was, by the clock of that moment, until the next job. A clock that is set forward
meanwhile, or a machine that was suspended, would make it late by as much; so it is made to look again every second.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from apscheduler.executors.base import BaseExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

logging.getLogger("apscheduler").setLevel(logging.WARNING)


LOOK_AGAIN_S: Final = 1.0


class _Inline(BaseExecutor):
    """Calls the job where the scheduler runs: jobs only enqueue."""

    def _do_submit_job(self, job: Any, run_times: Any) -> None:
        try:
            job.func(*job.args)
            self._run_job_success(job.id, [])
        except Exception as error:  # noqa: BLE001  (handed to APScheduler, which logs it)
            self._run_job_error(job.id, error, error.__traceback__)


class TimerService:
    """One time per key; setting it again replaces it. `set` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._times: dict[str, int] = {}
        self._scheduler = AsyncIOScheduler(
            event_loop=loop,
            timezone=UTC,
            executors={"default": _Inline()},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1_000_000},
        )
        self._scheduler.start()
        self._next_look = loop.call_later(LOOK_AGAIN_S, self._look_again)

    def set(self, key: str, utc_ms: int | None, callback: Callable[[], None]) -> None:
        """Calls back at `utc_ms`, on the loop; None forgets the key. Said again, the same time costs nothing."""
        with self._lock:
            if self._times.get(key) == utc_ms:
                return
            if utc_ms is not None:
                self._times[key] = utc_ms
            else:
                del self._times[key]
            self._loop.call_soon_threadsafe(self._set, key, utc_ms, callback)

    def _set(self, key: str, utc_ms: int | None, callback: Callable[[], None]) -> None:
        if utc_ms is not None:
            at = datetime.fromtimestamp(utc_ms / 1000, UTC)
            arguments = (key, utc_ms, callback)
            self._scheduler.add_job(self._due, DateTrigger(at), arguments, id=key, replace_existing=True)
        elif self._scheduler.get_job(key) is not None:
            self._scheduler.remove_job(key)

    def _due(self, key: str, utc_ms: int, callback: Callable[[], None]) -> None:
        """Forgotten before it is told, so that whoever is told may set the same time again."""
        with self._lock:
            if self._times.get(key) == utc_ms:
                del self._times[key]
        callback()

    def _look_again(self) -> None:
        self._scheduler.wakeup()
        self._next_look = self._loop.call_later(LOOK_AGAIN_S, self._look_again)

    def stop(self) -> None:
        """On the loop. Nothing is called back any more."""
        self._next_look.cancel()
        self._scheduler.shutdown(wait=False)
