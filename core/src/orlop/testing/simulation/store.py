"""The store of a simulated cluster: a real one (memory) behind answers that are late, lost or refusals.

A client that has waited long enough gives up, and does not know what came of its request. The request may still arrive,
as one that a new leader of the store's own finds in its log: what is written then is written late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from orlop.store.interface import (
    Compare,
    Delete,
    Limits,
    OutcomeUnknown,
    Put,
    StoreError,
    StoreRefused,
    TransactionResult,
    Watch,
)
from orlop.store.leases import HeldLease
from orlop.store.memory import MemoryStore
from orlop.testing.simulation.world import World

T = TypeVar("T")

#: Small, so that redo records are common.
LIMITS: Final = Limits(operations=12, bytes=64_000)
TIMEOUT_MS: Final = 2_000

Done = Callable[[Any, StoreError | None], None]


class ObservedStore(MemoryStore):
    """Tells of each transaction that was applied."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        super().__init__(limits=limits, clock=clock)
        self.applied: Callable[[Sequence[Put | Delete]], None] = lambda _: None
        self._granted: set[int] = set()

    def lease(self, ttl_s: int) -> HeldLease:
        lease = super().lease(ttl_s)
        self._granted.add(lease.id)
        return lease

    def transact(self, writes: Sequence[Put | Delete], compares: Sequence[Compare] = ()) -> TransactionResult:
        result = super().transact(writes, compares)
        if result.applied:
            self.applied(writes)
        return result

    def extend_leases(self) -> None:
        """Gives each lease its full time from now on, as a new leader of etcd does, which knows of no deadlines."""
        self._granted = {lease for lease in sorted(self._granted) if self._leases.extend(lease)}


class SimulatedStore:
    """Clients are servers, by name. cut: those that cannot reach it. quorum: without it nobody is served.

    full: writes are refused. slow_ms: at most so much is added to the way there, and back. loses: how probable it is
    that a request, or its answer, is lost.
    """

    def __init__(self, world: World, limits: Limits = LIMITS) -> None:
        self._world = world
        self.backend = ObservedStore(limits, lambda: world.now_ms / 1000)
        self.cut: set[str] = set()
        self.heal()

    def heal(self) -> None:
        """All is well."""
        self.cut.clear()
        self.quorum, self.full = True, False
        self.slow_ms, self.loses = 0, 0.0
        self._elects_until_ms = 0

    def call(self, client: str, what: Callable[[ObservedStore], Any], done: Done, *, writes: bool) -> None:
        """Asks the store; `done(value, None)` or `done(None, error)` comes some time later."""
        world, chance = self._world, self._world.source(f"store/{client}")
        request_ms, answer_ms = self._delay(client), self._delay(client)
        lost_on_its_way, lost_on_the_way_back = chance.random() < self.loses, chance.random() < self.loses
        told: list[bool] = []

        def tell(value: Any, error: StoreError | None) -> None:
            if not told:
                told.append(True)
                done(value, error)

        def arrives() -> None:
            waits_ms = self._elects_until_ms - world.now_ms
            if waits_ms > 0 and chance.random() < 0.5:
                world.after(waits_ms, arrives)  # the next leader finds it in its log
            elif lost_on_its_way or not self.reachable(client):
                world.strike(self._why_lost(client))
            else:
                answers()

        def answers() -> None:
            value, error = self._do(what, writes)
            if told:
                world.strike("the store writes what was given up" if writes else "the store answers too late")
            elif lost_on_the_way_back or not self.reachable(client):
                world.strike("a write's outcome is unknown" if writes else "an answer of the store is lost")
            else:
                world.after(answer_ms, lambda: tell(value, error))

        world.after(request_ms, arrives)
        world.after(TIMEOUT_MS, lambda: tell(None, self._no_answer(writes)))

    def watch(self, after_revision: int) -> Watch:
        """To be looked at with `look`."""
        return self.backend.watch("", after_revision=after_revision)

    def reachable(self, client: str) -> bool:
        """Does the client get answers now?"""
        return self.quorum and client not in self.cut and self._world.now_ms >= self._elects_until_ms

    def compact(self) -> None:
        """Forgets all history."""
        revision = self.backend.range("").revision
        try:
            self.backend.compact(revision)
        except StoreError:
            return  # nothing has happened since the last time
        self._world.strike("the store is compacted")

    def change_leader(self, for_ms: int) -> None:
        """Its own members elect: nobody is served meanwhile, and all leases begin anew."""
        self._elects_until_ms = max(self._elects_until_ms, self._world.now_ms + for_ms)
        self._world.after(for_ms, self.backend.extend_leases)
        self._world.strike("the store changes its leader")

    def _why_lost(self, client: str) -> str:
        if not self.quorum:
            return "the store has no quorum"
        return "a server is cut off from the store" if client in self.cut else "a request of the store is lost"

    def _delay(self, client: str) -> int:
        chance = self._world.source(f"store/{client}")
        delay_ms = chance.choice((0, 1, 1, 2, 5))
        if self.slow_ms:
            self._world.strike("the store is slow")
            delay_ms += chance.randint(0, self.slow_ms)
        return delay_ms

    def _do(self, what: Callable[[ObservedStore], T], writes: bool) -> tuple[T | None, StoreError | None]:
        if writes and self.full:
            self._world.strike("the store is full")
            return None, StoreRefused("the store has no space")
        try:
            return what(self.backend), None
        except StoreError as error:
            return None, error

    @staticmethod
    def _no_answer(writes: bool) -> StoreError:
        return OutcomeUnknown("no answer in time") if writes else StoreError("no answer in time")
