"""The file of the SQLite store: who may open it, its schema, and what SQLite's errors mean.

The schema:

- `history`: each write of a key, as one row; a deletion has version 0. `id` ascends with the revisions and, within
  one, with the order of the writes.
- `latest`: for each key that exists now, its row in `history` and all of its numbers, so that compares need not
  touch values.
- `garbage`: each row of `history` that no revision from `revision` on can see, so that compacting costs in
  proportion to what it removes.
- `position`: one row: the store's revision, and the oldest that can be read.

Keys are TEXT in UTF-8, whose order by bytes is the order by code point.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from orlop.store.interface import StoreError

#: The version of the schema, in the file's `user_version`.
SCHEMA_VERSION: Final = 1

#: Marks the file as ours ("orlp").
APPLICATION_ID: Final = 0x6F726C70

#: How long a foreign process (a backup, a shell) may hold the database before a write is refused.
BUSY_TIMEOUT_S: Final = 5.0

#: The write-ahead log is cut back to this after a checkpoint, if a burst has made it larger.
WAL_KEPT_BYTES: Final = 16 * 1024 * 1024

#: Pages that each connection keeps in memory.
CACHE_BYTES: Final = 8 * 1024 * 1024

_SCHEMA: Final = """
CREATE TABLE position (revision INTEGER NOT NULL, oldest INTEGER NOT NULL);
INSERT INTO position VALUES (1, 0);
CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    key TEXT NOT NULL,
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    value BLOB NOT NULL
);
CREATE UNIQUE INDEX history_by_key ON history (key, revision);
CREATE INDEX history_by_revision ON history (revision);
CREATE TABLE latest (
    key TEXT NOT NULL PRIMARY KEY,
    id INTEGER NOT NULL,
    create_revision INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX latest_by_lease ON latest (lease) WHERE lease <> 0;
CREATE TABLE garbage (revision INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (revision, id)) WITHOUT ROWID;
"""


class FileLock:
    """The right to open one database: an exclusive lock on the file `<database>.lock`, which holds the owner's pid.

    The file stays behind on purpose: removing it would let two processes lock two files of the same name.
    """

    def __init__(self, database: Path) -> None:
        """Raises StoreError, naming the owner if there is one."""
        path = database.with_name(database.name + ".lock")
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(f"cannot open the store's lock {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._file, 20, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise StoreError(
                f"the store {database} is in use by process {owner or '(unknown)'}; only one may open it"
            ) from error
        except OSError as error:
            os.close(self._file)
            raise StoreError(f"cannot lock the store with {path}: {error.strerror}") from error
        with suppress(OSError):  # the pid only informs; a full disk must not keep the store from being read
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Gives the right up."""
        os.close(self._file)


def open_database(path: Path) -> sqlite3.Connection:
    """A connection for writing to the database, which is created if it is missing. Raises StoreError."""
    _create_privately(path)
    connection = connect(path)
    try:
        _check_owner(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA}"
                f" PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
    except sqlite3.Error as error:
        connection.close()
        raise StoreError(f"cannot open the store {path}: {describe(error)}") from error
    except StoreError:
        connection.close()
        raise
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """A connection without implicit transactions. Raises StoreError."""
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA cache_size = {-CACHE_BYTES // 1024}")
    except sqlite3.Error as error:
        raise StoreError(f"cannot open the store {path}: {describe(error)}") from error
    return connection


def describe(error: sqlite3.Error) -> str:
    """SQLite's text and the name of its code."""
    code = getattr(error, "sqlite_errorname", None)
    return f"{error} ({code})" if code else str(error)


def commit_was_refused(error: sqlite3.Error) -> bool:
    """Whether a failed COMMIT was definitely not applied.

    SQLITE_FULL means that a page could not be appended to the log; the page that completes a transaction is the last
    one, so it is not there. SQLITE_BUSY and SQLITE_READONLY come before anything is written. After any other error
    (an I/O error of the final sync, say) the log may or may not hold the whole transaction.
    """
    primary_code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return primary_code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY)


def _create_privately(path: Path) -> None:
    """Creates the file if it is missing, for its owner only; SQLite gives its side files the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StoreError(f"cannot open the store {path}: {error.strerror}") from error


def _check_owner(connection: sqlite3.Connection, path: Path) -> None:
    """Raises StoreError if the file is not an Orlop store of a known version, or empty."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreError(f"{path} is an SQLite database of something else, not a store of Orlop")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the store {path} has schema version {version}, and this program knows up to {SCHEMA_VERSION}: upgrade it"
        )
