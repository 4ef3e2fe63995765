"""Backups: all of a cluster's state as of one revision, in a file that can be read for as long as its documents can.

A file is gzip over lines of JSON: a head, a line for each document, and an end with the number of documents and the
hash of their lines, so that a file that was cut off or damaged is noticed before anything is written. It holds no
event log and nothing that is about processes rather than state (who leads).

What is restored gets a higher generation. So it counts as a new history to every agent: what runs and is not in it
becomes an orphan, shown and left alone, and whatever an old leader still has to say is refused.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, Final

import attrs
import orjson

from orlop.kernel import records
from orlop.model.documents import VERSION, DocumentError, NewerVersion, from_bytes, to_bytes
from orlop.server import redo
from orlop.server.loading import LEADER_KEY, list_entries
from orlop.store.interface import Delete, OutcomeUnknown, Put, Store

KIND: Final = "orlop-backup"
LINE_BYTES_MAX: Final = 64 * 2**20


class BackupError(Exception):
    """The file cannot be used, or the store may not be written to; the text says why and what to do."""


@attrs.frozen(kw_only=True)
class Head:
    """The first line. created: UTC milliseconds. revision: of the store that it was taken from."""

    cluster_id: str
    generation: int
    version: int
    revision: int
    created: int
    orlop: str


@attrs.frozen
class Backup:
    """documents: key → stored form, complete and checked."""

    head: Head
    documents: Mapping[str, bytes]


def take(store: Store, *, utc_ms: int, orlop_version: str) -> Backup:
    """The state as of one revision. Raises StoreError, DocumentError, BackupError (there is none)."""
    entries, revision = list_entries(store)
    documents = redo.rolled_forward({key: entry.value for key, entry in entries.items()})
    documents.pop(LEADER_KEY, None)
    if records.META_KEY not in documents:
        raise BackupError("there is no cluster in this store")
    meta = from_bytes(documents[records.META_KEY], records.Meta, records.META_KEY)
    head = Head(
        cluster_id=meta.cluster_id,
        generation=meta.generation,
        version=meta.version,
        revision=revision,
        created=utc_ms,
        orlop=orlop_version,
    )
    return Backup(head, documents)


def lines(backup: Backup) -> Iterator[bytes]:
    """The file's lines, not compressed."""
    yield orjson.dumps({"v": VERSION, "kind": KIND, **attrs.asdict(backup.head)}) + b"\n"
    digest = hashlib.sha256()
    for key, document in sorted(backup.documents.items()):
        line = orjson.dumps({"key": key, "document": orjson.Fragment(document)}) + b"\n"
        digest.update(line)
        yield line
    yield orjson.dumps({"end": len(backup.documents), "sha256": digest.hexdigest()}) + b"\n"


def write(backup: Backup, file: IO[bytes]) -> None:
    """Writes the file. Raises OSError."""
    with gzip.GzipFile(fileobj=file, mode="wb", mtime=backup.head.created // 1000) as compressed:
        for line in lines(backup):
            compressed.write(line)


def read(file: IO[bytes]) -> Backup:
    """Reads and checks a whole file. Raises BackupError, NewerVersion."""
    try:
        with gzip.GzipFile(fileobj=file) as compressed:
            return _read(iter(lambda: compressed.readline(LINE_BYTES_MAX), b""))
    except (OSError, EOFError, zlib.error) as error:
        raise BackupError(f"this is no backup of Orlop, or a damaged one: {error}") from error


def _read(found: Iterator[bytes]) -> Backup:
    head = _parse(next(found, b""))
    if head.pop("kind", None) != KIND or not isinstance(head.get("v"), int):
        raise BackupError("this is no backup of Orlop")
    if head["v"] > VERSION:
        raise NewerVersion("the backup", head["v"], VERSION)
    documents: dict[str, bytes] = {}
    digest = hashlib.sha256()
    for line in found:
        parsed = _parse(line)
        if "end" in parsed:
            if parsed["end"] != len(documents) or parsed.get("sha256") != digest.hexdigest():
                raise BackupError("the backup is damaged: its documents are not those that were written")
            if next(found, b""):  # to the very end of the file, where its checksum is
                raise BackupError("the backup is damaged: something follows its end")
            return Backup(_head(head), documents)
        digest.update(line)
        if not isinstance(parsed.get("key"), str) or not isinstance(parsed.get("document"), dict):
            raise BackupError("the backup is damaged: a line is no document")
        documents[parsed["key"]] = orjson.dumps(parsed["document"])
    raise BackupError("the backup is cut off: its end is missing")


def _head(head: dict[str, Any]) -> Head:
    known = {field.name for field in attrs.fields(Head)}
    if not known <= head.keys():
        raise BackupError("the backup is damaged: its head is incomplete")
    return Head(**{name: head[name] for name in known})


def _parse(line: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BackupError(f"the backup is damaged: {error}") from error
    if not isinstance(parsed, dict):
        raise BackupError("the backup is damaged: a line is no object")
    return parsed


def restore(backup: Backup, store: Store, *, replace: bool) -> int:
    """Makes the store's state that of the backup; the new generation.

    The state's own document goes first and comes last, so that a restoring that was interrupted leaves no state, and
    can be done again. Raises BackupError (somebody leads, or there is a state and not `replace`), StoreError.
    """
    if not store.exclusive and store.get(LEADER_KEY) is not None:
        raise BackupError("a server leads on this store: stop all servers first, and wait for the lease to end")
    present, _ = list_entries(store)
    present.pop(LEADER_KEY, None)
    log = {entry.key for entry in store.range(records.LOG).entries}
    known = present.get(records.META_KEY)
    if (present or log) and not replace:
        raise BackupError("there is a state in this store already: --replace gives it up for the backup's")
    meta = from_bytes(backup.documents[records.META_KEY], records.Meta, records.META_KEY)
    generation = 1 + max(meta.generation, _generation(known.value if known is not None else None))
    if known is not None:
        _write(store, [Delete(records.META_KEY)])
    others = {key: data for key, data in backup.documents.items() if key != records.META_KEY}
    _write(store, (Delete(key) for key in sorted({*present, *log} - others.keys() - {records.META_KEY})))
    _write(store, (Put(key, data) for key, data in sorted(others.items())))
    _write(store, [Put(records.META_KEY, to_bytes(attrs.evolve(meta, generation=generation)))])
    return generation


def _generation(data: bytes | None) -> int:
    """Of a state that is given up; 0 of one that cannot be read."""
    try:
        return from_bytes(data, records.Meta, records.META_KEY).generation if data is not None else 0
    except DocumentError:
        return 0


def _write(store: Store, writes: Iterable[redo.Write]) -> None:
    batch: list[redo.Write] = []
    size = 0
    for write in writes:
        more = redo.size_of(write)
        if batch and (len(batch) >= store.limits.operations or size + more > store.limits.bytes - redo.RESERVED_BYTES):
            _transact(store, batch)
            batch, size = [], 0
        batch.append(write)
        size += more
    if batch:
        _transact(store, batch)


def _transact(store: Store, batch: list[redo.Write]) -> None:
    try:
        store.transact(batch)
    except OutcomeUnknown:
        store.transact(batch)  # the same values again: harmless, whether the first try was applied or not
