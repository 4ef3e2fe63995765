"""Every hook, documented: the contract with plugins, in one file.

A plugin is a distribution with an entry point in the group `orlop`, whose value is a module or an object with
functions marked `@hookimpl`. The entry point's name is the plugin's name, and that of its settings in the TOML,
`[plugins.NAME]`. Each hook is called for one plugin at a time: what one raises never stops another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import pluggy

from orlop.framework import Framework, NodeFilter, NodeScorer

if TYPE_CHECKING:
    import click
    from aiohttp import web

    from orlop.agent.runtimes.interface import Runtime, RuntimeContext
    from orlop.server.routing import Host
    from orlop.store.interface import Store

#: The version of this contract. It grows when a hook is added, and its major part when one changes.
HOOK_API: Final = "1.0"
ENTRY_POINT_GROUP: Final = "orlop"

#: What the address of a Unix socket begins with.
UNIX: Final = "unix://"

hookspec = pluggy.HookspecMarker("orlop")
hookimpl = pluggy.HookimplMarker("orlop")


@attrs.frozen(kw_only=True)
class ClientCertificates:
    """TLS that lets in whoever has a certificate of this authority. All are paths of PEM files; key: the certificate's,
    which is the server's own."""

    certificate: str
    key: str
    authority: str


def _listened_on(value: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(one for one in ((value,) if isinstance(value, str) else value) if one)


@attrs.frozen(kw_only=True)
class Routes:
    """HTTP routes of a plugin.

    application: an aiohttp application, mounted under `/<prefix>` on the server's address.
    listen: of listeners of its own, where it is mounted at the root: "host:port", or "unix:///path" of a socket for the
    server's own user; one or several, empty for none. tls: for those on "host:port": instead of what the API's own
    listener asks of clients.
    """

    prefix: str
    application: web.Application
    listen: tuple[str, ...] = attrs.field(default=(), converter=_listened_on)
    tls: ClientCertificates | None = None


@hookspec
def configuration() -> type:
    """The attrs class of `[plugins.NAME]`, for a plugin whose settings are not those of its one framework.

    Each attribute is a key, with its default; types and validators are checked, and an error names the file, the
    key and what was expected. Unknown keys are errors.
    """
    raise NotImplementedError


@hookspec
def frameworks() -> Sequence[type[Framework]]:
    """The plugin's framework classes. They are made once per term of leadership, with the plugin's settings."""
    raise NotImplementedError


@hookspec
def node_filters(settings: Any) -> Sequence[NodeFilter]:
    """Filters that rule out nodes. Called once at start; a filter's `prepare` runs once per group of identical asks."""
    raise NotImplementedError


@hookspec
def node_scorers(settings: Any) -> Sequence[NodeScorer]:
    """Scorers that rank the nodes which passed all filters. Called once at start."""
    raise NotImplementedError


@hookspec
def runtimes(context: RuntimeContext) -> Sequence[Runtime]:
    """Ways to run a task. Called once by each agent."""
    raise NotImplementedError


@hookspec
def stores() -> Mapping[str, Callable[[str], Store]]:
    """Store backends by URL scheme; each takes the whole URL."""
    raise NotImplementedError


@hookspec
def routes(host: Host, settings: Any) -> Sequence[Routes]:
    """HTTP routes. They talk to the plugin's framework through `host` alone. Called once at start."""
    raise NotImplementedError


@hookspec
def commands() -> Sequence[click.Command]:
    """Subcommands of `orlop`. Called when the command line is built: import late what is heavy."""
    raise NotImplementedError
