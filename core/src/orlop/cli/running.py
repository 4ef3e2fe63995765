"""`orlop up`."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import attrs
import click

from orlop.cli.failures import Failure


def default_data() -> Path:
    """The user's data folder."""
    import platformdirs

    return Path(platformdirs.user_data_dir("orlop"))


@click.command()
@click.option(
    "--config", type=click.Path(path_type=Path), help="The TOML file. Default: ./orlop.toml, then the user's."
)
@click.option("--data", type=click.Path(path_type=Path), help="Where state, logs and tasks' folders are kept.")
@click.option("--listen", help="host:port of the operator API, instead of [server] listen.")
@click.option("--verbose", is_flag=True, help="Log what is going on.")
def up(config: Path | None, data: Path | None, listen: str | None, verbose: bool) -> None:
    """Start a one-machine cluster: server, agent and every installed plugin. Tasks survive it."""
    from orlop import up as running
    from orlop.configuration import ConfigurationError, load
    from orlop.model.documents import DocumentError
    from orlop.store.interface import StoreError

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings = load(config, os.environ)
        if listen:
            settings = attrs.evolve(settings, server=attrs.evolve(settings.server, listen=listen))
        raise SystemExit(running.run(settings, data or default_data(), lambda text: click.echo(text)))
    except (ConfigurationError, running.CannotStart, StoreError, DocumentError, OSError) as error:
        raise Failure(str(error)) from error
