"""What the routes ask of Swarm's framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Create:
    """A container is to be made, now or never; the reply is a `Reserved`.

    body: of the create request. name: empty: one is made up. nodes: names of those that may have it; empty: any.
    beside: the name of the node that holds what it depends on; empty: it depends on nothing. home: the name of the node
    where the containers of its network are, as long as it does not have to move; empty: any. volumes: names of those
    that no engine has yet, which it has in common with whoever else mounts them. keys: of the pool's containers that
    its affinities call by their engines' ids, by these ids. having: names of the nodes that have its image, where the
    others cannot fetch it; empty: they can, or all have it.
    pull: whether a node that lacks the image may fetch it. platform: "os/arch" of the image, or empty. version: of the
    API, that the body is meant in; empty: an engine's own.
    """

    body: Mapping[str, Any]
    name: str = ""
    nodes: tuple[str, ...] = ()
    having: tuple[str, ...] = ()
    beside: str = ""
    home: str = ""
    volumes: tuple[str, ...] = ()
    keys: Mapping[str, str] = attrs.field(factory=dict)
    pull: bool = False
    platform: str = ""
    version: str = ""


@attrs.frozen(kw_only=True)
class Reserved:
    """The container's key, and its name."""

    key: str
    name: str


@attrs.frozen(kw_only=True)
class Reserve:
    """A second name for a container, instead of one that it had before. Refused with a `Conflict`."""

    key: str
    name: str


@attrs.frozen(kw_only=True)
class Rename:
    """The container has this name and no other: one of its two. Refused with a `Conflict` if its second name was given
    up for another one, and is another container's now."""

    key: str
    name: str


@attrs.frozen(kw_only=True)
class Move:
    """The container is to be made anew where there is the best place for it now. task: it is still this one.

    Refused with a text: it may not, or it is another task by now.
    """

    key: str
    task: str


@attrs.frozen(kw_only=True)
class Discard:
    """The container shall be no more, although its engine cannot be told so."""

    key: str


@attrs.frozen(kw_only=True)
class Keep:
    """Whether the container is made again elsewhere when its node fails: not while a client has it removed."""

    key: str
    moves: bool


@attrs.frozen(kw_only=True)
class Change:
    """The container's engine has changed it for a client; so shall it be made again, if it is, and count.

    update: the body of the client's request. networks: name → the endpoint's settings, or None for one that it has
    left.
    """

    key: str
    update: Mapping[str, Any] = attrs.field(factory=dict)
    networks: Mapping[str, Mapping[str, Any] | None] = attrs.field(factory=dict)


Order = Create | Reserve | Rename | Move | Discard | Keep | Change


@attrs.frozen(kw_only=True)
class Conflict:
    """Why something is refused: the name is another container's. container: its engine's id for it, if it has one."""

    name: str
    key: str
    container: str = ""

    def __str__(self) -> str:
        return (
            f'Conflict. The container name "/{self.name}" is already in use by container '
            f'"{self.container or self.key}". You have to remove (or rename) that container to be able to reuse that '
            "name."
        )
