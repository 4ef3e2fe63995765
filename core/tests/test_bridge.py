"""From threads to the loop: nothing is lost, and what belongs together comes together."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

import pytest

from orlop.server.bridge import Bridge

THREADS = 4
BATCHES = 2_000
WITHIN_S = 60.0


async def test_what_threads_hand_over_comes_in_their_order_and_together() -> None:
    seen: list[tuple[int, int, int]] = []
    bridge = Bridge(asyncio.get_running_loop())

    def hand_over(thread: int) -> None:
        for batch in range(BATCHES):
            bridge.call(*(partial(seen.append, (thread, batch, place)) for place in range(1 + batch % 3)))

    await asyncio.wait_for(asyncio.gather(*(asyncio.to_thread(hand_over, one) for one in range(THREADS))), WITHIN_S)
    done = asyncio.Event()
    bridge.call(done.set)
    await asyncio.wait_for(done.wait(), WITHIN_S)
    whole = [(batch, place) for batch in range(BATCHES) for place in range(1 + batch % 3)]
    for thread in range(THREADS):
        assert [rest for number, *rest in seen if number == thread] == [list(one) for one in whole]
    for before, after in itertools.pairwise(seen):
        assert not after[2] or before == (*after[:2], after[2] - 1), "of one batch, without others between"


class CountingLoop:
    """Counts how often it is woken. calls: what it is to do."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def run(self) -> None:
        while self.calls:
            self.calls.pop(0)()


def test_the_loop_is_woken_once_for_a_burst() -> None:
    loop, seen = CountingLoop(), list[int]()
    bridge = Bridge(loop)  # type: ignore[arg-type]
    bridge.call(lambda: seen.append(1), lambda: bridge.call(lambda: seen.append(4), lambda: seen.append(5)))
    bridge.call(lambda: seen.append(2), lambda: seen.append(3))
    assert len(loop.calls) == 1
    loop.calls.pop()()
    assert (seen, loop.calls) == ([1, 2, 3, 4, 5], [])
    bridge.call(lambda: seen.append(6))
    assert len(loop.calls) == 1


class Interrupted(deque[Callable[[], None]]):
    """Lets another thread have its turn between two steps of the one that uses it. turn: the other's, taken once."""

    turn: Callable[[], None] | None = None

    def extend(self, calls: Iterable[Callable[[], None]]) -> None:
        super().extend(calls)
        self._interrupt()

    def __bool__(self) -> bool:
        answer = len(self) > 0
        self._interrupt()
        return answer

    def _interrupt(self) -> None:
        turn, self.turn = self.turn, None
        if turn is not None:
            turn()


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_what_another_thread_hands_over_in_between_is_not_left_lying(before: int) -> None:
    """before: after how many looks at the queue the other thread has its turn."""
    loop, seen = CountingLoop(), list[int]()
    bridge = Bridge(loop)  # type: ignore[arg-type]
    bridge._calls = calls = Interrupted()

    def interrupt(looks: int) -> Callable[[], None]:
        def turn() -> None:
            if looks:
                calls.turn = interrupt(looks - 1)
            else:
                bridge.call(lambda: seen.append(2))

        return turn

    calls.turn = interrupt(before)
    bridge.call(lambda: seen.append(1))
    loop.run()
    assert calls.turn is None
    assert seen == [1, 2]


def test_the_loop_may_be_quicker_than_whoever_wakes_it() -> None:
    loop, seen = CountingLoop(), list[int]()
    bridge = Bridge(loop)  # type: ignore[arg-type]
    bridge._calls = calls = Interrupted()
    calls.turn = bridge._drain
    bridge.call(lambda: seen.append(1))
    assert seen == [1], "before it was woken"
    loop.run()
    for number in (2, 3):
        bridge.call(partial(seen.append, number))
        loop.run()
    assert seen == [1, 2, 3]


def test_a_call_that_fails_is_told_and_the_rest_is_done(caplog: pytest.LogCaptureFixture) -> None:
    loop, seen = CountingLoop(), list[int]()
    bridge = Bridge(loop)  # type: ignore[arg-type]

    def fail() -> None:
        raise ValueError("no")

    bridge.call(fail, lambda: seen.append(1))
    loop.calls.pop()()
    assert seen == [1]
    assert "an effect could not be carried out" in caplog.text
