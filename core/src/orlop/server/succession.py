"""Why the last term of leadership ended, as far as the server knows whose term begins. Pure.

A leader that is stopped says so in the event log, as the last thing of its term. One that is killed, or cut off, says
nothing: others see that its key is gone. What it knows of its own end it can tell only if it leads again.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from orlop.kernel.kernel import TERM_BEGAN, TERM_ENDED
from orlop.model.log_entries import LogEntry
from orlop.server.loading import LeaderRecord


@attrs.define
class Succession:
    """What one server sees of the leaders before it. server: its own id, as in its `LeaderRecord`."""

    server: str
    _last: LeaderRecord | None = None
    _own_end: str = ""

    def seen(self, leader: LeaderRecord | None) -> None:
        """Who leads now; None: nobody. That this server does is told by `led_until`, when it is over."""
        if leader is not None and leader.server != self.server:
            self._last, self._own_end = leader, ""

    def led_until(self, record: LeaderRecord, reason: str) -> None:
        """This server's own term has ended."""
        self._last, self._own_end = record, reason

    def why(self, told: Iterable[LogEntry]) -> str:
        """Who led last, and why no more. told: the end of the event log, the newest last."""
        last = next((one for one in reversed(list(told)) if one.type in (TERM_BEGAN, TERM_ENDED)), None)
        if last is not None and last.type == TERM_ENDED:
            return f"{last.subject}: {last.details.get('reason', '')}"
        if self._last is not None:
            return f"{self._last.url}: {self._own_end or 'it led no more, and has not said why'}"
        name = last.subject if last is not None else "the last leader"
        return f"{name}: it led no more, and has not said why"
