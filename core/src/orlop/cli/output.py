"""How commands show things: tables for people, `-o json` for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

output_option = click.option(
    "-o", "--output", type=click.Choice(["table", "json", "name"]), default="table", show_default=True
)
watch_option = click.option("--watch", is_flag=True, help="Show again every second until Ctrl-C.")


def show(output: str, document: Any, rows: Sequence[dict[str, Any]], columns: Sequence[str], name: str = "id") -> None:
    """The rows as a table with these columns, the document as JSON, or the rows' names."""
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    elif output == "name":
        for row in rows:
            click.echo(row[name])
    else:
        table(rows, columns)


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Aligned columns under upper-case headings, three spaces apart."""
    lines = [[column.upper().replace("_", " ") for column in columns]]
    lines += [[text_of(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def text_of(value: Any) -> str:
    """A cell: nothing as `-`, lists with commas."""
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def age(moment: str | None) -> str:
    """How long ago an RFC 3339 moment was: 12s, 5m, 3h, 2d."""
    if not moment:
        return "-"
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"


def repeated(watch: bool, once: Callable[[], None]) -> None:
    """Once, or every second on a cleared screen."""
    if not watch:
        once()
        return
    try:
        while True:
            click.clear()
            once()
            time.sleep(1)
    except KeyboardInterrupt:
        click.echo()
