"""What the routes work with."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakValueDictionary

import attrs
from aiohttp import web

from orlop_swarm.balancing import Move
from orlop_swarm.engines.interface import EngineNode, Pool
from orlop_swarm.http.placing import Builds
from orlop_swarm.http.remembering import Everywhere, NetworkIds
from orlop_swarm.http.versions import Spoken, Versions
from orlop_swarm.http.volume_places import VolumePlaces
from orlop_swarm.merging.containers import published_address
from orlop_swarm.merging.system import About, Member

if TYPE_CHECKING:
    from orlop_swarm.http.finding import Owner, Owners


@attrs.frozen(kw_only=True)
class Known:
    """A container as the kernel knows it, whether its node can be reached or not.

    node: the node's id. name: without a slash. created: Unix time in seconds. state: an engine's word for how it was
    last seen ("running"). body: of the request that it was created by. exit_code: 0, too, where there is none.
    since_ms: Unix time of its last start or end, by its node's clock; 0: not known.
    """

    id: str
    name: str
    node: str
    image: str = ""
    image_id: str = ""
    command: str = ""
    created: int = 0
    state: str = ""
    labels: Mapping[str, str] = attrs.field(factory=dict)
    body: Mapping[str, Any] = attrs.field(factory=dict)
    exit_code: int = 0
    since_ms: int = 0


@attrs.frozen(kw_only=True)
class Creation:
    """What a client wants created. body: the request's JSON, whole. name: as asked for, may be `node/name`; empty:
    one is made up. platform: `os/arch`, or empty."""

    body: Mapping[str, Any]
    name: str = ""
    platform: str = ""
    version: str = ""


@attrs.frozen(kw_only=True)
class Created:
    """id: the container's, on its engine. node: the id of the node it is on. moment: `Created` as `inspect` of the
    engine writes it, if it is known: it spares a question when containers are listed."""

    id: str
    node: str
    name: str
    warnings: Sequence[str] = ()
    moment: str = ""


class Overview(Protocol):
    """What the server knows of the pool as a whole."""

    def about(self) -> About: ...

    def members(self) -> Sequence[Member]:
        """Every node, whether its engine can be used or not."""


class Balancing(Protocol):
    """What `orlop swarm` asks for. listen: addresses of the Docker API. tls: whether its clients need certificates."""

    @property
    def listen(self) -> Sequence[str]: ...

    @property
    def tls(self) -> bool: ...

    async def plan(self) -> Sequence[Move]:
        """What to move so that nodes are evenly full. Raises Problem, NotAvailable."""

    async def move(self, name: str) -> str:
        """Makes a container anew; the name of its node, when it is there, and runs if it ran. Raises Problem,
        NotAvailable."""


class Switch(enum.Enum):
    """What an engine has done to a container."""

    STARTED = "started"
    STARTED_ANEW = "started anew"
    STOPPED = "stopped"


class Containers(Protocol):
    """The containers that are tasks of the kernel."""

    async def create(self, creation: Creation) -> Created:
        """Returns when the container is there. Raises Problem (the engine's own words, if it was the engine that
        refused), NotAvailable."""

    async def reserve(self, container: str, called: str, name: str) -> None:
        """For a rename: the name is this container's alone from now on, beside its old one. Raises Problem (409).

        called: its name on its engine.
        """

    async def renamed(self, container: str, name: str) -> None:
        """Its name is this one, and no other. Called in either case after `reserve`, with the new or the old name."""

    async def changed(
        self,
        container: str,
        *,
        update: Mapping[str, Any] | None = None,
        networks: Mapping[str, Mapping[str, Any] | None] | None = None,
    ) -> None:
        """The engine has changed it for a client: it counts so, and is made so again if it moves. See `Change`. Raises
        Problem, NotAvailable."""

    async def gone(self, container: str) -> None:
        """The engine has removed it: returns when its name and its resources are free again. Containers that the
        kernel does not know are gone at once."""

    async def removing(self, container: str) -> bool:
        """Before its engine removes it for a client: from now on it is not made again elsewhere, whatever befalls its
        node. Was it to be until now?"""

    async def not_removed(self, container: str) -> None:
        """After `removing` has said yes: it is to be made again elsewhere, as before."""

    async def switching(self) -> Callable[[Owner, Switch], Awaitable[None]]:
        """Before an engine is asked to start or stop a container. What is to be awaited once it has done so returns
        when the kernel has heard of it: if the container moves, that decides whether it is started where it is made
        again; and whether it runs decides whether others may have its ports. Raises NotAvailable, both of them."""

    async def discard(self, reference: str) -> bool:
        """One whose node cannot be used, or that waits for a node, is to be no more. False: there is none such.

        Returns when its name is free again. Raises Problem: its node has to be back first.
        """

    async def known(self, reference: str) -> Known | None:
        """By id, a prefix of it, or name; of those that the kernel knows."""

    async def settled(self, reference: str) -> bool:
        """By its name or its Swarm id: if it is on its way to another node, returns when it is there, or after some
        seconds. False: it is not on its way."""

    async def out_of_reach(self, silent: Set[str] = frozenset()) -> Sequence[Known]:
        """Those whose nodes cannot be used now, or are among these, by their ids: they were asked in vain."""

    async def left_behind(self) -> Callable[[str, Mapping[str, str]], bool]:
        """Of the name (without a slash) and the labels that an engine has of a container: has it moved away, or been
        given up, so that this is what its node's agent has yet to remove? Labels may be those of its image."""


@attrs.frozen(kw_only=True)
class Services:
    """names: "plain": containers are listed by the name that one engine gives them, "node": as `/node/name`, as
    classic Swarm did. overview: None when nobody knows more of the pool than its engines do. renames: by container's
    id, held while it is renamed."""

    pool: Pool
    owners: Owners
    containers: Containers
    versions: Versions
    names: str = "plain"
    overview: Overview | None = None
    balancing: Balancing | None = None
    builds: Builds = attrs.field(factory=Builds)
    images: Everywhere = attrs.field(factory=Everywhere)
    network_ids: NetworkIds = attrs.field(factory=NetworkIds)
    volumes: VolumePlaces = attrs.field(factory=VolumePlaces)
    renames: MutableMapping[str, asyncio.Lock] = attrs.field(factory=WeakValueDictionary)

    def published_on(self, node: EngineNode) -> str:
        """See `published_address`. Raises NotAvailable."""
        return published_address(node, len(self.pool.nodes()))


SERVICES: Final = web.AppKey("services", Services)

#: The version of the API that a request speaks: the one in its path, else the highest that the pool knows.
VERSION: Final = web.RequestKey("version", str)
SPOKEN: Final = web.RequestKey("spoken", Spoken)


def is_true(value: str) -> bool:
    """As an engine reads a flag in a query."""
    return value.strip().lower() not in ("", "0", "no", "false", "none")
