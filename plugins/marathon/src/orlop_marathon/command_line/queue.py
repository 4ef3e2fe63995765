"""`orlop marathon queue …`: what waits to be started."""

from __future__ import annotations

from typing import Any, Final

import click

from orlop.cli.options import completed_by
from orlop.cli.output import age, json_option, output_option, show, show_json
from orlop_marathon.command_line.asking import MOUNTED, full_id, marathon_of

#: What nodes lack, by Mesos' names.
_LACKING: Final = {
    "UnfulfilledRole": "role",
    "UnfulfilledConstraint": "constraints",
    "NoCorrespondingReservationFound": "reservations",
    "AgentMaintenance": "drained or not reachable",
    "InsufficientCpus": "cpus",
    "InsufficientMemory": "mem",
    "InsufficientDisk": "disk",
    "InsufficientGpus": "gpus",
    "InsufficientPorts": "ports",
    "DeclinedScarceResources": "scarce resources",
}


class _Listed(click.Group):
    """Lists when nothing else is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        only_options = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        if only_options and not ctx.resilient_parsing:
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Listed)
def queue() -> None:
    """What waits to be started. Without a command: the list."""


@queue.command("list")
@output_option
@click.pass_context
def list_(ctx: click.Context, output: str) -> None:
    """What waits, why, and how long a back-off still lasts. `orlop explain APP` says more of one."""
    document = marathon_of(ctx).get("/v2/queue")
    rows = [
        {
            "app": one["app"]["id"],
            "waiting": one["count"],
            "since": age(one["since"]),
            "back-off": f"{one['delay']['timeLeftSeconds']}s" if _is_delayed(one) else None,
            "why": _why(one),
        }
        for one in document["queue"]
    ]
    show(output, document, rows, ("app", "waiting", "since", "back-off", "why"), "app")


def _is_delayed(item: dict[str, Any]) -> bool:
    return not item["delay"]["overdue"]


def _why(item: dict[str, Any]) -> str:
    if _is_delayed(item):
        return "its tasks ended by themselves"
    summary = item["processedOffersSummary"]
    nodes, unfit = summary["processedOffersCount"], summary["unusedOffersCount"]
    if not nodes:
        return "there is no node"
    rejects = [
        f"{_LACKING.get(one['reason'], one['reason'])} ({one['declined']})"
        for one in summary["rejectSummaryLastOffers"]
        if one["declined"]
    ]
    return f"{nodes - unfit} of {nodes} nodes fit" + (f": {', '.join(rejects)}" if rejects else "")


@queue.command()
@click.argument(
    "app_id",
    shell_complete=completed_by(
        f"{MOUNTED}/v2/queue", lambda found: {one["app"]["id"]: _why(one) for one in found["queue"]}
    ),
)
@json_option
@click.pass_context
def reset(ctx: click.Context, app_id: str, output: str) -> None:
    """End an app's back-off: what waits is tried again now."""
    path = full_id(app_id)
    marathon_of(ctx).send("DELETE", f"/v2/queue{path}/delay")
    if output == "json":
        show_json({"app": path, "reset": True})
    else:
        click.echo(f"{path} is tried again now")
