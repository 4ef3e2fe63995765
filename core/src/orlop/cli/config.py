"""The configuration file: check, show, schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from orlop.cli.failures import Failure
from orlop.cli.options import config_option, json_option
from orlop.cli.output import show_json

HIDDEN: Final = "(hidden)"
_SECRET_KEY: Final = re.compile(r"password|passwd|secret|token|credential|private_?key|api_?key", re.IGNORECASE)
_PASSWORD_IN_URL: Final = re.compile(r"(?<=://)([^/@\s:]*):([^/@\s]*)@")
_BARE_KEY: Final = re.compile(r"^[A-Za-z0-9_-]+\Z")


@click.group()
def config() -> None:
    """The TOML file."""


@config.command("check")
@config_option
def check_config(config: Path | None) -> None:
    """Check the file, plugins' tables included."""
    from orlop.cli.loading import load_plugins, load_settings
    from orlop.processes.exposure import CannotStart, check_exposure
    from orlop.processes.plugin_routes import idle_host, usable_routes
    from orlop.processes.stores import configured_store
    from orlop.store.interface import StoreError

    settings = load_settings(config)
    host = load_plugins(settings)
    unloaded = [record.name for record in host.records() if record.state == "failed"]
    where = settings.source or "configuration"
    exposed = []
    for check in (
        lambda: check_exposure(settings, settings.server.listen, "[server] listen"),
        lambda: usable_routes(settings, host, idle_host(settings)),
    ):
        try:
            check()
        except CannotStart as error:
            exposed.append(f"{where}: {error}")
    wrong = [record.error for record in host.records() if record.state == "configuration-error"] + exposed
    wrong += map(str, host.unknown_tables())
    try:
        configured_store(settings, Path("/"), host)
    except StoreError as error:
        wrong.append(f"{where}: [store]: {error}")
    if wrong:
        raise Failure("\n".join(wrong))
    for record in host.records():
        if record.name in unloaded:
            click.echo(f"warning: plugin {record.name} cannot be loaded, its table was not checked", err=True)
        elif record.state == "failed":
            click.echo(f"warning: plugin {record.name}: {record.error}", err=True)
    click.echo(f"{settings.source or 'defaults (there is no file)'}: ok")


@config.command("show")
@config_option
@json_option
def show_config(config: Path | None, output: str) -> None:
    """The settings in force, as TOML: the file's, the environment's, and the defaults; secrets are hidden."""
    import attrs

    from orlop.cli.loading import load_plugins, load_settings

    settings = load_settings(config)
    tables: dict[str, Any] = {
        name: attrs.asdict(getattr(settings, name)) for name in ("cluster", "store", "server", "agent")
    }
    host = load_plugins(settings)
    own = {name: host.settings_of(name) for name in host.names()}
    tables["plugins"] = {name: attrs.asdict(value) for name, value in own.items() if value is not None}
    shown = _without_secrets(tables, settings.secrets)
    if output == "json":
        show_json(shown)
    else:
        click.echo(f"# {settings.source or 'there is no file; these are defaults'}")
        click.echo("\n".join(_as_toml(shown)))


def _without_secrets(value: Any, secrets: Iterable[tuple[Any, ...]], place: tuple[Any, ...] = ()) -> Any:
    """Plain values, with what came from a secret's file, is called like one, or is a URL's password hidden."""
    if isinstance(value, Mapping):
        return {str(key): _without_secrets(one, secrets, (*place, key)) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_secrets(one, secrets, (*place, number)) for number, one in enumerate(value)]
    named_like_one = any(isinstance(part, str) and _SECRET_KEY.search(part) for part in place)
    if value and (place in secrets or (named_like_one and isinstance(value, str))):
        return HIDDEN
    if isinstance(value, bool | int | float | None):
        return value
    return _PASSWORD_IN_URL.sub(rf"\1:{HIDDEN}@", str(value))


def _as_toml(tables: Mapping[str, Any], above: str = "") -> list[str]:
    """Lines of TOML; a table's own keys come before the tables below it. None has no form in TOML: left out."""
    lines = []
    for name, table in tables.items():
        path = f"{above}{_key(name)}"
        if above or name != "plugins":
            lines += ["", f"[{path}]"]
            lines += [f"{_key(key)} = {_value(value)}" for key, value in table.items() if value is not None]
        else:
            lines += _as_toml(table, f"{path}.")
    return lines


def _key(name: str) -> str:
    return name if _BARE_KEY.match(name) else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items() if one is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, str):
        return _text(value)
    return json.dumps(value)


def _text(text: str) -> str:
    """TOML's basic strings are JSON's, but for the delete character, and for surrogate pairs."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


@config.command()
@config_option
def schema(config: Path | None) -> None:
    """The file's JSON Schema, tables of installed plugins included: for editors."""
    from orlop.cli.loading import load_plugins, load_settings
    from orlop.configuration_schema import json_schema

    host = load_plugins(load_settings(config))
    show_json(json_schema({name: _class_of(host.settings_of(name)) for name in host.names() if name != "orlop"}))


def _class_of(settings: Any) -> type | None:
    return type(settings) if settings is not None else None
