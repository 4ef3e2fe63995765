"""The agent's memory on disk: one record per task, the highest epoch seen, whom the node belongs to.

A small SQLite file of its own, so that a step's records are one transaction. Losing power may lose the last step's;
then the machine has rebooted, its processes are gone, and its containers tell by their labels whose they are.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs

from orlop.agent.task_record import TaskRecord
from orlop.model.documents import from_bytes, to_bytes
from orlop.model.messages import Epoch, Seen

_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS documents (key TEXT PRIMARY KEY, document BLOB NOT NULL) WITHOUT ROWID"
_TASK: Final = "task/"


@attrs.frozen(kw_only=True)
class NodeIdentity:
    """node_id: made once, kept for ever. cluster_id: whom the node is bound to; empty before the first session."""

    node_id: str
    cluster_id: str = ""


class InUse(Exception):
    """Another agent uses these records; the text says so."""


class CannotSave(Exception):
    """The environment's fault, such as a full disk: nothing was written, and it may work later."""


class AgentRecords:
    """Opens or makes the file. All methods are synchronous and take well under a millisecond. Raises InUse."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise InUse(f"another agent uses {path.parent}: give this one a data folder of its own") from None
        path.touch(mode=0o600)  # it holds whole specs, and the files beside it take its mode
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(_SCHEMA)

    def tasks(self) -> list[TaskRecord]:
        """All task records. Raises DocumentError, NewerVersion."""
        rows = self._connection.execute("SELECT key, document FROM documents WHERE key GLOB 'task/*' ORDER BY key")
        return [from_bytes(document, TaskRecord, f"agent record {key}") for key, document in rows]

    def epoch(self) -> Epoch | None:
        data = self._get("epoch")
        return from_bytes(data, Epoch, "agent record epoch") if data is not None else None

    def seen(self) -> Seen | None:
        """None before the first session. Raises DocumentError, NewerVersion."""
        epoch, identity = self.epoch(), self.identity()
        if epoch is None or identity is None:
            return None
        versions = (record.revision for record in self.tasks() if record.generation == epoch.generation)
        return Seen(cluster_id=identity.cluster_id, epoch=epoch, version=max(versions, default=0))

    def leave_cluster(self) -> None:
        """Lets the node join any other cluster. What it runs goes on as orphans there."""
        identity = self.identity()
        if identity is None or not identity.cluster_id:
            return
        orphans = [attrs.evolve(record, orphan=True) for record in self.tasks()]
        puts = [(_TASK + record.assignment.task, to_bytes(record)) for record in orphans]
        puts.append(("identity", to_bytes(attrs.evolve(identity, cluster_id=""))))
        self._write(puts, ["epoch"])

    def identity(self) -> NodeIdentity | None:
        data = self._get("identity")
        return from_bytes(data, NodeIdentity, "agent record identity") if data is not None else None

    def save_identity(self, identity: NodeIdentity) -> None:
        self._write([("identity", to_bytes(identity))], ())

    def save(self, records: Iterable[TaskRecord], dropped: Iterable[str], epoch: Epoch | None) -> None:
        """One step of the worker: all of it or nothing. Raises CannotSave."""
        puts = [(_TASK + record.assignment.task, to_bytes(record)) for record in records]
        if epoch is not None:
            puts.append(("epoch", to_bytes(epoch)))
        self._write(puts, [_TASK + task for task in dropped])

    def close(self) -> None:
        self._connection.close()
        self._lock.close()

    def _get(self, key: str) -> bytes | None:
        row = self._connection.execute("SELECT document FROM documents WHERE key = ?", (key,)).fetchone()
        return row[0] if row is not None else None

    def _write(self, puts: Iterable[tuple[str, bytes]], deletes: Iterable[str]) -> None:
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?)", puts)
                self._connection.executemany("DELETE FROM documents WHERE key = ?", [(key,) for key in deletes])
        except sqlite3.OperationalError as error:
            raise CannotSave(f"the node's records cannot be written: {error}") from error
