"""Months of Chronos, with all faults of the simulator, changes of the clocks and servers whose clocks are set wrong.

`make soak` looks at more seeds.
"""

from __future__ import annotations

# ruff: noqa: DTZ001  (walls have no zones)
import itertools
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import pytest
from chronos_cluster import ChronosCluster
from due_times import ByCalendar, CrontabLine, EveryHourLine, in_ms
from months_of_cron import WEEK_RUNS, Week, play_months, play_week

from orlop.framework import Changed, View
from orlop.testing.simulation.world import Broken
from orlop_chronos import attending, documents, framework
from orlop_chronos.desk import Desk
from orlop_chronos.framework import Chronos
from orlop_chronos.schedules import Moment, Repeating
from orlop_chronos.triggers import Due

SEEDS = 48
PARTS = 8
#: Seeds that found something once; what, is in the commits that mended it.
FOUND_ONCE = (6, 11, 23, 61)


@pytest.mark.parametrize("part", range(PARTS))
def test_months_pass_and_every_due_time_is_accounted_for(part: int) -> None:
    for seed in range(part, SEEDS, PARTS):
        play_months(seed)


@pytest.mark.parametrize("seed", FOUND_ONCE)
def test_what_was_found_once_stays_mended(seed: int) -> None:
    play_months(seed)


def test_the_same_seed_gives_the_same_months() -> None:
    assert play_months(3) == play_months(3)


# --- a week counts exactly ---


def test_a_week_counts_exactly() -> None:
    cluster = ChronosCluster(history_count=1_000)
    cluster.put("hourly", schedule="R168//PT1H")
    cluster.put("daily", schedule="R7//P1D")
    cluster.put("weekly", schedule="R1//P1W")
    cluster.put("child", parents=["hourly", "daily"])
    for _ in range(7 * 24):
        while running := cluster.running():
            cluster.finish(running[0].group)
        cluster.advance(3_600)
    counts = {name: Counter(cluster.states(name)) for name in cluster.names()}
    assert counts == {
        "hourly": {"succeeded": 168},
        "daily": {"succeeded": 7},
        "weekly": {"succeeded": 1},
        "child": {"succeeded": 7},
    }


@pytest.mark.parametrize("seed", range(4))
def test_a_week_counts_exactly_whatever_breaks(seed: int) -> None:
    """A due time is run once, also when it is made up for; a run whose node is lost is one run with two attempts."""
    made: list[Week] = []
    play_week(seed, made)
    assert {name: made[-1].counted[name] for name in WEEK_RUNS} == WEEK_RUNS
    assert made[-1].counted["child"] == made[-1].successes["daily"]


# --- the reference knows its calendar ---

BERLIN, LORD_HOWE, CAIRO = "Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo"


@pytest.mark.parametrize(
    ("timetable", "since", "expected"),
    [
        # The clock skips 02:00 to 03:00 on 31 March, and shows it twice on 27 October.
        (
            ByCalendar(zone=BERLIN, start=datetime(2024, 3, 30, 2, 30), days=1),
            datetime(2024, 3, 30),
            ["2024-03-30T02:30:00+01:00", "2024-03-31T03:30:00+02:00", "2024-04-01T02:30:00+02:00"],
        ),
        (
            ByCalendar(zone=BERLIN, start=datetime(2024, 10, 26, 2, 30), days=1),
            datetime(2024, 10, 26),
            ["2024-10-26T02:30:00+02:00", "2024-10-27T02:30:00+02:00", "2024-10-28T02:30:00+01:00"],
        ),
        (
            CrontabLine(zone=BERLIN, at=time(2, 30)),
            datetime(2024, 3, 30),
            ["2024-03-30T02:30:00+01:00", "2024-03-31T03:00:00+02:00", "2024-04-01T02:30:00+02:00"],
        ),
        (
            EveryHourLine(zone=BERLIN, minute=15),
            datetime(2024, 10, 27),
            ["2024-10-27T02:15:00+02:00", "2024-10-27T02:15:00+01:00", "2024-10-27T03:15:00+01:00"],
        ),
        # By half an hour: 02:00 to 02:30 is skipped.
        (
            ByCalendar(zone=LORD_HOWE, start=datetime(2024, 10, 5, 2, 15), days=1),
            datetime(2024, 10, 4),
            ["2024-10-05T02:15:00+10:30", "2024-10-06T02:45:00+11:00", "2024-10-07T02:15:00+11:00"],
        ),
        (
            ByCalendar(zone=CAIRO, start=datetime(2024, 1, 31, 12), months=1),
            datetime(2024, 1, 1),
            ["2024-01-31T12:00:00+02:00", "2024-02-29T12:00:00+02:00", "2024-03-31T12:00:00+02:00"],
        ),
    ],
)
def test_the_reference(timetable: Any, since: datetime, expected: list[str]) -> None:
    due = itertools.islice(timetable.due(in_ms(since.replace(tzinfo=UTC))), 3)
    zone = ZoneInfo(timetable.zone)
    assert [datetime.fromtimestamp(at_ms / 1000, zone).isoformat() for at_ms in due] == expected


# --- does the net catch fish? ---


def lose_the_anchor(patch: pytest.MonkeyPatch) -> None:
    """The next due time is counted from the last one, as so many hours."""

    def following(self: Due, moment: Moment) -> Moment | None:
        trigger = self.trigger
        if not isinstance(trigger, Repeating) or not trigger.period.days:
            return original(self, moment)
        return Moment(moment.at_ms + trigger.period.mean_ms, moment.number + 1)

    original = Due.following
    patch.setattr(Due, "following", following)


def repeat_what_a_clock_shows_again(patch: pytest.MonkeyPatch) -> None:
    """The next due time is the first from now on, also when the clock was set back behind the last one."""

    def attend(desk: Desk, name: str) -> int | None:
        record, progress = desk.job(name), desk.progress(name)
        if record is not None and progress.upcoming is not None and (due := Due.of(record)) is not None:
            first = due.first()
            sooner = due.from_time(desk.now_ms + 1, first) if first is not None else None
            if sooner is not None and sooner < progress.upcoming:
                desk.put_progress(name, attrs.evolve(progress, upcoming=sooner))
        return original(desk, name)

    original = attending.attend
    patch.setattr(framework, "attend", attend)


def forget_what_was_due_before_a_takeover(patch: pytest.MonkeyPatch) -> None:
    """A new leader plans from now on."""

    def handle(self: Chronos, view: View, changed: Changed) -> Any:
        if not changed.everything:
            return original(self, view, changed)
        desk = Desk(view, self.settings)
        for name, record in view.objects(documents.JOB).items():
            progress, due = desk.progress(name), Due.of(record)
            if due is not None and progress.upcoming is not None and progress.upcoming.at_ms <= view.now.utc_ms:
                upcoming = due.from_time(view.now.utc_ms, progress.upcoming)
                desk.put_progress(name, attrs.evolve(progress, upcoming=upcoming))
        return [*desk.actions(), *original(self, view, attrs.evolve(changed, everything=not desk.actions()))]

    original = Chronos.handle
    patch.setattr(Chronos, "handle", handle)


def wait_for_as_long_as_the_clock_said(patch: pytest.MonkeyPatch) -> None:
    """Nobody notices that a clock was set."""
    patch.setattr("orlop.server.clock_watch.ClockWatch.moved_ms", lambda self, now: 0)


#: Fault → seeds that are known to find it.
FINDS: dict[Callable[[pytest.MonkeyPatch], None], tuple[int, ...]] = {
    lose_the_anchor: (0, 1, 2),
    repeat_what_a_clock_shows_again: (4, 8, 10),
    forget_what_was_due_before_a_takeover: (0, 1, 2, 3),
    wait_for_as_long_as_the_clock_said: (23, 39),
}


@pytest.mark.parametrize("plant", FINDS)
def test_a_planted_fault_of_time_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for seed in FINDS[plant]:
        try:
            play_months(seed)
        except Broken as broken:
            assert "AssertionError" in str(broken)
            return
    pytest.fail("none of the seeds that are known to find it does")
