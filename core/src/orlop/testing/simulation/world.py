"""Virtual time: a queue of calls, sources of randomness that do not disturb one another, and a trace.

There are two kinds of time. What machines do among themselves (messages, heartbeats, leases, time-outs) takes so long,
and is counted on `now_ms`, on which monotonic clocks go. What is due on a date (a program's end, a wake-up, the plan)
is due at an elapsed time, by which the clocks of the day go. The two go on together, but a cluster in which nothing is
under way may *leap*: the elapsed time jumps to just before the next thing that is due. What is left out are heartbeats
that would all have gone well, so that months cost what happens in them.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import attrs

from orlop.model.clock import Now

START_UTC_MS: Final = 1_700_000_000_000
TRACE_LINES_KEPT: Final = 400
CALLS_MAX: Final = 2_000_000


class Broken(AssertionError):
    """Something that must hold does not; the text says what, the world's trace says how it came."""


@attrs.frozen
class _Dated:
    """What is due on a date. wanted: is it still? What is not any more holds up no leap."""

    call: Callable[[], None]
    wanted: Callable[[], bool]


class World:
    """See the module. now_ms: virtual milliseconds since the beginning, without what was leapt over (`leapt_ms`).

    struck: how often each kind of fault did. start_utc_ms: when it begins.
    """

    def __init__(self, seed: int, start_utc_ms: int = START_UTC_MS) -> None:
        self.seed = seed
        self.start_utc_ms = start_utc_ms
        self.now_ms = 0
        self.leapt_ms = 0
        self.struck: Counter[str] = Counter()
        self.trace: deque[str] = deque(maxlen=TRACE_LINES_KEPT)
        self._digest = hashlib.sha256()
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._dated: list[tuple[int, int, _Dated]] = []
        self._calls = 0
        self._numbers = 0
        self._sources: dict[str, random.Random] = {}

    def source(self, name: str) -> random.Random:
        """Randomness of its own for each purpose: what one takes changes nothing for the others."""
        found = self._sources.get(name)
        if found is None:
            found = self._sources[name] = random.Random(f"{self.seed}/{name}")  # noqa: S311
        return found

    def number(self) -> int:
        """The next of a sequence, for names."""
        self._numbers += 1
        return self._numbers

    def after(self, delay_ms: int, call: Callable[[], None]) -> None:
        """Calls it after so much virtual time; calls of the same moment in the order of asking."""
        self._calls += 1
        heapq.heappush(self._queue, (self.now_ms + max(0, delay_ms), self._calls, call))

    @property
    def elapsed_ms(self) -> int:
        """Virtual milliseconds since the beginning, with what was leapt over."""
        return self.now_ms + self.leapt_ms

    def at(self, elapsed_ms: int, call: Callable[[], None], wanted: Callable[[], bool] = lambda: True) -> None:
        """Calls it at that elapsed time, if it is wanted then; in the order of asking among those of one moment."""
        self._calls += 1
        heapq.heappush(self._dated, (max(self.elapsed_ms, elapsed_ms), self._calls, _Dated(call, wanted)))

    def leap(self, until_ms: int, lead_ms: int) -> None:
        """To so much before what is due next, or `until_ms` of elapsed time if that comes first."""
        while self._dated and not self._dated[0][2].wanted():
            heapq.heappop(self._dated)
        next_ms = min(until_ms, self._dated[0][0] if self._dated else until_ms)
        self.leapt_ms += max(0, next_ms - lead_ms - self.elapsed_ms)

    def run(self, until_ms: int, after_each: Callable[[], None]) -> None:
        """Until this elapsed time. Raises whatever a call or a check raises, and Broken if it never comes to rest."""
        while (at_ms := self._next_ms()) is not None and at_ms + self.leapt_ms <= until_ms:
            if self._calls > CALLS_MAX:
                raise Broken(f"more than {CALLS_MAX} calls: the cluster does not come to rest")
            self.now_ms = at_ms
            self._take_next()
            after_each()
        self.now_ms = until_ms - self.leapt_ms

    def _next_ms(self) -> int | None:
        """When the next call comes, as `now_ms`."""
        times = [self._queue[0][0]] if self._queue else []
        if self._dated:
            times.append(self._dated[0][0] - self.leapt_ms)
        return min(times, default=None)

    def _take_next(self) -> None:
        dated = (self._dated[0][0] - self.leapt_ms, self._dated[0][1]) if self._dated else None
        if dated is None or (self._queue and self._queue[0][:2] < dated):
            heapq.heappop(self._queue)[2]()
            return
        due = heapq.heappop(self._dated)[2]
        if due.wanted():
            due.call()

    def now(self, skew_ms: int = 0) -> Now:
        """What a clock shows that is wrong by `skew_ms`."""
        return Now(utc_ms=self.start_utc_ms + self.elapsed_ms + skew_ms, monotonic_ms=self.now_ms)

    def strike(self, kind: str) -> None:
        """Counts a fault at the moment at which it makes a difference."""
        self.struck[kind] += 1

    def note(self, who: str, what: str) -> None:
        """A line of the history."""
        line = f"{self.elapsed_ms / 1000:9.3f} {who}: {what}"
        self.trace.append(line)
        self._digest.update(line.encode())

    def digest(self) -> str:
        """Of the whole history so far."""
        return self._digest.hexdigest()
