"""`orlop marathon …`: apps from the command line, with live progress of their deployments."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import click

from orlop.cli.client import Client
from orlop.cli.failures import NOT_CONVERGED, Failure
from orlop.cli.options import completed
from orlop.cli.output import output_option, show, show_json, table
from orlop_marathon import paths

POLL_S: Final = 0.25
app_argument: Final = click.argument("app_id", shell_complete=completed("/marathon/v2/apps", "apps", ("id",), "cmd"))
_wait_options = (
    click.option("--detach", is_flag=True, help="Do not wait for the deployment."),
    click.option("--timeout", type=float, default=600, show_default=True, help="Seconds to wait."),
    click.option("--force", is_flag=True, help="Cancel deployments that are in the way."),
)


def _waits(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in _wait_options:
        command = option(command)
    return command


@click.group()
@click.pass_context
def marathon(ctx: click.Context) -> None:
    """Long-running services, in Marathon's terms."""
    ctx.obj = ctx.find_root().obj or {"server": "http://127.0.0.1:5050"}


@marathon.group()
def app() -> None:
    """Apps."""


def _client(ctx: click.Context) -> Client:
    return Client(ctx.find_root().obj["server"] + "/marathon")


def _path(app_id: str) -> str:
    """Where the API has the app. Raises Failure for what is no app's id: `web/tasks` would be something else there."""
    path = paths.resolve(app_id)
    wrong = paths.violations(app_id) or (["must not be root"] if path == paths.ROOT else [])
    if wrong:
        raise Failure(f"{app_id!r} is no app's id: {'; '.join(wrong)}", code=2)
    return f"/v2/apps{path}"


@app.command()
@click.argument("file", type=click.File("rb"))
@click.option("--strict", is_flag=True, help="Warn of members that Marathon does not know, and stop.")
@_waits
@click.pass_context
def add(ctx: click.Context, file: Any, strict: bool, detach: bool, timeout: float, force: bool) -> None:
    """Create or change an app, or a group, from a JSON FILE (`-` for standard input)."""
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
    client = _client(ctx)
    if "apps" in document or "groups" in document:
        answer = client.send("PUT", "/v2/groups", document, force=force)
    else:
        path = _path(document["id"])
        answer = client.send("PUT", path, document, force=force, partialUpdate="false")
    _follow(client, answer, detach, timeout)


@app.command("list")
@output_option
@click.pass_context
def list_(ctx: click.Context, output: str) -> None:
    """All apps."""
    document = _client(ctx).get("/v2/apps")
    rows = [
        {
            "id": one["id"],
            "running": f"{one['tasksRunning']}/{one['instances']}",
            "healthy": one["tasksHealthy"] if one.get("healthChecks") else None,
            "staged": one["tasksStaged"],
            "deploying": bool(one["deployments"]),
            "cpus": one["cpus"],
            "mem": one["mem"],
            "command": (one.get("cmd") or " ".join(one.get("args", [])))[:40],
        }
        for one in document["apps"]
    ]
    show(output, document, rows, ("id", "running", "healthy", "staged", "deploying", "cpus", "mem", "command"))


@app.command("show")
@app_argument
@output_option
@click.pass_context
def show_(ctx: click.Context, app_id: str, output: str) -> None:
    """One app, its tasks, its last failure."""
    document = _client(ctx).get(_path(app_id))
    if output == "json":
        show_json(document)
        return
    one = document["app"]
    if output == "name":
        click.echo(one["id"])
        return
    click.echo(f"{one['id']}  {one['tasksRunning']} of {one['instances']} running, version {one['version']}")
    click.echo(f"runs {one.get('cmd') or ' '.join(one.get('args', [])) or one.get('container', {})}")
    failure = one.get("lastTaskFailure")
    if failure:
        click.echo(
            f"last failure {failure['timestamp']} {failure['state']}: {failure['message']} ({failure['taskId']})"
        )
    rows = [
        task | {"alive": [check["alive"] for check in task.get("healthCheckResults", [])]}
        for task in one.get("tasks", [])
    ]
    table(rows, ("id", "state", "host", "ports", "alive", "startedAt"))


@app.command()
@app_argument
@click.argument("instances", type=click.IntRange(min=0))
@_waits
@click.pass_context
def scale(ctx: click.Context, app_id: str, instances: int, detach: bool, timeout: float, force: bool) -> None:
    """Run so many instances."""
    client = _client(ctx)
    _follow(client, client.send("PATCH", _path(app_id), {"instances": instances}, force=force), detach, timeout)


@app.command()
@app_argument
@_waits
@click.pass_context
def restart(ctx: click.Context, app_id: str, detach: bool, timeout: float, force: bool) -> None:
    """Replace all instances, as an upgrade would."""
    client = _client(ctx)
    _follow(client, client.send("POST", f"{_path(app_id)}/restart", force=force), detach, timeout)


@app.command()
@app_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--detach", is_flag=True, help="Do not wait for the deployment.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds to wait.")
@click.pass_context
def rm(ctx: click.Context, app_id: str, yes: bool, detach: bool, timeout: float) -> None:
    """Remove an app and stop its tasks."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Remove {app_id} and stop its tasks?", abort=True)
    client = _client(ctx)
    _follow(client, client.send("DELETE", _path(app_id)), detach, timeout)


def _follow(client: Client, answer: dict[str, Any], detach: bool, timeout: float) -> None:
    """Shows a deployment's progress until it is done. Ctrl-C stops looking, not the deployment."""
    deployment = answer["deploymentId"]
    if detach:
        click.echo(deployment)
        return
    deadline = time.monotonic() + timeout
    shown = ""
    try:
        while True:
            running = [one for one in client.get("/v2/deployments") if one["id"] == deployment]
            if not running:
                break
            line = _progress(client, running[0])
            if line != shown:
                click.echo(line)
                shown = line
            if time.monotonic() > deadline:
                raise Failure(
                    f"deployment {deployment} is not done after {timeout:g} s",
                    hint="it goes on; see `orlop explain APP`",
                    code=NOT_CONVERGED,
                )
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        click.echo(f"\ndeployment {deployment} goes on", err=True)
        return
    click.echo(f"deployment {deployment} is done")


def _progress(client: Client, deployment: dict[str, Any]) -> str:
    doing = ", ".join(f"{one['action']} {one.get('app', '')}" for one in deployment["currentActions"])
    counts = []
    for app_id in deployment["affectedApps"]:
        try:
            one = client.get(_path(app_id))["app"]
        except Failure:
            continue
        healthy = f", {one['tasksHealthy']} healthy" if one.get("healthChecks") else ""
        counts.append(f"{app_id} {one['tasksRunning']}/{one['instances']} running{healthy}")
    return f"step {deployment['currentStep']}/{deployment['totalSteps']} {doing}: {'; '.join(counts)}"


def commands() -> list[click.Command]:
    """What the plugin adds to `orlop`."""
    return [marathon]
