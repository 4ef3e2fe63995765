"""Looking after an installation: plugins, configuration, completion, version."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from orlop.cli.client import Client
from orlop.cli.failures import Failure
from orlop.cli.output import output_option, show

_config_option = click.option("--config", type=click.Path(path_type=Path), help="The TOML file.")


def _settings(config: Path | None) -> Any:
    from orlop.configuration import ConfigurationError, load

    try:
        return load(config, os.environ)
    except (ConfigurationError, OSError) as error:
        raise Failure(str(error)) from error


def _loaded_plugins(config: Path | None) -> Any:
    from orlop.server import builtin
    from orlop.server.plugin_host import PluginHost

    plugins = PluginHost(_settings(config), [("orlop", builtin)])
    plugins.load()
    return plugins


@click.group()
def plugins() -> None:
    """Installed plugins."""


@plugins.command("list")
@output_option
@click.option("--local", is_flag=True, help="What is installed here, without asking the server.")
@_config_option
@click.pass_context
def list_(ctx: click.Context, output: str, local: bool, config: Path | None) -> None:
    """All plugins, broken and unwanted ones too."""
    if local:
        rows = _loaded_plugins(config).describe()
    else:
        rows = Client(ctx.find_root().obj["server"]).get("/v1/plugins")["plugins"]
    show(output, {"plugins": rows}, rows, ("name", "version", "state", "hooks", "error"), "name")


@plugins.command()
@_config_option
def check(config: Path | None) -> None:
    """Load every plugin here and check its settings; exit code 1 if any fails."""
    loaded = _loaded_plugins(config)
    for hook in ("frameworks", "commands"):
        loaded.collect(hook)
    bad = 0
    for record in loaded.records():
        problems = [record.error] if record.error and record.state != "blocked" else []
        problems += record.warnings
        bad += bool(problems)
        click.echo(f"{record.name}: {record.state}" + "".join(f"\n  {problem}" for problem in problems))
    if bad:
        raise Failure(f"{bad} of {len(loaded.records())} plugins have problems")


@click.group()
def config() -> None:
    """The TOML file."""


@config.command("check")
@_config_option
def check_config(config: Path | None) -> None:
    """Check the file, plugins' tables included."""
    from orlop.configuration import unknown_plugin_tables

    loaded = _loaded_plugins(config)
    settings = _settings(config)
    wrong = [record.error for record in loaded.records() if record.state == "configuration-error"]
    wrong += [str(problem) for problem in unknown_plugin_tables(settings, [one.name for one in loaded.records()])]
    if wrong:
        raise Failure("\n".join(wrong))
    click.echo(f"{settings.source or 'defaults (no file was found)'}: ok")


@config.command("show")
@_config_option
def show_config(config: Path | None) -> None:
    """The settings in force, without plugins' secrets."""
    import attrs

    settings = _settings(config)
    parts = ("cluster", "store", "server", "agent")
    click.echo(json.dumps({part: attrs.asdict(getattr(settings, part)) for part in parts}, indent=2, default=str))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script: eval "$(orlop completion bash)"."""
    from click.shell_completion import get_completion_class

    from orlop.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None, "click knows all of these shells"
    click.echo(found(cli, {}, "orlop", "_ORLOP_COMPLETE").source())


@click.command()
def version() -> None:
    """Print the version."""
    import orlop

    click.echo(orlop.__version__)
