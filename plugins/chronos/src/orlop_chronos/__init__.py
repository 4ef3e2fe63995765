"""Chronos on Orlop: cron with dependencies, in both dialects of its API (2.x and 3.x).

The hooks import what they need when they are called: building the command line must not cost a web framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orlop.hookspecs import hookimpl

if TYPE_CHECKING:
    import click

    from orlop.framework import Framework
    from orlop.hookspecs import Routes
    from orlop.server.routing import Host

__version__ = "0.1.0"


@hookimpl
def frameworks() -> Sequence[type[Framework]]:
    from orlop_chronos.framework import Chronos

    return [Chronos]


@hookimpl
def routes(host: Host, settings: Any) -> Sequence[Routes]:
    from orlop.hookspecs import Routes
    from orlop_chronos.http import application

    return [Routes(prefix="chronos", application=application(host, settings), listen=settings.listen)]


@hookimpl
def commands() -> Sequence[click.Command]:
    from orlop_chronos.command_line import chronos

    return [chronos]
