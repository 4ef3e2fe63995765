"""Atomic changes that are larger than a transaction of the store.

A change that fits is one transaction. A larger one is a *redo record*: its documents are written as chunks, each a
single key, that nobody reads; one small transaction then adds a mark and the state's own document, and with that the
change has happened; after it the documents are written to their places, in as many transactions as it takes, the last
of which removes the record. Whoever loads the state in between takes marked records as done and ignores the others;
a new leader finishes the marked ones before it writes anything else, and removes the rest.

Pure: writes in, transactions out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import attrs
import orjson

from orlop.kernel import records
from orlop.model.documents import VERSION, parse_versioned
from orlop.store.interface import Delete, Limits, Put, StoreRefused

MARK: Final = "mark"
#: What a key and its numbers take in a transaction beside their text, generously.
OVERHEAD_BYTES: Final = 64
#: Kept free for the fence: its compares, and the state's own document.
RESERVED_BYTES: Final = 4_096
#: The state's own document has fewer.
META_BYTES_MAX: Final = 1_024

Write = Put | Delete


@attrs.frozen
class Plan:
    """Transactions in their order: `before` prepares, `commit` makes it happen, `after` puts it in its place."""

    before: tuple[tuple[Write, ...], ...]
    commit: tuple[Write, ...]
    after: tuple[tuple[Write, ...], ...]


def document_bytes_max(limits: Limits) -> int:
    """A single document of so many bytes, its key included, can be written for sure."""
    return limits.bytes - RESERVED_BYTES - META_BYTES_MAX - OVERHEAD_BYTES


def plan(writes: Sequence[Write], meta: Put, version: int, limits: Limits) -> Plan:
    """How to write these, with the state's own document `meta`. Raises StoreRefused: a single document is too large."""
    size = sum(map(size_of, writes)) + size_of(meta)
    if len(writes) + 1 <= limits.operations and size + RESERVED_BYTES <= limits.bytes:
        return Plan((), (*writes, meta), ())
    chunks = [
        Put(f"{records.REDO}{version:020d}/{number:06d}", value)
        for number, value in enumerate(_chunks(writes, limits.bytes - RESERVED_BYTES - size_of(meta)))
    ]
    mark = Put(f"{records.REDO}{version:020d}/{MARK}", orjson.dumps({"v": VERSION, "chunks": len(chunks)}))
    return Plan(
        before=tuple((chunk,) for chunk in chunks[:-1]),
        commit=(chunks[-1], mark, meta),
        after=tuple(_slices(writes, [mark.key, *(chunk.key for chunk in chunks)], limits)),
    )


def size_of(write: Write) -> int:
    """What it takes of a transaction, in bytes, a little more rather than less."""
    key = len(write.key) if write.key.isascii() else len(write.key.encode())
    return key + OVERHEAD_BYTES + (len(write.value) if isinstance(write, Put) else 0)


def _chunks(writes: Iterable[Write], bytes_max: int) -> Iterator[bytes]:
    puts: dict[str, orjson.Fragment] = {}
    deletes: list[str] = []
    size = 0
    for write in writes:
        more = size_of(write)
        if more > bytes_max:
            raise StoreRefused(f"{write.key} has {more} bytes, and the store takes {bytes_max} at once")
        if size + more > bytes_max:
            yield orjson.dumps({"v": VERSION, "puts": puts, "deletes": deletes})
            puts, deletes, size = {}, [], 0
        size += more
        if isinstance(write, Put):
            puts[write.key] = orjson.Fragment(write.value)
        else:
            deletes.append(write.key)
    yield orjson.dumps({"v": VERSION, "puts": puts, "deletes": deletes})


def _slices(writes: Iterable[Write], own_keys: Sequence[str], limits: Limits) -> Iterator[tuple[Write, ...]]:
    """The writes in transactions that fit; the last ones remove the record.

    own_keys: of the record, its mark first: one that has lost chunks must not look like one that is still to be done.
    """
    found: list[Write] = []
    size = 0
    for write in writes:
        more = size_of(write)
        if len(found) + 1 > limits.operations or size + more + RESERVED_BYTES > limits.bytes:
            yield tuple(found)
            found, size = [], 0
        found.append(write)
        size += more
    removal = [Delete(key) for key in own_keys]
    if len(found) + len(removal) <= limits.operations:
        yield (*found, *removal)
        return
    yield tuple(found)
    for start in range(0, len(removal), limits.operations):
        yield tuple(removal[start : start + limits.operations])


def pending(documents: Mapping[str, bytes]) -> list[Write]:
    """What marked records in these documents (key → stored form) say, in their order. Raises DocumentError."""
    of_record: dict[str, dict[str, bytes]] = {}
    for key, data in documents.items():
        if key.startswith(records.REDO):
            version, _, part = key.removeprefix(records.REDO).partition("/")
            of_record.setdefault(version, {})[part] = data
    writes: dict[str, Write] = {}
    for version in sorted(of_record):
        parts = of_record[version]
        if MARK not in parts:
            continue
        for number in range(parse_versioned(parts[MARK], f"redo record {version}")["chunks"]):
            chunk = parse_versioned(parts[f"{number:06d}"], f"redo record {version}, chunk {number}")
            writes.update({key: Put(key, orjson.dumps(document)) for key, document in chunk["puts"].items()})
            writes.update({key: Delete(key) for key in chunk["deletes"]})
    return list(writes.values())


def rolled_forward(documents: Mapping[str, bytes]) -> dict[str, bytes]:
    """The documents as they are once the marked records are done, without any record."""
    done = {key: data for key, data in documents.items() if not key.startswith(records.REDO)}
    for write in pending(documents):
        if isinstance(write, Put):
            done[write.key] = write.value
        else:
            done.pop(write.key, None)
    return done


def finishing(documents: Mapping[str, bytes], limits: Limits) -> list[tuple[Write, ...]]:
    """Transactions that put marked records in their place and remove all records; none when there are no records."""
    own = sorted(
        (key for key in documents if key.startswith(records.REDO)), key=lambda key: (not key.endswith(MARK), key)
    )
    return [part for part in _slices(pending(documents), own, limits) if part] if own else []
