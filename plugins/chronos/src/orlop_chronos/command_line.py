"""`orlop chronos …`: jobs from the command line."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import quote

import click

from orlop.cli.client import Client
from orlop.cli.failures import NOT_CONVERGED, NOT_FOUND, Failure, Unreachable
from orlop.cli.options import completed, server_options
from orlop.cli.output import json_option, one_line, output_option, show, show_json
from orlop_chronos import jobs_in_files

POLL_S: Final = 0.25
_FINAL: Final = {"succeeded", "failed", "killed", "skipped"}
_CHILDREN: Final = ("inherit", "detach", "refuse", "delete")
_PAUSED: Final = "everything is paused: nothing starts by time or by a parent until `orlop chronos resume`"
_UNKNOWN_JOB: Final = re.compile(r"Job '.*' not found", re.DOTALL)
_API: Final = "/chronos/v1/scheduler"
_completed_name: Final = completed(f"{_API}/jobs/summary", "jobs", ("name",), "state")


def _check_name(_: click.Context, __: click.Parameter, value: str) -> str:
    """An empty one, as of a variable that is not set, would name other paths."""
    if not value:
        raise click.BadParameter("expected a job's name, got an empty text")
    return value


job_argument = click.argument("name", shell_complete=_completed_name, callback=_check_name)


class _Group(click.Group):
    """Whatever is asked about a job that there is not has the same answer, with its own exit code. Chronos answers 400,
    as for what is asked in a wrong way."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Failure as failure:
            message = str(failure.document.get("message", ""))
            if not _UNKNOWN_JOB.fullmatch(message):
                raise
            raise Failure(message, hint="see `orlop chronos job ls`", code=NOT_FOUND) from failure


@click.group(cls=_Group)
@click.pass_context
def chronos(ctx: click.Context) -> None:
    """Cron with dependencies, in Chronos' terms."""
    ctx.obj = ctx.find_root().obj or {"server": "http://127.0.0.1:5050"}


@chronos.group()
def job() -> None:
    """Jobs."""


def _client(ctx: click.Context) -> Client:
    return Client(ctx.find_root().obj["server"] + _API)


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
@json_option
@click.pass_context
def add(ctx: click.Context, file: Any, output: str) -> None:
    """Create or change jobs from a JSON FILE (`-` for standard input): one job, or an array, as `/scheduler/jobs` of a
    Chronos has it.

    Of an array the jobs are stored in their order, those with parents after these, until one is refused.
    """
    document = jobs_in_files.read_json(file)
    jobs = document if isinstance(document, list) else [document]
    for position, one in enumerate(jobs):
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            where = f"[{position}]." if isinstance(document, list) else ""
            raise Failure(f"{where}name: expected the job's name, a text; nothing is stored")
    client = _client(ctx)
    for stored, position in enumerate(jobs_in_files.parents_first(jobs)):
        one = jobs[position]
        try:
            client.send("POST", "/dependency" if one.get("parents") else "/iso8601", one)
        except Failure as failure:
            if len(jobs) == 1:
                raise
            raise jobs_in_files.refused_in_array(failure, one["name"], position, stored, len(jobs)) from failure
        jobs_in_files.tell_of_unknown(one)
        if output != "json":
            click.echo(f"job {one['name']} is stored")
    if output == "json":
        show_json({"stored": [one["name"] for one in jobs]})


@job.command()
@output_option
@click.pass_context
def ls(ctx: click.Context, output: str) -> None:
    """All jobs."""
    client = _client(ctx)
    document = client.get("/jobs/summary")
    paused = _is_paused(client) if output in ("table", "wide") else False
    rows = [
        {
            "name": one["name"],
            "status": one["status"],
            "state": _state(one, paused),
            "runs after": ", ".join(one["parents"]) or one["schedule"],
        }
        for one in document["jobs"]
    ]
    show(output, document, rows, ("name", "status", "state", "runs after"), name="name")
    if paused:
        click.echo(_PAUSED, err=True)


def _is_paused(client: Client) -> bool:
    return bool(client.get("/pause")["paused"])


def _state(one: dict[str, Any], paused: bool) -> str:
    """Of a row of the summary; of a job that does nothing also why."""
    if one["state"] != "idle":
        return str(one["state"])
    return "disabled" if one["disabled"] else "paused" if paused else "idle"


@job.command("show")
@job_argument
@output_option
@click.pass_context
def show_(ctx: click.Context, name: str, output: str) -> None:
    """One job, its last runs, when it is due next."""
    client = _client(ctx)
    document = client.get(_job(name))
    if output == "json":
        show_json(document)
        return
    if output == "name":
        click.echo(document["name"])
        return
    last = f"last success {document['lastSuccess'] or 'never'}, last error {document['lastError'] or 'never'}"
    click.echo(f"{name}  {document['successCount']} succeeded, {document['errorCount']} failed; {last}")
    click.echo(one_line(f"runs {document['command'] or document.get('container', {}).get('image', '')}"))
    if document.get("parents"):
        click.echo(f"after {', '.join(document['parents'])}")
    else:
        click.echo(f"by {document['schedule']}, {_next_of(client.get(_added(name, '/next'), count=1))}")
    if document["disabled"]:
        click.echo("it is disabled")
    if _is_paused(client):
        click.echo(_PAUSED)
    _show_runs(_runs(client, name, limit=5))


def _next_of(due: list[dict[str, Any]]) -> str:
    """Jitter puts the start off."""
    if not due:
        return "next never"
    nominal, start = due[0]["nominalTime"], due[0]["startTime"]
    return f"next {nominal}" + (f", put off until {start}" if start != nominal else "")


@job.command()
@job_argument
@click.option("--arguments", help="In place of the job's, for all attempts of this run.")
@click.option("--detach", is_flag=True, help="Do not wait for the run's end.")
@click.option("--timeout", type=click.FloatRange(min=0), default=3600, show_default=True, help="Seconds to wait.")
@json_option
@click.pass_context
def run(ctx: click.Context, name: str, arguments: str | None, detach: bool, timeout: float, output: str) -> None:
    """Run a job now, and wait until it has ended."""
    client = _client(ctx)
    number = client.send("POST", _added(name, "/runs"), arguments=arguments)["run"]
    if detach:
        found = _run(client, name, number)
        if output != "json" and found["state"] != "skipped":
            click.echo(f"run {number}")
    else:
        followed = _follow(client, name, number, timeout, lambda line: click.echo(line) if output != "json" else None)
        if followed is None:
            return
        found = followed
    if output == "json":
        show_json(found)
    if found["state"] == "skipped":
        raise Failure(f"run {number} of '{name}' was skipped: {found['reason']}")
    if not detach and found["state"] != "succeeded":
        raise Failure(f"run {number} of '{name}' has not succeeded: {found['reason'] or found['state']}")


def _run(client: Client, name: str, number: int) -> dict[str, Any]:
    return _runs(client, name, run=number)[0]


def _follow(
    client: Client, name: str, number: int, timeout: float, tell: Callable[[str], None]
) -> dict[str, Any] | None:
    """The run, at its end; tells of its progress until then. Ctrl-C stops looking, not the run: None.

    A server that goes away for a while, as when another one begins to lead, does not end the looking.
    """
    deadline, shown = time.monotonic() + timeout, ""
    try:
        while True:
            line, found = _looked_at(client, name, number)
            if line != shown:
                tell(line)
                shown = line
            if found is not None and found["state"] in _FINAL:
                return found
            if time.monotonic() > deadline:
                last = "it goes on" if found is not None else line
                raise Failure(f"run {number} has not ended after {timeout:g} s; {last}", code=NOT_CONVERGED)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        click.echo(f"\nrun {number} goes on", err=True)
        return None


def _looked_at(client: Client, name: str, number: int) -> tuple[str, dict[str, Any] | None]:
    """(what to tell of the run, itself); None while no server answers."""
    try:
        found = _run(client, name, number)
    except Unreachable as failure:
        return f"what run {number} does is not known: {failure.message}", None
    return _line(found), found


def _line(one: dict[str, Any]) -> str:
    attempt = one["attempts"][-1] if one["attempts"] else {}
    where = f" on {attempt['node']}" if attempt.get("node") else ""
    again = f", attempt {len(one['attempts'])}" if len(one["attempts"]) > 1 else ""
    reason = f": {_why(one)}" if _why(one) else ""
    return one_line(f"run {one['run']} {one['state']}{where}{again}{reason}")


def _why(one: dict[str, Any]) -> str:
    """A run is as it is; also when it is tried again."""
    again = f"tried again at {one['nextAttemptTime']}" if one.get("nextAttemptTime") else ""
    return "; ".join(part for part in (one["reason"], again) if part)


@job.command()
@job_argument
@click.option("--run", "number", type=click.IntRange(min=0), help="Of this run alone.")
@json_option
@click.pass_context
def kill(ctx: click.Context, name: str, number: int | None, output: str) -> None:
    """Stop what a job runs, and forget what waits."""
    answer = _client(ctx).send("DELETE", _added(name, "/runs"), run=number)
    if output == "json":
        show_json(answer)
    elif answer["stopped"]:
        click.echo(f"stopped: {', '.join(f'run {one}' for one in answer['stopped'])}")
    else:
        click.echo("nothing of it ran" if number is None else f"run {number} had ended already")


@job.command()
@job_argument
@json_option
@click.pass_context
def pause(ctx: click.Context, name: str, output: str) -> None:
    """Disable a job: it is not started by time or by a parent."""
    _client(ctx).send("PUT", _added(name, "/disable"))
    _tell(output, {"job": name, "disabled": True})


@job.command()
@job_argument
@json_option
@click.pass_context
def resume(ctx: click.Context, name: str, output: str) -> None:
    """Enable a job again."""
    _client(ctx).send("PUT", _added(name, "/enable"))
    _tell(output, {"job": name, "disabled": False})


def _tell(output: str, document: dict[str, Any]) -> None:
    """What has been done, to programs; people are told of what has not."""
    if output == "json":
        show_json(document)


@job.command()
@job_argument
@click.option("--children", type=click.Choice(_CHILDREN), default="inherit", show_default=True,
              help="What becomes of the jobs that wait for it.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def rm(ctx: click.Context, name: str, children: str, yes: bool, output: str) -> None:
    """Remove a job, stop what it runs, forget its history."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Remove {name}, stop what it runs and forget its history?", abort=True)
    _client(ctx).send("DELETE", _job(name), children=children)
    _tell(output, {"job": name, "children": children})


@job.command()
@job_argument
@click.option("--from", "from_", required=True, metavar="TIME", help="2014-10-10T00:00:00Z")
@click.option("--until", required=True, metavar="TIME")
@json_option
@click.pass_context
def backfill(ctx: click.Context, name: str, from_: str, until: str, output: str) -> None:
    """Run a job for every due time of a stretch.

    One after the other; all at once if the job lets its runs overlap. Of a schedule with so many repetitions (`R3/...`)
    there are no more due times than those, and none before its start; a crontab line has no start. Each run finds its
    due time in CHRONOS_NOMINAL_TIME.
    """
    answer = _client(ctx).send("POST", _added(name, "/backfill"), **{"from": from_, "until": until})
    if output == "json":
        show_json(answer)
    else:
        click.echo(f"{answer['runs']} runs")
        if not answer["runs"]:
            click.echo("its schedule has no due time there", err=True)


@job.command()
@job_argument
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@output_option
@click.pass_context
def history(ctx: click.Context, name: str, limit: int, output: str) -> None:
    """A job's runs, newest first: when, why, where, how they ended."""
    _show_runs(_runs(_client(ctx), name, limit=limit), output)


def _show_runs(runs: Iterable[dict[str, Any]], output: str = "table") -> None:
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
                "reason": _why(one),
            }
        )
    columns = ("run", "due", "cause", "state", "attempts", "node", "exit", "started", "ended", "reason")
    show(output, runs, rows, columns, name="run")


@job.command()
@job_argument
@click.option("--run", "number", type=click.IntRange(min=0), help="Of this run; else of the last that has any.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the attempt ends, or Ctrl-C.")
@click.pass_context
def logs(ctx: click.Context, name: str, number: int | None, follow: bool) -> None:
    """The output of a run's last attempt."""
    from orlop.cli.stories import show_output

    client = _client(ctx)
    found = _runs(client, name, **({"run": number} if number is not None else {"limit": 1000}))
    runs = [one for one in found if one["attempts"]]
    if not runs:
        raise Failure(f"'{name}' has no such run with an output", code=NOT_FOUND)
    last = _when_started(client, runs[0]) if follow else runs[0]["attempts"][-1]
    if last is None:
        return
    if last["outputLost"]:
        raise Failure(f"the output is lost: node {last['node']} is gone", code=NOT_FOUND)
    goes_on = follow and not last["endTime"]
    server = Client(ctx.find_root().obj["server"])
    show_output(server, last["task"], follow=goes_on, node=None if goes_on else last["node"] or None)


def _when_started(client: Client, one: dict[str, Any]) -> dict[str, Any] | None:
    """The run's last attempt, as soon as it has started or will not start any more. None: Ctrl-C."""
    try:
        while not one["attempts"][-1]["startTime"] and one["state"] not in _FINAL:
            time.sleep(POLL_S)
            one = _run(client, one["job"], one["run"])
    except KeyboardInterrupt:
        return None
    last: dict[str, Any] = one["attempts"][-1]
    return last


@job.command("next")
@click.argument("name_or_file", shell_complete=_completed_name, callback=_check_name)
@click.option("--count", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option("--draft", is_flag=True, help="The argument is a JSON file of a job that is not stored.")
@output_option
@click.pass_context
def next_(ctx: click.Context, name_or_file: str, count: int, draft: bool, output: str) -> None:
    """When a job is due next; of a draft, what storing it now would come to."""
    client = _client(ctx)
    if draft:
        document = _read_draft(name_or_file)
        times = client.send("POST", "/next", document, count=count)
    else:
        times = client.get(_added(name_or_file, "/next"), count=count)
        document = client.get(_job(name_or_file)) if output in ("table", "wide") else {}
    rows = [{"due": one["nominalTime"], "local": one["localTime"], "starts": one["startTime"]} for one in times]
    show(output, times, rows, ("due", "local", "starts"), name="due")
    if output in ("table", "wide"):
        if isinstance(document, dict) and not times:
            disabled = document.get("disabled")
            why = "it is disabled, and not due until it is enabled" if disabled else "it is not due any more by itself"
            click.echo(why, err=True)
        if _is_paused(client):
            click.echo(_PAUSED, err=True)


def _read_draft(path: str) -> Any:
    try:
        with click.open_file(path, "rb") as file:
            return jobs_in_files.read_json(file)
    except OSError as error:
        raise click.BadParameter(f"'{path}': {error.strerror}", param_hint="'NAME_OR_FILE'") from error


@chronos.command()
@click.option("--svg", "file", type=click.File("w"), help="Draw it into this file instead.")
@json_option
@click.pass_context
def graph(ctx: click.Context, file: Any, output: str) -> None:
    """Which jobs wait for which. `+`: last succeeded, `!`: last failed."""
    from orlop_chronos import drawing

    document = _client(ctx).get("/jobs/summary")
    nodes = [
        drawing.Node(name=one["name"], parents=tuple(one["parents"]), status=one["status"], state=one["state"])
        for one in document["jobs"]
    ]
    if output == "json":
        show_json(document)
    if file is not None:
        file.write(drawing.svg(nodes))
    elif output != "json":
        for line in drawing.lines(nodes):
            click.echo(line)


@chronos.command("pause")
@json_option
@click.pass_context
def pause_all(ctx: click.Context, output: str) -> None:
    """Start nothing any more, by time or by a parent; what runs goes on."""
    _client(ctx).send("PUT", "/pause")
    _tell(output, {"paused": True})


@chronos.command("resume")
@json_option
@click.pass_context
def resume_all(ctx: click.Context, output: str) -> None:
    """Go on: missed runs are made up for as their jobs say."""
    _client(ctx).send("PUT", "/resume")
    _tell(output, {"paused": False})


job.add_command(graph)
for _command in {*chronos.commands.values(), *job.commands.values()} - {job}:
    server_options(_command)
