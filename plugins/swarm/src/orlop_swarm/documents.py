"""What Swarm's framework stores: little, for the task of a container tells most of it."""

from __future__ import annotations

from typing import Final

import attrs

CONTAINER: Final = "container"
NAME: Final = "name"


@attrs.frozen(kw_only=True)
class Container:
    """A container of the pool, under its key, which outlives its engine (classic Swarm's id).

    name: without a slash. reserved: a second name, while it is being renamed. moves: it is made again elsewhere when
    its node fails or is drained. runs: it was last seen running; known of those that move alone.
    asked: the version of the state in which its client has asked for it.
    """

    name: str
    reserved: str = ""
    moves: bool = False
    runs: bool = False
    asked: int = 0


@attrs.frozen(kw_only=True)
class Name:
    """Under a container's name: whose it is."""

    key: str
