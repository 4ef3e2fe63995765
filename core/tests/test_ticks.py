"""Looks at one multiple of time fall together."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.server import ticks
from orlop.server.ticks import next_tick, until_next_s


@given(st.floats(0, 1e9), st.floats(0.01, 100))
def test_never_none_and_never_more_than_one(now_s: float, every_s: float) -> None:
    assert 0 < until_next_s(now_s, every_s) <= every_s


@pytest.mark.parametrize(("now_s", "expected_s"), [(0.0, 0.25), (0.1, 0.15), (7.75, 0.25), (7.9, 0.1)])
def test_the_next_multiple(now_s: float, expected_s: float) -> None:
    assert until_next_s(now_s, 0.25) == pytest.approx(expected_s)


async def test_it_waits_until_then_by_the_loops_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, slept = asyncio.get_running_loop(), list[float]()

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)

    monkeypatch.setattr(ticks.asyncio, "sleep", sleep)
    monkeypatch.setattr(loop, "time", lambda: 7.9)
    await next_tick(0.25)
    await next_tick(1.0)
    assert slept == [pytest.approx(0.1), pytest.approx(0.1)], "together"
