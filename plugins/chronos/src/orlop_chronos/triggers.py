"""From a job's definition to its due times: its schedule, without excluded days, and with jitter."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from typing import Final

import attrs

from orlop_chronos import instants, schedules
from orlop_chronos.documents import JobRecord
from orlop_chronos.reading import WEEKDAYS
from orlop_chronos.schedules import Moment, Trigger

#: Days in a row that may be excluded, at most; thereafter a job counts as never due.
MOST_EXCLUDED_DAYS: Final = 3_700


@functools.lru_cache(maxsize=100_000)
def _parsed(text: str, zone: str, since_ms: int) -> Trigger:
    return schedules.parse(text, zone, since_ms)


def trigger_of(record: JobRecord) -> Trigger | None:
    """The job's schedule as it stands in its definition. None for a job with parents.

    Jobs whose schedules say the same share one: only an empty start and a crontab line depend on when they were given.
    """
    job = record.job
    if job.parents or not job.schedule:
        return None
    says_all = job.schedule[0] in "Rr" and "//" not in job.schedule
    return _parsed(job.schedule, job.schedule_time_zone, 0 if says_all else record.since_ms)


@attrs.frozen
class Due:
    """A job's due times. trigger: its schedule. excluded: dates and names of days, in capitals."""

    trigger: Trigger
    excluded: frozenset[str]
    jitter_ms: int
    name: str

    @classmethod
    def of(cls, record: JobRecord) -> Due | None:
        """None for a job with parents."""
        job, trigger = record.job, trigger_of(record)
        if trigger is None:
            return None
        return cls(
            trigger=trigger,
            excluded=frozenset(day.upper() for day in job.exclude),
            jitter_ms=round(job.jitter * 1000),
            name=job.name,
        )

    def reaching_back(self, at_ms: int) -> Due:
        """With those from `at_ms` on too where the schedule has no beginning of its own."""
        return attrs.evolve(self, trigger=self.trigger.reaching_back(at_ms))

    def first(self) -> Moment | None:
        start = self.trigger.moment(0)
        return self._allowed_from(start)

    def from_time(self, at_ms: int, start: Moment) -> Moment | None:
        """The first due time at `at_ms` or later, `start` or later."""
        return self._allowed_from(self.trigger.first_from(at_ms, start))

    def following(self, moment: Moment) -> Moment | None:
        return self._allowed_from(self.trigger.following(moment))

    def last_until(self, at_ms: int, start: Moment) -> Moment:
        """The last due time at `at_ms` or before. start: a due time, not later than that."""
        found = self.trigger.last_until(at_ms, start)
        for _ in range(MOST_EXCLUDED_DAYS):
            if found.at_ms <= start.at_ms or not self._is_excluded(found):
                break
            found = self.trigger.last_until(self._midnight_ms(found, 0) - 1, start)
        return found

    def count(self, first: Moment, last: Moment, most: int) -> int:
        """How many due times there are from `first` to `last`, both among them; `most` at most, where they must be
        counted one by one."""
        return sum(self.trigger.count(begins, ends, most) for begins, ends in self._stretches(first, last))

    def nth(self, number: int, first: Moment, last: Moment) -> Moment:
        """The due time with that number, counted from 1 for `first` on; `last` if there are fewer until then."""
        for begins, ends in self._stretches(first, last):
            counted = self.trigger.count(begins, ends, number)
            if counted >= number:
                return self.trigger.moment(begins.number + number - 1) or last
            number -= counted
        return last

    def _stretches(self, first: Moment, last: Moment) -> Iterator[tuple[Moment, Moment]]:
        """From `first` to `last`, without excluded days: (first, last) of each stretch; a day, where some are."""
        if not self.excluded:
            yield first, last
            return
        moment: Moment | None = first
        for _ in range(MOST_EXCLUDED_DAYS):
            if moment is None or moment.at_ms > last.at_ms:
                return
            last_of_day = self.trigger.last_until(min(self._midnight_ms(moment, 1) - 1, last.at_ms), moment)
            yield moment, last_of_day
            moment = self.following(last_of_day)

    def starts_ms(self, moment: Moment) -> int:
        """When the run shall start: jitter is the same for the same due time, so that nothing need be stored.

        Before the next due time, so that runs start in their order, and at the end of the year 9999 at the latest,
        beyond which nothing can be shown.
        """
        if not self.jitter_ms:
            return moment.at_ms
        following, jitter_ms = self.following(moment), self.jitter_ms
        if following is not None:
            jitter_ms = min(jitter_ms, following.at_ms - moment.at_ms - 1)
        digest = hashlib.sha256(f"{self.name}\0{moment.at_ms}".encode()).digest()
        starts_ms = moment.at_ms + int.from_bytes(digest[:8]) % (jitter_ms + 1)
        return min(starts_ms, schedules.LATEST_MS)

    def _allowed_from(self, moment: Moment | None) -> Moment | None:
        for _ in range(MOST_EXCLUDED_DAYS):
            if moment is None or not self._is_excluded(moment):
                return moment
            moment = self.trigger.first_from(self._midnight_ms(moment, 1), moment)
        return None

    def _is_excluded(self, moment: Moment) -> bool:
        if not self.excluded:
            return False
        day = self._wall(moment).date()
        return day.isoformat() in self.excluded or WEEKDAYS[day.weekday()] in self.excluded

    def _wall(self, moment: Moment) -> datetime:
        return instants.wall_at(moment.at_ms, self.trigger.where)

    def _midnight_ms(self, moment: Moment, days: int) -> int:
        """The beginning of the moment's day, or of the next one with `days` of 1."""
        try:
            day = self._wall(moment).date() + timedelta(days=days)
        except OverflowError:
            return schedules.LATEST_MS + 1
        found = instants.utc_ms(datetime.combine(day, time()), self.trigger.where)
        return found if found is not None else schedules.LATEST_MS + 1
