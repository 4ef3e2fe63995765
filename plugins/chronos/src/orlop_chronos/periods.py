"""ISO 8601 periods as Chronos reads them (Joda-Time's rules), in three parts that add up differently.

Months move along the calendar and are clipped to the month's last day. Days move along the calendar too, and keep the
time that a clock on the wall shows. Hours and below are exact time, whatever clocks on walls do meanwhile.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

MS_PER_SECOND: Final = 1_000
MS_PER_DAY: Final = 86_400_000
#: Of the Gregorian calendar: 146,097 days in 4,800 months.
MS_PER_MEAN_MONTH: Final = 146_097 * MS_PER_DAY // 4_800
#: Joda-Time: each number of a period is a signed 32-bit integer.
MOST: Final = 2**31 - 1

_PERIOD: Final = re.compile(
    r"P(?=.)(?:(?P<years>\d+)Y)?(?:(?P<months>\d+)M)?(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=.)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)(?:[.,](?P<fraction>\d*))?S)?)?",
    re.IGNORECASE | re.ASCII,
)
_NEGATIVE: Final = re.compile(r"P.*-\d", re.IGNORECASE | re.ASCII)


class PeriodError(ValueError):
    """Not a period. The text says what was expected."""


@attrs.frozen
class Period:
    """months, days: of the calendar. milliseconds: exact time. All are zero or more."""

    months: int = 0
    days: int = 0
    milliseconds: int = 0

    @classmethod
    def parse(cls, text: str) -> Period:
        """`P1Y2M3W4DT5H6M7.5S`, in any case, each part once and in this order; `P` alone is nothing.

        Only seconds may have a fraction, cut to milliseconds. Raises PeriodError, for negative numbers too, which
        Chronos took.
        """
        if text.upper() == "P":
            return cls()
        found = _PERIOD.fullmatch(text)
        if found is None:
            if _NEGATIVE.match(text):
                raise PeriodError(f"expected a period without negative numbers, got {text!r}")
            raise PeriodError(f"expected a period such as PT10M, P1D or P1M, got {text!r}")
        parts = {name: int(digits) for name, digits in found.groupdict().items() if digits and name != "fraction"}
        if any(number > MOST for number in parts.values()):
            raise PeriodError(f"expected numbers up to {MOST} in a period, got {text!r}")
        seconds = (parts.get("hours", 0) * 60 + parts.get("minutes", 0)) * 60 + parts.get("seconds", 0)
        return cls(
            months=parts.get("years", 0) * 12 + parts.get("months", 0),
            days=parts.get("weeks", 0) * 7 + parts.get("days", 0),
            milliseconds=seconds * MS_PER_SECOND + int((found["fraction"] or "").ljust(3, "0")[:3]),
        )

    @property
    def mean_ms(self) -> int:
        """How long it is in the long run, in milliseconds."""
        return self.months * MS_PER_MEAN_MONTH + self.days * MS_PER_DAY + self.milliseconds
