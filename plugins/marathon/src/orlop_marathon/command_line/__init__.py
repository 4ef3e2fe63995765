"""`orlop marathon …`: apps, groups, deployments, tasks and the launch queue from the command line.

Everything is asked of Marathon's own API. What changes apps waits for the deployment, with live progress.
"""

from __future__ import annotations

import click

from orlop_marathon.command_line.apps import app
from orlop_marathon.command_line.deployments import deployment
from orlop_marathon.command_line.groups import group
from orlop_marathon.command_line.queue import queue
from orlop_marathon.command_line.tasks import task


@click.group()
@click.pass_context
def marathon(ctx: click.Context) -> None:
    """Long-running services, in Marathon's terms."""
    ctx.obj = ctx.find_root().obj or {"server": "http://127.0.0.1:5050"}


for command in (app, group, deployment, task, queue):
    marathon.add_command(command)
