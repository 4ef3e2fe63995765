"""The containers of the pool that are tasks of the kernel; see `services.Containers`."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Final

from orlop.docker_containers import TASK_LABEL
from orlop.framework import NotAvailable, Task, View
from orlop_swarm.asking import ID_LABEL
from orlop_swarm.documents import CONTAINER, NAME
from orlop_swarm.engines.answers import told
from orlop_swarm.engines.interface import EngineUnavailable, Pool
from orlop_swarm.framework import why_it_moves
from orlop_swarm.http.creating import Creating, is_made
from orlop_swarm.http.finding import Owner
from orlop_swarm.http.known import known, meant, on_nodes
from orlop_swarm.http.looking import Looking
from orlop_swarm.http.ordering import FRAMEWORK, TOLD_WITHIN_S, Ordering
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.services import Created, Creation, Known, Switch
from orlop_swarm.orders import Change, Discard, Keep, Rename, Reserve
from orlop_swarm.placement import wanted
from orlop_swarm.settings import Config

if TYPE_CHECKING:
    from orlop.server.routing import Host

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
        self._ordering = Ordering(host, pool)
        self._creating = Creating(host, pool, looking, settings, self._ordering)

    async def create(self, creation: Creation) -> Created:
        """See `Containers`."""
        return await self._creating.create(creation)

    async def reserve(self, container: str, called: str, name: str) -> None:
        """See `Containers`."""
        if (key := await self._ordering.key(container, called)) is not None:
            await self._ordering.with_name(Reserve(key=key, name=name))

    async def renamed(self, container: str, name: str) -> None:
        """See `Containers`."""
        if (key := await self._ordering.key(container)) is not None:
            await self._ordering.command(Rename(key=key, name=name))

    async def changed(
        self,
        container: str,
        *,
        update: Mapping[str, Any] | None = None,
        networks: Mapping[str, Mapping[str, Any] | None] | None = None,
    ) -> None:
        """See `Containers`."""
        key = await self._ordering.key(container)
        document = (await self._ordering.view()).objects(CONTAINER).get(key) if key is not None else None
        if key is not None and document is not None and (update or document.moves):
            await self._ordering.command(Change(key=key, update=update or {}, networks=networks or {}))

    async def gone(self, container: str) -> None:
        """See `Containers`."""
        if (key := await self._ordering.key(container)) is not None:
            await self._ordering.ended(key)
            self._ordering.forget(container)

    async def removing(self, container: str) -> bool:
        """See `Containers`."""
        key = await self._ordering.key(container)
        if key is None:
            return False
        document = (await self._ordering.view()).objects(CONTAINER).get(key)
        moves = document is not None and document.moves
        if moves:
            await self._ordering.command(Keep(key=key, moves=False))
        return moves

    async def not_removed(self, container: str) -> None:
        """See `Containers`."""
        if (key := await self._ordering.key(container)) is not None:
            await self._ordering.command(Keep(key=key, moves=True))

    async def switching(self) -> Callable[[Owner, Switch], Awaitable[None]]:
        """See `Containers`."""
        before = await self._ordering.view()

        async def known(owner: Owner, switch: Switch) -> None:
            key = await self._ordering.key(owner.id)
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

    async def discard(self, reference: str) -> bool:
        """See `Containers`."""
        view = await self._ordering.view()
        task = meant(reference, view)
        if task is None or (task.node is not None and not self._ordering.is_down(task)):
            return False
        await self._ordering.command(Discard(key=task.key))
        try:
            await self._ordering.ended(task.key)
        except NotAvailable:
            raise Problem(503, f"Container {reference} is removed when its node is back, or is given up") from None
        return True

    async def settled(self, reference: str) -> bool:
        """See `Containers`."""
        view = await self._ordering.view()
        name = view.objects(NAME).get(reference)
        key = name.key if name is not None else reference
        document, task = view.objects(CONTAINER).get(key), view.tasks.get(key)
        if document is None or not document.moves or key in self._creating.making or task is None or _is_settled(task):
            return False
        within_s = MOVED_WITHIN_S if task.node is not None else PLACED_WITHIN_S
        with contextlib.suppress(TimeoutError):
            await self._host.wait_for(FRAMEWORK, task.name, lambda one: one is None or _is_settled(one), within_s)
        return True

    async def known(self, reference: str) -> Known | None:
        """See `Containers`."""
        view = await self._ordering.view()
        task = meant(reference, view)
        return known(task, view) if task is not None else None

    async def out_of_reach(self, silent: Set[str] = frozenset()) -> Sequence[Known]:
        """See `Containers`."""
        down = {node.id for node in self._pool.nodes() if node.unavailable} | silent
        if not down:
            return ()
        view = await self._ordering.view()
        return list(on_nodes(down, view))

    async def left_behind(self) -> Callable[[str, Mapping[str, str]], bool]:
        """See `Containers`."""
        view = await self._ordering.view()
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


def _is_settled(task: Task) -> bool:
    """Is it where it is to stay for now, or is it no more?"""
    if not task.live:
        return not why_it_moves(task)
    return is_made(task, task.key) and not task.desired_reason


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
