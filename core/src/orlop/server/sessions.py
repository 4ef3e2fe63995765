"""Agents' sessions, server side: hellos and statuses into the kernel, messages for nodes out of it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from orlop.agent.session import Link, LinkClosed
from orlop.kernel.assignments import assignments
from orlop.kernel.events import AgentHello, AgentStatuses, Answer, Assign, NodeLeaves, NodeSilent, ToNode
from orlop.model.clock import Now
from orlop.model.messages import Goodbye, Heartbeat, Hello, Refused, Statuses, ToAgent, ToServer
from orlop.server.bridge import Bridge
from orlop.server.core import Core
from orlop.server.liveness import Liveness
from orlop.server.pipeline import Failure

log = logging.getLogger(__name__)

LIVENESS_TICK_S: Final = 1.0

ServerLink = Link[ToAgent, ToServer]


class Sessions:
    """Lives on the event loop. A node's newest session is the one that counts.

    A hello that does not become durable ends its session, for a session begins with the full truth or not at all;
    statuses are repeated by the agent until they are acknowledged.
    """

    def __init__(self, core: Core, liveness: Liveness, clock: Callable[[], Now], bridge: Bridge) -> None:
        self._core = core
        self._liveness = liveness
        self._clock = clock
        self._bridge = bridge
        self._links: dict[str, tuple[str, ServerLink]] = {}
        self._by_session: dict[str, ServerLink] = {}
        self._numbers = itertools.count(1)

    async def serve(self, link: ServerLink) -> None:
        """One session, until it ends."""
        session = f"session-{next(self._numbers)}"
        self._by_session[session] = link
        node = ""
        try:
            while True:
                message = await link.receive()
                if isinstance(message, Hello):
                    if message.node.id != node:
                        node = message.node.id
                        link.hear(partial(self._beats, node))
                    self._links[node] = (session, link)
                if node:
                    self._received(session, node, message)
        except LinkClosed as error:
            log.info("the session of node %s ended: %s", node or "?", error)
        finally:
            self._by_session.pop(session, None)
            if self._links.get(node, ("",))[0] == session:
                del self._links[node]

    def _received(self, session: str, node: str, message: ToServer) -> None:
        monotonic_ms = self._clock().monotonic_ms
        if isinstance(message, Goodbye):
            self._liveness.goodbye(node, monotonic_ms)
            self._core.submit(NodeLeaves(node=node))
            return
        self._liveness.heard(node, monotonic_ms)
        match message:
            case Hello():
                failed = self._if_it_fails(lambda: self._end(session, "the hello did not become durable"))
                self._core.submit(AgentHello(session=session, hello=message), failed)
            case Statuses():
                self._core.submit(AgentStatuses(session=session, node=node, statuses=message.items))
            case Heartbeat():
                pass

    def _beats(self, node: str) -> None:
        self._liveness.heard(node, self._clock().monotonic_ms)

    def close(self, reason: str) -> None:
        """Ends all sessions: agents look for the leader."""
        for link in list(self._by_session.values()):
            link.close(reason)

    def send(self, effect: ToNode | Assign) -> None:
        """To the node's current session; dropped when there is none or it is another one."""
        session, link = self._links.get(effect.node, ("", None))
        if link is None or (effect.session and effect.session != session):
            return
        try:
            link.send(assignments(effect) if isinstance(effect, Assign) else effect.message)
        except LinkClosed:
            log.info("node %s has no session any more", effect.node)

    def refuse(self, answer: Answer) -> bool:
        """Ends the session that a hello was refused for; False when the answer is for somebody else."""
        if not isinstance(answer.value, Refused):
            return False
        link = self._by_session.get(answer.token)
        if link is not None:
            link.send(answer.value)
        return True

    async def watch(self) -> None:
        """Tells the kernel of silent nodes, for ever."""
        while True:
            await asyncio.sleep(LIVENESS_TICK_S)
            for event in self._liveness.tick(self._clock().monotonic_ms, self._times):
                self._tell_silent(event)

    def _times(self, node: str) -> set[int]:
        """When tasks of this node count as lost that have a time of their own for it."""
        state = self._core.committed
        if state.node(node) is None:
            return set()
        policies = (state.spec_of(state.tasks[task]).policies for task in state.candidate(node).tasks.values())
        return {one.partition.replace_after_ms for one in policies if one.partition.replace_after_ms is not None}

    def _tell_silent(self, event: NodeSilent) -> None:
        self._core.submit(event, self._if_it_fails(lambda: self._liveness.refused(event)))

    def _if_it_fails(self, call: Callable[[], None]) -> Callable[[Failure | None], None]:
        def done(failure: Failure | None) -> None:
            if failure is not None:
                self._bridge.call(call)

        return done

    def _end(self, session: str, reason: str) -> None:
        link = self._by_session.get(session)
        if link is not None:
            link.close(reason)
