"""A simulated server: the real election and mirror's copy; `leading` has its terms as the leader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from orlop.framework import Framework
from orlop.kernel.events import Event, NodeSilent
from orlop.kernel.state import State
from orlop.model.clock import Now
from orlop.model.documents import to_bytes
from orlop.server import election as votes
from orlop.server.election import Election, ElectionSettings
from orlop.server.loading import LEADER_KEY, LeaderRecord, Term, begin_term, list_entries
from orlop.server.mirror import Documents
from orlop.store.interface import Compacted, Compare, Field, Lease, Put, StoreError, TransactionResult, Watch
from orlop.testing.simulation.leading import Leading, Reply
from orlop.testing.simulation.store import SimulatedStore
from orlop.testing.simulation.world import World

__all__ = ["Frameworks", "Leading", "Life", "Reply", "SimulatedServer"]

LEASE_S: Final = 3
WATCH_MS: Final = 60
LIST_AGAIN_MS: Final = 500

Frameworks = Mapping[str, Callable[[], Framework]]


class Observer(Protocol):
    """Who sees what servers decide."""

    def decided(self, before: State, after: State, events: Sequence[Event]) -> None: ...

    def blamed(self, event: NodeSilent, silent_ms: int) -> None: ...


class SimulatedServer:
    """A process that may be killed, started, or held up. `life` is None while it is dead; stands: it is held up now."""

    def __init__(
        self,
        world: World,
        name: str,
        store: SimulatedStore,
        frameworks: Frameworks,
        observer: Observer,
    ) -> None:
        self.world = world
        self.name = name
        self.store = store
        self.frameworks = frameworks
        self.observer = observer
        self.life: Life | None = None
        self.stands = False
        self._held_until_ms = 0
        self._held: list[Callable[[], None]] = []
        self._clock_stopped_ms: int | None = None
        self.behind_ms = 0
        self.skew_ms = 0

    def start(self) -> None:
        if self.life is None:
            self.behind_ms = 0
            self._clock_stopped_ms = None
            self.world.note(self.name, "starts")
            self.life = Life(self)

    def kill(self) -> None:
        if self.life is not None:
            self.world.note(self.name, "is killed")
            self.world.strike("a server is killed")
            life, self.life = self.life, None
            life.dead = True
            life.sessions_end("the server was killed")

    def hold(self, until_ms: int, *, clock_too: bool = False) -> None:
        """SIGSTOP: nothing of it happens until then; what was due happens late.

        clock_too: as a suspended virtual machine, which does not know that time has passed.
        """
        self.world.note(self.name, f"stands still until {until_ms / 1000:g}{', its clock too' if clock_too else ''}")
        self.world.strike("a server's clock stands still" if clock_too else "a server stands still")
        if clock_too and self._clock_stopped_ms is None:
            self._clock_stopped_ms = self.world.now_ms
        self.stands = True
        self._held_until_ms = max(self._held_until_ms, until_ms)
        self.world.after(self._held_until_ms - self.world.now_ms, self._go_on)

    def release(self) -> None:
        """SIGCONT."""
        self._held_until_ms = self.world.now_ms
        self._go_on()

    def _go_on(self) -> None:
        if not self.stands or self._held_until_ms > self.world.now_ms:
            return
        self.stands = False
        if self._clock_stopped_ms is not None:
            self.behind_ms += self.world.now_ms - self._clock_stopped_ms
            self._clock_stopped_ms = None
        held, self._held = self._held, []
        for call in held:
            self.world.after(0, call)

    def when_it_moves(self, call: Callable[[], None]) -> None:
        """Now, or as soon as it does not stand still any more."""
        if self.stands:
            self._held.append(lambda: self.when_it_moves(call))
        else:
            call()

    def monotonic_ms(self) -> int:
        """Its own clock."""
        return self.world.now_ms - self.behind_ms

    def now(self) -> Now:
        """What its clocks show; the monotonic one of others."""
        return self.world.now(self.skew_ms)

    def leads(self) -> bool:
        """Does it believe, now, that it leads? One that stands still believes nothing."""
        return self.life is not None and not self.stands and self.life.leads()


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
        self._lists = 0
        self._wanted_revision = 0
        self.leading: Leading | None = None
        self.soon(0, self._tick)
        self.soon(0, self._list)

    def soon(self, delay_ms: int, call: Callable[[], None]) -> None:
        """In this life only, and not while the process stands still."""
        self._world.after(delay_ms, lambda: self._guarded(call))

    def at(self, delay_ms: int, call: Callable[[], None], wanted: Callable[[], bool]) -> None:
        """As `soon`, by the clocks of the day (see `world`). wanted: is it still?"""
        self._world.at(
            self._world.elapsed_ms + delay_ms, lambda: self._guarded(call), lambda: not self.dead and wanted()
        )

    def _guarded(self, call: Callable[[], None]) -> None:
        self._server.when_it_moves(lambda: None if self.dead else call())

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
        """Begins the copy anew; what comes of an earlier beginning does not count any more."""
        self._watch = None
        number = self._lists = self._lists + 1

        def listed(found: Any, error: StoreError | None) -> None:
            if self.leading is not None or self._lists != number:
                return
            if error is not None:
                self._vote(votes.Eligible(reason=str(error)))
                self.soon(LIST_AGAIN_MS, lambda: self._list() if self._lists == number else None)
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
            self._world.strike("a watch is compacted")
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
        utc_ms = self._server.now().utc_ms
        self._watch = None
        self._lists += 1

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
