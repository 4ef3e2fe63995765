"""Marathon on Orlop: its API, its apps, groups and deployments (Marathon 1.11).

The hooks import what they need when they are called: building the command line must not cost a web framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orlop.hookspecs import hookimpl

if TYPE_CHECKING:
    import click

    from orlop.framework import Framework, NodeFilter
    from orlop.hookspecs import Routes
    from orlop.server.routing import Host

__version__ = "0.1.0"


@hookimpl
def frameworks() -> Sequence[type[Framework]]:
    from orlop_marathon.framework import Marathon

    return [Marathon]


@hookimpl
def node_filters(settings: Any) -> Sequence[NodeFilter]:  # noqa: ARG001
    from orlop_marathon.constraints import MarathonConstraints

    return [MarathonConstraints()]


@hookimpl
def routes(host: Host, settings: Any) -> Sequence[Routes]:
    from orlop.hookspecs import Routes
    from orlop_marathon.http import application

    return [Routes(prefix="marathon", application=application(host, settings), listen=settings.listen)]


@hookimpl
def commands() -> Sequence[click.Command]:
    from orlop_marathon.command_line import marathon

    return [marathon]
