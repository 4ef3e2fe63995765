"""When jobs are due, the slow and obvious way: with zoneinfo and a calendar alone, and nothing of the plugin's.

A time that a zone's clocks skip is as much later as they skip, for `R/start/period`; of crontab lines it is the first
moment after the gap. Of a time that they show twice the first counts. Lines that are due every hour go by real time.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import attrs

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
QUARTER = timedelta(minutes=15)  # all offsets of our time are multiples of it


def in_ms(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def shows(moment: datetime, zone: ZoneInfo) -> datetime:
    """What the wall's clock shows there at a moment."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def moments_of(wall: datetime, zone: ZoneInfo) -> list[datetime]:
    """When the clock shows that: once, twice, or never. Every offset of a day before and after is tried."""
    around = [(wall + timedelta(hours=hours)).replace(tzinfo=UTC).astimezone(zone) for hours in range(-30, 31)]
    offsets = {moment.utcoffset() or timedelta() for moment in around}
    tried = {(wall - offset).replace(tzinfo=UTC) for offset in offsets}
    return sorted(moment for moment in tried if shows(moment, zone) == wall)


def end_of_gap(wall: datetime, zone: ZoneInfo) -> tuple[datetime, timedelta]:
    """The first moment after the gap that swallows `wall`, and how long the gap is."""
    before = wall
    while not moments_of(before, zone):
        before -= MINUTE
    last = moments_of(before, zone)[-1]
    end = last + MINUTE
    return end, shows(end, zone) - before - MINUTE


@attrs.frozen(kw_only=True)
class Timetable:
    """A schedule in words of its own. zone: its name. repeats: how often in all; None: without end."""

    zone: str
    repeats: int | None = None

    @property
    def text(self) -> str:
        """As clients write it."""
        raise NotImplementedError

    def due(self, since_ms: int) -> Iterator[int]:
        """UTC milliseconds, ascending. since_ms: when the job was made, which is the beginning of crontab lines."""
        raise NotImplementedError


@attrs.frozen(kw_only=True)
class ByCalendar(Timetable):
    """Every so many months and days at the time of day of the start."""

    start: datetime
    months: int = 0
    days: int = 0

    @property
    def text(self) -> str:
        period = f"P{f'{self.months}M' if self.months else ''}{f'{self.days}D' if self.days else ''}"
        return f"R{self.repeats or ''}/{self.start.isoformat()}/{period}"

    def due(self, since_ms: int) -> Iterator[int]:
        zone, number = ZoneInfo(self.zone), 0
        while True:
            year, month = self.start.year, self.start.month
            for _ in range(number * self.months):
                year, month = (year, month + 1) if month < 12 else (year + 1, 1)
            day = date(year, month, min(self.start.day, calendar.monthrange(year, month)[1]))
            wall = datetime.combine(day + timedelta(days=number * self.days), self.start.time())
            found = moments_of(wall, zone)
            if found:
                yield in_ms(found[0])
            else:
                yield in_ms(moments_of(wall + end_of_gap(wall, zone)[1], zone)[0])
            number += 1


@attrs.frozen(kw_only=True)
class ByHours(Timetable):
    """Every so many hours of real time."""

    start: datetime
    hours: int

    @property
    def text(self) -> str:
        return f"R{self.repeats or ''}/{self.start.isoformat()}/PT{self.hours}H"

    def due(self, since_ms: int) -> Iterator[int]:
        moment = moments_of(self.start, ZoneInfo(self.zone))[0]
        while True:
            yield in_ms(moment)
            moment += timedelta(hours=self.hours)


@attrs.frozen(kw_only=True)
class CrontabLine(Timetable):
    """At a time of each day, of a weekday (0 is Sunday), or of a day of the month."""

    at: time
    weekday: int | None = None
    day: int | None = None

    @property
    def text(self) -> str:
        day = "*" if self.day is None else str(self.day)
        weekday = "*" if self.weekday is None else str(self.weekday)
        return f"{self.at.minute} {self.at.hour} {day} * {weekday}"

    def due(self, since_ms: int) -> Iterator[int]:
        zone = ZoneInfo(self.zone)
        day = (EPOCH + timedelta(milliseconds=since_ms)).astimezone(zone).date() - timedelta(days=1)
        while True:
            if self.weekday in (None, day.isoweekday() % 7) and self.day in (None, day.day):
                wall = datetime.combine(day, self.at)
                found = moments_of(wall, zone)
                at_ms = in_ms(found[0] if found else end_of_gap(wall, zone)[0])
                if at_ms >= since_ms:
                    yield at_ms
            day += timedelta(days=1)


@attrs.frozen(kw_only=True)
class EveryHourLine(Timetable):
    """A crontab line: at a minute of every hour, by real time."""

    minute: int

    @property
    def text(self) -> str:
        return f"{self.minute} * * * *"

    def due(self, since_ms: int) -> Iterator[int]:
        zone = ZoneInfo(self.zone)
        moment = EPOCH + timedelta(milliseconds=since_ms) - timedelta(hours=1)
        moment = moment.replace(minute=0, second=0, microsecond=0)
        while True:
            if shows(moment, zone).minute == self.minute and in_ms(moment) >= since_ms:
                yield in_ms(moment)
            moment += QUARTER


def without(due: Iterator[int], zone: str, excluded: frozenset[str]) -> Iterator[int]:
    """Those that are not on excluded days: `SAT`, or dates, by the zone's calendar."""
    for at_ms in due:
        day = shows(EPOCH + timedelta(milliseconds=at_ms), ZoneInfo(zone)).date()
        if not excluded & {day.isoformat(), ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")[day.weekday()]}:
            yield at_ms
