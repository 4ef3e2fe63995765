"""A container is made: where it may be by its image, its volumes and what it depends on, and what comes of it.

Where a container may be placed depends on what it needs of one engine alone; see `looking`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from orlop.framework import NotPlaced, Outcome, Task, TaskState
from orlop_swarm.engines.interface import Engine, Pool
from orlop_swarm.http import copying, volume_places
from orlop_swarm.http.known import meant
from orlop_swarm.http.looking import Image, Looking
from orlop_swarm.http.ordering import FRAMEWORK, Ordering
from orlop_swarm.http.problems import NodeAway, Problem
from orlop_swarm.http.services import Created, Creation
from orlop_swarm.orders import Create, Discard, Reserved
from orlop_swarm.placement import filters, strategies, wanted
from orlop_swarm.placement.expressions import ExpressionError
from orlop_swarm.placement.scheduler import NO_HEALTHY_NODE, NO_NODES, UNSATISFIED, unsatisfied
from orlop_swarm.placement.strategies import NO_RESOURCES
from orlop_swarm.settings import Config

if TYPE_CHECKING:
    from orlop.server.routing import Host

#: A pull may be part of it.
MADE_WITHIN_S: Final = 3_600.0
#: Meanwhile it is looked so often whether its node is still there.
NODE_LOOK_S: Final = 1.0


class Creating:
    """See the module. making: keys of those that are being made for the first time."""

    def __init__(self, host: Host, pool: Pool, looking: Looking, settings: Config, ordering: Ordering) -> None:
        self._host = host
        self._pool = pool
        self._looking = looking
        self._settings = settings
        self._ordering = ordering
        self.making: set[str] = set()

    async def create(self, creation: Creation) -> Created:
        """See `services.Containers`."""
        engines = self._engines()
        node, name = self._placed_name(creation.name.removeprefix("/"))
        body = creation.body
        said = _read(body)
        image = await self._looking.image(engines, body.get("Image"))
        holders = await self._looking.holders(engines, body)
        unknown = holders.unknown if not node else ()
        await self._refuse_away(unknown, holders.silent)
        beside = await self._looking.dependencies(engines, body)
        if not beside:
            await self._refuse_away_from(said.dependencies)
        allowed = [one.node.name for one in engines if node in ("", one.node.name, one.node.id)]
        home = ""
        if holders.nodes is not None and (holders.for_good or len(holders.nodes) != 1):
            allowed = [one for one in allowed if one in holders.nodes]
        elif holders.nodes is not None:
            (home,) = holders.nodes
        bound = next((one for one in (beside, home) if one in allowed), "")
        if bound:
            allowed = [bound]
        order = Create(
            body=body,
            name=name,
            platform=creation.platform,
            version=creation.version,
            beside=beside,
            home=home,
            volumes=unknown,
            keys={one: key for one in said.whole_ids if (key := await self._ordering.key(one)) is not None},
        )
        if node or (holders.nodes is not None and not home):
            order = attrs.evolve(order, nodes=tuple(allowed) or (node or "",))
        try:
            return await self._make_where_it_is(order, allowed, image, creation.version)
        except Problem as problem:
            if not image.remembered or problem.status != 404:
                raise
            image = await self._looking.image(engines, body.get("Image"), anew=True)
            if image.nodes.issuperset(allowed):
                raise  # it is something else that is not there
        return await self._make_where_it_is(order, allowed, image, creation.version)

    async def _refuse_away(self, volumes: Sequence[str], silent: Mapping[str, str]) -> None:
        """Of those that no engine has. Raises Problem: one is on a node that cannot be used, and shall not be made anew
        and empty elsewhere. silent: names of nodes that were asked in vain, and why."""
        away = volume_places.away_among(self._pool.nodes(), silent) if volumes else {}
        if not away:
            return
        view = await self._ordering.view()
        mounted = {
            name: task.node
            for task in view.live.values()
            if task.node in away
            for name in wanted.named_volumes(view.spec(task).payload, of_engine=True)
        }
        for name in volumes:
            nodes = [one for one in (mounted.get(name), *self._looking.volumes.nodes(name)) if one in away]
            if nodes:
                raise Problem(500, f"{UNSATISFIED}\n[{volume_places.where(name, away[nodes[0]])}]")

    async def _refuse_away_from(self, containers: Sequence[str]) -> None:
        """Of those that it depends on, by their names or ids. Raises Problem: one is on a node that cannot be used."""
        for reference in containers:
            found = meant(reference.removeprefix("/"), await self._ordering.view())
            node = self._ordering.node(found.node) if found is not None else None
            if node is not None and node.unavailable:
                raise NodeAway(reference, node.name, node.unavailable)

    async def _make_where_it_is(self, order: Create, allowed: Sequence[str], image: Image, version: str) -> Created:
        """allowed: names of the nodes that it may be on, whether they have the image or not. Raises Problem."""
        having = tuple(one for one in allowed if one in image.nodes)
        if len(having) == len(allowed):
            return await self._make(order)
        if not image.registry:
            if not having:
                await self._copy(str(order.body["Image"]), image, allowed, version)
            return await self._make(attrs.evolve(order, having=having or tuple(allowed)))
        try:
            return await self._make(attrs.evolve(order, pull=True))
        except Problem as problem:
            if not having or problem.status < 404:
                raise
            # The registry does not give it, say; where it is it can be had.
            return await self._make(attrs.evolve(order, having=having))

    async def _copy(self, name: str, image: Image, nodes: Sequence[str], version: str) -> None:
        """To nodes that a container is bound to, by its network, say. Raises Problem."""
        engines = {engine.node.name: engine for engine in self._engines()}
        source = engines[min(image.nodes)]
        if failed := await copying.copy(name, source, [engines[node] for node in nodes], version):
            reasons = "; ".join(f"{node}: {reason}" for node, reason in failed)
            raise Problem(500, f"{name} is on node {source.node.name}, and could not be copied: {reasons}")

    def _placed_name(self, name: str) -> tuple[str, str]:
        """The node of `node/name`, and the name. Without a node of that name or id: an engine will refuse it."""
        node, _, rest = name.partition("/")
        known = any(node in (one.name, one.id) for one in self._pool.nodes())
        return (node, rest) if rest and known else ("", name)

    def _engines(self) -> Sequence[Engine]:
        """Raises Problem: there are none."""
        engines = self._pool.engines()
        if not engines:
            raise Problem(500, NO_HEALTHY_NODE if self._pool.nodes() else NO_NODES)
        return engines

    async def _make(self, order: Create) -> Created:
        reserved = await self._reserved(order)
        self.making.add(reserved.key)
        try:
            task = await self._until_made(reserved)
        finally:
            self.making.discard(reserved.key)
        if task is None or task.key != reserved.key or not task.live:
            raise _failed(task)
        container = task.status.external_id
        self._ordering.made(container, reserved.key)
        for volume in order.volumes:
            self._looking.volumes.noted(task.node or "", volume)
        warnings = task.status.message.splitlines() if task.state is TaskState.PREPARED else []
        return Created(id=container, node=task.node or "", name=reserved.name, warnings=warnings)

    async def _until_made(self, reserved: Reserved) -> Task | None:
        """Its task, made or over. Raises Problem: its node has gone away before that, and it is given up; TimeoutError,
        NotAvailable."""
        until_s = time.monotonic() + MADE_WITHIN_S
        while True:
            # Once it is there, it is: its node tells of it again if what is known of it were lost.
            made = self._host.wait_for(
                FRAMEWORK, reserved.name, lambda one: is_made(one, reserved.key), NODE_LOOK_S, durable=False
            )
            try:
                return await made
            except TimeoutError:
                if time.monotonic() > until_s:
                    raise
            task = (await self._ordering.view()).live.get(reserved.key)
            node = self._ordering.node(task.node) if task is not None else None
            if node is not None and node.unavailable:
                await self._ordering.command(Discard(key=reserved.key))
                raise Problem(500, f"node {node.name} went away while the container was being made: {node.unavailable}")

    async def _reserved(self, order: Create) -> Reserved:
        """Raises Problem, NotAvailable."""
        try:
            reply: Reserved = await self._ordering.with_name(order)
        except NotPlaced as error:
            raise Problem(500, self._unplaced(order, error)) from error
        return reply

    def _unplaced(self, order: Create, error: NotPlaced) -> str:
        """Classic Swarm's words for it, and then the kernel's."""
        chosen = filters.named(self._settings.filters)
        refusing = {name for name, _, _ in error.explanation.ruled_out}
        if not error.explanation.nodes:
            return NO_NODES
        if refusing == {"health"}:
            return NO_HEALTHY_NODE
        failed = [position for position, one in enumerate(chosen) if one.name in refusing and one.name != "health"]
        if failed:
            text = unsatisfied(wanted.read(order.body), chosen[: failed[-1] + 1])
        elif "volumes" in refusing:
            text = UNSATISFIED
        else:
            text = NO_RESOURCES
        return f"{text}\n{error.explanation}"


def _read(body: Mapping[str, Any]) -> wanted.Wanted:
    """Raises Problem (400): what is said of its place cannot be read."""
    try:
        said = wanted.read(body)
        if said.strategy:
            strategies.strategy(said.strategy)
        return said
    except ExpressionError as error:
        raise Problem(400, str(error)) from error
    except ValueError as error:
        raise Problem(400, f"{error}: {said.strategy}") from error


def is_made(task: Task | None, key: str) -> bool:
    """Is the task of this key a container by now, or no more?"""
    if task is None or task.key != key:
        return False
    return not task.live or (task.state in (TaskState.PREPARED, TaskState.RUNNING) and bool(task.status.external_id))


def _failed(task: Task | None) -> Problem:
    """The engine's refusal in its own words, or whatever ended the task."""
    exit_ = task.status.exit if task is not None else None
    if task is None or exit_ is None:
        return Problem(500, "the container was removed before it was made")
    status = task.status.message
    if exit_.outcome is Outcome.ERROR and status.isdecimal():
        return Problem(int(status), exit_.reason)
    return Problem(500, exit_.reason or exit_.outcome.value)
