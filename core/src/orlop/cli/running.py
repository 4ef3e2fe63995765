"""`orlop up` and `orlop server`."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from orlop.cli.failures import Failure
from orlop.cli.options import config_option

if TYPE_CHECKING:
    from orlop.configuration import Settings

F = TypeVar("F", bound=Callable[..., Any])


def default_data() -> Path:
    """The user's data folder."""
    import platformdirs

    return Path(platformdirs.user_data_dir("orlop"))


def _running_options(command: F) -> F:
    """What both long-running commands with a server take."""
    for option in (
        click.option("--debug", is_flag=True, help="Log everything, and show a traceback with an error."),
        click.option("--verbose", is_flag=True, help="Log what is going on."),
        click.option("--name", help="The cluster's name, instead of [cluster] name."),
        click.option("--listen", help="host:port of the operator API, instead of [server] listen."),
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            help="Where state, logs and tasks' folders are kept. Default: the user's.",
        ),
        config_option,
    ):
        command = option(command)
    return command


@click.command()
@_running_options
@click.option("--rejoin", is_flag=True, help="Let this node change to the cluster of this state; what it runs goes on.")
@click.pass_context
def up(ctx: click.Context, rejoin: bool, **options: Any) -> None:
    """Start a one-machine cluster: server, agent and every installed plugin. Tasks survive it."""
    from orlop.processes import up as running

    _run(ctx, functools.partial(running.run, rejoin=rejoin), **options)


@click.command()
@_running_options
@click.pass_context
def server(ctx: click.Context, **options: Any) -> None:
    """Start a server of a cluster: it leads, or stands by for the one that does. Agents join it.

    Several servers share an etcd, which [store] url names; one alone may use the embedded store.
    """
    from orlop.processes import server as running

    _run(ctx, running.run, **options)


def _run(
    ctx: click.Context,
    running: Callable[..., int],
    *,
    config: Path | None,
    data: Path | None,
    listen: str | None,
    name: str | None,
    verbose: bool,
    debug: bool,
) -> None:
    from orlop.configuration import ConfigurationError, load
    from orlop.model.documents import DocumentError
    from orlop.processes.listening import CannotStart
    from orlop.store.interface import StoreError

    shared = ctx.find_root().ensure_object(dict)
    shared["debug"] = debug = debug or shared.get("debug", False)
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = with_options(load(config, os.environ), listen, name)
        code = running(settings, data or default_data(), lambda text: click.echo(text))
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
