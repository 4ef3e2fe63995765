"""`orlop marathon deployment …`."""

from __future__ import annotations

from typing import Any

import click

from orlop.cli.client import Client
from orlop.cli.output import output_option, show, show_json, table
from orlop_marathon.command_line.asking import Waiting, deployment_argument, marathon_of, the_one, waits
from orlop_marathon.command_line.following import finish


@click.group()
def deployment() -> None:
    """Deployments that are under way. Their ids may be shortened."""


def _found(client: Client, given: str) -> dict[str, Any]:
    """Raises Failure."""
    running = {one["id"]: one for one in client.get("/v2/deployments")}
    return running[the_one(running, given, "running deployment", "orlop marathon deployment list")]


def _actions(actions: list[dict[str, Any]]) -> str:
    return ", ".join(f"{one['action']} {one['app']}" for one in actions)


@deployment.command("list")
@output_option
@click.pass_context
def list_(ctx: click.Context, output: str) -> None:
    """All that are under way, the oldest first."""
    document = marathon_of(ctx).get("/v2/deployments")
    rows = [
        {
            "id": one["id"],
            "step": f"{one['currentStep']}/{one['totalSteps']}",
            "doing": _actions(one["currentActions"]),
            "apps": one["affectedApps"],
            "version": one["version"],
        }
        for one in document
    ]
    show(output, document, rows, ("id", "step", "doing", "version"), wide=("apps",))


@deployment.command("show")
@deployment_argument
@output_option
@click.pass_context
def show_(ctx: click.Context, deployment_id: str, output: str) -> None:
    """One deployment: its steps, and how far it is."""
    one = _found(marathon_of(ctx), deployment_id)
    if output == "json":
        show_json(one)
        return
    if output == "name":
        click.echo(one["id"])
        return
    current = one["currentStep"]
    click.echo(f"{one['id']}  step {current} of {one['totalSteps']}, leads to version {one['version']}")
    rows = [
        {"step": number, "state": _state(number, current), "actions": _actions(step["actions"])}
        for number, step in enumerate(one["steps"], 1)
    ]
    table(rows, ("step", "state", "actions"))


def _state(step: int, current: int) -> str:
    return "done" if step < current else "running" if step == current else "waits"


@deployment.command()
@deployment_argument
@waits(detach=False, force=None)
@click.pass_context
def follow(ctx: click.Context, deployment_id: str, waiting: Waiting) -> None:
    """Show its progress until it is done. Ctrl-C stops looking, not the deployment.

    Exit code 3 when it is not done in time, 5 when it was stopped or another took its place.
    """
    one = _found(marathon_of(ctx), deployment_id)
    finish(ctx, {"version": one["version"], "deploymentId": one["id"]}, waiting)


@deployment.command()
@deployment_argument
@waits(force="Take nothing back: its apps keep the new definition.")
@click.pass_context
def stop(ctx: click.Context, deployment_id: str, waiting: Waiting) -> None:
    """Stop a deployment and take back what it has changed.

    Another deployment does that, and is followed.

    With --force it only ends. What it has done stays; its apps keep the new definition and run as many instances as
    that says, but those of the former definition are not replaced any more.
    """
    client = marathon_of(ctx)
    found = _found(client, deployment_id)["id"]
    answer = client.send("DELETE", f"/v2/deployments/{found}", force=waiting.force)
    told = waiting.output == "table" and not waiting.detach
    if waiting.force:
        if waiting.output == "json":
            show_json({"deploymentId": found, "stopped": True})
        else:
            click.echo(f"deployment {found} is stopped; its apps keep the new definition")
        return
    if told:
        click.echo(f"deployment {found} is stopped, and taken back by {answer['deploymentId']}")
    finish(ctx, answer, waiting)
