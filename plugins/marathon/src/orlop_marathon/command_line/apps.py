"""`orlop marathon app …`."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from orlop.cli.client import Client
from orlop.cli.failures import NOT_FOUND, Failure
from orlop.cli.options import completed_by
from orlop.cli.output import output_option, show, show_json, table
from orlop_marathon.command_line.asking import (
    MOUNTED,
    Waiting,
    app_argument,
    app_path,
    confirm,
    either,
    kills,
    marathon_of,
    the_one,
    waits,
    yes_option,
)
from orlop_marathon.command_line.following import finish
from orlop_marathon.command_line.rows import APP_COLUMNS, TASK_COLUMNS, app_row, runs, runs_shortly, task_row
from orlop_marathon.command_line.tasks import tell_killed

#: Each version that is shown costs a request.
VERSIONS_SHOWN: Final = 10


@click.group()
def app() -> None:
    """Apps."""


@app.command()
@click.argument("file", type=click.File("rb"))
@click.option("--strict", is_flag=True, help="Warn of members that Marathon does not know, and stop.")
@waits()
@click.pass_context
def add(ctx: click.Context, file: Any, strict: bool, waiting: Waiting) -> None:
    """Create or change an app, or a group, from JSON.

    FILE: with the definition; `-` is the standard input.
    """
    from orlop_marathon.parsing import unknown_members

    try:
        document = json.loads(file.read())
    except ValueError as error:
        raise Failure(f"{getattr(file, 'name', 'input')} is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("id"), str):
        raise Failure("/id: expected the app's path, a string")
    unknown = unknown_members(document)
    for path in unknown:
        click.echo(f"warning: {path} is not known to Marathon and is ignored", err=True)
    if strict and unknown:
        raise Failure(f"{len(unknown)} unknown members; nothing was changed")
    client = marathon_of(ctx)
    if "apps" in document or "groups" in document:
        answer = client.send("PUT", "/v2/groups", document, force=waiting.force)
    else:
        path = app_path(document["id"])
        answer = client.send("PUT", path, document, force=waiting.force, partialUpdate="false")
    finish(ctx, answer, waiting)


@app.command("list")
@output_option
@click.pass_context
def list_(ctx: click.Context, output: str) -> None:
    """All apps."""
    document = marathon_of(ctx).get("/v2/apps")
    show(output, document, [app_row(one) for one in document["apps"]], APP_COLUMNS)


@app.command("show")
@app_argument
@output_option
@click.pass_context
def show_(ctx: click.Context, app_id: str, output: str) -> None:
    """One app, its tasks, its last failure."""
    document = marathon_of(ctx).get(app_path(app_id))
    if output == "json":
        show_json(document)
        return
    one = document["app"]
    if output == "name":
        click.echo(one["id"])
        return
    click.echo(f"{one['id']}  {one['tasksRunning']} of {one['instances']} running, version {one['version']}")
    click.echo(f"runs {runs(one) or one.get('container', {})}")
    failure = one.get("lastTaskFailure")
    if failure:
        click.echo(
            f"last failure {failure['timestamp']} {failure['state']}: {failure['message']} ({failure['taskId']})"
        )
    table([task_row(task) for task in one.get("tasks", [])], TASK_COLUMNS)


@app.command()
@app_argument
@click.argument("instances", type=click.IntRange(min=0))
@waits()
@click.pass_context
def scale(ctx: click.Context, app_id: str, instances: int, waiting: Waiting) -> None:
    """Run so many instances."""
    body = {"instances": instances}
    finish(ctx, marathon_of(ctx).send("PATCH", app_path(app_id), body, force=waiting.force), waiting)


@app.command()
@app_argument
@waits()
@click.pass_context
def restart(ctx: click.Context, app_id: str, waiting: Waiting) -> None:
    """Replace all instances, as an upgrade would."""
    finish(ctx, marathon_of(ctx).send("POST", f"{app_path(app_id)}/restart", force=waiting.force), waiting)


@app.command()
@app_argument
@click.option("--host", default="", help="Only those on this host.")
@kills
@yes_option
@waits(force="With --scale: cancel deployments that are in the way.")
@click.pass_context
def kill(ctx: click.Context, app_id: str, host: str, scale: bool, wipe: bool, yes: bool, waiting: Waiting) -> None:
    """Kill an app's tasks, all at once. Others are started in their place; nothing waits for these.

    `restart` replaces them without an outage.
    """
    either(scale, wipe)
    path, client = app_path(app_id), marathon_of(ctx)
    tasks = client.get(f"{path}/tasks")["tasks"]
    doomed = [task for task in tasks if host in ("", "*", task["host"])]
    where = f" on {host}" if host else ""
    if not doomed:
        raise Failure(f"no task of {app_id} runs{where}", hint="see `orlop marathon task list`", code=NOT_FOUND)
    confirm(f"Kill {len(doomed)} of {len(tasks)} tasks of {app_id} at once?", yes)
    answer = client.send("DELETE", f"{path}/tasks", host=host, scale=scale, wipe=wipe, force=waiting.force)
    if scale:
        finish(ctx, answer, waiting)
    else:
        tell_killed(answer, waiting.output)


@app.command()
@app_argument
@yes_option
@waits(force=None)
@click.pass_context
def rm(ctx: click.Context, app_id: str, yes: bool, waiting: Waiting) -> None:
    """Remove an app and stop its tasks."""
    path = app_path(app_id)
    confirm(f"Remove {app_id} and stop its tasks?", yes)
    finish(ctx, marathon_of(ctx).send("DELETE", path), waiting)


# --- versions ---


@app.command("versions")
@app_argument
@click.option("--limit", type=click.IntRange(min=1), default=VERSIONS_SHOWN, show_default=True, help="The newest only.")
@output_option
@click.pass_context
def versions_(ctx: click.Context, app_id: str, limit: int, output: str) -> None:
    """The definitions that an app has had, newest first.

    `rollback` returns to them. Scaling makes one too.
    """
    path, client = app_path(app_id), marathon_of(ctx)
    document = client.get(f"{path}/versions")
    rows: list[dict[str, Any]] = [{"version": version} for version in document["versions"][:limit]]
    if output in ("table", "wide"):
        current = client.get(path)["app"]["version"]
        rows = [_version_row(client, path, row["version"], current) for row in rows]
    columns = ("version", "current", "instances", "cpus", "mem", "command")
    show(output, document, rows, columns, "version")


def _version_row(client: Client, path: str, version: str, current: str) -> dict[str, Any]:
    try:
        one = client.get(f"{path}/versions/{version}")
    except Failure as failure:
        if failure.code != NOT_FOUND:
            raise
        return {"version": version, "command": "forgotten meanwhile"}
    shown = {name: one[name] for name in ("instances", "cpus", "mem")}
    return {"version": version, "current": version == current or None, **shown, "command": runs_shortly(one)}


def _versions_path(ctx: click.Context) -> str:
    return f"{MOUNTED}{app_path(ctx.params['app_id'])}/versions"


@app.command()
@app_argument
@click.argument(
    "version",
    required=False,
    shell_complete=completed_by(_versions_path, lambda found: dict.fromkeys(found["versions"], "")),
)
@waits()
@click.pass_context
def rollback(ctx: click.Context, app_id: str, version: str | None, waiting: Waiting) -> None:
    """Return an app to a former definition.

    VERSION: as `versions` shows it, or its beginning; else it is the one before the present one. The app gets a new
    version, so that a second rollback without VERSION takes the first back.
    """
    path, client = app_path(app_id), marathon_of(ctx)
    known = client.get(f"{path}/versions")["versions"]
    if version is None:
        current = client.get(path)["app"]["version"]
        before = [one for one in known if one < current]
        if not before:
            raise Failure(f"{app_id} has no version before the present one", code=NOT_FOUND)
        chosen = max(before)
    else:
        chosen = the_one(known, version, f"version of {app_id}", f"orlop marathon app versions {app_id}")
    if waiting.output == "table" and not waiting.detach:
        click.echo(f"{app_id} returns to {chosen}")
    finish(ctx, client.send("PUT", path, {"version": chosen}, force=waiting.force), waiting)
