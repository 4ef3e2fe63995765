"""Classic Swarm on Orlop. So far its placement, for tasks of every framework: constraints, affinities, strategies.

The hooks import what they need when they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orlop.hookspecs import hookimpl

if TYPE_CHECKING:
    from orlop.framework import NodeFilter, NodeScorer

__version__ = "0.1.0"


@hookimpl
def configuration() -> type:
    from orlop_swarm.settings import Config

    return Config


@hookimpl
def node_filters(settings: Any) -> Sequence[NodeFilter]:
    from orlop_swarm import hooks

    return hooks.node_filters(settings)


@hookimpl
def node_scorers(settings: Any) -> Sequence[NodeScorer]:
    from orlop_swarm import hooks

    return hooks.node_scorers(settings)
