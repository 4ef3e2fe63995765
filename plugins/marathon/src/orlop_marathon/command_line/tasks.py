"""`orlop marathon task …`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click

from orlop.cli.options import completed
from orlop.cli.output import output_option, show, show_json
from orlop_marathon.command_line.asking import (
    MOUNTED,
    Waiting,
    app_path,
    complete_apps,
    either,
    kills,
    marathon_of,
    the_one,
    waits,
)
from orlop_marathon.command_line.following import finish
from orlop_marathon.command_line.rows import TASK_COLUMNS, TASK_COLUMNS_WIDE, task_row

#: In a task's id, before what tells it from others of its app.
_INSTANCE: Final = ".instance-"


@click.group()
def task() -> None:
    """Tasks of apps."""


@task.command("list")
@click.argument("app_id", required=False, shell_complete=complete_apps)
@output_option
@click.pass_context
def list_(ctx: click.Context, app_id: str | None, output: str) -> None:
    """Tasks of all apps, or of one. What waits for a place is in `orlop marathon queue` instead."""
    path = "/v2/tasks" if app_id is None else f"{app_path(app_id)}/tasks"
    document = marathon_of(ctx).get(path)
    show(output, document, [task_row(one) for one in document["tasks"]], TASK_COLUMNS, wide=TASK_COLUMNS_WIDE)


@task.command()
@click.argument(
    "task_ids",
    metavar="TASK...",
    nargs=-1,
    required=True,
    shell_complete=completed(f"{MOUNTED}/v2/tasks", "tasks", ("id",), "appId"),
)
@kills
@waits(force="With --scale: cancel deployments that are in the way.")
@click.pass_context
def kill(ctx: click.Context, task_ids: tuple[str, ...], scale: bool, wipe: bool, waiting: Waiting) -> None:
    """Kill tasks. Others are started in their place, unless --scale is given.

    TASK: its id, or a beginning of it that goes on behind `instance-`. When one of them is not known, none is killed.
    """
    either(scale, wipe)
    client = marathon_of(ctx)
    known = [one["id"] for one in client.get("/v2/tasks")["tasks"]]
    body = {"ids": list(dict.fromkeys(_meant(known, one) for one in task_ids))}
    answer = client.send("POST", "/v2/tasks/delete", body, scale=scale, wipe=wipe, force=waiting.force)
    if scale:
        finish(ctx, answer, waiting)
    else:
        tell_killed(answer, waiting.output)


def _meant(known: list[str], given: str) -> str:
    """Raises Failure. The name of an app alone means none of its tasks, not even where there is only one."""
    candidates = known if given.partition(_INSTANCE)[2] else [one for one in known if one == given]
    return the_one(candidates, given, "task", "orlop marathon task list")


def tell_killed(answer: Mapping[str, Any], output: str) -> None:
    """Of a kill that no deployment follows."""
    if output == "json":
        show_json(answer)
        return
    for one in answer["tasks"]:
        click.echo(f"stopping {one['id']}")
    if not answer["tasks"]:
        click.echo("they have ended already")
