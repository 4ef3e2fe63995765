"""Agents' sessions, server side: hellos and statuses into the kernel, messages for nodes out of it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from functools import partial

from orlop.agent.session import Link, LinkClosed
from orlop.kernel.assignments import assignments
from orlop.kernel.events import (
    AgentHello,
    AgentStatuses,
    Answer,
    Assign,
    NodeFactsChanged,
    NodeLeaves,
    NodeSilent,
    ToNode,
)
from orlop.kernel.lifecycle import times_of_loss
from orlop.model.clock import Now
from orlop.model.messages import (
    ClockReading,
    Facts,
    Goodbye,
    Heartbeat,
    Hello,
    Refused,
    Statuses,
    ToAgent,
    ToServer,
)
from orlop.recurring import surviving
from orlop.server.bridge import Bridge
from orlop.server.core import Core
from orlop.server.liveness import TICK_MS, Liveness
from orlop.server.node_clocks import NodeClocks
from orlop.server.node_facts import ToldFacts
from orlop.server.pipeline import Failure
from orlop.server.session_table import SUPERSEDED, SessionTable
from orlop.server.ticks import next_tick

log = logging.getLogger(__name__)

ServerLink = Link[ToAgent, ToServer]


class Sessions:
    """Lives on the event loop. A node's newest session is the one that counts (`SessionTable`).

    A hello that does not become durable ends its session, for a session begins with the full truth or not at all;
    statuses are repeated by the agent until they are acknowledged. clocks: what nodes tell of theirs.
    """

    def __init__(self, core: Core, liveness: Liveness, clock: Callable[[], Now], bridge: Bridge) -> None:
        self._core = core
        self._liveness = liveness
        self._clock = clock
        self._bridge = bridge
        self._table: SessionTable[ServerLink] = SessionTable()
        self._facts = ToldFacts()
        self.clocks = NodeClocks()
        self._numbers = itertools.count(1)

    async def serve(self, link: ServerLink) -> None:
        """One session, until it ends."""
        session = f"session-{next(self._numbers)}"
        self._table.begin(session, link)
        node = ""
        try:
            while True:
                message = await link.receive()
                if isinstance(message, Hello):
                    if message.node.id != node:
                        node = message.node.id
                        link.hear(partial(self._beats, session, node))
                    self._hello(session, node)
                if self._table.node_of(session):
                    self._received(session, node, message)
        except LinkClosed as error:
            log.info("the session of node %s ended: %s", node or "?", error)
        finally:
            if current := self._table.node_of(session):
                self._liveness.closed(current)
                self.clocks.forget(current)
            self._table.end(session)

    def _hello(self, session: str, node: str) -> None:
        older = self._table.hello(session, node)
        if older is not None:
            log.info("an older session of node %s is ended: %s", node, SUPERSEDED)
            older.close(SUPERSEDED)

    def _received(self, session: str, node: str, message: ToServer) -> None:
        now = self._clock()
        monotonic_ms = now.monotonic_ms
        if isinstance(message, Goodbye):
            self._liveness.goodbye(node, monotonic_ms)
            self._core.submit(NodeLeaves(node=node))
            return
        self._liveness.heard(node, monotonic_ms)
        match message:
            case Hello():
                facts = self._facts.begin(node, message.facts)
                failed = self._if_it_fails(lambda: self._end(session, "the hello did not become durable"))
                self._core.submit(AgentHello(session=session, hello=message, facts=facts), failed)
            case Statuses():
                self._core.submit(AgentStatuses(session=session, node=node, statuses=message.items))
            case Facts():
                if (event := self._facts.told(node, message.change)) is not None:
                    self._tell_facts(event)
            case ClockReading():
                self.clocks.told(node, message.utc_ms, now)
            case Heartbeat():
                pass

    def _tell_facts(self, event: NodeFactsChanged) -> None:
        self._core.submit(event, self._if_it_fails(lambda: self._facts.refused(event.node)))

    def _beats(self, session: str, node: str) -> None:
        if self._table.node_of(session) == node:
            self._liveness.heard(node, self._clock().monotonic_ms)

    def close(self, reason: str) -> None:
        """Ends all sessions: agents look for the leader."""
        for link in self._table.links():
            link.close(reason)

    def send(self, effect: ToNode | Assign) -> None:
        """To the node's current session; dropped when there is none or it is another one."""
        link = self._table.to_node(effect.node, effect.session)
        if link is None:
            return
        try:
            link.send(assignments(effect) if isinstance(effect, Assign) else effect.message)
        except LinkClosed:
            log.info("node %s has no session any more", effect.node)

    def forget(self, node: str) -> None:
        """There is no such node any more, unless it speaks right now."""
        if self._table.to_node(node) is None:
            self._liveness.forget(node)
            self._facts.forget(node)
            self.clocks.forget(node)

    def refuse(self, answer: Answer) -> bool:
        """Ends the session that a hello was refused for; False when the answer is for somebody else."""
        if not isinstance(answer.value, Refused):
            return False
        link = self._table.link(answer.token)
        if link is not None:
            link.send(answer.value)
        return True

    async def watch(self) -> None:
        """Tells the kernel of silent nodes, and again of what it had to forget, for ever."""
        while True:
            await next_tick(TICK_MS / 1000)
            with surviving("the look for silent nodes"):
                for event in self._liveness.tick(self._clock().monotonic_ms, self._times_of_loss):
                    self._tell_silent(event)
                for facts in self._facts.again():
                    self._tell_facts(facts)

    def _times_of_loss(self, node: str) -> set[int]:
        return times_of_loss(self._core.committed, node)

    def _tell_silent(self, event: NodeSilent) -> None:
        """Its session ends with it: tasks may be given up now, and it must hear of that when it speaks again."""
        self.clocks.forget(event.node)
        link = self._table.give_up(event.node)
        if link is not None:
            link.close(f"nothing was heard for {event.silent_ms / 1000:g} s")
        self._core.submit(event, self._if_it_fails(lambda: self._liveness.refused(event)))

    def _if_it_fails(self, call: Callable[[], None]) -> Callable[[Failure | None], None]:
        def done(failure: Failure | None) -> None:
            if failure is not None:
                self._bridge.call(call)

        return done

    def _end(self, session: str, reason: str) -> None:
        link = self._table.link(session)
        if link is not None:
            link.close(reason)
