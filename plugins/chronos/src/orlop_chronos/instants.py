"""Points in time as Chronos' clients write them: ISO 8601 (Joda-Time's parser), and names of time zones (Java's)."""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import re
import zoneinfo
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Final

#: Joda-Time reads Java's three-letter names as places, so that they know of daylight saving time.
JAVA_NAMES: Final = {
    "ACT": "Australia/Darwin",
    "AET": "Australia/Sydney",
    "AGT": "America/Argentina/Buenos_Aires",
    "ART": "Africa/Cairo",
    "AST": "America/Anchorage",
    "BET": "America/Sao_Paulo",
    "BST": "Asia/Dhaka",
    "CAT": "Africa/Harare",
    "CNT": "America/St_Johns",
    "CST": "America/Chicago",
    "CTT": "Asia/Shanghai",
    "EAT": "Africa/Addis_Ababa",
    "ECT": "CET",
    "EST": "America/New_York",
    "HST": "Pacific/Honolulu",
    "IET": "America/Indiana/Indianapolis",
    "IST": "Asia/Kolkata",
    "JST": "Asia/Tokyo",
    "MIT": "Pacific/Apia",
    "MST": "America/Denver",
    "NET": "Asia/Yerevan",
    "NST": "Pacific/Auckland",
    "PLT": "Asia/Karachi",
    "PNT": "America/Phoenix",
    "PRT": "America/Puerto_Rico",
    "PST": "America/Los_Angeles",
    "SST": "Pacific/Guadalcanal",
    "VST": "Asia/Ho_Chi_Minh",
}

_OFFSET: Final = r"(?P<sign>[+-])(?P<offset_hours>\d{2})(?::?(?P<offset_minutes>\d{2}))?"
_INSTANT: Final = re.compile(
    r"(?:(?P<year>\d{4})(?:-(?P<month>\d{2})(?:-(?P<day>\d{2}))?)?"
    r"|(?P<ordinal_year>\d{4})-(?P<ordinal>\d{3})"
    r"|(?P<week_year>\d{4})-W(?P<week>\d{2})(?:-(?P<weekday>\d))?)"
    r"(?:T(?:(?P<hour>\d{2})(?::(?P<minute>\d{2})(?::(?P<second>\d{2}))?)?(?:[.,](?P<fraction>\d{1,9}))?)?"
    rf"(?P<zone>Z|{_OFFSET})?)?",
    re.ASCII,
)
_GMT: Final = re.compile(r"(?:GMT|UTC|UT)(?P<sign>[+-])(?P<hours>\d{1,2})(?::?(?P<minutes>\d{2}))?", re.ASCII)
_EXPECTED: Final = "expected a time such as 2014-10-10T18:32:00Z"


class InstantError(ValueError):
    """Not a point in time, or not a time zone. The text says what was expected."""


def parse_wall(text: str) -> tuple[datetime, tzinfo | None]:
    """What the clock on the wall shows (naive, cut to milliseconds), and the offset that the text gives, if any.

    A date alone is midnight; weeks and days of the year may be given instead of months. Raises InstantError.
    """
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise InstantError(f"{_EXPECTED}, got {text!r}")
    try:
        day = _date(found)
        # 24:00 is not known to Joda-Time either.
        time_of_day = time(int(found["hour"] or 0), int(found["minute"] or 0), int(found["second"] or 0))
        offset = _offset(found)
    except ValueError as error:
        raise InstantError(f"{_EXPECTED}, got {text!r}: {error}") from error
    wall = datetime.combine(day, time_of_day)
    if found["fraction"]:
        unit_ms = 1_000 if found["second"] else 60_000 if found["minute"] else 3_600_000
        wall += timedelta(milliseconds=int(found["fraction"]) * unit_ms // 10 ** len(found["fraction"]))
    return wall, offset


def _date(found: re.Match[str]) -> date:
    if found["year"]:
        return date(int(found["year"]), int(found["month"] or 1), int(found["day"] or 1))
    if found["week"]:
        return date.fromisocalendar(int(found["week_year"]), int(found["week"]), int(found["weekday"] or 1))
    year, ordinal = int(found["ordinal_year"]), int(found["ordinal"])
    day = date(year, 1, 1) + timedelta(days=ordinal - 1)
    if day.year != year:
        raise ValueError(f"{year} has no day {ordinal}")
    return day


def _offset(found: re.Match[str]) -> tzinfo | None:
    if found["zone"] is None:
        return None
    if found["zone"] == "Z":
        return UTC
    return _fixed(found["sign"], int(found["offset_hours"]), int(found["offset_minutes"] or 0))


def _fixed(sign: str, hours: int, minutes: int) -> tzinfo:
    if hours > 23 or minutes > 59:
        raise ValueError("an offset is from -23:59 to +23:59")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if sign == "-" else offset)


@functools.lru_cache(maxsize=1024)
def zone(name: str) -> tzinfo:
    """The time zone: a name of the IANA database, one of Java's short ones, or `GMT+2`. Raises InstantError.

    Chronos took an unknown name for GMT in silence, and with it the wrong case of one.
    """
    if name in ("Z", "UTC", "GMT", "UT"):
        return UTC
    found = _GMT.fullmatch(name)
    try:
        if found is not None:
            return _fixed(found["sign"], int(found["hours"]), int(found["minutes"] or 0))
        return zoneinfo.ZoneInfo(JAVA_NAMES.get(name, name))
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        near = _similar(name)
        hint = f"; is {near} meant?" if near else ""
        raise InstantError(f"expected a time zone such as Europe/Paris, got {name!r}{hint}") from error


def is_known_everywhere(name: str) -> bool:
    """Has each server this zone, and the same? A machine may have others (`localtime`), which another one has not, or
    not with these rules."""
    if name in ("Z", "UTC", "GMT", "UT") or _GMT.fullmatch(name) is not None:
        return True
    return JAVA_NAMES.get(name, name) in _zones_that_come_along()


@functools.cache
def _zones_that_come_along() -> frozenset[str]:
    return frozenset(importlib.resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split())


def _similar(name: str) -> str | None:
    known = {known.lower(): known for known in _known_zones()}
    found = difflib.get_close_matches(name[:64].lower(), known, n=1, cutoff=0.8)
    return known[found[0]] if found else None


@functools.cache
def _known_zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def utc_ms(wall: datetime, where: tzinfo) -> int | None:
    """UTC milliseconds of what a wall's clock there shows; None outside of the years 1 to 9999.

    A time that the clock shows twice is the first of the two; one that it skips is as much later as it skips.
    """
    try:
        return (wall.replace(tzinfo=where, fold=0).astimezone(UTC) - _EPOCH) // _MILLISECOND
    except OverflowError:
        return None


def wall_at(moment_utc_ms: int, where: tzinfo) -> datetime:
    """What the wall's clock there shows, with its zone. Raises OverflowError outside of the years 1 to 9999.

    Where these are over on that wall only, it is what UTC's shows.
    """
    moment = _EPOCH + moment_utc_ms * _MILLISECOND
    try:
        return moment.astimezone(where)
    except OverflowError:
        return moment


def format_instant(moment: datetime) -> str:
    """`2014-10-10T18:32:00.000Z`, or with an offset as Joda-Time prints it, `…-07:00`."""
    text = moment.isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text
