"""From the store's documents to a state, and the first writes of a term."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from orlop.framework import Framework
from orlop.kernel import records
from orlop.kernel.loading import CLASSES, load, read_object_plainly
from orlop.kernel.state import State, StoredObject
from orlop.model.documents import VERSION, DocumentError, NewerVersion, from_bytes, to_bytes, version_of
from orlop.model.log_entries import LogEntry, LogRecord
from orlop.model.messages import Epoch, Seen
from orlop.model.versions import VERSIONS
from orlop.server import redo
from orlop.server.framework_run import read_object
from orlop.store.interface import Compare, Entry, Field, OutcomeUnknown, Put, RangeResult, Store

log = logging.getLogger(__name__)

PAGE_KEYS: Final = 5_000
LEADER_KEY: Final = "leader"
#: Versions at the end of the event log in which a leader that was stopped may have said so.
LOGGED_LOOKED_AT: Final = 10
#: All but the event log, which is read when somebody asks for it.
PREFIXES: Final = (
    LEADER_KEY,
    records.META_KEY,
    records.NODES,
    records.SPECS,
    records.TASKS,
    records.FRAMEWORKS,
    records.OBJECTS,
    records.REDO,
)

FrameworkClasses = Mapping[str, type[Framework]]


@attrs.frozen(kw_only=True)
class LeaderRecord:
    """Who leads. server: a fresh id per start. url: where the others forward requests to."""

    server: str
    url: str
    since_utc_ms: int


@attrs.frozen(kw_only=True)
class Term:
    """A term of leadership: the state it starts from, its fencing token, the revision that its writes compare.

    after: why the last one ended, as far as that is known; empty where there was none.
    """

    state: State
    epoch: Epoch
    fence: int
    after: str = ""


def read_leader(entry: Entry | None) -> LeaderRecord | None:
    """Raises DocumentError."""
    return from_bytes(entry.value, LeaderRecord, entry.key) if entry is not None else None


def list_entries(store: Store, *, stale: bool = False) -> tuple[dict[str, Entry], int]:
    """All that a state is made of, as of one revision. stale: of some moment ago will do. Raises StoreError."""
    revision: int | None = None
    found: dict[str, Entry] = {}
    for prefix in PREFIXES:
        for page in _pages(store, prefix, revision, stale):
            revision = page.revision
            found.update((entry.key, entry) for entry in page.entries)
    assert revision is not None, "there is a prefix"
    return found, revision


def _pages(store: Store, prefix: str, revision: int | None, stale: bool) -> Iterator[RangeResult]:
    after = None
    while True:
        page = store.range(prefix, revision=revision, after=after, limit=PAGE_KEYS, stale=stale)
        revision = page.revision
        yield page
        if not page.more:
            return
        after = page.entries[-1].key


def state_of(entries: Mapping[str, Entry], classes: FrameworkClasses) -> State | None:
    """The state that the entries describe; None before there is a cluster. Raises DocumentError, NewerVersion."""

    def read(framework: str, kind: str, object_id: str, data: bytes) -> StoredObject:
        installed = classes.get(framework)
        if installed is None:
            return read_object_plainly(framework, kind, object_id, data)
        return read_object(installed, kind, object_id, data)

    documents = redo.rolled_forward({key: entry.value for key, entry in entries.items()})
    documents.pop(LEADER_KEY, None)
    return load(documents.items(), read)


_OF_THE_FIRST_VERSION: Final = b'{"v":1,'


def too_new(key: str, data: bytes, classes: FrameworkClasses) -> NewerVersion | None:
    """Why this document cannot be read here, if a newer program has written it. Quick, and blind to other faults."""
    if data.startswith(_OF_THE_FIRST_VERSION):
        return None
    if key.startswith(records.OBJECTS):
        framework, kind, object_id = records.parse_object_key(key)
        installed = classes.get(framework)
        if installed is None:
            return None
        known, what, program = installed.version, f"{kind} {object_id} of {framework}", f"the installed {framework}"
    else:
        cls = next((cls for prefix, cls in CLASSES if key.startswith(prefix)), None)
        known, what, program = VERSIONS.of(cls) if cls is not None else VERSION, key, "this program"
    try:
        found = version_of(data, what)
    except DocumentError:
        return None
    return NewerVersion(what, found, known, program) if found > known else None


@contextlib.contextmanager
def collector_paused(*, is_loaded: bool = False) -> Iterator[None]:
    """Spares the garbage collector what is loaded meanwhile: while it is loaded, and after.

    A state has no cycles, so there is nothing in it to find; but with 100,000 tasks the collector takes two fifths of
    the time of loading, and holds everything up for most of a second each time that it goes through them again.
    For the shell of a process that begins few terms. is_loaded: it is there already, and shall be spared from now on.
    """
    if gc.get_freeze_count() and not is_loaded:  # an earlier term's, and what was in its way
        gc.unfreeze()
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def begin_term(
    store: Store,
    entries: Mapping[str, Entry],
    classes: FrameworkClasses,
    leader_revision: int,
    *,
    new_cluster_id: str,
    utc_ms: int,
    seen: Seen | None = None,
    state: State | None = None,
) -> Term:
    """The term of who has made the leader's key at `leader_revision`, from entries that are at least as new.

    seen: by this machine's own node. If it has seen more than the state contains, the state is an older copy: its
    generation is raised, so that nodes obey it, and leave alone what it does not know. state: what the entries
    describe, where that is known already.

    Makes a new cluster, of `new_cluster_id`, where there is none, and finishes what the last leader had not. Raises
    StoreError (of unknown outcome too: another server leads), DocumentError and NewerVersion (a document of a later
    version than this program's).
    """
    leads = Compare(LEADER_KEY, Field.CREATE_REVISION, leader_revision)
    documents = {key: entry.value for key, entry in entries.items()}
    for writes in redo.finishing(documents, store.limits):
        if not store.transact(writes, [leads]).applied:
            raise OutcomeUnknown("another server leads now")
    if state is None:
        state = state_of(entries, classes)
    if state is None:
        state, fence = _make_cluster(store, classes, leads, new_cluster_id, utc_ms)
    else:
        fence = entries[records.META_KEY].mod_revision
        if seen is not None and is_older(state, leader_revision, seen):
            log.warning("the state is an older copy: what runs and is not in it is left alone (see: orlop status)")
            state = attrs.evolve(state, generation=seen.epoch.generation + 1)
            fence = _write_meta(store, state, leads, fence)
    return Term(state=state, epoch=Epoch(generation=state.generation, revision=leader_revision), fence=fence)


def last_logged(store: Store, version: int) -> list[LogEntry]:
    """The end of the event log of a state of this version, the newest last. What cannot be read of it is left out.
    Raises StoreError."""
    before = version - LOGGED_LOOKED_AT
    found: list[LogEntry] = []
    for entry in store.range(records.LOG, after=records.log_key(before) if before > 0 else None).entries:
        with contextlib.suppress(DocumentError):  # it is told when somebody asks for it
            found += from_bytes(entry.value, LogRecord, entry.key).entries
    return found


def is_older(state: State, leader_revision: int, seen: Seen) -> bool:
    """Does the state lack something that a node has seen, as far as one that leads since this revision can tell?"""
    if seen.cluster_id != state.cluster_id:
        return False
    if seen.epoch.generation != state.generation:
        return seen.epoch.generation > state.generation
    return seen.epoch.revision >= leader_revision or seen.version > state.version


def _write_meta(store: Store, state: State, leads: Compare, fence: int) -> int:
    meta = records.Meta(
        cluster_id=state.cluster_id,
        generation=state.generation,
        version=state.version,
        utc_ms=state.utc_ms,
        next_sequence=state.next_sequence,
    )
    unchanged = Compare(records.META_KEY, Field.MOD_REVISION, fence)
    result = store.transact([Put(records.META_KEY, to_bytes(meta))], [leads, unchanged])
    if not result.applied:
        raise OutcomeUnknown("another server leads now")
    return result.revision


def _make_cluster(
    store: Store, classes: FrameworkClasses, leads: Compare, cluster_id: str, utc_ms: int
) -> tuple[State, int]:
    meta = records.Meta(cluster_id=cluster_id, generation=1, version=0, utc_ms=utc_ms, next_sequence=1)
    data = to_bytes(meta)
    absent = Compare(records.META_KEY, Field.CREATE_REVISION, 0)
    result = store.transact([Put(records.META_KEY, data)], [leads, absent])
    if not result.applied:
        raise OutcomeUnknown("another server leads now")
    made = state_of({records.META_KEY: Entry(records.META_KEY, data, result.revision, result.revision, 1)}, classes)
    assert made is not None, "the cluster's own record was just written"
    return made, result.revision
