"""Plugins of this installation, and those of a server."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import click

from orlop.cli.failures import NOT_FOUND, Failure, Unreachable
from orlop.cli.options import client_of, config_option, json_option, output_option, plugin_argument, server_options
from orlop.cli.output import show, show_json, text_of

CHECKS_AT_ONCE: Final = 4


@click.group()
def plugins() -> None:
    """Installed plugins."""


_local_option = click.option("--local", is_flag=True, help="What is installed here, without asking the server.")


@plugins.command("list")
@output_option
@_local_option
@config_option
@server_options
@click.pass_context
def list_(ctx: click.Context, output: str, local: bool, config: Path | None) -> None:
    """All plugins, broken and unwanted ones too: the server's, or those installed here when none answers."""
    rows = _described(ctx, local, config)
    shown = [row | {"error": str(row.get("error") or "").partition("\n")[0]} for row in rows]
    columns = ("name", "version", "state", "hooks", "error")
    show(output, {"plugins": rows}, shown, columns, "name", wide=("distribution", "failures", "warnings"))


@plugins.command("show")
@plugin_argument
@json_option
@_local_option
@config_option
@server_options
@click.pass_context
def show_(ctx: click.Context, name: str, output: str, local: bool, config: Path | None) -> None:
    """All about one plugin, with the traceback of what went wrong."""
    found = [row for row in _described(ctx, local, config) if row["name"] == name]
    if not found:
        raise Failure(f"there is no plugin {name}", code=NOT_FOUND, hint="see `orlop plugins list`")
    if output == "json":
        show_json(found[0])
        return
    for key, value in found[0].items():
        if key not in ("error", "traceback", "warnings"):
            click.echo(f"{key:<13}{text_of(value)}")
    for key in ("warnings", "error", "traceback"):
        value = found[0].get(key)
        for line in [value] if isinstance(value, str) and value else value or []:
            click.echo(f"{key}:\n{line.rstrip()}" if "\n" in line else f"{key:<13}{line}")


def _described(ctx: click.Context, local: bool, config: Path | None) -> list[dict[str, Any]]:
    if not local:
        try:
            rows: list[dict[str, Any]] = client_of(ctx).get("/v1/plugins")["plugins"]
            return rows
        except Unreachable as failure:
            click.echo(f"{failure.message}: this is what is installed here", err=True)
    from orlop.cli.loading import load_plugins, load_settings

    return load_plugins(load_settings(config)).describe()


@plugins.command()
@click.argument("names", nargs=-1)
@click.option("--strict", is_flag=True, help="Warnings count as failures.")
@config_option
def check(names: tuple[str, ...], strict: bool, config: Path | None) -> None:
    """Load plugins, each in a process of its own, and check hooks and settings; exit code 1 if any fails.

    Frameworks, filters, scorers and routes are used once, on a simulated cluster.

    NAMES: all when none is given.
    """
    from orlop.cli.installed import plugin_names
    from orlop.cli.loading import load_settings
    from orlop.cli.plugin_check import check as check_one
    from orlop.cli.plugin_check import refuse_namesakes

    load_settings(config)
    installed = ("orlop", *plugin_names())
    wanted = names or installed
    unknown = sorted(set(wanted) - set(installed))
    if unknown:
        raise Failure(f"there is no plugin {', '.join(unknown)}", code=NOT_FOUND)
    with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
        every = list(pool.map(lambda name: check_one(name, config), installed))
    refuse_namesakes(every)
    found = {record["name"]: record for record in every}
    records = [found[name] for name in wanted]
    bad = [record["name"] for record in records if _report(record, strict)]
    if bad:
        raise Failure(f"{len(bad)} of {len(records)} plugins failed: {', '.join(bad)}")


def _report(record: Mapping[str, Any], strict: bool) -> bool:
    """Prints it; is it bad?"""
    click.echo(f"{record['name']}: {record['state']}")
    for warning in record["warnings"]:
        click.echo(f"  warning: {warning}")
    for line in str(record.get("error") or "").splitlines():
        click.echo(f"  {line}")
    return record["state"] in ("failed", "configuration-error") or (strict and bool(record["warnings"]))


@plugins.command()
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Where to put it.")
def new(name: str, folder: Path) -> None:
    """Start a plugin of your own: a working framework with its test, in a folder orlop-NAME."""
    from orlop.cli.scaffold import write_plugin

    made = write_plugin(name, folder)
    steps = (f"pip install -e '{made}[test]'", f"pytest {made}", "orlop plugins check")
    click.echo("\n  ".join([f"{made}: a working plugin. Next:", *steps]))
