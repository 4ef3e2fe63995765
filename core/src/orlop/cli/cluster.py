"""Looking at a cluster and steering it: status, nodes, tasks, explain, events, logs, kill, drain."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from orlop.cli.client import Client
from orlop.cli.output import age, output_option, repeated, show, table, watch_option


def _client(ctx: click.Context) -> Client:
    return Client(ctx.find_root().obj["server"])


@click.command()
@output_option
@watch_option
@click.pass_context
def status(ctx: click.Context, output: str, watch: bool) -> None:
    """The cluster at a glance."""

    def once() -> None:
        document = _client(ctx).get("/v1/cluster")
        if output == "json":
            click.echo(json.dumps(document, indent=2))
            return
        tasks = ", ".join(f"{count} {state}" for state, count in document["tasks"].items()) or "none"
        nodes = ", ".join(f"{count} {state}" for state, count in document["nodes"].items()) or "none"
        click.echo(f"cluster   {document['name']} ({document['id']}), Orlop {document['version']}")
        click.echo(f"server    {document['address']}, up {age(document['started'])}, store {document['store']}")
        click.echo(f"nodes     {nodes}")
        click.echo(f"tasks     {tasks}")
        for framework in document["frameworks"]:
            row = framework if isinstance(framework, dict) else {"name": framework}
            error = f": {row['error']}" if row.get("error") else ""
            click.echo(f"framework {row.get('name')} {row.get('state', '')}{error}")
        if document.get("read_only"):
            click.echo(f"READ ONLY {document['read_only']}")
        for orphan in document.get("orphans", []):
            click.echo(f"orphan    {orphan}")

    repeated(watch, once)


@click.command()
@output_option
@watch_option
@click.pass_context
def nodes(ctx: click.Context, output: str, watch: bool) -> None:
    """The machines of the pool."""

    def once() -> None:
        document = _client(ctx).get("/v1/nodes")
        rows = [
            node
            | {
                "cpus": _used(node["resources"].get("cpus")),
                "mem": _used_bytes(node["resources"].get("mem")),
                "disk": _used_bytes(node["resources"].get("disk")),
            }
            for node in document["nodes"]
        ]
        columns = ("id", "name", "state", "drained", "tasks", "cpus", "mem", "disk", "runtimes", "ports")
        show(output, document, rows, columns)

    repeated(watch, once)


def _used(row: dict[str, Any] | None) -> str:
    return f"{row['used']:g}/{row['total']:g}" if row else "-"


def _used_bytes(row: dict[str, Any] | None) -> str:
    return f"{row['used'] / 2**30:.1f}/{row['total'] / 2**30:.1f}GiB" if row else "-"


@click.command()
@click.option("--all", "everything", is_flag=True, help="Ended ones too.")
@click.option("--framework", default="")
@click.option("--state", default="")
@click.option("--group", default="", help="Tasks that belong together, such as an app's: /my/app.")
@output_option
@watch_option
@click.pass_context
def tasks(
    ctx: click.Context, everything: bool, framework: str, state: str, group: str, output: str, watch: bool
) -> None:
    """What runs, and what waits to."""

    def once() -> None:
        query = {"all": "true" if everything else "", "framework": framework, "state": state, "group": group}
        document = _client(ctx).get("/v1/tasks", **query)
        rows = [
            task | {"age": age(task.get("started") or task.get("created")), "end": task.get("outcome")}
            for task in document["tasks"]
        ]
        columns = ["id", "framework", "name", "state", "healthy", "node_name", "ports", "age"]
        show(output, document, rows, [*columns, "end", "reason"] if everything else columns)

    repeated(watch, once)


@click.command()
@click.argument("name")
@output_option
@click.pass_context
def explain(ctx: click.Context, name: str, output: str) -> None:
    """Why a task waits or died, and its story. NAME: a task's id or name, or an app's path."""
    document = _client(ctx).get(f"/v1/explain/{name}")
    if output == "json":
        click.echo(json.dumps(document, indent=2))
        return
    if "task" in document:
        _explain_one(document)
        return
    for one in document["asks"]:
        click.echo(f"{one['count']} waiting since {one['since']}: {one['group'] or one['key']}")
        _explain_waiting(one["explanation"])
    if not document["asks"]:
        click.echo(f"nothing of {name} waits")


def _explain_one(document: dict[str, Any]) -> None:
    task, explanation = document["task"], document["explanation"]
    click.echo(f"task   {task['id']}  {task['name']}")
    where = f", on {task['node_name']}" if task["node_name"] else ""
    click.echo(f"state  {task['state']}, wanted {task['desired']}{where}")
    if task.get("outcome"):
        click.echo(f"ended  {task['outcome']}, code {task.get('exit_code')}: {task.get('reason') or '-'}")
    if explanation:
        _explain_waiting(explanation)
    for entry in document.get("story", []):
        details = " ".join(f"{name}={value}" for name, value in entry.get("details", {}).items() if value)
        click.echo(f"{entry['at']}  {entry['type']}  {details}")


def _explain_waiting(explanation: dict[str, Any]) -> None:
    click.echo(f"why    {explanation['text']}")
    if explanation["ruled_out"]:
        table(explanation["ruled_out"], ("filter", "nodes", "reason"))


@click.command()
@click.option("-f", "--follow", is_flag=True)
@click.option("--type", "kind", default="", help="Only this type of event.")
@click.option("--subject", default="", help="Only events about this task, node or app.")
@click.option("--limit", default=50, show_default=True)
@output_option
@click.pass_context
def events(ctx: click.Context, follow: bool, kind: str, subject: str, limit: int, output: str) -> None:
    """What happened, to whom, why."""
    client = _client(ctx)
    document = client.get("/v1/events", limit=limit, type=kind, subject=subject)
    for entry in document["events"]:
        _event(entry, output)
    if not follow:
        return
    last = document["events"][-1]["id"] if document["events"] else None
    block: dict[str, str] = {}
    pending = b""
    try:
        for piece in client.stream("/v1/events", accept="text/event-stream", after=last, type=kind, subject=subject):
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                name, _, value = line.decode().rstrip("\r").partition(": ")
                if name:
                    block[name] = value
                elif block:
                    _followed(block, output)
                    block = {}
    except KeyboardInterrupt:
        return


def _followed(block: dict[str, str], output: str) -> None:
    if block.get("event") == "gap":
        click.echo("-- some events are no longer kept --", err=True)
    elif "data" in block:
        _event(json.loads(block["data"]), output)


def _event(entry: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(entry))
        return
    details = " ".join(f"{name}={value}" for name, value in entry.get("details", {}).items() if value)
    click.echo(f"{entry['at']}  {entry['type']:<24} {entry.get('subject', '')}  {details}")


@click.command()
@click.argument("task")
@click.option("-f", "--follow", is_flag=True)
@click.option("--tail", type=int, help="Only the last N lines.")
@click.option("--stderr", is_flag=True, help="The error output instead.")
@click.pass_context
def logs(ctx: click.Context, task: str, follow: bool, tail: int | None, stderr: bool) -> None:
    """A task's output; kept for a while after its end."""
    query: dict[str, Any] = {
        "stream": "stderr" if stderr else "stdout",
        "follow": "true" if follow else "",
        "tail": tail,
    }
    try:
        for piece in _client(ctx).stream(f"/v1/tasks/{task}/logs", **query):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    except KeyboardInterrupt:
        return


@click.command()
@click.argument("task")
@click.option("--reason", default="killed by an operator")
@click.pass_context
def kill(ctx: click.Context, task: str, reason: str) -> None:
    """Stop a task. Its framework may start another in its place."""
    _client(ctx).send("DELETE", f"/v1/tasks/{task}", reason=reason)
    click.echo(f"stopping {task}")


@click.command()
@click.argument("node")
@click.pass_context
def drain(ctx: click.Context, node: str) -> None:
    """Put no new tasks on a node."""
    _client(ctx).send("POST", f"/v1/nodes/{node}/drain")
    click.echo(f"{node} takes no new tasks")


@click.command()
@click.argument("node")
@click.pass_context
def undrain(ctx: click.Context, node: str) -> None:
    """Let a node take tasks again."""
    _client(ctx).send("POST", f"/v1/nodes/{node}/undrain")
    click.echo(f"{node} takes tasks again")
