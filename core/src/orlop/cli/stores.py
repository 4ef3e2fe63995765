"""Looking after the state: backup, restore, and the store itself."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orlop.cli.failures import CONFLICT, NOT_FOUND, Failure
from orlop.cli.options import client_of, config_option, json_option, server_options
from orlop.cli.output import show_json
from orlop.cli.running import default_data

if TYPE_CHECKING:
    from orlop.configuration import Settings
    from orlop.store.interface import Store

data_option = click.option(
    "--data", type=click.Path(path_type=Path), help="The data folder of the server. Default: the user's."
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--offline", is_flag=True, help="Read the store itself, without a server.")
@config_option
@data_option
@server_options
@click.pass_context
def backup(ctx: click.Context, file: Path, offline: bool, config: Path | None, data: Path | None) -> None:
    """Write the cluster's state to a file.

    It is that of one moment. The event log and the key of secrets are not in it.
    """
    with _replacing(file) as target:
        if offline:
            _offline_backup(target, config, data)
        else:
            for piece in client_of(ctx).stream("/v1/backup"):
                target.write(piece)
        target.flush()
        target.seek(0)
        found = _read_backup(target, file)
    click.echo(
        f"{file}: cluster {found.head.cluster_id}, {len(found.documents)} documents, version {found.head.version}"
    )


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[Any]:
    """A file beside it, which takes its name once it is whole and on the disk."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent or Path())
    except OSError as error:
        raise Failure(f"{file} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w+b") as target:  # 0600: specs may hold passwords
            yield target
            os.fsync(target.fileno())
        Path(name).replace(file)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise Failure(f"{file} cannot be written: {error.strerror or error}") from error
        raise


def _offline_backup(target: Any, config: Path | None, data: Path | None) -> None:
    import orlop
    from orlop.server import archive

    with _existing(config, data) as store:
        archive.write(archive.take(store, utc_ms=time.time_ns() // 1_000_000, orlop_version=orlop.__version__), target)


def _read_backup(opened: Any, file: Path) -> Any:
    from orlop.model.documents import DocumentError
    from orlop.server import archive

    try:
        return archive.read(opened)
    except (archive.BackupError, DocumentError) as error:
        raise Failure(f"{file}: {error}") from error


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--replace", is_flag=True, help="Give up the state that is in the store.")
@config_option
@data_option
def restore(file: Path, replace: bool, config: Path | None, data: Path | None) -> None:
    """Make a backup's state that of the store.

    It is the store of the settings, and no server may run on it.

    What runs on nodes goes on: tasks that the backup does not know are shown as orphans and left alone.
    """
    with file.open("rb") as opened:
        found = _read_backup(opened, file)
    (data or default_data()).mkdir(parents=True, exist_ok=True, mode=0o711)  # of a machine that is new
    with _opened(config, data) as store:
        generation = _restore(found, store, replace)
    click.echo(f"restored {len(found.documents)} documents of cluster {found.head.cluster_id}, generation {generation}")


def _restore(found: Any, store: Store, replace: bool) -> int:
    from orlop.server import archive

    try:
        return archive.restore(found, store, replace=replace)
    except archive.BackupError as error:
        raise Failure(str(error), code=CONFLICT) from error


@click.group()
def store() -> None:
    """The store of the state: status, compact, migrate."""


@store.command()
@json_option
@config_option
@data_option
def status(output: str, config: Path | None, data: Path | None) -> None:
    """How full the store is; of an etcd, each member."""
    with _existing(config, data) as opened:
        room = opened.room()
        members = [_member(one) for one in _maintenance(opened).status()] if _maintenance(opened) else []
        document = {
            "revision": opened.range("", limit=1).revision,
            "used_bytes": room.used_bytes if room is not None else None,
            "limit_bytes": room.limit_bytes if room is not None else None,
            "members": members,
        }
    if output == "json":
        show_json(document)
        return
    click.echo(f"revision   {document['revision']}")
    if room is not None:
        click.echo(f"room       {room.used_bytes} of {room.limit_bytes} bytes used")
    for member in members:
        what = member["error"] or f"{member['size_bytes']} bytes, {member['used_bytes']} of them in use"
        click.echo(f"member     {member['endpoint']}{' (leader)' if member['leads'] else ''}: {what}")


def _member(one: Any) -> dict[str, Any]:
    import attrs

    return attrs.asdict(one)


@store.command()
@config_option
@data_option
def compact(config: Path | None, data: Path | None) -> None:
    """Give up all history; of an etcd also defragment member by member, and take back the alarm of a full disk."""
    from orlop.store.interface import Compacted

    with _existing(config, data) as opened:
        revision = opened.range("", limit=1).revision
        maintenance = _maintenance(opened)
        with contextlib.suppress(Compacted):
            (maintenance or opened).compact(revision)
        click.echo(f"history before revision {revision} is given up")
        if maintenance is None:
            return
        for member in maintenance.defragment():
            click.echo(f"member {member.endpoint} was defragmented: {member.size_bytes} bytes")
        if disarmed := maintenance.disarm():
            click.echo(f"the alarm of {disarmed} member{'s' if disarmed > 1 else ''} was taken back")


@store.command()
@click.option("--to", "url", required=True, help="Where the state shall live: the URL for [store] url.")
@click.option("--replace", is_flag=True, help="Give up the state that is there already.")
@config_option
@data_option
def migrate(url: str, replace: bool, config: Path | None, data: Path | None) -> None:
    """Copy the state into another store, from an embedded one to an etcd for example. No server may run.

    The old store stays as it is. Tasks go on; agents follow the new state and refuse the old one.
    """
    import orlop
    from orlop.server import archive

    if url.startswith("memory:"):
        raise Failure("--to: what is in memory:// is lost when this command ends", code=2)
    with _existing(config, data) as source:
        try:
            found = archive.take(source, utc_ms=time.time_ns() // 1_000_000, orlop_version=orlop.__version__)
        except archive.BackupError as error:
            raise Failure(str(error)) from error
        with _opened(config, data, url) as target:
            generation = _restore(found, target, replace)
    click.echo(f"{len(found.documents)} documents are in {url}, generation {generation}")
    click.echo(f'now set [store] url = "{url}", and do not start a server on the old store again')


def _maintenance(opened: Any) -> Any:
    """Of an etcd; None for others."""
    return getattr(opened, "maintenance", None)


@contextlib.contextmanager
def _existing(config: Path | None, data: Path | None) -> Iterator[Store]:
    """The store of the settings, if there is one: whoever looks makes none. Raises Failure."""
    from orlop.cli.loading import load_settings
    from orlop.processes.stores import store_url
    from orlop.store.opening import is_missing

    settings = load_settings(config)
    missing = is_missing(store_url(settings, (data or default_data()).absolute()))
    if missing is not None:
        hint = "[store] url names it" if settings.store.url else "--data names the data folder of the server"
        raise Failure(f"there is no store at {missing}", code=NOT_FOUND, hint=hint)
    with _opened(config, data) as opened:
        yield opened


@contextlib.contextmanager
def _opened(config: Path | None, data: Path | None, url: str = "") -> Iterator[Store]:
    """The store of the settings, or of `url`. Raises Failure."""
    import attrs

    from orlop.cli.loading import load_plugins, load_settings
    from orlop.model.documents import DocumentError
    from orlop.processes.stores import open_configured_store
    from orlop.store.interface import StoreError

    settings: Settings = load_settings(config)
    if url:
        settings = attrs.evolve(settings, store=attrs.evolve(settings.store, url=url))
    try:
        opened = open_configured_store(settings, (data or default_data()).absolute(), load_plugins(settings))
        try:
            yield opened
        finally:
            opened.close()
    except (StoreError, DocumentError) as error:
        raise Failure(str(error)) from error
