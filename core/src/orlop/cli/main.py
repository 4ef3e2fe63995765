"""`orlop`: the group of all commands, its own and plugins'.

Commands are named in a table and imported when they are used. A plugin's commands come through the `commands` hook,
and are looked for only when the name is not one of Orlop's own, or help is asked for.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

import click

from orlop.cli.failures import Failure

_OWN: Final = {
    "up": "orlop.cli.running",
    "status": "orlop.cli.cluster",
    "nodes": "orlop.cli.cluster",
    "tasks": "orlop.cli.cluster",
    "explain": "orlop.cli.cluster",
    "events": "orlop.cli.cluster",
    "logs": "orlop.cli.cluster",
    "kill": "orlop.cli.cluster",
    "drain": "orlop.cli.cluster",
    "undrain": "orlop.cli.cluster",
    "plugins": "orlop.cli.setup",
    "config": "orlop.cli.setup",
    "completion": "orlop.cli.setup",
    "version": "orlop.cli.setup",
}


class Commands(click.Group):
    """Loads commands by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_OWN, *sorted(_plugin_commands())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OWN:
            command: click.Command = getattr(importlib.import_module(_OWN[cmd_name]), cmd_name)
            return command
        return _plugin_commands().get(cmd_name)


def _plugin_commands() -> dict[str, click.Command]:
    from orlop.configuration import Settings
    from orlop.server.plugin_host import PluginHost

    plugins = PluginHost(Settings())
    plugins.load()
    return {
        command.name: command for _, commands in plugins.collect("commands") for command in commands if command.name
    }


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--server", envvar="ORLOP_SERVER", default="http://127.0.0.1:5050", show_default=True, help="Where to ask."
)
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.pass_context
def cli(ctx: click.Context, server: str, debug: bool) -> None:
    """The lowest deck of a datacenter: pools machines, and carries schedulers installed as plugins."""
    ctx.obj = {"server": server.rstrip("/"), "debug": debug}


def main(arguments: list[str] | None = None) -> Any:
    """The entry point. Exit codes: 0 ok, 1 error, 2 usage, 3 not converged, 4 not found, 5 conflict."""
    try:
        return cli.main(args=arguments, prog_name="orlop", standalone_mode=True)
    except Failure as failure:
        if "--debug" in (arguments or sys.argv):
            raise
        click.echo(f"orlop: {failure}", err=True)
        if failure.hint:
            click.echo(f"  {failure.hint}", err=True)
        sys.exit(failure.code)
