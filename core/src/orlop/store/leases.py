"""Leases of the stores that live within one process.

Theory of operation: no thread waits for leases to end. A `LeaseTable` only knows who is due; each store ends the due
ones (deletes their keys, one revision for each lease) at the beginning of every operation, and a waiting watch wakes
up for the next deadline. So a lease may end late, when nobody looks, but nobody ever sees a key of a lease whose time
is over, except while the store cannot write: then the lease is over when its keys are gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import attrs


@attrs.define
class _Term:
    ttl_s: int
    deadline: float


class LeaseTable:
    """Which leases there are, and until when. Safe to use from any thread.

    clock: monotonic seconds. new_id: yields ids that were never used, none of them 0.
    """

    def __init__(self, clock: Callable[[], float], new_id: Callable[[], int]) -> None:
        self._clock = clock
        self._new_id = new_id
        self._lock = threading.Lock()
        self._terms: dict[int, _Term] = {}

    def grant(self, ttl_s: int) -> int:
        """The id of a new lease."""
        with self._lock:
            lease = self._new_id()
            assert lease not in self._terms, "the source of ids repeated itself"
            self._terms[lease] = _Term(ttl_s, self._clock() + ttl_s)
            return lease

    def __contains__(self, lease: object) -> bool:
        with self._lock:
            return lease in self._terms

    def due(self) -> list[int]:
        """Those whose time is over, the earliest first; of the same moment, the one granted first."""
        if not self._terms:
            return []
        with self._lock:
            now = self._clock()
            over = [(term.deadline, lease) for lease, term in self._terms.items() if term.deadline <= now]
        return [lease for _, lease in sorted(over, key=lambda item: item[0])]

    def extend(self, lease: int) -> bool:
        """Gives it its full time from now on. False: there is no such lease."""
        with self._lock:
            term = self._terms.get(lease)
            if term is None:
                return False
            term.deadline = self._clock() + term.ttl_s
            return True

    def drop(self, lease: int) -> None:
        """Forgets it; its keys are gone."""
        with self._lock:
            self._terms.pop(lease, None)

    def until_next_s(self) -> float | None:
        """Seconds until the next one is due, negative if it was already; None without leases."""
        with self._lock:
            if not self._terms:
                return None
            return min(term.deadline for term in self._terms.values()) - self._clock()


class LeaseKeeper(Protocol):
    """The part of a store that its leases talk to."""

    def keep_lease_alive(self, lease: int) -> bool: ...

    def revoke_lease(self, lease: int) -> None: ...


@attrs.frozen
class HeldLease:
    """See `interface.Lease`."""

    id: int
    _keeper: LeaseKeeper = attrs.field(repr=False)

    def keep_alive(self) -> bool:
        """Extends it by its full time. False: it has already ended. Raises StoreError."""
        return self._keeper.keep_lease_alive(self.id)

    def revoke(self) -> None:
        """Ends it now; one that has ended stays so. Raises StoreRefused, OutcomeUnknown."""
        self._keeper.revoke_lease(self.id)
