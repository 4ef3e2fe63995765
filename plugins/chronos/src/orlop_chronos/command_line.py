"""`orlop chronos …`: jobs from the command line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

import click

from orlop.cli.client import Client
from orlop.cli.failures import NOT_CONVERGED, NOT_FOUND, Failure
from orlop.cli.output import output_option, show, show_json, table

POLL_S: Final = 0.25
_FINAL: Final = {"succeeded", "failed", "killed", "skipped"}
_CHILDREN: Final = ("inherit", "detach", "refuse", "delete")


@click.group()
@click.pass_context
def chronos(ctx: click.Context) -> None:
    """Cron with dependencies, in Chronos' terms."""
    ctx.obj = ctx.find_root().obj or {"server": "http://127.0.0.1:5050"}


@chronos.group()
def job() -> None:
    """Jobs."""


def _client(ctx: click.Context) -> Client:
    return Client(ctx.find_root().obj["server"] + "/chronos/v1/scheduler")


def _job(name: str) -> str:
    return f"/job/{quote(name, safe='')}"


def _added(name: str, rest: str) -> str:
    """Of a job's paths those that Chronos has not. Whatever the job is called, they are not taken for Chronos' own."""
    return f"/jobs/{quote(name, safe='')}{rest}"


def _runs(client: Client, name: str, **query: int | None) -> list[dict[str, Any]]:
    """Newest first. query: `limit`, or `run` for one alone."""
    runs: list[dict[str, Any]] = client.get(_added(name, "/runs"), **query)
    return runs


@job.command()
@click.argument("file", type=click.File("rb"))
@click.pass_context
def add(ctx: click.Context, file: Any) -> None:
    """Create or change jobs from a JSON FILE (`-` for standard input): one job, or an array, parents first."""
    document = _read_json(file)
    jobs = document if isinstance(document, list) else [document]
    client = _client(ctx)
    for one in jobs:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise Failure("name: expected the job's name, a text")
        client.send("POST", "/dependency" if one.get("parents") else "/iso8601", one)
        click.echo(f"job {one['name']} is stored")


def _read_json(file: Any) -> Any:
    try:
        return json.loads(file.read())
    except ValueError as error:
        raise Failure(f"{getattr(file, 'name', 'input')} is not JSON: {error}") from error


@job.command()
@output_option
@click.pass_context
def ls(ctx: click.Context, output: str) -> None:
    """All jobs."""
    document = _client(ctx).get("/jobs/summary")
    rows = [
        {
            "name": one["name"],
            "status": one["status"],
            "state": "disabled" if one["disabled"] and one["state"] == "idle" else one["state"],
            "runs after": ", ".join(one["parents"]) or one["schedule"],
        }
        for one in document["jobs"]
    ]
    show(output, document, rows, ("name", "status", "state", "runs after"), name="name")


@job.command("show")
@click.argument("name")
@output_option
@click.pass_context
def show_(ctx: click.Context, name: str, output: str) -> None:
    """One job, its last runs, when it is due next."""
    client = _client(ctx)
    document = _found(client, name)
    if output == "json":
        show_json(document)
        return
    last = f"last success {document['lastSuccess'] or 'never'}, last error {document['lastError'] or 'never'}"
    click.echo(f"{name}  {document['successCount']} succeeded, {document['errorCount']} failed; {last}")
    click.echo(f"runs {document['command'] or document.get('container', {}).get('image', '')}")
    if document.get("parents"):
        click.echo(f"after {', '.join(document['parents'])}")
    else:
        due = client.get(_added(name, "/next"), count=1)
        click.echo(f"by {document['schedule']}, next {due[0]['nominalTime'] if due else 'never'}")
    if document["disabled"]:
        click.echo("it is disabled")
    _show_runs(_runs(client, name, limit=5))


def _found(client: Client, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = client.get(_job(name))
    except Failure as failure:
        if not str(failure.document.get("message")).endswith("not found"):
            raise
        raise Failure(f"there is no job '{name}'", hint="see `orlop chronos job ls`", code=NOT_FOUND) from failure
    return found


@job.command()
@click.argument("name")
@click.option("--arguments", help="In place of the job's, for all attempts of this run.")
@click.option("--detach", is_flag=True, help="Do not wait for the run's end.")
@click.option("--timeout", type=float, default=3600, show_default=True, help="Seconds to wait.")
@click.pass_context
def run(ctx: click.Context, name: str, arguments: str | None, detach: bool, timeout: float) -> None:
    """Run a job now, and wait until it has ended."""
    client = _client(ctx)
    number = client.send("POST", _added(name, "/runs"), arguments=arguments)["run"]
    if not detach:
        _follow(client, name, number, timeout)
        return
    found = _runs(client, name, run=number)
    if found and found[0]["state"] == "skipped":
        raise Failure(f"run {number} of '{name}' was skipped: {found[0]['reason']}")
    click.echo(f"run {number}")


def _follow(client: Client, name: str, number: int, timeout: float) -> None:
    """Shows a run's progress until its end. Ctrl-C stops looking, not the run."""
    deadline, shown = time.monotonic() + timeout, ""
    try:
        while True:
            found = _runs(client, name, run=number)
            if not found:
                raise Failure(f"run {number} of '{name}' is gone", code=NOT_FOUND)
            line = _line(found[0])
            if line != shown:
                click.echo(line)
                shown = line
            if found[0]["state"] in _FINAL:
                break
            if time.monotonic() > deadline:
                raise Failure(f"run {number} has not ended after {timeout:g} s; it goes on", code=NOT_CONVERGED)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        click.echo(f"\nrun {number} goes on", err=True)
        return
    if found[0]["state"] != "succeeded":
        raise Failure(f"run {number} of '{name}' has not succeeded: {found[0]['reason'] or found[0]['state']}")


def _line(one: dict[str, Any]) -> str:
    attempt = one["attempts"][-1] if one["attempts"] else {}
    where = f" on {attempt['node']}" if attempt.get("node") else ""
    again = f", attempt {len(one['attempts'])}" if len(one["attempts"]) > 1 else ""
    reason = f": {one['reason']}" if one["reason"] else ""
    return f"run {one['run']} {one['state']}{where}{again}{reason}"


@job.command()
@click.argument("name")
@click.option("--run", "number", type=click.IntRange(min=0), help="Of this run alone.")
@click.pass_context
def kill(ctx: click.Context, name: str, number: int | None) -> None:
    """Stop what a job runs, and forget what waits."""
    stopped = _client(ctx).send("DELETE", _added(name, "/runs"), run=number)["stopped"]
    if stopped:
        click.echo(f"stopped: {', '.join(f'run {one}' for one in stopped)}")
    else:
        click.echo("nothing of it ran" if number is None else f"run {number} had ended already")


@job.command()
@click.argument("name")
@click.pass_context
def pause(ctx: click.Context, name: str) -> None:
    """Disable a job: it is not started by time or by a parent."""
    _client(ctx).send("PUT", _added(name, "/disable"))


@job.command()
@click.argument("name")
@click.pass_context
def resume(ctx: click.Context, name: str) -> None:
    """Enable a job again."""
    _client(ctx).send("PUT", _added(name, "/enable"))


@job.command()
@click.argument("name")
@click.option("--children", type=click.Choice(_CHILDREN), default="inherit", show_default=True,
              help="What becomes of the jobs that wait for it.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def rm(ctx: click.Context, name: str, children: str, yes: bool) -> None:
    """Remove a job, stop what it runs, forget its history."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Remove {name}, stop what it runs and forget its history?", abort=True)
    _client(ctx).send("DELETE", _job(name), children=children)


@job.command()
@click.argument("name")
@click.option("--from", "from_", required=True, metavar="TIME", help="2014-10-10T00:00:00Z")
@click.option("--until", required=True, metavar="TIME")
@click.pass_context
def backfill(ctx: click.Context, name: str, from_: str, until: str) -> None:
    """Run a job for every due time of a stretch.

    One after the other; all at once if the job lets its runs overlap. Of a schedule with so many repetitions (`R3/...`)
    there are no more due times than those. Each run finds its due time in CHRONOS_NOMINAL_TIME.
    """
    answer = _client(ctx).send("POST", _added(name, "/backfill"), **{"from": from_, "until": until})
    click.echo(f"{answer['runs']} runs")


@job.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@output_option
@click.pass_context
def history(ctx: click.Context, name: str, limit: int, output: str) -> None:
    """A job's runs, newest first: when, why, where, how they ended."""
    runs = _runs(_client(ctx), name, limit=limit)
    if output == "json":
        show_json(runs)
    else:
        _show_runs(runs)


def _show_runs(runs: Iterable[dict[str, Any]]) -> None:
    rows = []
    for one in runs:
        attempt = one["attempts"][-1] if one["attempts"] else {}
        rows.append(
            {
                "run": one["run"],
                "due": one["nominalTime"],
                "cause": one["cause"] + (f" ({one['becauseOf']})" if one["becauseOf"] else ""),
                "state": one["state"] + (f" x {one['count']}" if one["count"] > 1 else ""),
                "attempts": len(one["attempts"]),
                "node": attempt.get("node", ""),
                "exit": attempt.get("exitCode"),
                "started": attempt.get("startTime", ""),
                "ended": one["endTime"],
                "reason": one["reason"],
            }
        )
    table(rows, ("run", "due", "cause", "state", "attempts", "node", "exit", "started", "ended", "reason"))


@job.command()
@click.argument("name")
@click.option("--run", "number", type=click.IntRange(min=0), help="Of this run; else of the last that has any.")
@click.pass_context
def logs(ctx: click.Context, name: str, number: int | None) -> None:
    """The output of a run's last attempt."""
    found = _runs(_client(ctx), name, **({"run": number} if number is not None else {"limit": 1000}))
    runs = [one for one in found if one["attempts"]]
    if not runs:
        raise Failure(f"'{name}' has no such run with an output", code=NOT_FOUND)
    last = runs[0]["attempts"][-1]
    if last["outputLost"]:
        raise Failure(f"the output is lost: node {last['node']} is gone", code=NOT_FOUND)
    server = Client(ctx.find_root().obj["server"])
    for stream, target in (("stdout", sys.stdout.buffer), ("stderr", sys.stderr.buffer)):
        path = f"/v1/tasks/{quote(last['task'], safe='')}/logs"
        for piece in server.stream(path, stream=stream, node=last["node"] or None):
            target.write(piece)
            target.flush()


@job.command("next")
@click.argument("name_or_file")
@click.option("--count", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option("--draft", is_flag=True, help="The argument is a JSON file of a job that is not stored.")
@output_option
@click.pass_context
def next_(ctx: click.Context, name_or_file: str, count: int, draft: bool, output: str) -> None:
    """When a job is due next."""
    client = _client(ctx)
    if draft:
        with click.open_file(name_or_file, "rb") as file:
            times = client.send("POST", "/next", _read_json(file), count=count)
    else:
        times = client.get(_added(name_or_file, "/next"), count=count)
    rows = [{"due": one["nominalTime"], "local": one["localTime"], "starts": one["startTime"]} for one in times]
    show(output, times, rows, ("due", "local", "starts"), name="due")


@chronos.command()
@click.option("--svg", "file", type=click.File("w"), help="Draw it into this file instead.")
@click.pass_context
def graph(ctx: click.Context, file: Any) -> None:
    """Which jobs wait for which. `+`: last succeeded, `!`: last failed."""
    from orlop_chronos import drawing

    nodes = [
        drawing.Node(name=one["name"], parents=tuple(one["parents"]), status=one["status"], state=one["state"])
        for one in _client(ctx).get("/jobs/summary")["jobs"]
    ]
    if file is not None:
        file.write(drawing.svg(nodes))
        return
    for line in drawing.lines(nodes):
        click.echo(line)


@chronos.command("pause")
@click.pass_context
def pause_all(ctx: click.Context) -> None:
    """Start nothing any more, by time or by a parent; what runs goes on."""
    _client(ctx).send("PUT", "/pause")


@chronos.command("resume")
@click.pass_context
def resume_all(ctx: click.Context) -> None:
    """Go on: missed runs are made up for as their jobs say."""
    _client(ctx).send("PUT", "/resume")
