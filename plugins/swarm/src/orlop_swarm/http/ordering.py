"""Orders to the framework about containers, by the keys that it knows them by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from orlop.framework import NotAvailable, Refused, Task, View
from orlop_swarm.asking import InvalidRequest
from orlop_swarm.documents import NAME
from orlop_swarm.engines.answers import told
from orlop_swarm.engines.interface import EngineNode, EngineUnavailable, Pool
from orlop_swarm.http.problems import Problem
from orlop_swarm.orders import Conflict, Create, Order, Reserve

if TYPE_CHECKING:
    from orlop.server.routing import Host

FRAMEWORK: Final = "swarm"
#: An engine has done something; its agent tells the kernel within so long, or something is wrong.
TOLD_WITHIN_S: Final = 10.0


class Ordering:
    """See the module."""

    def __init__(self, host: Host, pool: Pool) -> None:
        self._host = host
        self._pool = pool
        #: Containers' ids → keys, as far as they were needed.
        self._keys: dict[str, str] = {}

    async def view(self) -> View:
        """What the framework sees now. Raises NotAvailable."""
        return await self._host.view(FRAMEWORK)

    def made(self, container: str, key: str) -> None:
        """An engine has given a container this id."""
        self._keys[container] = key

    def forget(self, container: str) -> None:
        """It is no more."""
        self._keys.pop(container, None)

    async def with_name(self, order: Create | Reserve) -> Any:
        """Of an order that takes a name: its holder's engine may have removed it a moment ago. Raises as `command`."""
        try:
            return await self.command(order)
        except _Taken as taken:
            await self._until_gone(taken.conflict)
        return await self.command(order)

    async def command(self, order: Order) -> Any:
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
        task = (await self.view()).live.get(conflict.key)
        if not conflict.container or (task is not None and (task.node is None or self.is_down(task))):
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
        await self.ended(conflict.key)

    async def ended(self, key: str) -> None:
        """Returns when the task of this key has ended, if there is one. Raises NotAvailable."""
        view = await self.view()
        task = view.live.get(key)
        if task is None:
            return

        def over(found: Task | None) -> bool:
            return found is None or found.id != task.id or not found.live

        try:
            await self._host.wait_for(FRAMEWORK, task.name, over, TOLD_WITHIN_S)
        except TimeoutError:
            raise NotAvailable(f"the node of container {task.name} has not told that it is gone") from None

    async def key(self, container: str, called: str = "") -> str | None:
        """Of a container by its whole id; None: it is not the kernel's. called: its name, if that is known."""
        known = self._keys.get(container)
        view = await self.view()
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

    def node(self, node_id: str | None) -> EngineNode | None:
        """Of this id, if the pool has it."""
        return next((node for node in self._pool.nodes() if node.id == node_id), None)

    def is_down(self, task: Task) -> bool:
        """Is it on a node that cannot be used?"""
        node = self.node(task.node)
        return node is not None and bool(node.unavailable)


class _Taken(Problem):
    """A name is another container's."""

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(409, str(conflict))
        self.conflict = conflict
