"""Jobs that people have written into files, on their way from the command line to a server."""

from __future__ import annotations

import graphlib
import json
from typing import Any

import click

from orlop.cli.failures import Failure


def tell_of_unknown(one: dict[str, Any]) -> None:
    """Servers take members that they do not know, as Chronos did; but a job whose `shedule` is of no account runs once,
    at once."""
    from orlop_chronos.model import Counters, Job
    from orlop_chronos.reading import members

    known = {name for cls in (Job, Counters) for name, _ in members(cls)}
    if unknown := [name for name in one if name not in known]:
        click.echo(f"job {one['name']}: not known, and of no account: {', '.join(unknown)}", err=True)


def parents_first(jobs: list[dict[str, Any]]) -> list[int]:
    """Their positions, in their order or, where a job stands before one of its parents, in one in which none does.

    Circles are for the server to refuse.
    """
    at = {one["name"]: position for position, one in enumerate(jobs)}
    before: dict[int, list[int]] = {}
    for position, one in enumerate(jobs):
        parents = one.get("parents")
        named = (
            [at[name] for name in parents if isinstance(name, str) and name in at] if isinstance(parents, list) else []
        )
        before[position] = [parent for parent in named if parent != position]
    if not any(parent > position for position, parents in before.items() for parent in parents):
        return list(before)
    try:
        return list(graphlib.TopologicalSorter(before).static_order())
    except graphlib.CycleError:
        return list(before)


def refused_in_array(failure: Failure, name: str, position: int, stored: int, count: int) -> Failure:
    """Which job it was, and what has become of the others."""
    others = [
        *([f"jobs before it are stored: {stored}"] if stored else []),
        *([f"jobs after it were not tried: {count - stored - 1}"] if stored < count - 1 else []),
    ]
    text = "; ".join([f"[{position}] job '{name}': {failure.message}", *others])
    return Failure(text, hint=failure.hint, code=failure.code)


def read_json(file: Any) -> Any:
    try:
        return json.loads(file.read())
    except ValueError as error:
        raise Failure(f"{getattr(file, 'name', 'input')} is not JSON: {error}") from error
