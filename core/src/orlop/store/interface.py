"""The interface of every store: a versioned map of text keys to bytes, in the manner of etcd.

Each successful transaction that writes gets the next *revision*. Reads may go back to any revision that was not
compacted. Writes are compare-and-set transactions, never retried blindly by anybody: a write whose outcome is not
known raises `OutcomeUnknown`, and the caller must read to find out.

All methods are synchronous; the server calls them on a thread of their own.
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
    """True when the key's field equals `expected` (bytes for VALUE, a number otherwise)."""

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
    """Of one transaction: number of operations (compares and writes each), bytes of keys and values together."""

    operations: int
    bytes: int


class Watch(Protocol):
    """A stream of changes of one prefix, in the order of revisions, those of one revision together."""

    def next(self, timeout_s: float) -> tuple[Change, ...]:
        """All changes of the next revision that has any; empty after `timeout_s`. Raises Compacted, StoreError."""

    def close(self) -> None:
        """Ends it; a waiting `next` returns empty."""


class Lease(Protocol):
    """Keys put with this lease vanish when it ends."""

    @property
    def id(self) -> int: ...

    def keep_alive(self) -> bool:
        """Extends it by its full time. False: it has already ended, and so have its keys."""

    def revoke(self) -> None:
        """Ends it now."""


class Store(Protocol):
    """See the module."""

    limits: Limits

    def get(self, key: str, *, revision: int | None = None) -> Entry | None:
        """The key now, or at a past revision. Raises Compacted, FutureRevision, StoreError."""

    def range(
        self, prefix: str, *, revision: int | None = None, after: str | None = None, limit: int | None = None
    ) -> RangeResult:
        """Keys that begin with `prefix`, ascending (by code point), from beyond `after` on, at most `limit`.

        Pages of one listing: pass the first page's revision to the following ones.
        Raises Compacted, FutureRevision, StoreError.
        """

    def transact(self, writes: Sequence[Put | Delete], compares: Sequence[Compare] = ()) -> TransactionResult:
        """All writes in one revision if all compares hold, else nothing.

        A key may be written once per transaction (ValueError otherwise). Without writes the revision stays; deletes
        of missing keys alone do not raise it either. Raises StoreRefused (over the limits, no space, an unknown
        lease), OutcomeUnknown.
        """

    def watch(self, prefix: str, *, after_revision: int) -> Watch:
        """Changes of keys that begin with `prefix` in revisions beyond `after_revision`."""

    def lease(self, ttl_s: int) -> Lease:
        """A new lease of `ttl_s` seconds (at least 1)."""

    def compact(self, revision: int) -> None:
        """Forgets what only revisions before this one could see. Raises Compacted, FutureRevision."""

    def close(self) -> None:
        """Releases everything; open watches end."""
