"""The store of a cluster: etcd, from 3.4 on, shared by any number of servers.

Theory of operation: this module says in etcd's words what the interface asks for; `etcd_members` gets it answered,
`etcd_watches` follows changes. Revisions are etcd's own; they are shared with whatever else is in that etcd, so those
of one cluster may have gaps. Reads are linearizable: a member asks the others before it answers, unless the caller is
content with a stale answer. A listing is read in pages, all of one revision, so that no answer is very long.

A write is refused (StoreRefused) when it was surely not applied, of unknown outcome otherwise. While etcd has no leader
or no member can be reached, calls wait for `timeout_s` and then fail. A full etcd (the alarm NOSPACE) refuses whatever
needs space, new leases included; leases are kept alive, and deletions and compaction go on: see `etcd_maintenance`.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Sequence
from typing import Any, Final

from orlop.store import etcd_protocol as protocol
from orlop.store import requests
from orlop.store.etcd_address import EtcdAddress
from orlop.store.etcd_entries import KeySpace
from orlop.store.etcd_errors import (
    EtcdRefused,
    Unreachable,
    is_about_compaction,
    is_about_the_future,
    is_known_lease,
    is_unknown_lease,
)
from orlop.store.etcd_maintenance import EtcdMaintenance
from orlop.store.etcd_members import Members
from orlop.store.etcd_protocol import messages
from orlop.store.etcd_watches import EtcdWatch, oldest_revision
from orlop.store.interface import (
    Compacted,
    Compare,
    Delete,
    Entry,
    FutureRevision,
    Limits,
    OutcomeUnknown,
    Put,
    RangeResult,
    Room,
    StoreError,
    StoreRefused,
    TransactionResult,
)
from orlop.store.leases import HeldLease

log = logging.getLogger(__name__)

#: etcd's own defaults: 128 operations, 1.5 MiB. The second counts prefixes and numbers too: 256 of up to 256 bytes.
LIMITS: Final = Limits(operations=128, bytes=1_572_864 - 256 * 256)
#: Of a listing that are asked for at once.
PAGE_KEYS: Final = 5_000
#: How often a listing of the present begins anew, when its revision was compacted between two pages.
LISTINGS_MAX: Final = 3
FIRST_IS_OLDEST_AFTER_S: Final = 0.5


class EtcdStore:
    """See `interface.Store`. It connects when it is first used. members, maintenance: for operators and tests."""

    def __init__(self, address: EtcdAddress, *, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.exclusive = False
        self._quota_bytes = address.access.quota_bytes
        self.members = Members(address)
        self.maintenance = EtcdMaintenance(self.members)
        self._keys = KeySpace(address.prefix.encode())
        self._lock = threading.Lock()
        self._watches: set[EtcdWatch] = set()
        self._compacted_to = 0

    def get(self, key: str, *, revision: int | None = None, stale: bool = False) -> Entry | None:
        """See `interface.Store.get`."""
        requests.check_key(key)
        requests.check_revision(revision)
        answer = self._read(messages.RangeRequest(key=self._keys.key(key), revision=revision or 0, serializable=stale))
        return self._entry(answer.kvs[0]) if answer.kvs else None

    def range(
        self,
        prefix: str,
        *,
        revision: int | None = None,
        after: str | None = None,
        limit: int | None = None,
        stale: bool = False,
    ) -> RangeResult:
        """See `interface.Store.range`."""
        requests.check_range(prefix, after, limit)
        requests.check_revision(revision)
        for _ in range(LISTINGS_MAX - 1):
            try:
                return self._list(prefix, revision, after, limit, stale)
            except Compacted:
                if revision is not None:
                    raise
        return self._list(prefix, revision, after, limit, stale)

    def transact(self, writes: Sequence[Put | Delete], compares: Sequence[Compare] = ()) -> TransactionResult:
        """See `interface.Store.transact`."""
        requests.check_transaction(writes, compares, self.limits)
        request = messages.TxnRequest(
            compare=[self._keys.compare(compare) for compare in compares],
            success=[self._keys.operation(write) for write in writes],
        )
        if not writes:
            # Without any operation a member answers from what it knows, without asking the others.
            request.success.add().request_range.MergeFrom(self._look())
        answer = self._write(protocol.TXN if writes else protocol.COMPARE, request)
        return TransactionResult(answer.succeeded, answer.header.revision)

    def watch(self, prefix: str, *, after_revision: int) -> EtcdWatch:
        """See `interface.Store.watch`."""
        requests.check_watch(prefix, after_revision)
        self.members.require_open()
        watch = EtcdWatch(
            self.members, self._keys, prefix, after_revision, lambda: self._compacted_to, self._forget_watch
        )
        with self._lock:
            self._watches.add(watch)
        return watch

    def lease(self, ttl_s: int) -> HeldLease:
        """See `interface.Store.lease`. etcd grants no less than its election timeout and a half (usually 2 s)."""
        requests.check_ttl(ttl_s)
        lease = secrets.randbelow(2**62) + 1
        try:
            self._write(protocol.LEASE_GRANT, messages.LeaseGrantRequest(ID=lease, TTL=ttl_s))
        except EtcdRefused as refused:
            if not is_known_lease(refused):  # an attempt of ours whose answer was lost
                raise
        return HeldLease(lease, self)

    def keep_lease_alive(self, lease: int) -> bool:
        """For the lease itself."""
        answer = self.members.ask(protocol.LEASE_KEEP_ALIVE, messages.LeaseKeepAliveRequest(ID=lease))
        return bool(answer.TTL > 0)

    def revoke_lease(self, lease: int) -> None:
        """For the lease itself."""
        try:
            self._write(protocol.LEASE_REVOKE, messages.LeaseRevokeRequest(ID=lease))
        except EtcdRefused as refused:
            if not is_unknown_lease(refused):
                raise

    def compact(self, revision: int) -> None:
        """See `interface.Store.compact`. It is for all that share this etcd."""
        requests.check_revision(revision)
        try:
            self._write(protocol.COMPACT, messages.CompactionRequest(revision=revision))
        except EtcdRefused as refused:
            self._raise_about_revision(refused, revision)
            raise
        with self._lock:
            self._compacted_to = max(self._compacted_to, revision)

    def room(self) -> Room | None:
        """See `interface.Store.room`: of the member whose file is the largest."""
        found = [one for one in self.maintenance.status() if not one.error]
        if not found:
            raise StoreError("no etcd member says how full it is")
        largest = max(found, key=lambda one: one.size_bytes)
        return Room(used_bytes=largest.size_bytes, limit_bytes=largest.quota_bytes or self._quota_bytes)

    def make_room(self) -> None:
        """See `interface.Store.make_room`: compacts, defragments member by member, takes back the alarm."""
        revision = self._read(self._look()).header.revision
        self.maintenance.compact(revision)
        with self._lock:
            self._compacted_to = max(self._compacted_to, revision)
        for status in self.maintenance.defragment():
            log.info("etcd member %s was defragmented: it has %d bytes", status.endpoint, status.size_bytes)
        self.maintenance.disarm()

    def close(self) -> None:
        """See `interface.Store.close`. Leases are left to end by themselves."""
        with self._lock:
            watches = tuple(self._watches)
        for watch in watches:
            watch.close()
        self.members.close()
        for watch in watches:
            watch.join()

    def _forget_watch(self, watch: EtcdWatch) -> None:
        with self._lock:
            self._watches.discard(watch)

    def _list(
        self, prefix: str, revision: int | None, after: str | None, limit: int | None, stale: bool
    ) -> RangeResult:
        """One listing, page by page; all of them at the revision of the first."""
        start, end = self._keys.span(prefix)
        if after is not None:
            start = max(start, self._keys.key(after) + b"\0")
        entries: list[Entry] = []
        while True:
            wanted = PAGE_KEYS if limit is None else min(PAGE_KEYS, limit - len(entries))
            if start < end:
                request = messages.RangeRequest(key=start, range_end=end, limit=wanted)
            else:
                request = self._look()
            request.revision, request.serializable = revision or 0, stale
            answer = self._read(request)
            revision = revision or answer.header.revision
            entries += map(self._entry, answer.kvs)
            if not answer.more or (limit is not None and len(entries) >= limit):
                return RangeResult(tuple(entries), revision, answer.more)
            start = answer.kvs[-1].key + b"\0"

    def _look(self) -> Any:
        """A request that only tells the revision."""
        return messages.RangeRequest(key=self._keys.root, count_only=True, limit=1)

    def _entry(self, kv: Any) -> Entry:
        try:
            return self._keys.entry(kv)
        except UnicodeDecodeError as error:
            raise StoreError(f"etcd holds the key {kv.key!r}, which Orlop has not put there: it is no text") from error

    def _read(self, request: Any) -> Any:
        """Raises Compacted, FutureRevision, StoreError."""
        try:
            return self.members.ask(protocol.RANGE, request, needs_leader=not request.serializable)
        except EtcdRefused as refused:
            self._raise_about_revision(refused, request.revision)
            raise

    def _write(self, method: protocol.Method, request: Any) -> Any:
        """Raises StoreRefused, OutcomeUnknown."""
        try:
            return self.members.ask(method, request)
        except Unreachable as error:
            kind = StoreRefused if error.surely_not_applied else OutcomeUnknown
            raise kind(str(error)) from error

    def _raise_about_revision(self, refused: EtcdRefused, revision: int) -> None:
        """Raises what the interface calls it, if it was refused for its revision."""
        if is_about_the_future(refused):
            raise FutureRevision(f"revision {revision} has not happened yet") from refused
        if not is_about_compaction(refused):
            return
        # The first revision can be the oldest only when it is compacted once more; then nobody says so.
        within_s = self.members.timeout_s if revision > 1 else FIRST_IS_OLDEST_AFTER_S
        oldest = oldest_revision(self.members, self._keys, within_s)
        if oldest is None and revision > 1:
            raise StoreError(f"revision {revision} is compacted, and etcd does not say to where") from refused
        raise Compacted(revision, oldest or revision) from refused
