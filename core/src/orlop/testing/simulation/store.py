"""The store of a simulated cluster: a real one (memory) behind answers that are late, lost or refusals."""

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
from orlop.store.memory import MemoryStore
from orlop.testing.simulation.world import World

T = TypeVar("T")

#: Small, so that redo records are common.
LIMITS: Final = Limits(operations=12, bytes=64_000)
TIMEOUT_MS: Final = 2_000

Done = Callable[[Any, StoreError | None], None]


class _Observed(MemoryStore):
    """Tells of each transaction that was applied."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        super().__init__(limits=limits, clock=clock)
        self.applied: Callable[[Sequence[Put | Delete]], None] = lambda _: None

    def transact(self, writes: Sequence[Put | Delete], compares: Sequence[Compare] = ()) -> TransactionResult:
        result = super().transact(writes, compares)
        if result.applied:
            self.applied(writes)
        return result


class SimulatedStore:
    """Clients are servers, by name. cut: those that cannot reach it. quorum: without it nobody is served."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.backend = _Observed(LIMITS, lambda: world.now_ms / 1000)
        self.cut: set[str] = set()
        self.quorum = True
        self.full = False
        self.slow_ms = 0
        self.loses = 0.0

    def call(self, client: str, what: Callable[[_Observed], Any], done: Done, *, writes: bool) -> None:
        """Asks the store; `done(value, None)` or `done(None, error)` comes some time later."""
        chance = self._world.source(f"store/{client}")
        request_ms, answer_ms = self._delay(client), self._delay(client)
        lost_on_its_way, lost_on_the_way_back = chance.random() < self.loses, chance.random() < self.loses

        def arrives() -> None:
            if lost_on_its_way or not self._reachable(client):
                self._world.after(TIMEOUT_MS, lambda: done(None, self._no_answer(writes)))
                return
            value, error = self._do(what, writes)
            if lost_on_the_way_back or not self._reachable(client):
                self._world.after(TIMEOUT_MS, lambda: done(None, self._no_answer(writes)))
            else:
                self._world.after(answer_ms, lambda: done(value, error))

        self._world.after(request_ms, arrives)

    def watch(self, after_revision: int) -> Watch:
        """To be looked at with `look`."""
        return self.backend.watch("", after_revision=after_revision)

    def reachable(self, client: str) -> bool:
        """Does the client get answers now?"""
        return self._reachable(client)

    def compact(self) -> None:
        """Forgets all history."""
        revision = self.backend.range("").revision
        try:
            self.backend.compact(revision)
        except StoreError:
            return  # nothing has happened since the last time

    def _reachable(self, client: str) -> bool:
        return self.quorum and client not in self.cut

    def _delay(self, client: str) -> int:
        chance = self._world.source(f"store/{client}")
        return chance.choice((0, 1, 1, 2, 5)) + (chance.randint(0, self.slow_ms) if self.slow_ms else 0)

    def _do(self, what: Callable[[_Observed], T], writes: bool) -> tuple[T | None, StoreError | None]:
        if writes and self.full:
            return None, StoreRefused("the store has no space")
        try:
            return what(self.backend), None
        except StoreError as error:
            return None, error

    @staticmethod
    def _no_answer(writes: bool) -> StoreError:
        return OutcomeUnknown("no answer in time") if writes else StoreError("no answer in time")
