"""`orlop up`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from orlop.cli.failures import Failure
from orlop.cli.options import config_option

if TYPE_CHECKING:
    from orlop.configuration import Settings


def default_data() -> Path:
    """The user's data folder."""
    import platformdirs

    return Path(platformdirs.user_data_dir("orlop"))


@click.command()
@config_option
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Where state, logs and tasks' folders are kept. Default: the user's.",
)
@click.option("--listen", help="host:port of the operator API, instead of [server] listen.")
@click.option("--name", help="The cluster's name, instead of [cluster] name.")
@click.option("--verbose", is_flag=True, help="Log what is going on.")
@click.option("--debug", is_flag=True, help="Log everything, and show a traceback with an error.")
@click.pass_context
def up(
    ctx: click.Context,
    config: Path | None,
    data: Path | None,
    listen: str | None,
    name: str | None,
    verbose: bool,
    debug: bool,
) -> None:
    """Start a one-machine cluster: server, agent and every installed plugin. Tasks survive it."""
    from orlop.configuration import ConfigurationError, load
    from orlop.model.documents import DocumentError
    from orlop.processes import up as running
    from orlop.processes.listening import CannotStart
    from orlop.store.interface import StoreError

    shared = ctx.find_root().ensure_object(dict)
    shared["debug"] = debug = debug or shared.get("debug", False)
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = with_options(load(config, os.environ), listen, name)
        code = running.run(settings, data or default_data(), lambda text: click.echo(text))
    except (ConfigurationError, CannotStart, StoreError, DocumentError, OSError) as error:
        raise Failure(str(error)) from error
    ctx.exit(code)


def with_options(settings: Settings, listen: str | None, name: str | None) -> Settings:
    """The settings with what the command line says instead. Raises Failure."""
    try:
        if listen:
            settings = attrs.evolve(settings, server=attrs.evolve(settings.server, listen=listen))
    except ValueError as error:
        raise Failure(f"--listen: {error}", code=2) from error
    try:
        if name:
            settings = attrs.evolve(settings, cluster=attrs.evolve(settings.cluster, name=name))
    except ValueError as error:
        raise Failure(f"--name: {error}", code=2) from error
    return settings
