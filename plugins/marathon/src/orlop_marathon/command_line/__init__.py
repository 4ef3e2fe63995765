"""`orlop marathon …`: apps, groups, deployments, tasks and the launch queue from the command line.

Everything is asked of Marathon's own API. What changes apps waits for the deployment, with live progress.
"""

from __future__ import annotations

from typing import Any

import click

from orlop.cli.failures import CONFLICT, Failure
from orlop_marathon.command_line.apps import app
from orlop_marathon.command_line.deployments import deployment
from orlop_marathon.command_line.groups import group
from orlop_marathon.command_line.queue import queue
from orlop_marathon.command_line.tasks import task


class _Group(click.Group):
    """Says which deployments are in the way, and what to do about it here: the API speaks of its own parameters."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Failure as failure:
            locking = failure.document.get("deployments")
            if failure.code != CONFLICT or not locking:
                raise
            ids = [str(one["id"]) for one in locking]
            raise Failure(
                f"locked by deployment {', '.join(ids)}",
                hint=f"wait for it, see `orlop marathon deployment show {ids[0]}`, or cancel it with --force",
                code=CONFLICT,
                document=failure.document,
            ) from failure


@click.group(cls=_Group)
@click.pass_context
def marathon(ctx: click.Context) -> None:
    """Long-running services, in Marathon's terms."""
    ctx.obj = ctx.find_root().obj or {"server": "http://127.0.0.1:5050"}


for command in (app, group, deployment, task, queue):
    marathon.add_command(command)
