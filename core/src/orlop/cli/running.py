"""The long-running processes: `orlop up`, `orlop server`, `orlop agent`."""

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


_debug = click.option("--debug", is_flag=True, help="Log everything, and show a traceback with an error.")
_verbose = click.option("--verbose", is_flag=True, help="Log what is going on.")
_data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Where state, logs and tasks' folders are kept. Default: the user's.",
)


def _running_options(command: F) -> F:
    """What both long-running commands with a server take."""
    for option in (
        _debug,
        _verbose,
        click.option("--auth", is_flag=True, help='Ask every client for a token, over TLS: [server] auth = "on".'),
        click.option("--name", help="The cluster's name, instead of [cluster] name."),
        click.option("--listen", help="host:port of the operator API, instead of [server] listen."),
        _data,
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
    auth: bool,
    verbose: bool,
    debug: bool,
) -> None:
    from orlop.agent.records import InUse
    from orlop.configuration import ConfigurationError, load
    from orlop.model.documents import DocumentError
    from orlop.processes.exposure import CannotStart
    from orlop.store.interface import StoreError

    _begin_logging(ctx, verbose, debug)
    try:
        settings = with_options(load(config, os.environ), listen, name)
        if auth:
            settings = attrs.evolve(settings, server=attrs.evolve(settings.server, auth="on"))
        code = running(settings, data or default_data(), lambda text: click.echo(text))
    except (ConfigurationError, CannotStart, InUse, StoreError, DocumentError, OSError) as error:
        raise Failure(str(error)) from error
    ctx.exit(code)


def _begin_logging(ctx: click.Context, verbose: bool, debug: bool) -> None:
    shared = ctx.find_root().ensure_object(dict)
    shared["debug"] = debug = debug or shared.get("debug", False)
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


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


@click.command()
@config_option
@_data
@click.option("--join", "servers", multiple=True, metavar="URL", help="A server of the cluster; may be given again.")
@click.option("--token", help="The join token; needed at the first start, where servers ask for it.")
@click.option(
    "--token-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The file that the token is in."
)
@click.option("--name", help="The node's name, instead of [agent] name.")
@click.option("--rejoin", is_flag=True, help="Leave the cluster that this node belongs to. Its tasks become orphans.")
@_verbose
@_debug
@click.pass_context
def agent(
    ctx: click.Context,
    config: Path | None,
    data: Path | None,
    servers: tuple[str, ...],
    token: str | None,
    token_file: Path | None,
    name: str | None,
    rejoin: bool,
    verbose: bool,
    debug: bool,
) -> None:
    """Make this machine a node of a cluster: it runs what the servers say. Tasks survive the agent.

    Stop it with SIGTERM or Ctrl-C: it says goodbye, and may be away for two minutes before its tasks are replaced.
    """
    from orlop.configuration import ConfigurationError, load
    from orlop.model.documents import DocumentError
    from orlop.processes import agent as running
    from orlop.processes.exposure import CannotStart

    _begin_logging(ctx, verbose, debug)
    if token and token_file:
        raise Failure("give either --token or --token-file, not both", code=2)
    try:
        if token_file is not None:
            token = token_file.read_text().strip()
        settings = _with_agent_options(load(config, os.environ), servers, token, name)
        code = running.run(settings, data or default_data(), rejoin=rejoin, announce=lambda text: click.echo(text))
    except (ConfigurationError, CannotStart, DocumentError, OSError, UnicodeDecodeError) as error:
        raise Failure(str(error)) from error
    ctx.exit(code)


def _with_agent_options(settings: Settings, servers: tuple[str, ...], token: str | None, name: str | None) -> Settings:
    """The settings with what the command line says instead. Raises Failure."""
    try:
        if servers:
            settings = attrs.evolve(settings, agent=attrs.evolve(settings.agent, join=servers))
    except ValueError as error:
        raise Failure(f"--join: {error}", code=2) from error
    own = settings.agent
    return attrs.evolve(settings, agent=attrs.evolve(own, token=token or own.token, name=name or own.name))
