"""When a job is due: `R[n]/start/period` in a time zone (Chronos), and crontab lines as an addition.

A schedule is an endless sequence of moments, numbered from 0, of which it is stateless: moment k is the start plus k
periods, computed from the start each time. So nothing drifts: a job of the 31st runs on the last day of shorter months
and on the 31st again thereafter, where Chronos, which moved the start on with each run, stayed at the 28th. How many
runs are left is not part of the sequence but of the job, since a late run and those that it stands for use up one.

All times are UTC milliseconds. Both classes are triggers of APScheduler too.
"""

from __future__ import annotations

import functools
import re
from abc import abstractmethod
from datetime import UTC, date, datetime, tzinfo
from typing import Any, Final

import attrs
from apscheduler.triggers.base import BaseTrigger
from cronsim import CronSim, CronSimError

from orlop_chronos import instants
from orlop_chronos.instants import InstantError
from orlop_chronos.periods import Period, PeriodError

#: A job that repeats does so once a second at most: Chronos divided by the period in whole seconds.
SHORTEST_PERIOD_MS: Final = 1_000
MOST_REPEATS: Final = 2**31 - 1
#: Chronos 3.0 refuses an earlier start.
EARLIEST_START_MS: Final = 1_000
#: Year 9999, beyond which nothing can be computed.
LATEST_MS: Final = 253_402_300_799_999

_REPEATING: Final = re.compile(r"R(?P<repeats>\d*)/(?P<start>[^/]*)/(?P<period>P.*)", re.IGNORECASE | re.ASCII)
_MACROS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class ScheduleError(ValueError):
    """Not a schedule. The text says what was expected."""


@attrs.frozen(order=True)
class Moment:
    """One of a schedule's moments. number: its place in the sequence, from 0. at_ms: UTC."""

    at_ms: int
    number: int


class Trigger(BaseTrigger):
    """A sequence of moments, never decreasing."""

    #: Runs in total; None: without end.
    repeats: int | None = None
    #: Whose clocks on walls it goes by.
    where: tzinfo = UTC

    @abstractmethod
    def moment(self, number: int) -> Moment | None:
        """The moment with that number; None when it lies beyond the year 9999."""

    @abstractmethod
    def first_from(self, at_ms: int, start: Moment) -> Moment | None:
        """The first moment at `at_ms` or later, `start` or later. Does not depend on how many lie between."""

    @abstractmethod
    def last_until(self, at_ms: int, start: Moment) -> Moment:
        """The last moment at `at_ms` or before, `start` or later; `start` itself must not be later than `at_ms`."""

    @abstractmethod
    def count(self, first: Moment, last: Moment, most: int) -> int:
        """How many moments there are from `first` to `last`; `most` at most, where they must be counted one by one."""

    def reaching_back(self, at_ms: int) -> Trigger:
        """The same moments, and those from `at_ms` on too where it has no beginning of its own."""
        return self

    def following(self, moment: Moment) -> Moment | None:
        """The next one that is really later: where a zone skips a whole day, two moments fall together."""
        return self.first_from(moment.at_ms + 1, moment)

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        """APScheduler's question. The first moment is given even when it is past, so that it is not missed."""
        start = self.moment(0)
        if previous is None or start is None:
            found = start if self.repeats != 0 else None
        else:
            found = self.first_from(_ms(previous) + 1, start)
        if found is None or (self.repeats is not None and found.number >= self.repeats):
            return None
        return instants.wall_at(found.at_ms, UTC)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


class Repeating(Trigger):
    """`R[n]/start/period`.

    start: what the wall's clock shows at the first moment, without a zone. where: the wall's zone.
    """

    def __init__(self, repeats: int | None, start: datetime, where: tzinfo, period: Period) -> None:
        self.repeats = repeats
        self.start = start
        self.where = where
        self.period = period

    def moment(self, number: int) -> Moment | None:
        at_ms = self._at_ms(number)
        return Moment(at_ms, number) if at_ms <= LATEST_MS else None

    def _at_ms(self, number: int) -> int:
        """UTC milliseconds of moment `number`; more than LATEST_MS when there is none."""
        period = self.period
        if period.months or period.days:
            day = _later_day(self.start, number * period.months, number * period.days)
            at_ms = instants.utc_ms(day, self.where) if day is not None else None
        else:
            at_ms = self._start_ms
        return at_ms + number * period.milliseconds if at_ms is not None else LATEST_MS + 1

    @functools.cached_property
    def _start_ms(self) -> int | None:
        return instants.utc_ms(self.start, self.where)

    def first_from(self, at_ms: int, start: Moment) -> Moment | None:
        if at_ms <= start.at_ms:
            return start
        period_ms = self.period.mean_ms
        if not period_ms or at_ms > LATEST_MS:
            return None
        # Months and days differ from their mean by a few days at most, so the guess is a few moments off at most.
        number = max(start.number, start.number + (at_ms - start.at_ms) // period_ms)
        while number > start.number and self._at_ms(number - 1) >= at_ms:
            number -= 1
        while self._at_ms(number) < at_ms:
            number += 1
        return self.moment(number)

    def last_until(self, at_ms: int, start: Moment) -> Moment:
        later = self.first_from(at_ms + 1, start)
        if later is not None:
            number = max(later.number - 1, start.number)
        elif not self.period.mean_ms:
            number = start.number
        else:
            number = self._last_number(start.number)
        found = self.moment(number)
        assert found is not None
        return found

    def count(self, first: Moment, last: Moment, most: int) -> int:
        return last.number - first.number + 1

    def shows(self, given: Trigger, upcoming: Moment, left: int | None) -> bool:
        """Is `given` what `render` shows of this schedule, or has shown at an earlier due time? upcoming, left: now."""
        first, start = self.moment(0), given.moment(0)
        if not isinstance(given, Repeating) or (given.period, given.where) != (self.period, self.where):
            return False
        if first is None or start is None or not first.at_ms <= start.at_ms <= upcoming.at_ms:
            return False
        found = self.first_from(start.at_ms, first)
        if found is None or found.at_ms != start.at_ms:
            return False
        if left is None or given.repeats is None:
            return left is None and given.repeats is None
        return left <= given.repeats <= left + upcoming.number - found.number

    def _last_number(self, known: int) -> int:
        """Of the last moment that there is; `known` is not later."""
        step = 1
        while self._at_ms(known + step) <= LATEST_MS:
            step *= 2
        while step:
            if self._at_ms(known + step) <= LATEST_MS:
                known += step
            step //= 2
        return known


def _later_day(wall: datetime, months: int, days: int) -> datetime | None:
    """The same time of day so many months and then days later; None beyond the year 9999."""
    year, month = divmod(wall.year * 12 + wall.month - 1 + months, 12)
    if year > 9999:
        return None
    last = _days_in(year, month + 1)
    moved = wall.replace(year=year, month=month + 1, day=min(wall.day, last))
    ordinal = moved.toordinal() + days
    if ordinal > _LAST_ORDINAL:
        return None
    return datetime.combine(datetime.fromordinal(ordinal), wall.time())


_LAST_ORDINAL: Final = date.max.toordinal()


def _days_in(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


class Crontab(Trigger):
    """A crontab line, as Debian's cron reads it: a time that a change of the clock skips or repeats is run once.

    since_ms: moments are counted from there on; the numbers of all others are not known and are 0.
    """

    def __init__(self, line: str, where: tzinfo, since_ms: int) -> None:
        self.line = line
        self.where = where
        self.since_ms = since_ms

    def reaching_back(self, at_ms: int) -> Crontab:
        return Crontab(self.line, self.where, min(self.since_ms, at_ms))

    def moment(self, number: int) -> Moment | None:
        found = self.first_from(self.since_ms, Moment(self.since_ms - 1, 0))
        while number and found is not None:
            found = self.following(found)
            number -= 1
        return found

    def first_from(self, at_ms: int, start: Moment) -> Moment | None:
        if at_ms <= start.at_ms:
            return start
        found = self._next(at_ms - 1, reverse=False)
        return Moment(found, 0) if found is not None and found <= LATEST_MS else None

    def last_until(self, at_ms: int, start: Moment) -> Moment:
        found = max(self._next(at_ms + 1, reverse=True) or start.at_ms, start.at_ms)
        # Where the clock was set back, the library, which goes by the clock on the wall, overlooks what was due before.
        while (later := self._next(found, reverse=False)) is not None and later <= at_ms:
            found = later
        return Moment(found, 0) if found > start.at_ms else start

    def count(self, first: Moment, last: Moment, most: int) -> int:
        counted, moment = 1, last
        while counted < most and moment.at_ms > first.at_ms:
            counted, moment = counted + 1, self.last_until(moment.at_ms - 1, first)
        return counted

    def _next(self, at_ms: int, reverse: bool) -> int | None:
        """The next moment after `at_ms`, or with `reverse` the one before."""
        try:
            moments = CronSim(self.line, instants.wall_at(at_ms, self.where), reverse=reverse)
            for found in moments:
                found_ms = _ms(found)
                # Where the clock is set back, the library may give the moment that it was asked about once more.
                if (found_ms < at_ms) if reverse else (found_ms > at_ms):
                    return found_ms
        except (OverflowError, ValueError):
            pass
        return None


def parse(text: str, zone_name: str, now_ms: int) -> Trigger:
    """A schedule as a job gives it. now_ms: what an empty start means. Raises ScheduleError.

    zone_name: empty for that of the start, or UTC; otherwise the start's own offset is of no account and its figures
    are what a clock shows there (Chronos).
    """
    try:
        where = instants.zone(zone_name) if zone_name else None
        if _is_crontab(text):
            return _crontab(text, where or UTC, now_ms)
        return _repeating(text, where, now_ms)
    except (InstantError, PeriodError) as error:
        raise ScheduleError(str(error)) from error


def _is_crontab(text: str) -> bool:
    return text.startswith("@") or len(text.split()) in (5, 6)


def _crontab(text: str, where: tzinfo, now_ms: int) -> Crontab:
    line = _MACROS.get(text.strip().lower(), " ".join(text.split()))
    try:
        trigger = Crontab(line, where, now_ms)
        CronSim(line, instants.wall_at(now_ms, where))
    except (CronSimError, ValueError) as error:
        raise ScheduleError(f"expected a crontab line such as 0 3 * * 1-5, got {text!r}: {error}") from error
    if trigger.moment(0) is None:
        raise ScheduleError(f"expected a crontab line that is due some day, got {text!r}")
    return trigger


def _repeating(text: str, where: tzinfo | None, now_ms: int) -> Repeating:
    found = _REPEATING.fullmatch(text)
    if found is None:
        raise ScheduleError(f"expected R[n]/start/period such as R/2014-10-10T18:32:00Z/PT1H, got {text!r}")
    repeats = _repeats(found["repeats"], text)
    period = Period.parse(found["period"])
    if found["start"]:
        start, offset = instants.parse_wall(found["start"])
    else:
        start, offset = instants.wall_at(now_ms, where or UTC).replace(tzinfo=None, fold=0), UTC
    trigger = Repeating(repeats, start, where or offset or UTC, period)
    if (repeats is None or repeats > 1) and period.mean_ms < SHORTEST_PERIOD_MS:
        raise ScheduleError(f"expected a period of a second or more, or R1, got {text!r}")
    first = trigger.moment(0)
    if first is None or first.at_ms < EARLIEST_START_MS:
        raise ScheduleError(f"expected a start from 1970-01-01T00:00:01Z to 9999-12-31T23:59:59Z, got {text!r}")
    return trigger


def _repeats(digits: str, text: str) -> int | None:
    if not digits:
        return None
    if len(digits) > 10 or int(digits) > MOST_REPEATS:
        raise ScheduleError(f"expected at most {MOST_REPEATS} runs, got {text[:80]!r}")
    return int(digits)


def render(text: str, trigger: Any, upcoming: Moment | None, left: int | None) -> str:
    """The schedule as Chronos shows it: after the first run, `R<runs left>/<next start>/<period>`.

    text: as it was given; it is shown until the first run, and for crontab lines always.
    """
    if not isinstance(trigger, Repeating) or upcoming is None or (upcoming.number == 0 and left == trigger.repeats):
        return text
    start = instants.format_instant(instants.wall_at(upcoming.at_ms, trigger.where))
    return f"R{'' if left is None else left}/{start}/{text.rpartition('/')[2]}"
