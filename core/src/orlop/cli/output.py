"""How commands show things: tables for people, `-o json` for programs."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from orlop.cli.failures import Unreachable
from orlop.cli.options import json_option, output_option

__all__ = [
    "age", "details_of", "duration_s", "json_option", "one_line", "output_option", "quantity", "repeated", "show",
    "show_json", "table", "text_of", "watch_option",
]  # fmt: skip

WATCH_INTERVAL_S: Final = 2.0
_DURATION: Final = re.compile(r"^(\d{1,9}(?:\.\d+)?)\s*([smhd])\Z")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_COLOURS: Final = {
    "green": {"running", "ready", "loaded", "finished"},
    "yellow": {"pending", "assigned", "preparing", "prepared", "starting", "stopping", "blocked"},
    "red": {"failed", "lost", "error", "unreachable", "gone", "quarantined", "configuration-error", "missing"},
}


watch_option = click.option(
    "--watch", is_flag=True, help=f"Show again every {WATCH_INTERVAL_S:g} seconds until Ctrl-C."
)


def show(
    output: str,
    document: Any,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    name: str = "id",
    wide: Sequence[str] = (),
) -> None:
    """The rows as a table with these columns (`wide` ones on request), the document as JSON, or the rows' names."""
    if output == "json":
        show_json(document)
    elif output == "name":
        for row in rows:
            click.echo(row[name])
    else:
        table(rows, [*columns, *(wide if output == "wide" else ())])


def show_json(document: Any) -> None:
    """The API's document, unchanged."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Aligned columns under upper-case headings, three spaces apart; on a terminal in colour and folded."""
    headings = [column.upper().replace("_", " ") for column in columns]
    cells = [[text_of(row.get(column)) for column in columns] for row in rows]
    if _on_terminal():
        _coloured_table(headings, cells)
        return
    lines = [headings, *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _on_terminal() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _coloured_table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in cells:
        grid.add_row(*(Text(cell, style=_colour(cell)) for cell in row))
    Console(file=sys.stdout, highlight=False).print(grid)


def _colour(word: str) -> str:
    return next((colour for colour, words in _COLOURS.items() if word in words), "")


def text_of(value: Any) -> str:
    """A cell: nothing as `-`, lists with commas, objects as name=value; in one line."""
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return one_line(",".join(map(str, value)))
    if isinstance(value, Mapping):
        return one_line(",".join(f"{name}={text_of(one)}" for name, one in value.items()))
    return one_line(str(value))


def one_line(text: str) -> str:
    """Without line ends, and without what a terminal would obey: names come from whoever may join or ask."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def details_of(entry: Mapping[str, Any]) -> str:
    """An event's details in one line."""
    return one_line(" ".join(f"{name}={value}" for name, value in (entry.get("details") or {}).items() if value))


def quantity(amount: float | None, unit: str) -> str:
    """An amount as the API gives it, for people: `1.5GiB`, `100Mbit/s`, `0.5`."""
    if amount is None:
        return "-"
    scales = {
        "bytes": ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
        "bit/s": ((10**9, "Gbit/s"), (10**6, "Mbit/s"), (10**3, "kbit/s"), (1, "bit/s")),
    }
    for size, suffix in scales.get(unit, ()):
        if abs(amount) >= size or size == 1:
            return f"{amount / size:.1f}".removesuffix(".0") + suffix
    return f"{amount:g}"


def age(moment: str | None) -> str:
    """How long ago an RFC 3339 moment was: 12s, 5m, 3h, 2d."""
    if not moment:
        return "-"
    return span((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


def span(seconds: float) -> str:
    """12s, 5m, 3h, 2d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def duration_s(text: str) -> float | None:
    """Seconds of `90s`, `10m`, `3h`, `2d`; None for anything else."""
    found = _DURATION.match(text.strip())
    return float(found[1]) * _SECONDS[found[2]] if found else None


def repeated(watch: bool, once: Callable[[], None]) -> None:
    """Once, or again and again: on a cleared screen on a terminal, else one below the other. Ctrl-C ends it.

    A server that goes away for a while does not end the watching.
    """
    if not watch:
        once()
        return
    seen = False
    try:
        while True:
            if _on_terminal():
                click.clear()
            try:
                once()
                seen = True
            except Unreachable as failure:
                if not seen:
                    raise
                failure.show()
            sys.stdout.flush()
            _wait(WATCH_INTERVAL_S)
    except KeyboardInterrupt:
        click.echo()


def _wait(seconds: float) -> None:
    time.sleep(seconds)
