"""The interface of every store: a versioned map of text keys to bytes, in the manner of etcd.

Each successful transaction that writes gets the next *revision*. Reads may go back to any revision that was not
compacted. Writes are compare-and-set transactions, never retried blindly by anybody: a write whose outcome is not
known raises `OutcomeUnknown`, and the caller must read to find out.

Revisions begin at 1; in a store that was never written, that is the present one. Keys are text without lone surrogates
and zero characters, and not empty; they are ordered by code point. What breaks such rules is the caller's fault and
raises ValueError or TypeError; what the store cannot do raises `StoreError`, and so does any use of a closed store.

All methods are synchronous and may be called from any thread; the server calls them on a thread of their own.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import attrs


class StoreError(Exception):
    """The environment's fault; the text says what and, where possible, what to do."""


class StoreRefused(StoreError):
    """The transaction was definitely not applied (no space, too large, read-only). The store goes on."""


class OutcomeUnknown(StoreError):
    """The transaction may or may not have been applied."""


class Compacted(StoreError):
    """The revision asked for is gone. `oldest` is the first that can still be read."""

    def __init__(self, revision: int, oldest: int) -> None:
        super().__init__(f"revision {revision} is compacted; the oldest one left is {oldest}")
        self.revision = revision
        self.oldest = oldest


class FutureRevision(StoreError):
    """The revision asked for has not happened yet."""


@attrs.frozen
class Entry:
    """One key at one revision.

    create_revision: of the transaction that made the key since its last deletion. mod_revision: of the last write.
    version: number of writes since creation, from 1. lease: id, 0 for none.
    """

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


@attrs.frozen
class RangeResult:
    """entries: ascending by key. revision: at which all of them were read. more: the limit cut some off."""

    entries: tuple[Entry, ...]
    revision: int
    more: bool = False


class Field(enum.StrEnum):
    """What a compare looks at. A missing key has 0 in each number, and no value."""

    VALUE = "value"
    CREATE_REVISION = "create_revision"
    MOD_REVISION = "mod_revision"
    VERSION = "version"


@attrs.frozen
class Compare:
    """True when the key's field equals `expected` (bytes for VALUE, a number otherwise; TypeError if not)."""

    key: str
    field: Field
    expected: int | bytes


@attrs.frozen
class Put:
    key: str
    value: bytes
    lease: int = 0


@attrs.frozen
class Delete:
    """Deletes one key; deleting a missing one is not an error."""

    key: str


@attrs.frozen
class TransactionResult:
    """applied: all compares held and the writes were made. revision: the store's after this transaction."""

    applied: bool
    revision: int


@attrs.frozen
class Change:
    """One write, as watched. `entry` is None for a deletion."""

    key: str
    entry: Entry | None
    revision: int


@attrs.frozen
class Limits:
    """Of one transaction.

    operations: so many compares, and so many writes. bytes: of all keys and values, those compared with included.
    """

    operations: int
    bytes: int


@attrs.frozen(kw_only=True)
class Disk:
    """Where an embedded store's file lies. free_bytes: for whoever runs this process. total_bytes: of all."""

    folder: str
    free_bytes: int
    total_bytes: int


@attrs.frozen
class Room:
    """How full a store is: what its files take, and what they may take before it refuses to write. In bytes."""

    used_bytes: int
    limit_bytes: int


class Watch(Protocol):
    """A stream of changes of one prefix, in the order of revisions, those of one revision together as written."""

    def next(self, timeout_s: float) -> tuple[Change, ...]:
        """All changes of the next revision that has any; empty after `timeout_s` seconds.

        In a store beyond this process a change may arrive a little later than the answer to who made it.

        Raises Compacted: changes that were not read yet are gone; list anew and watch from there. Raises StoreError,
        also when the watch was closed before the call. When the store has been out of reach for some time, that is
        raised in place of an empty answer; the watch goes on, and misses nothing.
        """

    def wake(self) -> None:
        """A `next` that waits, or else the following one, does not wait any longer."""

    def close(self) -> None:
        """Ends it; a waiting `next` returns empty."""


class Lease(Protocol):
    """Keys put with this lease vanish when it ends, all in one revision.

    A key belongs to the lease of its last put. A lease may end late (while the store cannot write, say), never early.
    It ends at the latest when the process that held it is gone and its time is over.
    """

    @property
    def id(self) -> int: ...

    def keep_alive(self) -> bool:
        """Extends it by its full time. False: it has already ended, and so have its keys. Raises StoreError."""

    def revoke(self) -> None:
        """Ends it now; one that has ended stays so. Raises StoreRefused, OutcomeUnknown."""


class Store(Protocol):
    """See the module.

    exclusive: no other process can have this store open at the same time.
    """

    limits: Limits
    exclusive: bool

    def get(self, key: str, *, revision: int | None = None, stale: bool = False) -> Entry | None:
        """The key now, or at a past revision. Raises Compacted, FutureRevision, StoreError.

        stale: the present of some moment ago will do. Then a store that has lost its quorum answers too.
        """

    def range(
        self,
        prefix: str,
        *,
        revision: int | None = None,
        after: str | None = None,
        limit: int | None = None,
        stale: bool = False,
    ) -> RangeResult:
        """Keys that begin with `prefix`, ascending (by code point), from beyond `after` on, at most `limit`.

        Pages of one listing: pass the first page's revision to the following ones. stale: as in `get`; the answer's
        revision tells how old it is.
        Raises Compacted, FutureRevision, StoreError.
        """

    def transact(self, writes: Sequence[Put | Delete], compares: Sequence[Compare] = ()) -> TransactionResult:
        """All writes in one revision if all compares hold, else nothing.

        A key may be written once per transaction (ValueError otherwise). Without writes the revision stays; deletes
        of missing keys alone do not raise it either. Raises StoreRefused (over the limits, no space, or a put with an
        unknown lease, which matters only if the compares hold), OutcomeUnknown.
        """

    def watch(self, prefix: str, *, after_revision: int) -> Watch:
        """Changes of keys that begin with `prefix` in revisions beyond `after_revision`, which may lie ahead.

        If `after_revision` is compacted, `next` raises Compacted; 0 means from the beginning.
        """

    def lease(self, ttl_s: int) -> Lease:
        """A new lease of `ttl_s` seconds (at least 1)."""

    def compact(self, revision: int) -> None:
        """Forgets what only revisions before this one could see; it becomes the oldest that can be read.

        A watch that has read all of its changes up to `revision` goes on unharmed. Raises Compacted (it already is the
        oldest, or is gone), FutureRevision, StoreRefused, OutcomeUnknown.
        """

    def room(self) -> Room | None:
        """How full it is; None when it has no bound of its own. Raises StoreError."""

    def make_room(self) -> None:
        """Gives back all that only history needs, and takes up writing again if that was stopped for lack of room.

        It may take seconds, in which others are served more slowly. Raises StoreError.
        """

    def close(self) -> None:
        """Releases everything; open watches end."""
