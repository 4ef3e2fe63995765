"""The store's history and room: what is given up when, and when new work is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orlop.server.housekeeping import (
    DISK_ENOUGH,
    DISK_LOW_BYTES,
    KEEP_HISTORY_MS,
    NOTE_EVERY_MS,
    TRIM_EVERY_MS,
    Advice,
    Housekeeping,
)
from orlop.store.interface import Disk, Room
from orlop.store.sqlite import SqliteStore


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


@pytest.mark.parametrize(("total", "low"), [(2**40, DISK_LOW_BYTES), (20 * 2**20, 2**20)])
def test_a_disk_without_room_is_told_before_the_store_refuses(total: int, low: int) -> None:
    def disk(free: float) -> Disk:
        return Disk(folder="/data", free_bytes=int(free), total_bytes=total)

    house = Housekeeping()
    house.look_at(disk(low))
    assert house.disk == ""
    house.look_at(disk(low - 1024))
    assert house.disk == f"the disk of /data is nearly full: make room there, {low // 1024 - 1} KiB are left"
    house.look_at(disk(0))
    assert house.disk == "the disk of /data is full: make room there, 0 KiB are left"
    house.look_at(disk(DISK_ENOUGH * low - 1))
    assert "nearly full" in house.disk, "it is not said and taken back with each byte"
    house.look_at(disk(DISK_ENOUGH * low))
    assert house.disk == ""
    assert house.refusal == "", "others' files are no reason to refuse work"


def test_an_embedded_store_knows_its_disk(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    found, expected = store.disk(), shutil.disk_usage(tmp_path)
    assert (found.folder, found.total_bytes) == (str(tmp_path), expected.total)
    assert 0 < found.free_bytes <= expected.total
    store.close()
