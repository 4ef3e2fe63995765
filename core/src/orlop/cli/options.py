"""Options that many commands share, and the names that a shell can complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from orlop.cli.client import AUTHORITY_VARIABLE, Client
from orlop.cli.failures import Failure

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SERVER: Final = "http://127.0.0.1:5050"
#: A shell that waits for names must not wait long.
COMPLETION_TIMEOUT_S: Final = 1.0

OUTPUTS: Final = ("table", "wide", "json", "name")
output_option = click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", show_default=True)
json_option = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="The TOML file. Default: ./orlop.toml, then the user's."
)


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value and parameter.name:
        ctx.find_root().ensure_object(dict)[parameter.name] = value


def trust(_: click.Context, __: click.Parameter, value: str | None) -> None:
    """`--ca`, as if it had been given in the environment: plugins' commands have clients of their own."""
    if value:
        os.environ[AUTHORITY_VARIABLE] = value


def server_options(command: F) -> F:
    """`--server`, `--ca` and `--debug` behind the command too, where people look for them."""
    server = click.option("--server", expose_value=False, callback=_remember, metavar="URL", help="Where to ask.")
    authority = click.option("--ca", expose_value=False, callback=trust, metavar="FILE", hidden=True)
    debug = click.option("--debug", is_flag=True, expose_value=False, callback=_remember, hidden=True)
    return server(authority(debug(command)))


def client_of(ctx: click.Context) -> Client:
    """A client of the server that was named."""
    return Client(ctx.find_root().ensure_object(dict).get("server") or DEFAULT_SERVER)


def completed(
    path: str, member: str, names: tuple[str, ...], about: str, *, ended: bool = False
) -> Callable[..., list[CompletionItem]]:
    """How an argument is completed: by what the server tells of at `path`, in the list `member` of its answer.

    names: members of each element that it may be called by. about: the member that is shown beside. ended: ask for
    those that have ended, too.
    """

    def words(document: Any) -> Mapping[str, str]:
        items = document[member]
        return {str(item[name]): str(item.get(about) or "") for item in items for name in names if item.get(name)}

    return completed_by(path, words, all=ended)


def completed_by(
    path: str | Callable[[click.Context], str], words: Callable[[Any], Mapping[str, str]], **query: Any
) -> Callable[..., list[CompletionItem]]:
    """The same for answers of any form. path: or what makes it of the context, in which earlier arguments are.

    words: makes of the answer what may be typed, with what is shown beside.
    """

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        server = ctx.find_root().params.get("server") or DEFAULT_SERVER
        try:
            asked = path if isinstance(path, str) else path(ctx)
            found = words(Client(server, timeout_s=COMPLETION_TIMEOUT_S).get(asked, **query))
        except (Failure, AttributeError, KeyError, TypeError):
            return []
        return [CompletionItem(word, help=text) for word, text in sorted(found.items()) if word.startswith(incomplete)]

    return complete


def _complete_plugin(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from orlop.cli.installed import plugin_names

    return [CompletionItem(name) for name in plugin_names() if name.startswith(incomplete)]


task_argument = click.argument(
    "task", shell_complete=completed("/v1/tasks", "tasks", ("id", "name"), "state", ended=True)
)
node_argument = click.argument("node", shell_complete=completed("/v1/nodes", "nodes", ("id", "name"), "state"))
plugin_argument = click.argument("name", shell_complete=_complete_plugin)
