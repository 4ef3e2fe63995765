"""Classic Swarm on Orlop: the pool as one Docker Engine, and its placement for tasks of every framework.

The hooks import what they need when they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orlop.hookspecs import hookimpl

if TYPE_CHECKING:
    import click

    from orlop.framework import Framework, NodeFilter, NodeScorer
    from orlop.hookspecs import Routes
    from orlop.server.routing import Host

__version__ = "0.1.0"


@hookimpl
def frameworks() -> Sequence[type[Framework]]:
    from orlop_swarm.framework import Swarm

    return [Swarm]


@hookimpl
def routes(host: Host, settings: Any) -> Sequence[Routes]:
    from orlop.hookspecs import Routes
    from orlop_swarm.http.serving import application

    api = application(host, settings)
    return [Routes(prefix="swarm", application=api, listen=settings.listen, tls=settings.client_certificates)]


@hookimpl
def commands() -> Sequence[click.Command]:
    from orlop_swarm.command_line import swarm

    return [swarm]


@hookimpl
def node_filters(settings: Any) -> Sequence[NodeFilter]:
    from orlop_swarm import hooks

    return hooks.node_filters(settings)


@hookimpl
def node_scorers(settings: Any) -> Sequence[NodeScorer]:
    from orlop_swarm import hooks

    return hooks.node_scorers(settings)
