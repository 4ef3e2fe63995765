"""The simulated store as a `Store` like any other: virtual time passes until the answer to a call is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs

from orlop.store.interface import (
    Compare,
    Delete,
    Entry,
    Lease,
    Limits,
    Put,
    RangeResult,
    Room,
    TransactionResult,
    Watch,
)
from orlop.testing.simulation.store import ObservedStore, SimulatedStore
from orlop.testing.simulation.world import World

T = TypeVar("T")

CLIENT = "client"


@attrs.frozen
class ClientLease:
    """A lease whose holder is elsewhere."""

    store: SimulatedClient
    held: Lease

    @property
    def id(self) -> int:
        return self.held.id

    def keep_alive(self) -> bool:
        return self.store.ask(lambda _: self.held.keep_alive())

    def revoke(self) -> None:
        self.store.ask(lambda _: self.held.revoke(), writes=True)


class SimulatedClient:
    """See the module. From any thread, one call at a time; watches are looked at where the store is."""

    exclusive = False

    def __init__(self, seed: int, limits: Limits) -> None:
        self.limits = limits
        self.world = World(seed)
        self.simulated = SimulatedStore(self.world, limits)
        self._lock = threading.Lock()

    def ask(self, what: Callable[[ObservedStore], T], *, writes: bool = False) -> T:
        answers: list[tuple[Any, Any]] = []

        def carried_out(backend: ObservedStore) -> Any:
            try:
                return what(backend), None
            except (TypeError, ValueError) as error:  # the caller's fault, which no store passes on as its own
                return None, error

        with self._lock:
            self.simulated.call(CLIENT, carried_out, lambda *answer: answers.append(answer), writes=writes)
            while not answers:
                self.world.run(self.world.now_ms + 1, lambda: None)
        found, failure = answers[0]
        if failure is not None:
            raise failure
        value, fault = found
        if fault is not None:
            raise fault
        return value

    def pass_time(self, seconds: float) -> None:
        with self._lock:
            self.world.run(self.world.now_ms + round(seconds * 1000), lambda: None)

    def get(self, key: str, **where: Any) -> Entry | None:
        return self.ask(lambda backend: backend.get(key, **where))

    def range(self, prefix: str, **where: Any) -> RangeResult:
        return self.ask(lambda backend: backend.range(prefix, **where))

    def transact(self, writes: Sequence[Put | Delete], compares: Sequence[Compare] = ()) -> TransactionResult:
        return self.ask(lambda backend: backend.transact(writes, compares), writes=True)

    def watch(self, prefix: str, *, after_revision: int) -> Watch:
        return self.simulated.backend.watch(prefix, after_revision=after_revision)

    def lease(self, ttl_s: int) -> Lease:
        return ClientLease(self, self.ask(lambda backend: backend.lease(ttl_s), writes=True))

    def compact(self, revision: int) -> None:
        self.ask(lambda backend: backend.compact(revision), writes=True)

    def room(self) -> Room | None:
        self.ask(lambda backend: backend.room())
        return None

    def make_room(self) -> None:
        self.ask(lambda backend: backend.make_room(), writes=True)

    def close(self) -> None:
        self.simulated.backend.close()
