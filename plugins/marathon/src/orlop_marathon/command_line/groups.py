"""`orlop marathon group …`."""

from __future__ import annotations

import math
from typing import Any, Final

import click

from orlop.cli.failures import Failure
from orlop.cli.output import output_option, show, show_json, table
from orlop_marathon import paths
from orlop_marathon.command_line.asking import (
    USAGE,
    Waiting,
    apps_in,
    confirm,
    group_argument,
    group_path,
    groups_in,
    marathon_of,
    waits,
    yes_option,
)
from orlop_marathon.command_line.following import finish
from orlop_marathon.command_line.rows import APP_COLUMNS, app_row

#: Groups, their apps, and how many tasks these have.
_EMBEDDED: Final = ("group.groups", "group.apps", "group.apps.counts", "group.apps.deployments")


@click.group()
def group() -> None:
    """Groups of apps. `orlop marathon app add` makes them."""


@group.command("list")
@output_option
@click.pass_context
def list_(ctx: click.Context, output: str) -> None:
    """All groups, with what runs in each and below."""
    document = marathon_of(ctx).get("/v2/groups", embed=_EMBEDDED)
    rows = [_row(one) for one in groups_in(document)]
    show(output, document, rows, ("id", "apps", "running", "deploying"), wide=("dependencies", "version"))


def _row(group: dict[str, Any]) -> dict[str, Any]:
    apps = apps_in(group)
    return {
        "id": group["id"],
        "apps": len(apps),
        "running": f"{sum(one['tasksRunning'] for one in apps)}/{sum(one['instances'] for one in apps)}",
        "deploying": any(one["deployments"] for one in apps),
        "dependencies": group["dependencies"],
        "version": group["version"],
    }


@group.command("show")
@group_argument
@output_option
@click.pass_context
def show_(ctx: click.Context, group_id: str, output: str) -> None:
    """One group, and all apps in it and below."""
    document = marathon_of(ctx).get(group_path(group_id), embed=_EMBEDDED)
    if output == "json":
        show_json(document)
        return
    if output == "name":
        click.echo(document["id"])
        return
    row = _row(document)
    click.echo(f"{row['id']}  {row['apps']} apps, {row['running']} running, version {row['version']}")
    if row["dependencies"]:
        click.echo(f"after {', '.join(row['dependencies'])}")
    table([app_row(one) for one in apps_in(document)], APP_COLUMNS)


@group.command()
@group_argument
@click.argument("factor", type=float)
@waits()
@click.pass_context
def scale(ctx: click.Context, group_id: str, factor: float, waiting: Waiting) -> None:
    """Multiply the instances of a group's apps by FACTOR.

    2 doubles, 0.5 halves, rounded up, for all apps in it and below. One without instances stays without.
    """
    path = group_path(group_id)
    if not 0 < factor < math.inf:
        raise Failure(f"FACTOR: expected a number above 0, such as 2 or 0.5, got {factor:g}", code=USAGE)
    finish(ctx, marathon_of(ctx).send("PUT", path, {"scaleBy": factor}, force=waiting.force), waiting)


@group.command()
@group_argument
@yes_option
@waits()
@click.pass_context
def rm(ctx: click.Context, group_id: str, yes: bool, waiting: Waiting) -> None:
    """Remove a group with its apps, and stop their tasks.

    Those in it and those below; it is told which they are.
    """
    path, client = group_path(group_id), marathon_of(ctx)
    if paths.resolve(group_id) == paths.ROOT:
        raise Failure("the root group stays; remove the groups and apps in it", code=USAGE)
    document = client.get(path, embed=_EMBEDDED)
    apps = apps_in(document)
    for one in apps:
        click.echo(f"to be removed: {one['id']}, {one['tasksRunning']}/{one['instances']} running", err=True)
    counted = "1 app" if len(apps) == 1 else f"{len(apps)} apps"
    confirm(f"Remove {document['id']} with {counted}, and stop their tasks?", yes)
    finish(ctx, client.send("DELETE", path, force=waiting.force), waiting)
