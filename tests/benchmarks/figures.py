"""A measured figure, its target, and the table of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs

HEADINGS: Final = ("name", "figure", "unit", "target", "reached")


@attrs.frozen
class Figure:
    """One figure. `at_least` or `at_most` is its target, in `unit`; a figure without either is for the reader only."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool | None:
        """None without a target."""
        if self.at_least is not None:
            return self.value >= self.at_least
        if self.at_most is not None:
            return self.value <= self.at_most
        return None

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""

    def document(self) -> dict[str, Any]:
        return attrs.asdict(self) | {"reached": self.reached}

    def cells(self) -> tuple[str, ...]:
        reached = {True: "yes", False: "NO", None: ""}[self.reached]
        return (
            self.name,
            f"{self.value:,.4g}" if self.value < 1000 else f"{self.value:,.0f}",
            self.unit,
            self.target,
            reached,
        )


def table(figures: Iterable[Figure]) -> str:
    """A table for people."""
    rows = [HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
