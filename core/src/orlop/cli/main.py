"""`orlop`: the group of all commands, its own and plugins'.

Commands are named in a table and imported when they are used, so that `orlop --help` imports none of them. A plugin's
commands come through the `commands` hook: the plugin of the command's own name is asked first, then all the others.
Each is loaded by the plugin host, so that a broken plugin spoils nobody's command but its own.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final

import click

from orlop.cli.failures import Failure

#: Section of the help → command → (module, what it does).
_OWN: Final = {
    "Clusters": {
        "up": ("running", "Start a one-machine cluster: server, agent and plugins."),
        "agent": ("running", "Make this machine a node of a cluster."),
        "server": ("running", "Start a server of a cluster."),
        "status": ("cluster", "The cluster at a glance."),
        "nodes": ("cluster", "The machines of the pool."),
        "tasks": ("cluster", "What runs, and what waits to."),
        "explain": ("stories", "Why a task waits or died, and its story."),
        "events": ("stories", "What happened, to whom, why."),
        "logs": ("stories", "A task's output."),
        "exec": ("execution", "Run a command beside a task."),
        "kill": ("cluster", "Stop a task."),
        "drain": ("cluster", "Put no new tasks on a node."),
        "undrain": ("cluster", "Let a node take tasks again."),
        "forget": ("cluster", "Give up a node that is gone for good."),
        "token": ("tokens", "Tokens that let machines join: create, list, revoke."),
        "authority": ("authority", "The cluster's certificate authority: show, rotate, hurry."),
    },
    "The state": {
        "backup": ("stores", "Write the cluster's state to a file."),
        "restore": ("stores", "Make a backup's state that of the store."),
        "store": ("stores", "The store of the state: status, compact, migrate."),
    },
    "This installation": {
        "plugins": ("plugins", "Installed plugins: list, show, check, new."),
        "config": ("config", "The TOML file: check, show, schema."),
        "completion": ("shell", "Print a shell's completion script."),
        "version": ("shell", "Print the version."),
    },
}
_MODULES: Final = {name: module for section in _OWN.values() for name, (module, _) in section.items()}


class Commands(click.Group):
    """Loads commands by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from orlop.cli.installed import plugin_names

        return [*_MODULES, *(name for name in plugin_names() if name not in _MODULES)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _MODULES.get(cmd_name)
        if module is not None:
            found = importlib.import_module(f"orlop.cli.{module}")
            # one that would hide a name of Python's own has an underscore behind it
            command: click.Command = getattr(found, cmd_name, None) or getattr(found, f"{cmd_name}_")
            return command
        return None if cmd_name.startswith("-") else _plugin_command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from orlop.cli.installed import plugin_names

        for section, commands in _OWN.items():
            with formatter.section(section):
                formatter.write_dl([(name, about) for name, (_, about) in commands.items()])
        if names := [name for name in plugin_names() if name not in _MODULES]:
            with formatter.section("Plugins (their commands: orlop NAME --help)"):
                formatter.write_text(", ".join(names))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from orlop.checked_tables import did_you_mean

            if args[0].startswith("-"):
                raise
            if args[0] in self.list_commands(ctx):
                raise Failure(f"the plugin {args[0]} has no commands") from None
            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f'there is no command "{args[0]}"{hint}', ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.UsageError, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.ensure_object(dict).get("debug"):
                traceback.print_exc(file=sys.stderr)
            if isinstance(error, click.ClickException):
                raise
            raise Failure(
                f"{type(error).__name__}: {error}", hint="this is a bug; `orlop --debug …` shows where"
            ) from error


def _plugin_command(name: str) -> click.Command | None:
    """The command of the plugin of this name, else of any plugin. Raises Failure when the plugin is broken."""
    import logging

    from orlop.cli.installed import entry_points
    from orlop.configuration import Settings
    from orlop.server.plugin_host import PluginHost

    logging.getLogger("orlop").addHandler(logging.NullHandler())  # what goes wrong is said below
    points = entry_points()
    namesakes = [point for point in points if point.name == name]
    for found in (namesakes, [point for point in points if point.name != name]):
        host = PluginHost(Settings(), found=found)
        host.load()
        for _, commands in host.collect("commands"):
            for command in commands:
                if command.name == name:
                    found_command: click.Command = command
                    return found_command
        for record in host.records():
            if record.name == name and record.state == "failed":
                raise Failure(f"the plugin {name} is broken: {record.error}", hint=f"see `orlop plugins show {name}`")
        if found is namesakes and found:
            return None
    return None


def _trust(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    from orlop.cli.options import trust

    trust(ctx, parameter, value)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--server",
    envvar="ORLOP_SERVER",
    default="http://127.0.0.1:5050",
    show_default=True,
    metavar="URL",
    help="Where to ask; also ORLOP_SERVER.",
)
@click.option(
    "--ca",
    expose_value=False,
    callback=_trust,
    metavar="FILE",
    help="The certificate authority of an https server; also ORLOP_CA. Default: the system's.",
)
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.pass_context
def cli(ctx: click.Context, server: str, debug: bool) -> None:
    """The lowest deck of a datacenter: pools machines, and carries schedulers installed as plugins.

    A server that asks for a token finds it in ORLOP_TOKEN.
    """
    ctx.obj = {"server": server.rstrip("/"), "debug": debug}


def main(arguments: Sequence[str] | None = None) -> Any:
    """The entry point. Exit codes: 0 ok, 1 error, 2 usage, 3 not converged, 4 not found, 5 conflict."""
    return cli.main(args=arguments, prog_name="orlop")
