"""Schedules: what Chronos' clients may write, Joda-Time's cases, and moments against a slow, obvious reference."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_chronos import instants, schedules
from orlop_chronos.documents import JobRecord
from orlop_chronos.model import Job
from orlop_chronos.periods import Period, PeriodError
from orlop_chronos.schedules import Moment, Repeating, ScheduleError, Trigger, parse, render
from orlop_chronos.triggers import trigger_of

NOW_MS = 1_600_000_000_000
ALL_ZONES = sorted(zoneinfo.available_timezones())


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def iso(moment: Moment | None, where: tzinfo = UTC) -> str:
    assert moment is not None
    return instants.wall_at(moment.at_ms, where).isoformat()


def moments(text: str, zone: str = "", count: int = 3) -> list[str]:
    trigger = parse(text, zone, NOW_MS)
    where = instants.zone(zone) if zone else UTC
    return [iso(trigger.moment(number), where) for number in range(count)]


# --- the grammar ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("P", Period()),
        ("PT0S", Period()),
        ("P1Y2M3W4DT5H6M7.5S", Period(14, 25, 18_367_500)),
        ("pt10m", Period(0, 0, 600_000)),
        ("PT1,25S", Period(0, 0, 1_250)),
        ("PT1.S", Period(0, 0, 1_000)),
        ("PT0.0009S", Period()),
        ("P2147483647D", Period(0, 2147483647, 0)),
    ],
)
def test_periods(text: str, expected: Period) -> None:
    assert Period.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "PT", "P1", "P0.5D", "P1H", "PT1D", "P-1D", "PT1S1M", "P1D ", "P²D", "P2147483648D", "P1DT", "1D"]
)
def test_what_is_no_period(text: str) -> None:
    with pytest.raises(PeriodError, match="expected"):
        Period.parse(text)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("2014-10-10T18:32:00Z", "2014-10-10T18:32:00+00:00"),
        ("2014-10-10T18:32:00.123456Z", "2014-10-10T18:32:00.123000+00:00"),
        ("2014-10-10T18:32:00,5Z", "2014-10-10T18:32:00.500000+00:00"),
        ("2014-10-10T18:32:00-07:00", "2014-10-11T01:32:00+00:00"),
        ("2014-10-10T18:32:00+0530", "2014-10-10T13:02:00+00:00"),
        ("2014-10-10T18:32", "2014-10-10T18:32:00+00:00"),
        ("2014-10-10T18.5", "2014-10-10T18:30:00+00:00"),
        ("2014-10-10", "2014-10-10T00:00:00+00:00"),
        ("2014-10", "2014-10-01T00:00:00+00:00"),
        ("2014", "2014-01-01T00:00:00+00:00"),
        ("2014-W41-5T06:00Z", "2014-10-10T06:00:00+00:00"),
        ("2014-283", "2014-10-10T00:00:00+00:00"),
        ("2014-10-10T", "2014-10-10T00:00:00+00:00"),
    ],
)
def test_starts(start: str, expected: str) -> None:
    assert moments(f"R/{start}/P1D", count=1) == [expected]


@pytest.mark.parametrize(
    ("text", "zone", "reason"),
    [
        ("", "", "expected R"),
        ("R/2014-10-10T18:32:00Z", "", "expected R"),
        ("5/2014-10-10T18:32:00Z/PT1H", "", "expected R"),
        ("R-1/2014-10-10T18:32:00Z/PT1H", "", "expected R"),
        ("R/20141010T183200Z/PT1H", "", "expected a time"),
        ("R/2014-02-30T00:00:00Z/PT1H", "", "expected a time"),
        ("R/2014-10-10T24:00:00Z/PT1H", "", "expected a time"),
        ("R/2014-10-10T18:32:00+25:00/PT1H", "", "expected a time"),
        ("R/2014-366/PT1H", "", "2014 has no day 366"),
        ("R/2014-W54/PT1H", "", "expected a time"),
        ("R/2014-10-10T18:32:00Z/PT0S", "", "a second or more"),
        ("R2/2014-10-10T18:32:00Z/PT0.9S", "", "a second or more"),
        ("R/2014-10-10T18:32:00Z/PT-5S", "", "negative"),
        ("R2147483648/2014-10-10T18:32:00Z/PT1H", "", "at most"),
        ("R" + "9" * 100_000 + "/2014-10-10T18:32:00Z/PT1H", "", "at most"),
        ("R/1970-01-01T00:00:00Z/PT1H", "", "1970"),
        ("R/0000-01-01T00:00:00Z/PT1H", "", "expected a time"),
        ("R/9999-12-31T23:59:59-12:00/PT1H", "", "9999"),
        ("R/2014-10-10T18:32:00Z/PT1H", "europe/paris", "is Europe/Paris meant"),
        ("R/2014-10-10T18:32:00Z/PT1H", "Nowhere/City", "expected a time zone"),
        ("R/2014-10-10T18:32:00Z/PT1H", "../../etc/passwd", "expected a time zone"),
        ("R/2014-10-10T18:32:00Z/PT1H", "x" * 100_000, "expected a time zone"),
        ("R/2014-10-10T18:32:00Z/PT1H", "Europe\0Paris", "expected a time zone"),
        ("61 * * * *", "", "crontab"),
        ("0 0 31 2 *", "", "crontab"),
        ("@reboot", "", "crontab"),
    ],
)
def test_what_is_no_schedule(text: str, zone: str, reason: str) -> None:
    with pytest.raises(ScheduleError, match=reason) as error:
        parse(text, zone, NOW_MS)
    assert len(str(error.value)) < 400 or len(text) > 400 or len(zone) > 400


@pytest.mark.parametrize("text", ["R0/2014-10-10T18:32:00Z/PT0S", "R1//P", "R1//PT1M", "R0//PT0M", "R/2014-10-10/P1D"])
def test_unusual_ones_that_clients_send(text: str) -> None:
    assert parse(text, "", NOW_MS).moment(0) is not None


def test_an_empty_start_is_now() -> None:
    trigger = parse("R5//PT10S", "America/New_York", NOW_MS)
    assert [trigger.moment(0), trigger.moment(2)] == [Moment(NOW_MS, 0), Moment(NOW_MS + 20_000, 2)]


def test_an_empty_start_in_the_second_of_two_equal_hours() -> None:
    """The wall's clock cannot tell the two apart, so the schedule keeps what it can: the first."""
    now_ms = ms("2014-11-02T09:30:00+00:00")
    first = parse("R//P1D", "America/Los_Angeles", now_ms).moment(0)
    assert first is not None
    assert first.at_ms == now_ms - 3_600_000


# --- Joda-Time's cases, as Chronos had them (reference of its behaviour, 3.9) ---


def test_a_month_from_the_31st_does_not_drift() -> None:
    """Chronos: 28 February, then the 28th for ever, since it moved its start with each run."""
    assert moments("R/2014-01-31T00:00:00Z/P1M", count=4) == [
        "2014-01-31T00:00:00+00:00",
        "2014-02-28T00:00:00+00:00",
        "2014-03-31T00:00:00+00:00",
        "2014-04-30T00:00:00+00:00",
    ]


def test_leap_days() -> None:
    assert [day[:10] for day in moments("R/2016-02-29T00:00:00Z/P1Y", count=5)] == [
        "2016-02-29", "2017-02-28", "2018-02-28", "2019-02-28", "2020-02-29",
    ]  # fmt: skip


def test_a_time_zone_replaces_the_offset_and_keeps_the_figures() -> None:
    """Joda-Time: 18:32 Pacific daylight time, though the text says Z and the zone PST."""
    assert moments("R/2014-10-10T18:32:00Z/P1D", "PST", 1) == ["2014-10-10T18:32:00-07:00"]


def test_a_day_keeps_the_time_of_day_and_24_hours_do_not() -> None:
    start = "2014-03-08T12:00:00Z"
    assert moments(f"R/{start}/P1D", "America/Los_Angeles", 2)[1] == "2014-03-09T12:00:00-07:00"
    assert moments(f"R/{start}/PT24H", "America/Los_Angeles", 2)[1] == "2014-03-09T13:00:00-07:00"


def test_a_day_without_this_time_runs_an_hour_later_and_the_next_one_not() -> None:
    """Chronos: 03:30 for ever."""
    assert moments("R/2014-03-08T02:30:00Z/P1D", "America/Los_Angeles", 3) == [
        "2014-03-08T02:30:00-08:00",
        "2014-03-09T03:30:00-07:00",
        "2014-03-10T02:30:00-07:00",
    ]


def test_a_day_with_this_time_twice_runs_at_the_first() -> None:
    assert moments("R/2014-11-01T01:30:00Z/P1D", "America/Los_Angeles", 3) == [
        "2014-11-01T01:30:00-07:00",
        "2014-11-02T01:30:00-07:00",
        "2014-11-03T01:30:00-08:00",
    ]


def test_half_hours_across_a_clock_set_back_are_real_half_hours() -> None:
    assert moments("R/2014-11-02T00:30:00Z/PT30M", "America/Los_Angeles", 5) == [
        "2014-11-02T00:30:00-07:00",
        "2014-11-02T01:00:00-07:00",
        "2014-11-02T01:30:00-07:00",
        "2014-11-02T01:00:00-08:00",
        "2014-11-02T01:30:00-08:00",
    ]


def test_a_long_outage_loses_no_months() -> None:
    """Chronos: 2018-09-01, since it divided by the length of the present month."""
    trigger = parse("R/2012-01-01T00:00:00Z/P1M", "", NOW_MS)
    start = trigger.moment(0)
    assert start is not None
    assert iso(trigger.first_from(ms("2018-02-10T00:00:00+00:00"), start)) == "2018-03-01T00:00:00+00:00"
    assert iso(trigger.last_until(ms("2018-02-10T00:00:00+00:00"), start)) == "2018-02-01T00:00:00+00:00"


def test_a_late_launch_loses_no_month() -> None:
    """Chronos: launched on 30 January, the next run was on 1 March."""
    trigger = parse("R/2014-01-01T00:00:00Z/P1M", "", NOW_MS)
    assert iso(trigger.first_from(ms("2014-01-30T00:00:00+00:00"), Moment(0, 0))) == "2014-02-01T00:00:00+00:00"


@pytest.mark.parametrize("late_h", [1, 23, 24, 25, 26, 49])
def test_a_late_launch_across_a_clock_set_back_loses_no_day(late_h: int) -> None:
    """Chronos counted days of 24 hours, and could pass over one too many. The day of 2 November has 25."""
    zone = "America/Los_Angeles"
    trigger = parse("R/2014-11-01T01:30:00Z/P1D", zone, NOW_MS)
    due = [ms(f"2014-11-0{day}T01:30:00-0{7 if day < 3 else 8}:00") for day in range(1, 6)]
    start = trigger.moment(0)
    assert start == Moment(due[0], 0)
    launched_ms = due[1] + late_h * 3_600_000
    found = trigger.first_from(launched_ms, start)
    assert found is not None
    assert found.at_ms == min(at_ms for at_ms in due if at_ms >= launched_ms)


def test_a_day_that_a_zone_skipped() -> None:
    """Samoa had no 30 December 2011: that moment and the next fall together, and only one of them is run."""
    trigger = parse("R/2011-12-29T10:00:00Z/P1D", "Pacific/Apia", NOW_MS)
    second = trigger.moment(1)
    assert second is not None
    assert iso(second, instants.zone("Pacific/Apia")) == "2011-12-31T10:00:00+14:00"
    after = trigger.following(second)
    assert after is not None
    assert after.number == 3


def test_the_end_of_time() -> None:
    trigger = parse("R/9999-12-30T00:00:00Z/P1D", "", NOW_MS)
    second = trigger.moment(1)
    assert second is not None
    assert trigger.moment(2) is None
    assert trigger.following(second) is None
    assert trigger.last_until(schedules.LATEST_MS, Moment(0, 0)) == second
    yearly = parse("R/2000-01-01T00:00:00Z/P2000000000Y", "", NOW_MS)
    assert yearly.moment(1) is None


def test_a_billion_missed_moments_cost_nothing() -> None:
    trigger = parse("R/1970-01-02T00:00:00Z/PT1S", "", NOW_MS)
    start = trigger.moment(0)
    assert start is not None
    found = trigger.first_from(NOW_MS, start)
    assert found == Moment(NOW_MS, (NOW_MS - start.at_ms) // 1000)


# --- crontab ---


def test_crontab_lines_in_a_zone() -> None:
    trigger = parse("30 2 * * *", "America/Los_Angeles", ms("2014-03-08T00:00:00+00:00"))
    where = instants.zone("America/Los_Angeles")
    first = trigger.moment(0)
    assert iso(first, where) == "2014-03-08T02:30:00-08:00"
    assert first is not None
    assert iso(trigger.following(first), where) == "2014-03-09T03:00:00-07:00"


def test_crontab_lines_run_once_in_an_hour_that_comes_twice() -> None:
    trigger = parse("30 1 * * *", "America/Los_Angeles", ms("2014-11-02T00:00:00-07:00"))
    first = trigger.moment(0)
    assert first is not None
    assert iso(first, UTC) == "2014-11-02T08:30:00+00:00"
    assert iso(trigger.following(first), UTC) == "2014-11-03T09:30:00+00:00"
    assert trigger.last_until(ms("2014-11-02T23:00:00+00:00"), Moment(0, 0)) == first


def test_macros() -> None:
    assert iso(parse("@daily", "", ms("2020-02-28T12:00:00+00:00")).moment(1)) == "2020-03-01T00:00:00+00:00"


@given(
    line=st.sampled_from(["*/5 * * * *", "30 1 * * *", "0 2 * * 1", "15,45 */3 * * *", "0 0 29 2 *", "0 0 L * *"]),
    zone=st.sampled_from(["UTC", "America/Los_Angeles", "Europe/Paris", "Australia/Lord_Howe", "Asia/Kolkata"]),
    at_ms=st.integers(ms("2010-01-01T00:00:00+00:00"), ms("2030-01-01T00:00:00+00:00")),
)
def test_crontab_lines_forwards_and_backwards(line: str, zone: str, at_ms: int) -> None:
    trigger = parse(line, zone, at_ms)
    first = trigger.moment(0)
    assert first is not None
    assert first.at_ms >= at_ms
    following = trigger.following(first)
    assert following is not None
    assert following.at_ms > first.at_ms
    assert trigger.first_from(first.at_ms, Moment(0, 0)) == first


#: A day on which the clocks are set back, and one on which they are set forward, by UTC.
_CHANGES = [
    ("Europe/Berlin", "2026-10-25"), ("America/New_York", "2026-11-01"), ("America/Havana", "2026-11-01"),
    ("America/Santiago", "2026-04-05"), ("Africa/Casablanca", "2026-02-15"), ("Europe/Berlin", "2026-03-29"),
    ("America/New_York", "2026-03-08"),
]  # fmt: skip


@given(
    line=st.sampled_from(["30 2 * * *", "30 1 * * *", "0 2 * * *", "30 23,0 * * *", "15,45 */3 * * *", "*/20 * * * *"]),
    change=st.sampled_from(_CHANGES),
    minutes=st.integers(-600, 2_400),
)
def test_the_last_moment_of_a_crontab_line_is_the_last_that_was_due(
    line: str, change: tuple[str, str], minutes: int
) -> None:
    zone, day = change
    start_ms = ms(f"{day}T00:00:00+00:00") - 2 * 86_400_000
    until_ms = ms(f"{day}T00:00:00+00:00") + minutes * 60_000
    trigger = parse(line, zone, start_ms)
    first = trigger.moment(0)
    assert first is not None
    expected = first
    while (following := trigger.following(expected)) is not None and following.at_ms <= until_ms:
        expected = following
    assert trigger.last_until(until_ms, first) == expected


# --- as Chronos shows them ---


def test_rendering() -> None:
    text = "R5/2014-10-10T18:32:00Z/PT1H"
    trigger = parse(text, "", NOW_MS)
    assert render(text, trigger, trigger.moment(0), 5) == text
    assert render(text, trigger, trigger.moment(2), 3) == "R3/2014-10-10T20:32:00.000Z/PT1H"
    assert render("R//PT10S", parse("R//PT10S", "", NOW_MS), Moment(NOW_MS, 0), None) == "R//PT10S"
    assert render("0 3 * * *", parse("0 3 * * *", "", NOW_MS), Moment(NOW_MS, 0), None) == "0 3 * * *"
    zoned = parse("R/2014-10-10T18:32:00Z/P1D", "America/Los_Angeles", NOW_MS)
    shown = render("R/2014-10-10T18:32:00Z/P1D", zoned, zoned.moment(1), None)
    assert shown == "R/2014-10-11T18:32:00.000-07:00/P1D"
    assert parse(shown, "America/Los_Angeles", NOW_MS).moment(0) == Moment(ms("2014-10-11T18:32:00-07:00"), 0)


# --- against the reference ---


def slow_wall(start: datetime, months: int, days: int) -> datetime:
    """Goes on month by month, then day by day."""
    year, month = start.year, start.month
    for _ in range(months):
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    day = start.day
    while True:
        try:
            moved = start.replace(year=year, month=month, day=day)
            break
        except ValueError:
            day -= 1
    for _ in range(days):
        moved += timedelta(days=1)
    return moved


def slow_utc(wall: datetime, where: tzinfo) -> datetime:
    """Looks for the moment at which a clock there shows `wall`, among all the offsets of these days."""
    around = [wall.replace(tzinfo=UTC) + timedelta(hours=hours) for hours in range(-48, 49)]
    offsets = {moment.astimezone(where).utcoffset() for moment in around}
    showing = [
        candidate
        for offset in offsets
        if offset is not None
        and (candidate := (wall - offset).replace(tzinfo=UTC)).astimezone(where).replace(tzinfo=None) == wall
    ]
    if showing:
        return min(showing)
    # No clock ever showed it: it is as late after the change as it would be if the clock had not been changed.
    before = [moment for moment in around if moment.astimezone(where).replace(tzinfo=None) < wall]
    offset = max(before).astimezone(where).utcoffset()
    assert offset is not None
    return (wall - offset).replace(tzinfo=UTC)


def slow_moments(trigger: Repeating, count: int) -> list[int]:
    found = []
    for number in range(count):
        wall = slow_wall(trigger.start, number * trigger.period.months, number * trigger.period.days)
        moment = slow_utc(wall, trigger.where) + timedelta(milliseconds=number * trigger.period.milliseconds)
        found.append(int(moment.timestamp() * 1000))
    return found


periods = st.one_of(
    st.sampled_from(["PT1S", "PT1M", "PT30M", "PT1H", "PT24H", "P1D", "P7D", "P1W", "P1M", "P1Y", "P1M1D", "P1DT1H"]),
    st.builds(
        lambda months, days, seconds: f"P{months}M{days}DT{seconds}S",
        st.integers(0, 30), st.integers(0, 70), st.integers(1, 200_000),
    ),
)  # fmt: skip
starts = st.datetimes(datetime.fromisoformat("1975-01-01"), datetime.fromisoformat("2037-01-01")).map(
    lambda when: when.replace(microsecond=0)
)


@given(
    zone=st.sampled_from(ALL_ZONES), start=starts, period=periods, count=st.integers(1, 8), offset=st.integers(-2, 2)
)
def test_moments_are_those_of_the_reference(zone: str, start: datetime, period: str, count: int, offset: int) -> None:
    trigger = parse(f"R/{start.isoformat()}/{period}", zone, NOW_MS)
    assert isinstance(trigger, Repeating)
    expected = slow_moments(trigger, count + 2)
    got = [trigger.moment(number) for number in range(count + 2)]
    assert [moment.at_ms for moment in got if moment] == expected
    first = got[0]
    assert first is not None
    asked_ms = expected[count] + offset
    later = [Moment(at_ms, number) for number, at_ms in enumerate(expected) if at_ms >= asked_ms]
    assert trigger.first_from(asked_ms, first) == (later[0] if later else trigger.moment(count + 2))
    earlier = [Moment(at_ms, number) for number, at_ms in enumerate(expected) if at_ms <= asked_ms]
    assert trigger.last_until(asked_ms, first) == earlier[-1]


@given(zone=st.sampled_from(ALL_ZONES), start=starts, period=periods, ahead=st.integers(0, 10**12))
def test_looking_far_ahead_agrees_with_its_neighbours(zone: str, start: datetime, period: str, ahead: int) -> None:
    trigger = parse(f"R/{start.isoformat()}/{period}", zone, NOW_MS)
    first = trigger.moment(0)
    assert first is not None
    at_ms = first.at_ms + ahead
    found = trigger.first_from(at_ms, first)
    assert found is not None
    assert found.at_ms >= at_ms
    if found.number:
        before = trigger.moment(found.number - 1)
        assert before is not None
        assert before.at_ms < at_ms
        assert trigger.last_until(at_ms - 1, first).at_ms == before.at_ms
    assert trigger.moment(found.number) == found


@given(zone=st.sampled_from(ALL_ZONES), start=starts, period=periods, repeats=st.integers(0, 5))
def test_as_a_trigger_of_apscheduler(zone: str, start: datetime, period: str, repeats: int) -> None:
    trigger = parse(f"R{repeats}/{start.isoformat()}/{period}", zone, NOW_MS)
    fired = []
    previous = None
    while (previous := trigger.get_next_fire_time(previous, datetime.now(UTC))) is not None:
        fired.append(int(previous.timestamp() * 1000))
        assert len(fired) <= repeats
    numbered = [trigger.moment(number) for number in range(repeats)]
    assert fired == sorted({moment.at_ms for moment in numbered if moment})


def test_jobs_whose_schedules_say_the_same_share_one_trigger() -> None:
    def trigger(schedule: str, since_ms: int) -> Trigger | None:
        job = Job(name=f"job-{since_ms}", schedule=schedule)
        return trigger_of(JobRecord(job=job, uid="", created_ms=0, since_ms=since_ms))

    assert trigger("R/2030-01-01T00:00:00Z/P1D", 1_000) is trigger("R/2030-01-01T00:00:00Z/P1D", 2_000)
    for schedule in ("R//P1D", "@daily"):
        assert trigger(schedule, 1_000) is not trigger(schedule, 2_000)
    assert trigger("", 1_000) is None
