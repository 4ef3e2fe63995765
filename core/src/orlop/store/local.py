"""What the stores within one process share: the ways in for watches and leases.

Each has locks and troubles of its own; it says how a caller gets in (`_opened`, `_writing`), how a lease's keys are
deleted (`_end_lease`), and what has changed (`_changes_after`, see `watches.Reader`).
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

from orlop.store import requests
from orlop.store.interface import Change, Compacted, Store
from orlop.store.leases import HeldLease, LeaseTable
from orlop.store.watches import CursorWatch, WatchHub


class LocalStore(abc.ABC):
    """clock: monotonic seconds, for leases. new_lease_id: see `LeaseTable`."""

    def __init__(self, clock: Callable[[], float], new_lease_id: Callable[[], int]) -> None:
        self._leases = LeaseTable(clock, new_lease_id)
        self._hub = WatchHub(self._changes_after, self._leases.until_next_s)

    def watch(self, prefix: str, *, after_revision: int) -> CursorWatch:
        """See `interface.Store.watch`."""
        requests.check_watch(prefix, after_revision)
        with self._opened():
            return self._hub.watch(prefix, after_revision)

    def lease(self, ttl_s: int) -> HeldLease:
        """See `interface.Store.lease`."""
        requests.check_ttl(ttl_s)
        with self._opened():
            return HeldLease(self._leases.grant(ttl_s), self)

    def keep_lease_alive(self, lease: int) -> bool:
        """For the lease itself."""
        with self._writing():
            return self._leases.extend(lease)

    def revoke_lease(self, lease: int) -> None:
        """For the lease itself."""
        with self._writing():
            if lease in self._leases:
                self._end_lease(lease)

    def room(self) -> None:
        """See `interface.Store.room`: it grows for as long as there is room elsewhere."""
        return

    def make_room(self) -> None:
        """See `interface.Store.make_room`."""
        own = cast(Store, self)
        with contextlib.suppress(Compacted):  # there is no history
            own.compact(own.range("", limit=1).revision)

    @abc.abstractmethod
    def _opened(self) -> AbstractContextManager[object]:
        """Holds the store's lock. Raises StoreError when the store is closed."""

    @abc.abstractmethod
    def _writing(self) -> AbstractContextManager[object]:
        """Holds it, with leases that are overdue ended. Raises StoreError, StoreRefused."""

    @abc.abstractmethod
    def _end_lease(self, lease: int) -> None:
        """Deletes its keys, then drops it. Within `_writing`."""

    @abc.abstractmethod
    def _changes_after(self, prefix: str, after: int) -> tuple[tuple[Change, ...], int]:
        """See `watches.Reader`."""
