"""A simulated server: the real election, mirror's copy, pipeline, writer, kernel, frameworks and liveness."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from orlop.framework import EVERYTHING, Changed, Framework, NotAvailable
from orlop.kernel.assignments import assignments
from orlop.kernel.events import (
    AgentHello,
    AgentStatuses,
    Answer,
    Assign,
    Effect,
    Event,
    Logged,
    NodeLeaves,
    NodeSilent,
    Notify,
    Tick,
    TickAt,
    ToNode,
)
from orlop.kernel.kernel import Kernel, KernelSettings
from orlop.kernel.state import State
from orlop.model.documents import to_bytes
from orlop.model.messages import Goodbye, Heartbeat, Hello, Refused, Statuses
from orlop.server import election as votes
from orlop.server.election import Election, ElectionSettings
from orlop.server.framework_run import Command, FrameworkRunner
from orlop.server.liveness import Liveness, LivenessSettings
from orlop.server.loading import LEADER_KEY, LeaderRecord, Term, begin_term, list_entries
from orlop.server.mirror import Documents
from orlop.server.pipeline import Failure, Pipeline, Submission
from orlop.server.writing import Released, Transaction, Writer
from orlop.store.interface import (
    Compacted,
    Compare,
    Field,
    Lease,
    OutcomeUnknown,
    Put,
    StoreError,
    StoreRefused,
    TransactionResult,
    Watch,
)
from orlop.testing.simulation.network import End
from orlop.testing.simulation.store import SimulatedStore
from orlop.testing.simulation.world import World

LEASE_S: Final = 3
WATCH_MS: Final = 60
LIST_AGAIN_MS: Final = 500
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
Frameworks = Mapping[str, Callable[[], Framework]]


class SimulatedServer:
    """A process that may be killed, started, or held up. `life` is None while it is dead."""

    def __init__(
        self,
        world: World,
        name: str,
        store: SimulatedStore,
        frameworks: Frameworks,
        observe: Callable[[State, State], None],
    ) -> None:
        self.world = world
        self.name = name
        self.store = store
        self.frameworks = frameworks
        self.observe = observe
        self.life: Life | None = None
        self.held_until_ms = 0
        self.behind_ms = 0

    def start(self) -> None:
        if self.life is None:
            self.behind_ms = 0
            self.world.note(self.name, "starts")
            self.life = Life(self)

    def kill(self) -> None:
        if self.life is not None:
            self.world.note(self.name, "is killed")
            life, self.life = self.life, None
            life.dead = True
            life.sessions_end("the server was killed")

    def hold(self, until_ms: int, *, clock_too: bool = False) -> None:
        """SIGSTOP: nothing of it happens until then; what was due happens late.

        clock_too: as a suspended virtual machine, which does not know that time has passed.
        """
        self.world.note(self.name, f"stands still until {until_ms / 1000:g}{', its clock too' if clock_too else ''}")
        if clock_too:
            self.behind_ms += max(0, until_ms - max(self.held_until_ms, self.world.now_ms))
        self.held_until_ms = max(self.held_until_ms, until_ms)

    def monotonic_ms(self) -> int:
        """Its own clock."""
        return self.world.now_ms - self.behind_ms

    def leads(self) -> bool:
        """Does it believe, now, that it leads? One that stands still believes nothing."""
        return self.life is not None and self.held_until_ms <= self.world.now_ms and self.life.leads()


class Life:
    """One process. Everything in it is lost with it."""

    def __init__(self, server: SimulatedServer) -> None:
        self._server = server
        self._world = server.world
        self._name = server.name
        self._store = server.store
        self.dead = False
        self.id = f"{server.name}.{self._world.number()}"
        self.classes = {name: type(make()) for name, make in server.frameworks.items()}
        self._settings = ElectionSettings.of_lease(LEASE_S)
        self._election = Election(self._settings)
        self._leases: dict[int, Lease] = {}
        self._documents = Documents()
        self._watch: Watch | None = None
        self._wanted_revision = 0
        self.leading: Leading | None = None
        self.soon(0, self._tick)
        self.soon(0, self._list)

    def soon(self, delay_ms: int, call: Callable[[], None]) -> None:
        """In this life only, and not while the process stands still."""

        def guarded() -> None:
            held_ms = self._server.held_until_ms - self._world.now_ms
            if self.dead:
                return
            if held_ms > 0:
                self._world.after(held_ms, guarded)
            else:
                call()

        self._world.after(delay_ms, guarded)

    def ask_store(
        self, what: Callable[[Any], Any], done: Callable[[Any, StoreError | None], None], *, writes: bool
    ) -> None:
        self._store.call(self._name, what, lambda value, error: self.soon(0, lambda: done(value, error)), writes=writes)

    def leads(self) -> bool:
        return self.leading is not None and self._election.leads(self._server.monotonic_ms())

    def sessions_end(self, reason: str) -> None:
        if self.leading is not None:
            self.leading.end_sessions(reason)

    # The election

    def _tick(self) -> None:
        self._vote(votes.Tick())
        self.soon(self._election.next_tick_ms, self._tick)

    def _vote(self, event: votes.Event) -> None:
        for effect in self._election.handle(event, self._server.monotonic_ms()):
            match effect:
                case votes.Campaign():
                    self._campaign()
                case votes.Renew():
                    self._renew(effect.lease)
                case votes.Revoke():
                    lease = self._leases.pop(effect.lease, None)
                    if lease is not None:
                        self.ask_store(_revoking(lease), lambda *_: None, writes=True)
                case votes.BeginTerm():
                    self._wanted_revision = effect.revision
                case votes.EndTerm():
                    self._end_term(effect.reason)

    def _campaign(self) -> None:
        asked_ms = self._server.monotonic_ms()
        record = LeaderRecord(server=self.id, url=self._name, since_utc_ms=0)

        def ended(won: int, lease: int, error: StoreError | None) -> None:
            self._vote(votes.CampaignEnded(won=won, lease=lease, asked_ms=asked_ms, error=str(error) if error else ""))

        def granted(lease: Lease | None, error: StoreError | None) -> None:
            if lease is None:
                ended(0, 0, error)
                return
            self._leases[lease.id] = lease
            write = [Put(LEADER_KEY, to_bytes(record), lease.id)]
            absent = [Compare(LEADER_KEY, Field.CREATE_REVISION, 0)]

            def written(result: TransactionResult | None, failure: StoreError | None) -> None:
                won = result.revision if result is not None and result.applied else 0
                ended(won, lease.id, failure)

            self.ask_store(lambda store: store.transact(write, absent), written, writes=True)

        self.ask_store(lambda store: store.lease(LEASE_S), granted, writes=True)

    def _renew(self, lease: int) -> None:
        asked_ms = self._server.monotonic_ms()
        held = self._leases[lease]

        def renewed(kept: bool | None, error: StoreError | None) -> None:
            text = str(error) if error is not None else ""
            self._vote(votes.RenewalEnded(lease=lease, asked_ms=asked_ms, kept=bool(kept), error=text))

        self.ask_store(lambda _: held.keep_alive(), renewed, writes=False)

    def give_up(self, reason: str) -> None:
        self._vote(votes.GiveUp(reason))

    def _end_term(self, reason: str) -> None:
        self._world.note(self._name, f"leads no more: {reason}")
        self._wanted_revision = 0
        leading, self.leading = self.leading, None
        if leading is not None:
            leading.abandon(reason)
        self._list()

    # The mirror

    def _list(self) -> None:
        def listed(found: Any, error: StoreError | None) -> None:
            if self.leading is not None:
                return
            if error is not None:
                self._vote(votes.Eligible(reason=str(error)))
                self.soon(LIST_AGAIN_MS, self._list)
                return
            self._documents.reset(*found)
            watch = self._watch = self._store.watch(self._documents.revision)
            self._vote(votes.Eligible())
            self._tell_leader()
            self.soon(WATCH_MS, lambda: self._look(watch))

        self.ask_store(list_entries, listed, writes=False)

    def _look(self, watch: Watch) -> None:
        if watch is not self._watch or self.leading is not None:
            return
        if not self._store.reachable(self._name):
            self.soon(LIST_AGAIN_MS, lambda: self._look(watch))
            return
        before = self._documents.leader_revision
        try:
            while changes := watch.next(0):
                self._documents.apply(changes)
        except Compacted:
            self._list()
            return
        if self._documents.leader_revision != before:
            self._tell_leader()
        if self._wanted_revision and self._documents.revision >= self._wanted_revision:
            self._begin(self._wanted_revision)
        else:
            self.soon(WATCH_MS, lambda: self._look(watch))

    def _tell_leader(self) -> None:
        self._vote(votes.LeaderSeen(self._documents.leader_revision, self._documents.revision))

    def _begin(self, revision: int) -> None:
        entries = dict(self._documents.entries)
        utc_ms = self._world.now().utc_ms
        self._watch = None

        def begun(term: Term | None, error: StoreError | None) -> None:
            if self._wanted_revision != revision:
                return
            if term is None:
                self.give_up(f"the term could not begin: {error}")
                return
            self._world.note(self._name, f"leads from version {term.state.version}")
            self.leading = Leading(self, self._server, term)

        self.ask_store(
            lambda store: begin_term(
                store, entries, self.classes, revision, new_cluster_id=f"cluster{self._world.seed}", utc_ms=utc_ms
            ),
            begun,
            writes=True,
        )


def _revoking(lease: Lease) -> Callable[[Any], None]:
    return lambda _: lease.revoke()


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
        self._sessions: dict[str, tuple[str, End]] = {}
        self._links: dict[str, End] = {}
        self._frameworks = {name: _Hosted(self, make()) for name, make in server.frameworks.items()}
        self._watch_liveness()
        self.submit(Tick())
        for hosted in self._frameworks.values():
            hosted.wake()

    def soon(self, delay_ms: int, call: Callable[[], None]) -> None:
        """In this term only."""
        self._life.soon(delay_ms, lambda: None if self._over else call())

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
        for link in list(self._links.values()):
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
        self.pipeline.decide(events, self._world.now())
        self._server.observe(before, self.pipeline.head)
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
        match effect:
            case ToNode() | Assign():
                session, link = self._sessions.get(effect.node, ("", None))
                if link is not None and effect.session in ("", session):
                    link.send(assignments(effect) if isinstance(effect, Assign) else effect.message)
            case Notify():
                if effect.framework in self._frameworks:
                    self._frameworks[effect.framework].notify(effect)
            case TickAt():
                self.soon(effect.utc_ms - self._world.now().utc_ms, self._tick)
            case Answer() if isinstance(effect.value, Refused):
                link = self._links.get(effect.token)
                if link is not None:
                    link.send(effect.value)
            case Logged() | Answer():
                pass

    def _tick(self) -> None:
        self.submit(Tick(), lambda failure: self.soon(TICK_AGAIN_MS, self._tick) if failure else None)

    # Agents

    def serve(self, link: End) -> None:
        """A new session."""
        session = f"{self._life.id}/{self._world.number()}"
        self._links[session] = link
        node: list[str] = []

        def received(message: Any) -> None:
            if not self._over:
                self._life.soon(0, lambda: None if self._over else self._received(session, link, node, message))

        def closed(_: str) -> None:
            self._links.pop(session, None)
            for name in node:
                if self._sessions.get(name, ("",))[0] == session:
                    del self._sessions[name]
                    self._liveness.closed(name)

        link.received, link.closed = received, closed
        link.answers = lambda: self._server.held_until_ms <= self._world.now_ms

    def _received(self, session: str, link: End, node: list[str], message: Any) -> None:
        if isinstance(message, Hello):
            node[:] = [message.node.id]
            self._sessions[message.node.id] = (session, link)
        if not node:
            return
        if isinstance(message, Goodbye):
            self._liveness.goodbye(node[0], self._world.now_ms)
            self.submit(NodeLeaves(node=node[0]))
            return
        self._liveness.heard(node[0], self._world.now_ms)
        match message:
            case Hello():
                self.submit(
                    AgentHello(session=session, hello=message),
                    lambda failure: link.close(str(failure)) if failure is not None else None,
                )
            case Statuses():
                self.submit(AgentStatuses(session=session, node=node[0], statuses=message.items))
            case Heartbeat():
                pass

    def _watch_liveness(self) -> None:
        for event in self._liveness.tick(self._world.now_ms):
            self.submit(event, self._telling_again(event))
        self.soon(LIVENESS_MS, self._watch_liveness)

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
        state = self._leading.pipeline.committed
        result = self._runner.run(state, changed, [one for one, _ in commands], world.now(), f"run-{world.number()}")
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
            else:
                reply(replies.get(command.token), None)

    def _set_wakeup(self, token: str, utc_ms: int | None) -> None:
        if utc_ms is None:
            self._wakeups.pop(token, None)
            return
        self._wakeups[token] = utc_ms

        def due() -> None:
            if self._wakeups.get(token) == utc_ms:
                del self._wakeups[token]
                self._changed = attrs.evolve(self._changed, wakeups=self._changed.wakeups | {token})
                self.wake()

        self._leading.soon(max(0, utc_ms - self._leading._world.now().utc_ms), due)
