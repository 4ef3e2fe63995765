"""The store's history and room: what is given up when, and when new work is refused."""

from __future__ import annotations

from orlop.server.housekeeping import KEEP_HISTORY_MS, NOTE_EVERY_MS, TRIM_EVERY_MS, Advice, Housekeeping
from orlop.store.interface import Room


def test_history_is_kept_for_ten_minutes() -> None:
    house = Housekeeping()
    compacted = {}
    for now_ms in range(0, 3 * KEEP_HISTORY_MS, 10_000):
        revision = house.note(now_ms // 1000, now_ms)
        if revision is not None:
            compacted[now_ms] = revision
    assert min(compacted) == KEEP_HISTORY_MS
    assert all(now_ms - 1000 * revision >= KEEP_HISTORY_MS for now_ms, revision in compacted.items())
    assert all(now_ms - 1000 * revision < KEEP_HISTORY_MS + 2 * NOTE_EVERY_MS for now_ms, revision in compacted.items())


def room(percent: int) -> Room:
    return Room(used_bytes=percent, limit_bytes=100)


def test_history_goes_before_work_is_refused() -> None:
    house = Housekeeping()
    assert house.judge(room(79), 0) is Advice.NOTHING
    assert house.judge(room(95), 10) is Advice.TRIM
    assert house.refusal == ""
    assert house.judge(room(95), 20) is Advice.NOTHING
    assert house.refusal.startswith("the store is 95% full")
    assert house.judge(room(95), 10 + TRIM_EVERY_MS) is Advice.TRIM, "it is tried again"
    assert house.refusal, "and refused meanwhile"


def test_work_is_accepted_again_well_below() -> None:
    house = Housekeeping()
    house.judge(room(95), 0)
    house.judge(room(95), 1)
    house.judge(room(87), 2)
    assert house.refusal, "no flapping"
    house.judge(room(84), 3)
    assert house.refusal == ""


def test_a_store_without_a_bound_needs_no_care() -> None:
    house = Housekeeping()
    assert house.judge(None, 0) is Advice.NOTHING
    assert house.refusal == ""
