"""A copy of the store's documents in memory, kept up to date by a watch: what a standby knows.

Theory of operation. One thread lists everything as of one revision and then follows the watch from there, one revision
at a time, so that the copy is at each moment what the store was at some revision. When its place in the watch is gone
(compaction) or the store cannot be reached, it lists anew. While this server leads, the leader's own memory is newer
and the mirror rests.

How old the copy may be: the copy's state is as new as the moment at which the store was last asked for the revision of
the state's own document, which every change of the state writes, and named none beyond the copy's.

A store without a quorum names none. Where there is no copy yet, the mirror then takes what a member has by itself: of
that it is known only that it was true when it was written, which the state's own clock says.

Documents are made into a state only when somebody asks for it. Of a large copy that takes seconds, so it is made on a
thread of its own, now and then; meanwhile the last one is given, and its age is said. When this server is about to
lead, none is begun, but one that is on its way or has just been made is what the term begins from.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from orlop.framework import Framework, NotAvailable
from orlop.kernel import records
from orlop.kernel.state import State
from orlop.model.documents import DocumentError, from_bytes
from orlop.server.framework_run import read_object
from orlop.server.loading import (
    LEADER_KEY,
    FrameworkClasses,
    LeaderRecord,
    list_entries,
    read_leader,
    state_of,
    too_new,
)
from orlop.store.interface import Change, Compacted, Entry, Store, StoreError, Watch

log = logging.getLogger(__name__)

FRESHNESS_CHECK_S: Final = 1.0
LIST_AGAIN_S: Final = 0.5
JOIN_S: Final = 10.0
#: So many documents are made into a state at once; that takes some hundredths of a second.
DOCUMENTS_AT_ONCE: Final = 2_000
#: Between two makings of a large state, so many times as long as the last one took.
REST_FACTOR: Final = 4
#: So old a state is not given any more while the copy is newer.
MADE_KEPT_MS: Final = 60_000


class Documents:
    """The copy. Pure. revision: of the store, as of which it is complete. owners: frameworks with stored objects.

    too_new: says why a document cannot be read here. newer: those that cannot, and why.
    """

    def __init__(self, too_new: Callable[[str, bytes], Exception | None] = lambda *_: None) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self.owners: Counter[str] = Counter()
        self.newer: dict[str, str] = {}
        self._too_new = too_new

    def reset(self, entries: Mapping[str, Entry], revision: int) -> None:
        """A new listing."""
        self.entries = dict(entries)
        self.revision = revision
        self.owners = Counter(map(_owner, entries))
        self.newer = {}
        for key, entry in entries.items():
            self._look_at(key, entry)

    def _look_at(self, key: str, entry: Entry | None) -> None:
        why = self._too_new(key, entry.value) if entry is not None else None
        if why is not None:
            self.newer[key] = str(why)
        elif self.newer:
            self.newer.pop(key, None)

    def apply(self, changes: Iterable[Change]) -> None:
        """All changes of one revision."""
        for change in changes:
            self.revision = change.revision
            if change.key.startswith(records.LOG):
                continue
            known = change.key in self.entries
            self._look_at(change.key, change.entry)
            if change.entry is not None:
                self.entries[change.key] = change.entry
                self.owners[_owner(change.key)] += not known
            elif known:
                del self.entries[change.key]
                self.owners[_owner(change.key)] -= 1

    @property
    def leader_revision(self) -> int:
        """The create revision of the leader's key; 0 without one."""
        entry = self.entries.get(LEADER_KEY)
        return entry.create_revision if entry is not None else 0

    @property
    def state_revision(self) -> int:
        """Of the last change of the state; 0 before there is one."""
        entry = self.entries.get(records.META_KEY)
        return entry.mod_revision if entry is not None else 0


def _owner(key: str) -> str:
    """The framework whose object it is; empty for other documents."""
    return records.parse_object_key(key)[0] if key.startswith(records.OBJECTS) else ""


@attrs.frozen(kw_only=True)
class MirrorNews:
    """What the election must know of the copy. error: why it is not up to date; empty when it is.

    newer: why this program cannot read all of it; empty when it can.
    """

    leader_revision: int
    revision: int
    owners: frozenset[str] = frozenset()
    error: str = ""
    newer: str = ""


@attrs.frozen(kw_only=True)
class _Made:
    """The copy as a state. revision: `Documents.state_revision`. fresh_at_ms: as new as what the store had then."""

    state: State | None = None
    revision: int = -1
    fresh_at_ms: int = 0


class Mirror:
    """See the module. `told` is called on the mirror's thread whenever the leader's key or reachability changes.

    clock: monotonic milliseconds. utc_ms: the time of day.
    """

    def __init__(
        self,
        store: Store,
        classes: FrameworkClasses,
        clock: Callable[[], int],
        utc_ms: Callable[[], int],
        told: Callable[[MirrorNews], None],
    ) -> None:
        self._store = store
        self._classes = classes
        self._clock = clock
        self._utc_ms = utc_ms
        self._told = told
        self._lock = threading.Condition()
        self._documents = Documents(lambda key, data: too_new(key, data, classes))
        self._loaded = False
        self._makeshift = False
        self._resting = False
        self._stopping = False
        self._fresh_at_ms = clock()
        self._error = "the state is not loaded yet"
        self._watch: Watch | None = None
        self._handover: tuple[int, Callable[[dict[str, Entry]], None]] | None = None
        self._made = _Made()
        self._making = False
        self._superseded: dict[str, Entry] = {}
        self._make_again_at_ms = 0
        self._news: MirrorNews | None = None
        self._ask_at_ms = 0
        self._promised = (0, 0)
        self._thread = threading.Thread(target=self._run, name="orlop-mirror", daemon=True)

    # From other threads

    def start(self) -> None:
        self._thread.start()

    @property
    def started(self) -> bool:
        return self._thread.ident is not None

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            self._wake()
        if self.started:
            self._thread.join(timeout=JOIN_S)

    def hand_over(self, revision: int, take: Callable[[dict[str, Entry]], None]) -> None:
        """Calls `take`, on the mirror's thread, with a copy that is at least as new as `revision`; then rests."""
        with self._lock:
            self._handover = (revision, take)
            self._resting = False
            self._wake()

    def forget(self) -> None:
        """The leader's own memory has taken over."""
        with self._lock:
            if self._resting:
                self._superseded = self._documents.entries
                self._documents.reset({}, 0)
                self._made = _Made()
                self._lock.notify_all()

    def resume(self) -> None:
        """This server leads no more: list anew, and follow."""
        with self._lock:
            self._handover = None
            self._resting = False
            self._loaded = False
            self._wake()

    def _wake(self) -> None:
        """The thread looks at what it shall do now. With the lock held."""
        self._lock.notify_all()
        if self._watch is not None:
            self._watch.wake()

    def state(self) -> State | None:
        """The copy as a state; of a large copy an earlier one, see `age_ms`. None without one. Raises DocumentError."""
        with self._lock:
            if self._made.revision == self._documents.state_revision:
                return self._made.state
            if self._is_large:
                self._make_soon()
                self._drop_old()
                return self._made.state
        return self._make()

    def objects(self, framework: type[Framework], kind: str, ids: Iterable[str]) -> dict[str, Any]:
        """Those of these objects of a framework that the copy has, without making a state. Raises NotAvailable."""
        if not self.serves:
            raise NotAvailable(f"this server has no state yet: {self.error}")
        with self._lock:
            found = {one: self._documents.entries.get(records.object_key(framework.name, kind, one)) for one in ids}
        try:
            return {
                one: read_object(framework, kind, one, entry.value).value
                for one, entry in found.items()
                if entry is not None
            }
        except DocumentError as error:
            raise NotAvailable(str(error)) from error

    def age_ms(self) -> int:
        """How old `state` may be, in milliseconds."""
        with self._lock:
            self._drop_old()
            made = self._made
            is_behind = self._is_large and made.state is not None and made.revision != self._documents.state_revision
            return max(0, self._clock() - (made.fresh_at_ms if is_behind else self._fresh_at_ms))

    def made(self) -> State | None:
        """The copy's newest state if it has been made, or is being made, which is waited for. On the mirror's thread,
        when the copy is handed over."""
        with self._lock:
            while self._making:
                self._lock.wait()
            made, self._made = self._made, _Made()
            return made.state if made.revision == self._documents.state_revision else None

    @property
    def _is_large(self) -> bool:
        return len(self._documents.entries) > DOCUMENTS_AT_ONCE

    def _drop_old(self) -> None:
        """What was made so long ago serves nobody any more. With the lock held."""
        made = self._made
        if made.revision != self._documents.state_revision and self._clock() - made.fresh_at_ms > MADE_KEPT_MS:
            self._made = _Made()

    def _make(self) -> State | None:
        """Raises DocumentError."""
        with self._lock:
            revision, fresh_at_ms = self._documents.state_revision, self._fresh_at_ms
            entries = dict(self._documents.entries)
        made = _Made(state=state_of(entries, self._classes), revision=revision, fresh_at_ms=fresh_at_ms)
        with self._lock:
            if self._documents.state_revision >= revision:  # not if it was forgotten meanwhile
                self._made = made
        return made.state

    def _make_soon(self) -> None:
        """With the lock held."""
        about_to_lead = self._resting or self._handover is not None
        if not self._making and not about_to_lead and self._clock() >= self._make_again_at_ms:
            self._making = True
            threading.Thread(target=self._make_beside, name="orlop-mirror-state", daemon=True).start()

    def _make_beside(self) -> None:
        began_ms = self._clock()
        try:
            self._make()
        except DocumentError:
            log.exception("the copy of the store cannot be made into a state")
        finally:
            with self._lock:
                self._making = False
                self._lock.notify_all()
                self._make_again_at_ms = self._clock() + REST_FACTOR * (self._clock() - began_ms)

    @property
    def loaded(self) -> bool:
        """Has it a copy that the store has confirmed once?"""
        return self._loaded

    @property
    def serves(self) -> bool:
        """Has it a copy, though it may be what one member had by itself?"""
        return self._loaded or self._makeshift

    @property
    def error(self) -> str:
        """Why the copy cannot be brought up to date; empty when it can."""
        return self._error

    @property
    def newer(self) -> str:
        """Why this program cannot read all of the copy; empty when it can."""
        with self._lock:
            return self._newer()

    def _newer(self) -> str:
        return next(iter(self._documents.newer.values()), "")

    def leader(self) -> LeaderRecord | None:
        """Who leads, as far as the copy knows."""
        with self._lock:
            entry = self._documents.entries.get(LEADER_KEY)
        try:
            return read_leader(entry)
        except DocumentError as error:
            log.warning("%s", error)
            return None

    # The thread

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._list()
                self._follow()
            except Compacted as error:
                log.info("the mirror lists anew: %s", error)
            except StoreError as error:
                self._failed(str(error))
            except Exception as error:
                log.exception("the mirror failed")
                self._failed(f"{type(error).__name__}: {error}")
            with self._lock:
                while self._resting and not self._stopping and not self._superseded:
                    self._lock.wait()
                superseded, self._superseded = self._superseded, {}
            while superseded:  # bit by bit, for freeing all at once would hold up all other threads
                superseded.popitem()
            with self._lock:
                while self._resting and not self._stopping:
                    self._lock.wait()

    def _failed(self, reason: str) -> None:
        if not self._error:
            log.warning("the store cannot be read: %s", reason)
        self._error = reason
        if not self._loaded:
            self._make_do()
        self._tell()
        with self._lock:
            if not self._stopping:
                self._lock.wait(LIST_AGAIN_S)

    def _list(self) -> None:
        asked_ms = self._clock()
        entries, revision = list_entries(self._store)
        with self._lock:
            self._documents.reset(entries, revision)
            self._loaded, self._makeshift = True, False
            self._fresh_at_ms = asked_ms
        self._error = ""
        self._tell()

    def _make_do(self) -> None:
        """With what a member has by itself, if that is more than is known here."""
        try:
            entry = self._store.get(records.META_KEY, stale=True)
            if entry is None or (self._makeshift and entry.mod_revision <= self._documents.state_revision):
                return
            entries, revision = list_entries(self._store, stale=True)
            meta = from_bytes(entries[records.META_KEY].value, records.Meta, records.META_KEY)
        except (StoreError, DocumentError, KeyError) as error:
            log.info("no member of the store says what it knows: %s", error)
            return
        with self._lock:
            if self._stopping or self._loaded:
                return
            self._documents.reset(entries, revision)
            self._makeshift = True
            self._fresh_at_ms = self._clock() - max(0, self._utc_ms() - meta.utc_ms)
        log.warning("without the store's confirmation, this server knows what one member had by itself")

    def _follow(self) -> None:
        watch = self._store.watch("", after_revision=self._documents.revision)
        with self._lock:
            self._watch = watch
        try:
            while self._goes_on():
                self._look(watch)
        finally:
            with self._lock:
                self._watch = None
            watch.close()

    def _goes_on(self) -> bool:
        with self._lock:
            handover = self._handover
            if handover is not None and self._documents.revision >= handover[0]:
                self._handover = None
                self._resting = True
                entries = self._documents.entries
            else:
                return self._loaded and not self._stopping
        handover[1](entries)
        return False

    def _look(self, watch: Watch) -> None:
        changes = watch.next(FRESHNESS_CHECK_S)
        if changes:
            with self._lock:
                self._documents.apply(changes)
            self._tell()
        if self._clock() >= self._ask_at_ms:
            asked_ms = self._clock()
            entry = self._store.get(records.META_KEY)
            self._promised = (asked_ms, entry.mod_revision if entry is not None else 0)
            self._ask_at_ms = asked_ms + round(1000 * FRESHNESS_CHECK_S)
        asked_ms, revision = self._promised
        if revision <= self._documents.state_revision:
            with self._lock:
                self._fresh_at_ms = max(self._fresh_at_ms, asked_ms)

    def _tell(self) -> None:
        """Only what has changed."""
        with self._lock:
            news = MirrorNews(
                leader_revision=self._documents.leader_revision,
                revision=self._documents.revision,
                owners=frozenset(name for name, objects in self._documents.owners.items() if name and objects),
                error=self._error,
                newer=self._newer(),
            )
        known = self._news
        self._news = news
        if known is None or attrs.evolve(known, revision=news.revision) != news:
            self._told(news)
