"""`orlop swarm …`: the pool from the command line; all the rest is `docker`."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import click

from orlop.cli.client import Client
from orlop.cli.failures import CONFLICT, NOT_CONVERGED, NOT_FOUND, Failure
from orlop.cli.output import age, json_option, output_option, show, show_json, table

POLICIES_LABEL: Final = "com.docker.swarm.reschedule-policies"
#: A moved container may have to be pulled first.
MOVED_WITHIN_S: Final = 150.0
GATEWAY_TIMEOUT: Final = "is not there again"
ANYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104  (compared with, not bound to)
UNIX: Final = "unix://"
BRANCH: Final = " └"


@click.group()
@click.pass_context
def swarm(ctx: click.Context) -> None:
    """The pool of Docker Engines; its containers by `docker` itself."""
    ctx.obj = ctx.find_root().obj or {"server": "http://127.0.0.1:5050"}


def _server(ctx: click.Context) -> str:
    return str(ctx.find_root().obj["server"])


def _client(ctx: click.Context, **options: Any) -> Client:
    return Client(_server(ctx) + "/swarm", **options)


@swarm.command()
@output_option
@click.pass_context
def info(ctx: click.Context, output: str) -> None:
    """The pool at a glance: strategy, filters, nodes. JSON: the answer to `docker info`."""
    document = _client(ctx).get("/info")
    pool, nodes = status_of(document.get("SystemStatus") or ())
    if output == "table":
        click.echo(f"strategy  {pool.get('Strategy', '-')}")
        click.echo(f"filters   {pool.get('Filters', '-')}")
        running, all_ = document["ContainersRunning"], document["Containers"]
        click.echo(f"nodes     {len(nodes)}, with {all_} containers, {running} of them running")
    rows = [
        {
            "name": one["name"],
            "address": one["address"],
            "status": one.get("Status"),
            "containers": one.get("Containers"),
            "cpus": one.get("Reserved CPUs"),
            "mem": one.get("Reserved Memory"),
            "version": one.get("ServerVersion"),
            "labels": one.get("Labels"),
            "error": one.get("Error"),
        }
        for one in nodes
    ]
    columns = ("name", "address", "status", "containers", "cpus", "mem", "version")
    show(output, document, rows, (*columns, *(("error",) if any(row["error"] for row in rows) else ())), name="name",
         wide=("labels",))  # fmt: skip


def status_of(rows: Any) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The rows of `docker info` about the pool: what it says of itself, and of each node."""
    pool: dict[str, str] = {}
    nodes: list[dict[str, str]] = []
    for key, value in rows:
        if key.lstrip().startswith(BRANCH.strip()) and nodes:
            nodes[-1][key.strip(BRANCH)] = value
        elif key.startswith(" "):
            nodes.append({"name": key.strip(), "address": value})
        else:
            pool[key] = value
    return pool, nodes


@swarm.command()
@output_option
@click.pass_context
def ps(ctx: click.Context, output: str) -> None:
    """All containers: where they are, what becomes of them when their node fails. `-` as task: not made by the pool."""
    client = _client(ctx)
    containers = client.get("/containers/json", all=1)
    tasks = Client(_server(ctx)).get("/v1/tasks", framework="swarm")["tasks"]
    by_container = {task["external_id"]: task for task in tasks if task["external_id"]}
    rows = []
    for one in containers:
        task = by_container.pop(one["Id"], {})
        rows.append(
            {
                "id": one["Id"][:12],
                "name": one["Names"][0].removeprefix("/") if one["Names"] else "",
                "node": task.get("node_name") or _node_of(client, one["Id"]),
                "state": "host down" if one["Status"] == "Host Down" else one["State"],
                "policy": policy_of(one.get("Labels") or {}),
                "image": one["Image"],
                "task": task.get("id"),
                "age": one["Status"],
            }
        )
    waiting = [task for task in tasks if not task["external_id"]]
    rows += [
        {"id": "", "name": task["name"], "node": task["node_name"], "state": "waits", "policy": "on-node-failure",
         "image": "", "task": task["id"], "age": age(task.get("created"))}
        for task in waiting
    ]  # fmt: skip
    document = [
        {name: row[name] for name in ("id", "name", "node", "state", "policy", "image", "task")} for row in rows
    ]
    show(output, document, rows, ("id", "name", "node", "state", "policy", "image"), name="name", wide=("task", "age"))


def _node_of(client: Client, container: str) -> str | None:
    """Of one that the kernel does not know; None: it is gone by now."""
    try:
        return str(client.get(f"/containers/{container}/json")["Node"]["Name"])
    except Failure as failure:
        if failure.code == NOT_FOUND:
            return None
        raise


def policy_of(labels: dict[str, str]) -> str:
    """What becomes of a container when its node fails."""
    return "on-node-failure" if "on-node-failure" in labels.get(POLICIES_LABEL, "") else "off"


@swarm.command()
@json_option
@click.pass_context
def env(ctx: click.Context, output: str) -> None:
    """What a shell needs for `docker` to speak to the pool: eval "$(orlop swarm env)"."""
    found = _client(ctx).get("/orlop/listen")
    if not found["listen"]:
        raise Failure("the Docker API is listened on nowhere", hint="see `[plugins.swarm] listen`", code=CONFLICT)
    variables = variables_of(found, urlsplit(_server(ctx)).hostname or "")
    if output == "json":
        show_json(variables)
        return
    for name, value in variables.items():
        click.echo(f"export {name}={value}")


def variables_of(found: dict[str, Any], server: str) -> dict[str, str]:
    """listen: of the Docker API. server: the host that was asked, which has all addresses."""
    listen = str(found["listen"][0])
    if listen.startswith(UNIX):
        return {"DOCKER_HOST": listen}
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    host = server if host in ANYWHERE else host
    address = f"[{host}]" if ":" in host else host
    tls = {"DOCKER_TLS_VERIFY": "1"} if found["tls"] else {}
    return {"DOCKER_HOST": f"tcp://{address}:{port}", **tls}


@swarm.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be moved.")
@json_option
@click.pass_context
def rebalance(ctx: click.Context, dry_run: bool, output: str) -> None:
    """Move containers from full nodes to empty ones, one after the other.

    Those alone that may be made anew (reschedule:on-node-failure) and are bound to nothing of their node. What they
    have written into themselves is lost. Ctrl-C stops after the one that is being moved.
    """
    client = _client(ctx, timeout_s=MOVED_WITHIN_S)
    moves = client.get("/orlop/rebalance")["moves"]
    if dry_run:
        if output == "json":
            show_json(moves)
        else:
            table(moves, ("container", "source", "target"))
        return
    done = []
    for number, one in enumerate(moves, 1):
        if output != "json":
            click.echo(f"{number}/{len(moves)}  {one['container']}  {one['source']} -> ", nl=False)
        done.append({**one, "node": _moved(client, one["container"])})
        if output != "json":
            click.echo(done[-1]["node"])
    if output == "json":
        show_json(done)
    elif not moves:
        click.echo("nothing is to be moved")


def _moved(client: Client, container: str) -> str:
    """The node it has got."""
    try:
        return str(client.send("POST", "/orlop/rebalance", {"container": container})["node"])
    except Failure as failure:
        if GATEWAY_TIMEOUT in failure.message:
            raise Failure(failure.message, hint=f"see `orlop explain {container}`", code=NOT_CONVERGED) from failure
        raise
