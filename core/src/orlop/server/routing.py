"""What a plugin's routes are given: the only doors from HTTP into a framework."""

from __future__ import annotations

import asyncio
import operator
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from orlop.agent.runtimes.interface import Connection
from orlop.framework import Candidate, Explanation, Node, NotAvailable, NotPlaced, Task, View
from orlop.kernel.events import Published, Unplaced
from orlop.kernel.state import State
from orlop.model.clock import Now
from orlop.server.event_log import cut_off
from orlop.server.framework_host import FrameworkHost
from orlop.server.waiting import Waiting

FOLLOWER_QUEUE_MAX: Final = 1_024
COMMAND_TIMEOUT_S: Final = 30.0


class Host:
    """Lives on the event loop; all its methods are to be called there. It outlives terms of leadership.

    state: the newest durable state that this server knows; raises NotAvailable. explainer: of the kernel.
    open_engine: see the method.
    """

    def __init__(
        self,
        *,
        cluster_name: str,
        address: str,
        version: str,
        state: Callable[[], State],
        explainer: Callable[[State, Task], Explanation],
        clock: Callable[[], Now],
        open_engine: Callable[[str], Awaitable[Connection]],
    ) -> None:
        self.cluster_name = cluster_name
        self.address = address
        self.version = version
        self._frameworks: Mapping[str, FrameworkHost] | None = None
        self._state = state
        self._explainer = explainer
        self._clock = clock
        self._open_engine = open_engine
        self._followers: dict[str, set[asyncio.Queue[Any]]] = {}
        self._decided_state: Callable[[], State] | None = None
        self._version_waiters = Waiting()
        self._decision_waiters = Waiting()
        #: Nodes change seldom, and every request to a pool of engines asks for them.
        self._nodes_seen: Sequence[Node] = ()
        self._nodes: Sequence[Node] = ()
        #: Of the commands under way.
        self._unplaced: dict[str, NotPlaced | None] = {}

    async def command(self, framework: str, command: Any, timeout_s: float = COMMAND_TIMEOUT_S) -> Any:
        """Runs the framework's `command` handler; its reply, after the commit.

        Raises Refused with the handler's reason; NotPlaced when an ask of it was for now or never, and found no place;
        NotAvailable when nothing was done, or, on a time-out, when the outcome is not known.
        """
        token = secrets.token_hex(8)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def resolve(reply: Any, error: Exception | None) -> None:
            if future.done():
                return
            error = error or self._unplaced.get(token)
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(reply)

        def done(reply: Any, error: Exception | None) -> None:
            loop.call_soon_threadsafe(resolve, reply, error)

        host = self._host(framework)
        self._unplaced[token] = None
        try:
            host.enqueue(token, command, done)
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise NotAvailable(f"no answer within {timeout_s:g} s: the outcome is not known") from None
        finally:
            del self._unplaced[token]

    async def view(self, framework: str) -> View:
        """The framework's view of the newest durable state. Raises NotAvailable."""
        return self._view(framework)

    def _view(self, framework: str, *, durable: bool = True) -> View:
        if self._frameworks is not None:
            self._host(framework)
        state = self._state() if durable or self._decided_state is None else self._decided_state()
        return View(state, framework, self._clock(), "", self._explainer)

    async def wait_for(
        self,
        framework: str,
        name: str,
        condition: Callable[[Task | None], bool],
        timeout_s: float,
        *,
        durable: bool = True,
    ) -> Task | None:
        """The task of this external name, once `condition` holds of it. Raises TimeoutError, NotAvailable.

        durable: False does not wait until it is written, for what a node has told of and would tell again.
        """
        waiters = self._version_waiters if durable else self._decision_waiters
        return await waiters.until(
            lambda: self._view(framework, durable=durable).task_named(name), condition, timeout_s
        )

    def nodes(self) -> Sequence[Node]:
        """All nodes of the newest durable state, in the order of their names: their states, their runtimes, and why
        one of these cannot be used. One and the same list until one of them has changed. Raises NotAvailable."""
        found = list(self._state().nodes())
        if len(found) != len(self._nodes_seen) or not all(map(operator.is_, found, self._nodes_seen)):
            self._nodes_seen = found
            self._nodes = sorted(found, key=lambda node: (node.info.name, node.id))
        return self._nodes

    def candidates(self) -> Sequence[Candidate]:
        """The same nodes as places for tasks: what is free on them, and the tasks that they hold, of all frameworks.

        Raises NotAvailable.
        """
        state = self._state()
        return [state.candidate(node.id) for node in self.nodes()]

    async def open_engine(self, node_id: str) -> Connection:
        """A connection to the node's Docker Engine: bytes as they are, each direction ended by itself; to be closed.

        Raises NotAvailable with the reason.
        """
        return await self._open_engine(node_id)

    @contextmanager
    def follow(self, framework: str) -> Iterator[asyncio.Queue[Any]]:
        """A queue of the `live` values of its Emit actions, from now on; None: too slow, no more will come."""
        queue: asyncio.Queue[Any] = asyncio.Queue(FOLLOWER_QUEUE_MAX)
        followers = self._followers.setdefault(framework, set())
        followers.add(queue)
        try:
            yield queue
        finally:
            followers.discard(queue)

    def unplaced(self, effect: Unplaced) -> None:
        """For the server: an ask found no place, and its command is about to be answered."""
        if effect.cause in self._unplaced:
            self._unplaced[effect.cause] = NotPlaced(effect.key, effect.explanation)

    def published(self, effect: Published) -> None:
        """For the server: a framework has said something."""
        for queue in list(self._followers.get(effect.framework, ())):
            for item in effect.items:
                try:
                    queue.put_nowait(item)
                except asyncio.QueueFull:
                    self._followers[effect.framework].discard(queue)
                    cut_off(queue)
                    break

    def committed(self) -> None:
        """For the server: a newer state is durable."""
        self._version_waiters.changed()

    @property
    def awaits_decisions(self) -> bool:
        """For the server: does anybody wait for what is not durable yet? May be asked from any thread."""
        return bool(self._decision_waiters)

    def decided(self) -> None:
        """For the server: the kernel has decided something."""
        self._decision_waiters.changed()

    def lead(self, frameworks: Mapping[str, FrameworkHost], decided_state: Callable[[], State]) -> None:
        """For the server: a term begins. decided_state: the newest that its kernel has made, durable or not."""
        self._frameworks = frameworks
        self._decided_state = decided_state

    def follow_leader(self) -> None:
        """For the server: the term has ended; whoever waits or follows is let go."""
        self._frameworks = self._decided_state = None
        self.committed()
        self.decided()
        for followers in self._followers.values():
            for queue in followers:
                cut_off(queue)
            followers.clear()

    def _host(self, framework: str) -> FrameworkHost:
        if self._frameworks is None:
            raise NotAvailable("nothing was changed: this server does not lead, and knows of no server that does")
        host = self._frameworks.get(framework)
        if host is None:
            raise NotAvailable(f"there is no framework {framework!r} here")
        return host
