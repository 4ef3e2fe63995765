"""From the store to a state, and the first write of a term: who leads, and from which revision on."""

from __future__ import annotations

import contextlib
import gc
import secrets
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from orlop.framework import Framework
from orlop.kernel import records
from orlop.kernel.loading import load, read_object_plainly
from orlop.kernel.state import State, StoredObject
from orlop.model.documents import to_bytes
from orlop.model.messages import Epoch
from orlop.server.framework_run import read_object
from orlop.store.interface import Compare, Field, OutcomeUnknown, Put, Store

PAGE_KEYS: Final = 5_000
LEADER_KEY: Final = "leader"
_PREFIXES: Final = (
    records.META_KEY,
    records.NODES,
    records.SPECS,
    records.TASKS,
    records.FRAMEWORKS,
    records.OBJECTS,
)


@attrs.frozen(kw_only=True)
class LeaderRecord:
    """Who leads. server: a fresh id per start."""

    server: str
    address: str
    since_utc_ms: int


@attrs.frozen(kw_only=True)
class Term:
    """A term of leadership: the state it starts from, its fencing token, the revision that its writes compare."""

    state: State
    epoch: Epoch
    fence: int


def begin_term(store: Store, frameworks: Mapping[str, type[Framework]], address: str, utc_ms: int) -> Term:
    """Loads the state, making a new cluster where there is none, and takes the lead.

    Raises StoreError, DocumentError and NewerVersion (a document of a later version than this program's).
    """
    meta = store.get(records.META_KEY)
    if meta is None:
        meta_revision = _make_cluster(store, utc_ms)
    else:
        meta_revision = meta.mod_revision

    def read(framework: str, kind: str, object_id: str, data: bytes) -> StoredObject:
        installed = frameworks.get(framework)
        if installed is None:
            return read_object_plainly(framework, kind, object_id, data)
        return read_object(installed, kind, object_id, data)

    with collector_paused():
        state = load(_documents(store), read)
    assert state is not None, "the cluster's own record was just written or read"
    record = LeaderRecord(server=secrets.token_hex(8), address=address, since_utc_ms=utc_ms)
    fence = Compare(records.META_KEY, Field.MOD_REVISION, meta_revision)
    result = store.transact([Put(LEADER_KEY, to_bytes(record))], [fence])
    if not result.applied:
        raise OutcomeUnknown("another server changed the state while this one was loading it")
    epoch = Epoch(generation=state.generation, revision=result.revision)
    return Term(state=state, epoch=epoch, fence=meta_revision)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Spares the garbage collector what is loaded, while it is loaded and after.

    A state has no cycles, so there is nothing in it to find; but with 100,000 tasks the collector takes half of the
    time of loading, and holds everything up for most of a second each time that it goes through them again.
    """
    gc.unfreeze()  # what an earlier term left
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _make_cluster(store: Store, utc_ms: int) -> int:
    meta = records.Meta(cluster_id=secrets.token_hex(8), generation=1, version=0, utc_ms=utc_ms, next_sequence=1)
    absent = Compare(records.META_KEY, Field.CREATE_REVISION, 0)
    result = store.transact([Put(records.META_KEY, to_bytes(meta))], [absent])
    if not result.applied:
        raise OutcomeUnknown("another server made the cluster at the same time")
    return result.revision


def _documents(store: Store) -> Iterator[tuple[str, bytes]]:
    revision = None
    for prefix in _PREFIXES:
        after = None
        while True:
            page = store.range(prefix, revision=revision, after=after, limit=PAGE_KEYS)
            revision = page.revision
            yield from ((entry.key, entry.value) for entry in page.entries)
            if not page.more:
                break
            after = page.entries[-1].key
