"""A simulated server's term as the leader: the real pipeline, writer, kernel, frameworks, sessions and liveness."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from orlop.framework import EVERYTHING, Changed, Framework, NotAvailable, NotPlaced
from orlop.kernel.assignments import assignments
from orlop.kernel.events import (
    AgentHello,
    AgentStatuses,
    Answer,
    Assign,
    Effect,
    Event,
    Forgotten,
    Logged,
    NodeFactsChanged,
    NodeLeaves,
    NodeSilent,
    Notify,
    Tick,
    TickAt,
    ToNode,
    Unplaced,
)
from orlop.kernel.kernel import Kernel, KernelSettings
from orlop.kernel.lifecycle import times_of_loss
from orlop.model.clock import Now
from orlop.model.messages import Facts, Goodbye, Heartbeat, Hello, Refused, Statuses
from orlop.server import clock_watch
from orlop.server.clock_watch import ClockWatch
from orlop.server.election import TOO_LATE
from orlop.server.framework_run import Command, FrameworkRunner
from orlop.server.liveness import Liveness, LivenessSettings
from orlop.server.loading import Term
from orlop.server.node_facts import ToldFacts
from orlop.server.pipeline import Failure, Pipeline, Submission
from orlop.server.session_table import SUPERSEDED, SessionTable
from orlop.server.writing import Released, Transaction, Writer
from orlop.store.interface import OutcomeUnknown, StoreError, StoreRefused, TransactionResult
from orlop.testing.simulation.network import End

if TYPE_CHECKING:
    from orlop.testing.simulation.server import Life, SimulatedServer

FRAMEWORK_RETRY_MS: Final = 1_000
LIVENESS_MS: Final = 1_000
TICK_AGAIN_MS: Final = 1_000
#: Shorter than by default, so that nodes are lost within the time of trouble, and all is over after that of healing.
LIVENESS: Final = LivenessSettings(
    unreachable_after_ms=6_000,
    gone_after_ms=12_000,
    crash_grace_ms=6_000,
    restart_grace_ms=20_000,
    takeover_grace_ms=6_000,
    deaf_after_ms=3_000,
)

Reply = Callable[[Any, Exception | None], None]


class Leading:
    """One term."""

    def __init__(self, life: Life, server: SimulatedServer, term: Term) -> None:
        self._life = life
        self._server = server
        self._world = server.world
        self._name = server.name
        self._over = False
        limits = server.store.backend.limits
        self.kernel = Kernel(settings=KernelSettings(ended_tasks_kept=30, log_records_kept=50))
        self.pipeline = Pipeline(self.kernel, term.state, term.epoch, limits.operations - 1)
        self._writer = Writer(self.pipeline, term, limits, contextlib.nullcontext())
        self._writing = False
        self._events: list[Submission] = []
        self._decided = False
        self._liveness = Liveness(LIVENESS, iter(term.state.node_order), self._world.now_ms)
        self._sessions: SessionTable[End] = SessionTable()
        self._facts = ToldFacts()
        self._frameworks = {name: _Hosted(self, make()) for name, make in server.frameworks.items()}
        self._began_ms = self._world.now_ms
        self._heard_ms: dict[str, int] = {}
        self._watch_liveness()
        self._clock_watch = ClockWatch(self._own_clocks())
        self.soon(clock_watch.LOOK_MS, self._watch_clock)
        self.submit(Tick())
        for hosted in self._frameworks.values():
            hosted.wake()

    def soon(self, delay_ms: int, call: Callable[[], None]) -> None:
        """In this term only."""
        self._life.soon(delay_ms, lambda: None if self._over else call())

    def at(self, delay_ms: int, call: Callable[[], None], wanted: Callable[[], bool] = lambda: True) -> None:
        """In this term only, by the clocks of the day. wanted: is it still?"""
        self._life.at(delay_ms, call, lambda: not self._over and wanted())

    @property
    def idle(self) -> bool:
        """Is nothing under way, neither to be decided, nor to be written, nor with a framework?"""
        decided = not self._events and not self._writing and self.pipeline.head is self.pipeline.committed
        return decided and not self._over and all(hosted.idle for hosted in self._frameworks.values())

    def hears(self, node: str) -> bool:
        """Has the node a session here?"""
        return self._sessions.to_node(node) is not None

    def now(self) -> Now:
        """The server's clocks."""
        return self._server.now()

    def abandon(self, reason: str) -> None:
        self._over = True
        for submission, failure in self.pipeline.abandoned(reason):
            submission.tell(failure)
        for submission in self._events:
            submission.tell(Failure(reason))
        for hosted in self._frameworks.values():
            hosted.stop(reason)
        self.end_sessions(reason)

    def end_sessions(self, reason: str) -> None:
        for link in self._sessions.links():
            link.close(reason)

    # Events

    def submit(self, event: Event, done: Callable[[Failure | None], object] | None = None) -> None:
        self._events.append(Submission(event, done))
        if not self._decided:
            self._decided = True
            self.soon(self._world.source(f"kernel/{self._name}").choice((0, 0, 1, 4)), self._decide)

    def _decide(self) -> None:
        self._decided = False
        events, self._events = self._events[:20], self._events[20:]
        before = self.pipeline.head
        if self._server.skew_ms:
            self._world.strike("a server's clock is wrong")
        self.pipeline.decide(events, self._server.now())
        self._server.observer.decided(before, self.pipeline.head, [one.event for one in events])
        if self._events:
            self._decided = True
            self.soon(0, self._decide)
        self._write()

    def _write(self) -> None:
        while not self._writing and not self._over and (work := self._writer.next()) is not None:
            if isinstance(work, Released):
                self._let_go(work)
            else:
                self._writing = True
                self._transact(work)

    def _transact(self, transaction: Transaction) -> None:
        def answered(result: TransactionResult | None, error: StoreError | None) -> None:
            if self._over:
                return
            self._writing = False
            if isinstance(error, StoreRefused):
                self._let_go(self._writer.refused(str(error)))
                return
            if result is None or not result.applied:
                fenced = OutcomeUnknown("another server leads")
                self._life.give_up(str(error or fenced))
                return
            released = self._writer.applied(result.revision)
            if released is not None:
                self._let_go(released)
            self._write()

        self._life.ask_store(
            lambda store: store.transact(transaction.writes, transaction.compares), answered, writes=True
        )

    def _let_go(self, released: Released) -> None:
        for effect in released.effects:
            self._carry_out(effect)
        for submission, failure in released.told:
            submission.tell(failure)

    def _carry_out(self, effect: Effect) -> None:
        if not self._life.leads():
            self._life.give_up(TOO_LATE)
            return
        match effect:
            case ToNode() | Assign():
                link = self._sessions.to_node(effect.node, effect.session)
                if link is not None:
                    link.send(assignments(effect) if isinstance(effect, Assign) else effect.message)
            case Notify():
                if effect.framework in self._frameworks:
                    self._frameworks[effect.framework].notify(effect)
            case Unplaced():
                for hosted in self._frameworks.values():
                    hosted.unplaced(effect)
            case Forgotten():
                if not self.hears(effect.node):
                    self._liveness.forget(effect.node)
                    self._facts.forget(effect.node)
            case TickAt():
                self.at(effect.utc_ms - self._server.now().utc_ms, self._tick)
            case Answer() if isinstance(effect.value, Refused):
                link = self._sessions.link(effect.token)
                if link is not None:
                    link.send(effect.value)
            case Logged() | Answer():
                pass

    def _tick(self) -> None:
        self.submit(Tick(), lambda failure: self.soon(TICK_AGAIN_MS, self._tick) if failure else None)

    def _watch_clock(self) -> None:
        if self._clock_watch.moved_ms(self._own_clocks()):
            self._tick()
            for hosted in self._frameworks.values():
                hosted.wait_anew()
        self.soon(clock_watch.LOOK_MS, self._watch_clock)

    def _own_clocks(self) -> Now:
        """As a process sees them that lived through what was leapt over."""
        now = self._server.now()
        return Now(utc_ms=now.utc_ms, monotonic_ms=now.monotonic_ms + self._world.leapt_ms)

    # Agents

    def serve(self, link: End) -> None:
        """A new session."""
        session = f"{self._life.id}/{self._world.number()}"
        self._sessions.begin(session, link)

        arrived: deque[Callable[[], None]] = deque()  # in order, whatever happens to the process meanwhile

        def later(call: Callable[[], None]) -> None:
            arrived.append(call)
            self.soon(0, lambda: arrived.popleft()())

        link.received = lambda message: later(lambda: self._received(session, link, message))
        link.closed = lambda _: later(lambda: self._closed(session))
        link.answers = lambda: not self._server.stands

    def _closed(self, session: str) -> None:
        if current := self._sessions.node_of(session):
            self._liveness.closed(current)
        self._sessions.end(session)

    def _received(self, session: str, link: End, message: Any) -> None:
        if isinstance(message, Hello):
            older = self._sessions.hello(session, message.node.id)
            if older is not None:
                older.close(SUPERSEDED)
        node = self._sessions.node_of(session)
        if not node:
            return
        self._heard_ms[node] = self._world.now_ms
        if isinstance(message, Goodbye):
            self._liveness.goodbye(node, self._world.now_ms)
            self.submit(NodeLeaves(node=node))
            return
        self._liveness.heard(node, self._world.now_ms)
        match message:
            case Hello():
                facts = self._facts.begin(node, message.facts)
                self.submit(
                    AgentHello(session=session, hello=message, facts=facts),
                    lambda failure: link.close(str(failure)) if failure is not None else None,
                )
            case Statuses():
                self.submit(AgentStatuses(session=session, node=node, statuses=message.items))
            case Facts():
                if (event := self._facts.told(node, message.change)) is not None:
                    self._tell_facts(event)
            case Heartbeat():
                pass

    def _tell_facts(self, event: NodeFactsChanged) -> None:
        self.submit(event, lambda failure: self._facts.refused(event.node) if failure is not None else None)

    def _watch_liveness(self) -> None:
        state = self.pipeline.committed
        for event in self._liveness.tick(self._world.now_ms, lambda node: times_of_loss(state, node)):
            silent_ms = self._world.now_ms - self._heard_ms.get(event.node, self._began_ms)
            self._server.observer.blamed(event, silent_ms)
            self._end_session(event)
            self.submit(event, self._telling_again(event))
        for facts in self._facts.again():
            self._tell_facts(facts)
        self.soon(LIVENESS_MS, self._watch_liveness)

    def _end_session(self, event: NodeSilent) -> None:
        link = self._sessions.give_up(event.node)
        if link is not None:
            link.close(f"nothing was heard for {event.silent_ms / 1000:g} s")

    def _telling_again(self, event: NodeSilent) -> Callable[[Failure | None], None]:
        return lambda failure: self._liveness.refused(event) if failure is not None else None

    # Clients

    def command(self, framework: str, value: Any, reply: Reply) -> None:
        """As a route gives it; the answer comes after the commit."""
        self._frameworks[framework].command(value, reply)


class _Hosted:
    """A framework on the leader: what `FrameworkHost` does, without its thread."""

    def __init__(self, leading: Leading, framework: Framework) -> None:
        self._leading = leading
        self._runner = FrameworkRunner(framework, leading.kernel.explain)
        self._changed = EVERYTHING
        self._commands: list[tuple[Command, Reply]] = []
        self._busy = False
        self._planned = False
        self._wakeups: dict[str, int] = {}
        self._unplaced: dict[str, NotPlaced] = {}

    @property
    def idle(self) -> bool:
        return not (self._busy or self._planned or self._commands) and self._changed == Changed()

    def stop(self, reason: str) -> None:
        for _, reply in self._commands:
            reply(None, NotAvailable(f"nothing was changed: {reason}"))
        self._commands.clear()

    def notify(self, effect: Notify) -> None:
        self._changed = attrs.evolve(
            self._changed,
            keys=self._changed.keys | effect.keys,
            nodes=self._changed.nodes or effect.nodes,
            rejected={**self._changed.rejected, **effect.rejected},
        )
        self.wake()

    def unplaced(self, effect: Unplaced) -> None:
        """Of one of the commands that run, which is answered so when its actions are durable."""
        self._unplaced[effect.cause] = NotPlaced(effect.key, effect.explanation)

    def command(self, value: Any, reply: Reply) -> None:
        self._commands.append((Command(token=str(self._leading._world.number()), value=value), reply))
        self.wake()

    def wake(self, delay_ms: int = 0) -> None:
        if not self._busy and not self._planned:
            self._planned = True
            chance = self._leading._world.source(f"framework/{self._runner.framework.name}")
            self._leading.soon(delay_ms + chance.choice((0, 1, 5)), self._run)

    def _run(self) -> None:
        self._planned = False
        world = self._leading._world
        changed, self._changed = self._changed, Changed()
        commands, self._commands = self._commands, []
        state, now = self._leading.pipeline.committed, self._leading.now()
        result = self._runner.run(state, changed, [one for one, _ in commands], now, f"run-{world.number()}")
        for error in result.failures.values():
            raise error
        for token, utc_ms in result.wakeups.items():
            self._set_wakeup(token, utc_ms)
        if result.actions is None:
            self._answer(commands, result.refusals, {}, None)
            return
        self._busy = True

        def done(failure: Failure | None) -> None:
            self._busy = False
            self._answer(commands, result.refusals, result.actions.replies if result.actions else {}, failure)
            if failure is not None:
                self._changed = EVERYTHING
                self.wake(FRAMEWORK_RETRY_MS)
            elif self._changed != Changed() or self._commands:
                self.wake()

        self._leading.submit(result.actions, done)

    def _answer(
        self,
        commands: list[tuple[Command, Reply]],
        refusals: Mapping[str, Exception],
        replies: Mapping[str, Any],
        failure: Failure | None,
    ) -> None:
        for command, reply in commands:
            if command.token in refusals:
                reply(None, refusals[command.token])
            elif failure is not None:
                reply(None, NotAvailable(str(failure)))
            elif command.token in self._unplaced:
                reply(None, self._unplaced[command.token])
            else:
                reply(replies.get(command.token), None)
        self._unplaced.clear()

    def _set_wakeup(self, token: str, utc_ms: int | None) -> None:
        if utc_ms is None:
            self._wakeups.pop(token, None)
            return
        self._wakeups[token] = utc_ms
        self._wait_for(token, utc_ms)

    def wait_anew(self) -> None:
        """The clock was set: what was waited for comes sooner now, or later, which a further look tells."""
        for token, utc_ms in self._wakeups.items():
            self._wait_for(token, utc_ms)

    def _wait_for(self, token: str, utc_ms: int) -> None:
        """As the timer service does: for as long as the clock says now."""

        def wanted() -> bool:
            return self._wakeups.get(token) == utc_ms

        def due() -> None:
            if wanted():
                del self._wakeups[token]
                self._changed = attrs.evolve(self._changed, wakeups=self._changed.wakeups | {token})
                self.wake()

        self._leading.at(max(0, utc_ms - self._leading.now().utc_ms), due, wanted)
