"""What does not return is found, with whose code it is; and what only takes its time is let alone."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

import pytest

from orlop.server.patience import Patience, Work
from orlop.server.watchdog import ANSWER_WITHIN_S, DECIDE_WITHIN_S, LOOK_EVERY_S, Hang, Watchdog

WITHIN_S = 20.0
DECISION_LOOKS = round(DECIDE_WITHIN_S / LOOK_EVERY_S)
TURN_LOOKS = round(ANSWER_WITHIN_S / LOOK_EVERY_S)

FILTER = """
def check(candidate, wait):
    return wait()
"""


def plugin_of(module: str) -> str:
    return "rack" if module.startswith("orlop_rack") else ""


def module_with_a_filter(name: str) -> ModuleType:
    module = ModuleType(name)
    exec(compile(FILTER, f"/plugins/{name}.py", "exec"), module.__dict__)
    return module


@contextmanager
def hanging(name: str) -> Iterator[int]:
    """A thread in the filter of a module of this name, which does not return; its identifier."""
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go_on.wait(WITHIN_S)

    thread = threading.Thread(target=module_with_a_filter(name).check, args=(None, wait))
    thread.start()
    try:
        assert begun.wait(WITHIN_S)
        assert thread.ident is not None
        yield thread.ident
    finally:
        go_on.set()
        thread.join()


class Watched:
    """A watchdog on this event loop that is told when to look. decision: what is under way."""

    def __init__(self) -> None:
        self.decision: Work | None = None
        self.hangs: list[Hang] = []
        self.watchdog = Watchdog(lambda: self.decision, plugin_of, self.hangs.append)

    def look_at_once(self, times: int) -> None:
        for _ in range(times):
            self.watchdog.look()

    async def look(self, times: int) -> None:
        for _ in range(times):
            self.watchdog.look()
            await asyncio.sleep(0)


def frames(count: int) -> list[FrameType]:
    """Of as many calls, which have returned."""
    found: list[FrameType] = []

    def call() -> None:
        frame = inspect.currentframe()
        assert frame is not None
        found.append(frame)

    for _ in range(count):
        call()
    return found


def test_patience_ends_once_for_each_piece_of_work() -> None:
    patience = Patience(3)
    first, second = Work(1, 1), Work(1, 2)
    assert [patience.is_over(one, []) for one in (first, first, second, second, second, second)] == [
        False, False, False, False, True, False,
    ]  # fmt: skip


def test_calls_count_that_are_under_way_all_the_while() -> None:
    once, twice, always, late = frames(4)
    patience, work = Patience(3), Work(1, 1)
    patience.is_over(work, [once, twice, always])
    patience.is_over(work, [late, twice, always])
    assert patience.is_over(work, [late, always])
    assert patience.calls == [always]
    patience.rest()
    assert patience.calls == []
    assert [patience.is_over(work, [late]) for _ in range(3)] == [False, False, True]
    assert patience.calls == [late]


async def test_a_decision_that_does_not_return_is_told_with_whose_code_it_is() -> None:
    watched = Watched()
    with hanging("orlop_rack.filters") as thread:
        watched.decision = Work(thread, 1)
        await watched.look(DECISION_LOOKS - 1)
        assert watched.hangs == []
        await watched.look(3)
    (hang,) = watched.hangs
    assert hang.plugin == "rack"
    assert hang.reason == "a decision takes more than 10 s, in check (/plugins/orlop_rack.filters.py:3)"
    assert "in wait" in hang.stack


async def test_decisions_one_after_the_other_are_none_that_hangs() -> None:
    watched = Watched()
    for number in range(3 * DECISION_LOOKS):
        watched.decision = Work(threading.get_ident(), number) if number % 3 else None
        await watched.look(1)
    assert watched.hangs == []


async def test_a_decision_that_asks_a_plugin_again_and_again_is_slow_and_not_the_plugins() -> None:
    """As one does that looks at ten thousand nodes with its filter."""
    watched = Watched()
    filter_, loop = module_with_a_filter("orlop_rack.filters"), asyncio.get_running_loop()
    looks = threading.Barrier(2, timeout=WITHIN_S)

    def wait() -> None:
        looks.wait()  # it is in the filter
        looks.wait()  # it has been looked at

    def decide() -> None:
        for _ in range(DECISION_LOOKS):
            filter_.check(None, wait)

    thread = threading.Thread(target=decide)
    thread.start()
    assert thread.ident is not None
    watched.decision = Work(thread.ident, 1)
    for _ in range(DECISION_LOOKS):
        await loop.run_in_executor(None, looks.wait)
        await watched.look(1)
        await loop.run_in_executor(None, looks.wait)
    thread.join()
    (hang,) = watched.hangs
    assert (hang.plugin, hang.reason) == ("", "a decision takes more than 10 s")
    assert "in check" in hang.stack


async def test_what_is_no_plugins_is_told_without_one() -> None:
    watched = Watched()
    with hanging("orlop.kernel.something") as thread:
        watched.decision = Work(thread, 1)
        await watched.look(DECISION_LOOKS)
    (hang,) = watched.hangs
    assert (hang.plugin, hang.reason) == ("", "a decision takes more than 10 s")
    assert "in wait" in hang.stack


async def test_a_loop_that_does_not_come_round_is_told() -> None:
    """It stands still as long as this test does not wait for anything."""
    watched = Watched()

    def look() -> None:
        watched.look_at_once(TURN_LOOKS + 2)

    module_with_a_filter("orlop_rack.routes").check(None, lambda: at_once(look))
    (hang,) = watched.hangs
    assert hang.plugin == "rack"
    assert hang.reason.startswith("nothing is answered for more than 30 s, in check (/plugins/orlop_rack.routes.py:3)")


def at_once(call: Any) -> None:
    """On a thread of its own, which is waited for."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


async def test_a_loop_that_comes_round_is_let_alone() -> None:
    watched = Watched()
    for _ in range(3):
        at_once(lambda: watched.look_at_once(TURN_LOOKS))
        await asyncio.sleep(0)
    await watched.look(2 * TURN_LOOKS)
    assert watched.hangs == []


async def test_it_looks_by_itself_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_EVERY_S", "DECIDE_WITHIN_S"):
        monkeypatch.setattr(f"orlop.server.watchdog.{name}", 0.001)
    found = threading.Event()
    with hanging("orlop_rack") as thread:
        watchdog = Watchdog(lambda: Work(thread, 1), plugin_of, lambda _: found.set())
        watchdog.start()
        assert await asyncio.to_thread(found.wait, WITHIN_S)
        watchdog.stop()
    assert "orlop-watchdog" not in {one.name for one in threading.enumerate()}
