"""Virtual time: a queue of calls, sources of randomness that do not disturb one another, and a trace."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from orlop.model.clock import Now

START_UTC_MS: Final = 1_700_000_000_000
TRACE_LINES_KEPT: Final = 400
CALLS_MAX: Final = 2_000_000


class Broken(AssertionError):
    """Something that must hold does not; the text says what, the world's trace says how it came."""


class World:
    """See the module. now_ms: virtual milliseconds since the beginning. struck: how often each kind of fault did."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now_ms = 0
        self.struck: Counter[str] = Counter()
        self.trace: deque[str] = deque(maxlen=TRACE_LINES_KEPT)
        self._digest = hashlib.sha256()
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
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

    def run(self, until_ms: int, after_each: Callable[[], None]) -> None:
        """Until this moment. Raises whatever a call or a check raises, and Broken when it never comes to rest."""
        while self._queue and self._queue[0][0] <= until_ms:
            if self._calls > CALLS_MAX:
                raise Broken(f"more than {CALLS_MAX} calls: the cluster does not come to rest")
            self.now_ms, _, call = heapq.heappop(self._queue)
            call()
            after_each()
        self.now_ms = until_ms

    def now(self, skew_ms: int = 0) -> Now:
        """What a clock shows that is wrong by `skew_ms`."""
        return Now(utc_ms=START_UTC_MS + self.now_ms + skew_ms, monotonic_ms=self.now_ms)

    def strike(self, kind: str) -> None:
        """Counts a fault at the moment at which it makes a difference."""
        self.struck[kind] += 1

    def note(self, who: str, what: str) -> None:
        """A line of the history."""
        line = f"{self.now_ms / 1000:9.3f} {who}: {what}"
        self.trace.append(line)
        self._digest.update(line.encode())

    def digest(self) -> str:
        """Of the whole history so far."""
        return self._digest.hexdigest()
