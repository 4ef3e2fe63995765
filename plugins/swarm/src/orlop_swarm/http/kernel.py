"""The containers of the pool that are tasks of the kernel; see `Containers`.

Where a container may be placed depends on what it needs of one engine alone; see `looking`.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Final

import attrs

from orlop.docker_containers import TASK_LABEL
from orlop.framework import NotAvailable, NotPlaced, Outcome, Refused, Task, TaskState, View
from orlop_swarm.asking import ID_LABEL, InvalidRequest
from orlop_swarm.documents import CONTAINER, NAME
from orlop_swarm.engines.answers import told
from orlop_swarm.engines.interface import Engine, EngineNode, EngineUnavailable, Pool
from orlop_swarm.framework import why_it_moves
from orlop_swarm.http import copying, volume_places
from orlop_swarm.http.finding import Owner
from orlop_swarm.http.known import known, meant, on_nodes
from orlop_swarm.http.looking import Image, Looking
from orlop_swarm.http.problems import NodeAway, Problem
from orlop_swarm.http.services import Created, Creation, Known, Switch
from orlop_swarm.orders import Change, Conflict, Create, Discard, Keep, Order, Rename, Reserve, Reserved
from orlop_swarm.placement import filters, strategies, wanted
from orlop_swarm.placement.expressions import ExpressionError
from orlop_swarm.placement.scheduler import NO_HEALTHY_NODE, NO_NODES, UNSATISFIED, unsatisfied
from orlop_swarm.placement.strategies import NO_RESOURCES
from orlop_swarm.settings import Config

if TYPE_CHECKING:
    from orlop.server.routing import Host

FRAMEWORK: Final = "swarm"
#: A pull may be part of it.
MADE_WITHIN_S: Final = 3_600.0
#: Meanwhile it is looked so often whether its node is still there.
NODE_LOOK_S: Final = 1.0
#: An engine has done something; its agent tells the kernel within so long, or something is wrong.
TOLD_WITHIN_S: Final = 10.0
#: What moves is made again within so long once it has a place, and gets one within so long if there is any.
MOVED_WITHIN_S: Final = 10.0
PLACED_WITHIN_S: Final = 1.0
#: Without news for so long, the engine is asked whether there are any.
NEWS_WITHIN_S: Final = 0.3


class KernelContainers:
    """See the module, and `Containers` for the methods."""

    def __init__(self, host: Host, pool: Pool, looking: Looking, settings: Config) -> None:
        self._host = host
        self._pool = pool
        self._settings = settings
        self._looking = looking
        #: Containers' ids → keys, as far as they were needed.
        self._keys: dict[str, str] = {}
        #: Keys of those that are being made for the first time.
        self._making: set[str] = set()

    async def create(self, creation: Creation) -> Created:
        """See `Containers`."""
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
            keys={one: key for one in said.whole_ids if (key := await self._key(one)) is not None},
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
        view = await self._host.view(FRAMEWORK)
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
            found = await self.known(reference.removeprefix("/"))
            node = self._node(found.node) if found is not None else None
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
        self._making.add(reserved.key)
        try:
            task = await self._until_made(reserved)
        finally:
            self._making.discard(reserved.key)
        if task is None or task.key != reserved.key or not task.live:
            raise _failed(task)
        container = task.status.external_id
        self._keys[container] = reserved.key
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
                FRAMEWORK, reserved.name, lambda one: _made(one, reserved.key), NODE_LOOK_S, durable=False
            )
            try:
                return await made
            except TimeoutError:
                if time.monotonic() > until_s:
                    raise
            task = (await self._host.view(FRAMEWORK)).live.get(reserved.key)
            node = self._node(task.node) if task is not None else None
            if node is not None and node.unavailable:
                await self._command(Discard(key=reserved.key))
                raise Problem(500, f"node {node.name} went away while the container was being made: {node.unavailable}")

    async def _reserved(self, order: Create) -> Reserved:
        """Raises Problem, NotAvailable."""
        try:
            reply: Reserved = await self._with_name(order)
        except NotPlaced as error:
            raise Problem(500, self._unplaced(order, error)) from error
        return reply

    async def _with_name(self, order: Create | Reserve) -> Any:
        """Of an order that takes a name: its holder's engine may have removed it a moment ago. Raises as `_command`."""
        try:
            return await self._command(order)
        except _Taken as taken:
            await self._until_gone(taken.conflict)
        return await self._command(order)

    async def _command(self, order: Order) -> Any:
        """Raises NotPlaced, Problem (400; `_Taken`), NotAvailable."""
        try:
            return await self._host.command(FRAMEWORK, order)
        except Refused as refused:
            if isinstance(refused.reason, Conflict):
                raise _Taken(refused.reason) from refused
            status = 400 if isinstance(refused.reason, InvalidRequest) else 500
            raise Problem(status, str(refused.reason)) from refused

    async def _until_gone(self, conflict: Conflict) -> None:
        """Returns when its holder is no more, if that is so on its engine already. Raises Problem (`_Taken`): it is
        there, or is being made, or nobody can tell; NotAvailable."""
        task = (await self._host.view(FRAMEWORK)).live.get(conflict.key)
        if not conflict.container or (task is not None and (task.node is None or self._is_down(task))):
            raise _Taken(conflict)
        for engine in self._pool.engines():
            try:
                status, _ = await told(engine, f"/containers/{conflict.container}/json")
            except EngineUnavailable:
                if task is not None and task.node == engine.node.id:
                    raise _Taken(conflict) from None
                continue
            if status != 404:
                raise _Taken(conflict)
        await self._ended(conflict.key)

    def _node(self, node_id: str | None) -> EngineNode | None:
        return next((node for node in self._pool.nodes() if node.id == node_id), None)

    def _is_down(self, task: Task) -> bool:
        node = self._node(task.node)
        return node is not None and bool(node.unavailable)

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

    async def reserve(self, container: str, called: str, name: str) -> None:
        """See `Containers`."""
        if (key := await self._key(container, called)) is not None:
            await self._with_name(Reserve(key=key, name=name))

    async def renamed(self, container: str, name: str) -> None:
        """See `Containers`."""
        if (key := await self._key(container)) is not None:
            await self._command(Rename(key=key, name=name))

    async def changed(
        self,
        container: str,
        *,
        update: Mapping[str, Any] | None = None,
        networks: Mapping[str, Mapping[str, Any] | None] | None = None,
    ) -> None:
        """See `Containers`."""
        key = await self._key(container)
        document = (await self._host.view(FRAMEWORK)).objects(CONTAINER).get(key) if key is not None else None
        if key is not None and document is not None and (update or document.moves):
            await self._command(Change(key=key, update=update or {}, networks=networks or {}))

    async def gone(self, container: str) -> None:
        """See `Containers`."""
        if (key := await self._key(container)) is not None:
            await self._ended(key)
            self._keys.pop(container, None)

    async def removing(self, container: str) -> bool:
        """See `Containers`."""
        key = await self._key(container)
        if key is None:
            return False
        document = (await self._host.view(FRAMEWORK)).objects(CONTAINER).get(key)
        moves = document is not None and document.moves
        if moves:
            await self._command(Keep(key=key, moves=False))
        return moves

    async def not_removed(self, container: str) -> None:
        """See `Containers`."""
        if (key := await self._key(container)) is not None:
            await self._command(Keep(key=key, moves=True))

    async def _ended(self, key: str) -> None:
        view = await self._host.view(FRAMEWORK)
        task = view.live.get(key)
        if task is None:
            return

        def over(found: Task | None) -> bool:
            return found is None or found.id != task.id or not found.live

        try:
            await self._host.wait_for(FRAMEWORK, task.name, over, TOLD_WITHIN_S)
        except TimeoutError:
            raise NotAvailable(f"the node of container {task.name} has not told that it is gone") from None

    async def switching(self) -> Callable[[Owner, Switch], Awaitable[None]]:
        """See `Containers`."""
        before = await self._host.view(FRAMEWORK)

        async def known(owner: Owner, switch: Switch) -> None:
            key = await self._key(owner.id)
            task = before.live.get(key) if key is not None else None
            if task is None:
                return
            if before.objects(CONTAINER)[task.key].moves:
                await self._until_heard(owner, task, switch)
            elif wanted.read(before.spec(task).payload).has_ports:
                with contextlib.suppress(NotAvailable):  # the next to be made looks at who holds its ports
                    await self._until_heard(owner, task, switch)

        return known

    async def _until_heard(self, owner: Owner, before: Task, switch: Switch) -> None:
        """Raises NotAvailable."""
        end = time.monotonic() + TOLD_WITHIN_S
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                await self._host.wait_for(
                    FRAMEWORK, before.name, lambda now: _has_heard(now, before, switch), NEWS_WITHIN_S
                )
                return
            if await _runs(owner) is not (switch is not Switch.STOPPED):
                return  # a run that was over at once may not be told of
        raise NotAvailable(f"the node of container {before.name} has not told that it was {switch.value}")

    async def _key(self, container: str, called: str = "") -> str | None:
        """Of a container by its whole id; None: it is not the kernel's. called: its name, if that is known."""
        known = self._keys.get(container)
        view = await self._host.view(FRAMEWORK)
        if known is not None and known in view.live:
            return known
        live = view.live
        written = {task.status.external_id: key for key, task in live.items() if task.status.external_id}
        made = {one: key for one, key in self._keys.items() if key in live and not live[key].status.external_id}
        self._keys = {**made, **written}  # a create is answered before its container's id is written
        named = view.objects(NAME).get(called)
        of_name = live.get(named.key) if named is not None else None
        if container not in self._keys and of_name is not None and not of_name.status.external_id:
            # It has just been made, and nobody has been told of it yet: somebody else has looked for its name.
            self._keys[container] = of_name.key
        return self._keys.get(container)

    async def discard(self, reference: str) -> bool:
        """See `Containers`."""
        view = await self._host.view(FRAMEWORK)
        task = meant(reference, view)
        if task is None or (task.node is not None and not self._is_down(task)):
            return False
        await self._command(Discard(key=task.key))
        try:
            await self._ended(task.key)
        except NotAvailable:
            raise Problem(503, f"Container {reference} is removed when its node is back, or is given up") from None
        return True

    async def settled(self, reference: str) -> bool:
        """See `Containers`."""
        view = await self._host.view(FRAMEWORK)
        name = view.objects(NAME).get(reference)
        key = name.key if name is not None else reference
        document, task = view.objects(CONTAINER).get(key), view.tasks.get(key)
        if document is None or not document.moves or key in self._making or task is None or _is_settled(task):
            return False
        within_s = MOVED_WITHIN_S if task.node is not None else PLACED_WITHIN_S
        with contextlib.suppress(TimeoutError):
            await self._host.wait_for(FRAMEWORK, task.name, lambda one: one is None or _is_settled(one), within_s)
        return True

    async def known(self, reference: str) -> Known | None:
        """See `Containers`."""
        view = await self._host.view(FRAMEWORK)
        task = meant(reference, view)
        return known(task, view) if task is not None else None

    async def out_of_reach(self, silent: Set[str] = frozenset()) -> Sequence[Known]:
        """See `Containers`."""
        down = {node.id for node in self._pool.nodes() if node.unavailable} | silent
        if not down:
            return ()
        view = await self._host.view(FRAMEWORK)
        return list(on_nodes(down, view))

    async def left_behind(self) -> Callable[[str, Mapping[str, str]], bool]:
        """See `Containers`."""
        view = await self._host.view(FRAMEWORK)
        names, live, told = view.objects(NAME), view.live, functools.cache(lambda: _told_apart(view))

        def is_old(name: str, labels: Mapping[str, str]) -> bool:
            task = labels.get(TASK_LABEL, "")
            holder = names.get(name)
            if not task or (holder is not None and holder.key in live and live[holder.key].id == task):
                return False  # it is what its name says: the rest looks at every task
            current, ended = told()
            if task in current or task in ended:
                return task in ended
            # The Swarm id may be that of the image: any framework's task that is placed is no copy of another one.
            return labels.get(ID_LABEL, "") in live and not self._is_placed(task)

        return is_old

    def _is_placed(self, task: str) -> bool:
        return any(task == one for candidate in self._host.candidates() for one in candidate.tasks.values())


def _told_apart(view: View) -> tuple[Set[str], Set[str]]:
    """Ids of the tasks that are live, and of those that have ended."""
    ids: dict[bool, set[str]] = {True: set(), False: set()}
    for task in view.tasks.values():
        ids[task.live].add(task.id)
    return ids[True], ids[False]


class _Taken(Problem):
    """A name is another container's."""

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(409, str(conflict))
        self.conflict = conflict


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


def _made(task: Task | None, key: str) -> bool:
    if task is None or task.key != key:
        return False
    return not task.live or (task.state in (TaskState.PREPARED, TaskState.RUNNING) and bool(task.status.external_id))


def _is_settled(task: Task) -> bool:
    """Is it where it is to stay for now, or is it no more?"""
    if not task.live:
        return not why_it_moves(task)
    return _made(task, task.key) and not task.desired_reason


def _has_heard(now: Task | None, before: Task, switch: Switch) -> bool:
    """before: the task as it was known before the engine was asked."""
    if now is None or now.id != before.id or not now.live:
        return True
    run = before.status.incarnation + (switch is Switch.STARTED_ANEW and before.running)
    return now.status.incarnation > run or (
        now.status.incarnation == run and now.running is (switch is not Switch.STOPPED)
    )


async def _runs(owner: Owner) -> bool | None:
    """As its engine says; None: it does not."""
    try:
        status, shown = await told(owner.engine, f"/containers/{owner.id}/json")
    except EngineUnavailable:
        return None
    return bool(shown["State"]["Running"]) if status == 200 else None


def _failed(task: Task | None) -> Problem:
    """The engine's refusal in its own words, or whatever ended the task."""
    exit_ = task.status.exit if task is not None else None
    if task is None or exit_ is None:
        return Problem(500, "the container was removed before it was made")
    status = task.status.message
    if exit_.outcome is Outcome.ERROR and status.isdecimal():
        return Problem(int(status), exit_.reason)
    return Problem(500, exit_.reason or exit_.outcome.value)
