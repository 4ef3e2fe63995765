"""Looking at a cluster and steering it: status, nodes, tasks, kill, drain, undrain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click

from orlop.cli.options import client_of, json_option, node_argument, output_option, server_options, task_argument
from orlop.cli.output import age, duration_s, one_line, quantity, repeated, show, show_json, span, text_of, watch_option

ORPHANS_SHOWN_MAX: Final = 20


@click.command()
@json_option
@watch_option
@server_options
@click.pass_context
def status(ctx: click.Context, output: str, watch: bool) -> None:
    """The cluster at a glance."""

    def once() -> None:
        document = client_of(ctx).get("/v1/cluster")
        if output == "json":
            show_json(document)
            return
        for name, text in _glance(document):
            click.echo(f"{name:<11}{one_line(text)}")

    repeated(watch, once)


def _glance(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what, text) lines; what needs attention comes last, where the eye ends up."""
    yield "cluster", f"{document['name']} ({document['id']}), Orlop {document['version']}"
    leader = document.get("leader")
    others = f", leader {leader}" if leader and leader.partition("://")[2] != document["address"] else ""
    yield "server", f"{document['address']}, up {age(document['started'])}{others}"
    yield "store", text_of(document.get("store"))
    yield "nodes", _counted(document["nodes"])
    yield "tasks", _counted(document["tasks"])
    resources = document.get("resources", {})
    for name, total in resources.get("total", {}).items():
        unit = resources.get("units", {}).get(name, "")
        used = resources.get("used", {}).get(name)
        foreign = resources.get("foreign", {}).get(name)
        others = f", {quantity(foreign, unit)} by foreign containers" if foreign else ""
        yield name, f"{quantity(used, unit)} of {quantity(total, unit)} used{others}"
    for framework in document.get("frameworks", []):
        error = f": {framework['error']}" if framework.get("error") else ""
        yield "framework", f"{framework['name']} {framework.get('state', '')}{error}"
    for plugin in document.get("broken_plugins", []):
        name, error = plugin["name"], plugin["error"]
        yield "plugin", f"{name} {plugin['state']}: {error} (see: orlop plugins show {name})"
    if pending := document["tasks"].get("pending"):
        yield "waiting", f"{pending} (see: orlop tasks --state pending, orlop explain TASK)"
    for one in document.get("unavailable", []):
        yield "runtime", f"{one['runtime']} on {one['node_name']}: {one['reason']}"
    yield from _orphans(document.get("orphans", []))
    if document.get("clock_trouble"):
        yield "CLOCK", document["clock_trouble"]
    if document.get("store_trouble"):
        yield "STORE", document["store_trouble"]
    if document.get("read_only"):
        yield "READ ONLY", document["read_only"]
    if document.get("stale_ms"):
        yield "STALE", f"what is shown may be {span(document['stale_ms'] / 1000)} old"


def _orphans(orphans: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    if not orphans:
        return
    run = "1 task runs and is" if len(orphans) == 1 else f"{len(orphans)} tasks run and are"
    left = "it is" if len(orphans) == 1 else "they are"
    yield "orphans", f"{run} not in this cluster's state: {left} left alone"
    for orphan in orphans[:ORPHANS_SHOWN_MAX]:
        yield "", f"{orphan['task']} on {orphan.get('node_name') or orphan.get('node')}"
    if len(orphans) > ORPHANS_SHOWN_MAX:
        yield "", f"and {len(orphans) - ORPHANS_SHOWN_MAX} more (see: orlop status -o json)"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none"


@click.command()
@output_option
@watch_option
@server_options
@click.pass_context
def nodes(ctx: click.Context, output: str, watch: bool) -> None:
    """The machines of the pool."""

    def once() -> None:
        document = client_of(ctx).get("/v1/nodes")
        rows = [
            node
            | {name: _usage(node["resources"].get(name)) for name in ("cpus", "mem", "disk")}
            | {"state": "away" if node.get("away") and node["state"] == "ready" else node["state"]}
            | {"foreign": _foreign(node.get("foreign"))}
            | {"unavailable": "; ".join(f"{name}: {why}" for name, why in node.get("unavailable", {}).items())}
            | {"clock": _clock(node.get("clock_ahead_s"))}
            for node in document["nodes"]
        ]
        columns = ["id", "name", "state", "drained", "tasks", "cpus", "mem", "disk", "ports"]
        columns += ["foreign"] if any(row["foreign"] for row in rows) else []
        columns += ["unavailable"] if any(row["unavailable"] for row in rows) else []
        wide = ("address", "os", "arch", "runtimes", "attributes", "version", "clock")
        show(output, document, rows, columns, wide=wide)

    repeated(watch, once)


def _clock(ahead_s: float | None) -> str:
    """`+0.2s`: ahead of the leader's."""
    return f"{round(ahead_s, 1) + 0.0:+.1f}s" if ahead_s is not None else "-"  # no -0.0


def _usage(row: Mapping[str, Any] | None) -> str:
    """`0.5/4`, `512MiB/16GiB`: used and total."""
    return f"{quantity(row['used'], row['unit'])}/{quantity(row['total'], row['unit'])}" if row else "-"


def _foreign(row: Mapping[str, Any] | None) -> str:
    """`3 (0.5 cpus, 512MiB mem)`: containers that are no tasks, and what they may take. Empty without any."""
    if not row or not row["containers"]:
        return ""
    use = ", ".join(f"{quantity(one['amount'], one['unit'])} {name}" for name, one in row["resources"].items())
    return f"{row['containers']} ({use})" if use else str(row["containers"])


@click.command()
@click.option("--all", "everything", is_flag=True, help="Ended ones too.")
@click.option("--framework", default="", help="Only this framework's.")
@click.option("--state", default="", help="Only in these states: pending,running.")
@click.option("--group", default="", help="Tasks that belong together, such as an app's: /my/app.")
@click.option("--node", default="", help="Only on this node.")
@output_option
@watch_option
@server_options
@click.pass_context
def tasks(
    ctx: click.Context,
    everything: bool,
    framework: str,
    state: str,
    group: str,
    node: str,
    output: str,
    watch: bool,
) -> None:
    """What runs, and what waits to."""

    def once() -> None:
        query = {"all": everything, "framework": framework, "state": state, "group": group, "node": node}
        document = client_of(ctx).get("/v1/tasks", **query)
        rows = [
            task
            | {
                "state": shown_state(task),
                "node": task.get("node_name") or task.get("node"),
                "age": age(task.get("started") or task.get("created")),
            }
            for task in document["tasks"]
        ]
        columns = ["id", "framework", "name", "state", "healthy", "node", "ports", "age"]
        columns += ["outcome", "exit_code", "reason"] if everything else []
        show(output, document, rows, columns, wide=("group", "key", "role", "runtime", "desired", "message"))

    repeated(watch, once)


def shown_state(task: Mapping[str, Any]) -> str:
    """In a table. What is prepared again after a run is what its users call stopped."""
    if task.get("unreachable"):
        return "unreachable"
    return "stopped" if task["state"] == "prepared" and task.get("outcome") else str(task["state"])


@click.command()
@task_argument
@click.option("--reason", default="", help="Why, for the event log.")
@server_options
@click.pass_context
def kill(ctx: click.Context, task: str, reason: str) -> None:
    """Stop a task. Its framework may start another in its place.

    TASK: its id, its name, or the beginning of its id.
    """
    answer = client_of(ctx).send("DELETE", _path("tasks", task), reason=reason)
    found = answer.get("task", {}).get("id", task)
    changed = answer.get("changed", True)
    click.echo(f"stopping {found}" if changed else f"{found} was stopping already, or has ended")


@click.command()
@node_argument
@click.option("--reason", default="", help="Why, for the event log.")
@click.option("--deadline", default="", help="10m, 2h, 0s: after this time stop what still runs there.")
@server_options
@click.pass_context
def drain(ctx: click.Context, node: str, reason: str, deadline: str) -> None:
    """Put no new tasks on a node. What runs there goes on, up to a deadline if one is given.

    Frameworks replace what is stopped elsewhere. `orlop undrain` takes the deadline back too.
    """
    body: dict[str, Any] = {"reason": reason} if reason else {}
    if deadline:
        seconds = duration_s(deadline)
        if seconds is None:
            raise click.UsageError(f'--deadline: expected "0s", "90s", "10m", "3h" or "2d", got "{deadline}"')
        body["deadline_s"] = round(seconds)
    answer = client_of(ctx).send("POST", f"{_path('nodes', node)}/drain", body or None)
    until = answer["node"].get("drain_at")
    stopped = f", which are stopped at {until}" if until else ""
    click.echo(f"{answer['node']['name']} takes no new tasks; it runs {answer['node'].get('tasks', 0)}{stopped}")


@click.command()
@node_argument
@server_options
@click.pass_context
def undrain(ctx: click.Context, node: str) -> None:
    """Let a node take tasks again."""
    answer = client_of(ctx).send("POST", f"{_path('nodes', node)}/undrain")
    click.echo(f"{answer['node']['name']} takes tasks again")


@click.command()
@node_argument
@click.option("--reason", default="", help="Why, for the event log.")
@server_options
@click.pass_context
def forget(ctx: click.Context, node: str, reason: str) -> None:
    """Give up a node that is gone for good. What was on it counts as lost, and is replaced.

    Its admission is taken back: to return, the machine needs another token.
    """
    answer = client_of(ctx).send("DELETE", _path("nodes", node), reason=reason)
    click.echo(f"{answer['name']} is forgotten")


def _path(kind: str, name: str) -> str:
    from urllib.parse import quote

    return f"/v1/{kind}/{quote(name, safe='')}"
