"""The embedded store: one SQLite file, opened by one process.

Theory of operation: one connection writes, one reads; each has a lock, so a long listing holds up no commit. A
transaction is one SQLite transaction in the write-ahead log, synced before it is visible (WAL, synchronous=FULL).
Nothing of the database is cached here: each transaction reads the position it builds on. The tables are explained in
`sqlite_file`.

Errors: what fails before COMMIT was not applied. A COMMIT that fails is refused (no space) or of unknown outcome (I/O
errors): then the log on disk may end with a complete transaction that this process does not show, and that a restart
would bring back. So the store is *unsettled*, and before it answers anything else it writes once more; that overwrites
the doubtful end of the log, and from then on what is read is what is stored. Until it succeeds, reads raise too.

Leases end with the process that holds them, since nobody else could keep them alive: opening the file deletes the keys
of all leases that its last user left behind.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs

from orlop.store import requests
from orlop.store.interface import (
    Change,
    Compacted,
    Compare,
    Delete,
    Disk,
    Entry,
    Field,
    FutureRevision,
    Limits,
    OutcomeUnknown,
    Put,
    RangeResult,
    StoreError,
    StoreRefused,
    TransactionResult,
)
from orlop.store.local import LocalStore
from orlop.store.sqlite_file import FileLock, commit_was_refused, connect, describe, open_database

T = TypeVar("T")

#: Rows that one transaction of a compaction removes; other writers get their turn in between.
COMPACTED_AT_ONCE: Final = 1000

_log = logging.getLogger(__name__)

_ENTRY: Final = "SELECT h.key, h.value, h.create_revision, h.revision, h.version, h.lease"


@attrs.frozen
class _Numbers:
    """What `latest` knows of a key; all 0 for a missing one."""

    id: int = 0
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0


_MISSING: Final = _Numbers()


class SqliteStore(LocalStore):
    """See `interface.Store`.

    path: the database, created if it is missing; its folder must exist. clock: monotonic seconds, for leases.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        limits: Limits = requests.GENEROUS_LIMITS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises StoreError: the file cannot be opened, is in use, not ours, or of a newer version."""
        super().__init__(clock, _new_lease_id)
        path = Path(path).absolute()
        self._folder = path.parent
        self.limits = limits
        self.exclusive = True
        self._write_lock = threading.RLock()
        self._read_lock = threading.Lock()
        self._closed = False
        self._unsettled = ""
        self._abandoned_leases = True
        self._file_lock = FileLock(path)
        try:
            self._writer = open_database(path)
            try:
                self._reader = connect(path)
            except BaseException:
                self._writer.close()
                raise
        except BaseException:
            self._file_lock.release()
            raise
        self._prepare_to_read()

    def get(self, key: str, *, revision: int | None = None, stale: bool = False) -> Entry | None:
        """See `interface.Store.get`."""
        requests.check_key(key)
        requests.check_revision(revision)
        self._prepare_to_read()

        def read(reader: sqlite3.Connection) -> Entry | None:
            at = _readable(reader, revision)
            found = reader.execute(
                f"{_ENTRY} FROM history h WHERE h.key = ? AND h.revision <= ? ORDER BY h.revision DESC LIMIT 1",
                (key, at),
            ).fetchone()
            return Entry(*found) if found is not None and found[4] else None

        return self._read(read)

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
        self._prepare_to_read()

        def read(reader: sqlite3.Connection) -> RangeResult:
            at = _readable(reader, revision)
            listed = _present(prefix, after) if revision is None else _past(prefix, after, at)
            rows = reader.execute(listed[0], (*listed[1], -1 if limit is None else limit + 1)).fetchall()
            more = limit is not None and len(rows) > limit
            return RangeResult(tuple(Entry(*row) for row in rows[:limit]), at, more)

        return self._read(read)

    def transact(self, writes: Sequence[Put | Delete], compares: Sequence[Compare] = ()) -> TransactionResult:
        """See `interface.Store.transact`."""
        requests.check_transaction(writes, compares, self.limits)
        with self._writing():
            return self._commit(lambda writer: self._transact(writer, writes, compares))

    def compact(self, revision: int) -> None:
        """See `interface.Store.compact`."""
        requests.check_revision(revision)

        def check(reader: sqlite3.Connection) -> None:
            _readable(reader, revision)
            if revision == _position(reader)[1]:
                raise Compacted(revision, revision)

        with self._hub.reading, self._writing():
            self._read(check)
            self._hub.spare_up_to_date(revision)
            self._commit(lambda writer: writer.execute("UPDATE position SET oldest = ?", (revision,)))
        try:
            while self._remove_garbage(revision) == COMPACTED_AT_ONCE:
                pass
        except StoreError as error:
            _log.warning("compaction to revision %d left something for the next one: %s", revision, error)

    def disk(self) -> Disk:
        """The disk that it grows on. Raises StoreError."""
        try:
            found = os.statvfs(self._folder)
        except OSError as error:
            raise StoreError(f"the disk of {self._folder} cannot be looked at: {error.strerror}") from error
        free = found.f_bfree if os.geteuid() == 0 else found.f_bavail
        return Disk(
            folder=str(self._folder),
            free_bytes=free * found.f_frsize,
            total_bytes=found.f_blocks * found.f_frsize,
        )

    def close(self) -> None:
        """See `interface.Store.close`."""
        self._hub.close()
        with self._write_lock, self._read_lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._reader.close()
                self._writer.close()
            finally:
                self._file_lock.release()

    # -- the ways in: every operation passes one of these --

    @contextmanager
    def _opened(self) -> Iterator[None]:
        with self._write_lock:
            self._require_open()
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Whatever fails before the caller's write raises StoreRefused: it was not begun."""
        with self._opened():
            try:
                self._settle()
                self._end_due_leases()
            except StoreRefused:
                raise
            except StoreError as error:
                raise StoreRefused(str(error)) from error
            yield

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    def _prepare_to_read(self) -> None:
        """Reading goes on while the store cannot write; keys of overdue leases are then still seen."""
        if not self._unsettled and not self._abandoned_leases and not self._leases.due():
            return
        with self._opened():
            self._settle()
            try:
                self._end_due_leases()
            except StoreRefused as error:
                _log.warning("a lease is overdue and cannot be ended: %s", error)
            except OutcomeUnknown:
                self._settle()

    def _read(self, body: Callable[[sqlite3.Connection], T]) -> T:
        """What `body` reads, all of it in one snapshot."""
        with self._read_lock:
            self._require_open()
            try:
                if self._reader.in_transaction:  # left so by an error
                    self._reader.execute("ROLLBACK")
                self._reader.execute("BEGIN")
                try:
                    return body(self._reader)
                finally:
                    self._reader.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise StoreError(f"the store cannot be read: {describe(error)}") from error

    def _commit(self, body: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `body` and commits what it wrote; announces a new revision. With the write lock held."""
        before = self._writer.total_changes
        try:
            self._roll_back()
            self._writer.execute("BEGIN IMMEDIATE")
            result = body(self._writer)
        except sqlite3.Error as error:
            self._roll_back()
            raise StoreRefused(f"the store cannot be written: {describe(error)}") from error
        except BaseException:
            self._roll_back()
            raise
        try:
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if commit_was_refused(error):
                raise StoreRefused(f"the store cannot be written: {describe(error)}") from error
            self._unsettled = describe(error)
            raise OutcomeUnknown(f"the store may or may not have been written: {describe(error)}") from error
        if self._writer.total_changes != before:
            self._hub.announce()
        return result

    def _roll_back(self) -> None:
        if self._writer.in_transaction:  # after some errors SQLite has already done it
            with suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")

    def _settle(self) -> None:
        """See the module's docstring. With the write lock held. Raises StoreError."""
        if not self._unsettled:
            return
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            self._writer.execute("UPDATE position SET revision = revision")
        except sqlite3.Error as error:
            raise StoreError(
                f"the last write's outcome is unknown ({self._unsettled}) and cannot be settled: {describe(error)}"
            ) from error
        self._unsettled = ""
        self._hub.announce()

    # -- writing --

    def _transact(
        self, writer: sqlite3.Connection, writes: Sequence[Put | Delete], compares: Sequence[Compare]
    ) -> TransactionResult:
        if not all(_holds(writer, compare) for compare in compares):
            return TransactionResult(False, _position(writer)[0])
        for write in writes:
            if isinstance(write, Put) and write.lease and write.lease not in self._leases:
                raise StoreRefused(f"{write.key!r} is put with lease {write.lease}, which has ended or never was")
        return TransactionResult(True, _apply(writer, writes))

    def _end_due_leases(self) -> None:
        if self._abandoned_leases:
            self._commit(lambda writer: _delete_held(writer, "lease <> 0"))
            self._abandoned_leases = False
        for lease in self._leases.due():
            self._end_lease(lease)

    def _end_lease(self, lease: int) -> None:
        self._commit(lambda writer: _delete_held(writer, "lease <> 0 AND lease = ?", lease))
        self._leases.drop(lease)

    def _remove_garbage(self, revision: int) -> int:
        """Removes some of what cannot be seen from `revision` on; how many rows."""

        def remove(writer: sqlite3.Connection) -> int:
            rows = writer.execute(
                "SELECT revision, id FROM garbage WHERE revision <= ? ORDER BY revision, id LIMIT ?",
                (revision, COMPACTED_AT_ONCE),
            ).fetchall()
            writer.executemany("DELETE FROM history WHERE id = ?", [(row_id,) for _, row_id in rows])
            writer.executemany("DELETE FROM garbage WHERE revision = ? AND id = ?", rows)
            return len(rows)

        with self._writing():
            return self._commit(remove)

    # -- watching --

    def _changes_after(self, prefix: str, after: int) -> tuple[tuple[Change, ...], int]:
        """For the hub: see `watches.Reader`."""
        self._prepare_to_read()

        def read(reader: sqlite3.Connection) -> tuple[tuple[Change, ...], int]:
            revision, oldest = _position(reader)
            if after < oldest:
                raise Compacted(after, oldest)
            if after >= revision:
                return (), after
            within, bounds = _within("h.key", prefix)
            first = reader.execute(
                "SELECT h.revision FROM history h INDEXED BY history_by_revision"  # noqa: S608 - constants only
                f" WHERE h.revision > ? AND {within} ORDER BY h.revision LIMIT 1",
                (after, *bounds),
            ).fetchone()
            if first is None:
                return (), revision
            rows = reader.execute(
                f"{_ENTRY} FROM history h INDEXED BY history_by_revision"
                f" WHERE h.revision = ? AND {within} ORDER BY h.id",
                (first[0], *bounds),
            )
            return tuple(Change(row[0], Entry(*row) if row[4] else None, row[3]) for row in rows), first[0]

        return self._read(read)


def _new_lease_id() -> int:
    """Random, since the ids of an earlier process are still in the history."""
    return secrets.randbelow(2**62) + 1


def _position(connection: sqlite3.Connection) -> tuple[int, int]:
    """The store's revision, and the oldest that can be read."""
    revision, oldest = connection.execute("SELECT revision, oldest FROM position").fetchone()
    return revision, oldest


def _readable(connection: sqlite3.Connection, revision: int | None) -> int:
    """The revision to read at. Raises Compacted, FutureRevision."""
    current, oldest = _position(connection)
    if revision is None:
        return current
    if revision < oldest:
        raise Compacted(revision, oldest)
    if revision > current:
        raise FutureRevision(f"revision {revision} has not happened yet; the store is at {current}")
    return revision


def _within(column: str, prefix: str, after: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The condition that `column` begins with `prefix` and is beyond `after`; its parameters."""
    condition = f"{column} >= ?"
    parameters: tuple[str, ...] = (prefix,)
    end = requests.prefix_end(prefix)
    if end is not None:
        condition, parameters = f"{condition} AND {column} < ?", (*parameters, end)
    if after is not None:
        condition, parameters = f"{condition} AND {column} > ?", (*parameters, after)
    return condition, parameters


def _present(prefix: str, after: str | None) -> tuple[str, tuple[Any, ...]]:
    """The query of a listing of now, up to its limit; its parameters."""
    within, parameters = _within("l.key", prefix, after)
    # CROSS JOIN tells the planner to walk `latest`: it is in the order of keys and holds nothing of the past.
    return (
        f"{_ENTRY} FROM latest l CROSS JOIN history h WHERE {within} AND h.id = l.id ORDER BY l.key LIMIT ?",
        parameters,
    )


def _past(prefix: str, after: str | None, revision: int) -> tuple[str, tuple[Any, ...]]:
    """The query of a listing of a past revision, up to its limit; its parameters."""
    within, parameters = _within("h.key", prefix, after)
    query = (
        f"{_ENTRY} FROM history h INDEXED BY history_by_key"  # noqa: S608 - constants only
        f" WHERE {within} AND h.revision <= ? AND h.version > 0 AND NOT EXISTS"
        " (SELECT 1 FROM history n WHERE n.key = h.key AND n.revision > h.revision AND n.revision <= ?)"
        " ORDER BY h.key LIMIT ?"
    )
    return query, (*parameters, revision, revision)


def _numbers(connection: sqlite3.Connection, key: str) -> _Numbers:
    row = connection.execute(
        "SELECT id, create_revision, mod_revision, version FROM latest WHERE key = ?", (key,)
    ).fetchone()
    return _MISSING if row is None else _Numbers(*row)


def _holds(connection: sqlite3.Connection, compare: Compare) -> bool:
    numbers = _numbers(connection, compare.key)
    if compare.field is Field.VALUE:
        row = connection.execute("SELECT value FROM history WHERE id = ?", (numbers.id,)).fetchone()
        return row is not None and row[0] == compare.expected
    return bool(getattr(numbers, compare.field.value) == compare.expected)


def _delete_held(connection: sqlite3.Connection, which: str, *parameters: int) -> None:
    """Deletes the keys whose lease is as said, as one revision."""
    held = connection.execute(f"SELECT key FROM latest WHERE {which} ORDER BY key", parameters).fetchall()  # noqa: S608
    _apply(connection, [Delete(key) for (key,) in held])


def _apply(connection: sqlite3.Connection, writes: Iterable[Put | Delete]) -> int:
    """Writes all of them as one revision; the store's revision after it."""
    revision = _position(connection)[0] + 1
    next_id = (connection.execute("SELECT max(id) FROM history").fetchone()[0] or 0) + 1
    history: list[tuple[Any, ...]] = []
    latest: list[tuple[Any, ...]] = []
    deleted: list[tuple[str]] = []
    garbage: list[tuple[int, int]] = []
    for write in writes:
        before = _numbers(connection, write.key)
        row_id = next_id + len(history)
        if before is not _MISSING:
            garbage.append((revision, before.id))
        if isinstance(write, Put):
            created, version = before.create_revision or revision, before.version + 1
            history.append((row_id, revision, write.key, created, version, write.lease, write.value))
            latest.append((write.key, row_id, created, revision, version, write.lease))
        elif before is not _MISSING:
            history.append((row_id, revision, write.key, 0, 0, 0, b""))
            deleted.append((write.key,))
            garbage.append((revision, row_id))
    if not history:
        return revision - 1
    connection.executemany("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)", history)
    connection.executemany("INSERT OR REPLACE INTO latest VALUES (?, ?, ?, ?, ?, ?)", latest)
    connection.executemany("DELETE FROM latest WHERE key = ?", deleted)
    connection.executemany("INSERT INTO garbage VALUES (?, ?)", garbage)
    connection.execute("UPDATE position SET revision = ?", (revision,))
    return revision
