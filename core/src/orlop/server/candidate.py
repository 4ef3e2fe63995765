"""The shell of the election: one server's part in it, running.

Threads: `orlop-election` decides and never waits for the store; `orlop-lease` talks to it (campaigns, renewals), so
that a slow store delays a renewal and nothing else; the mirror has its own. `begin` and `end` are called on the
mirror's and the election's thread, in turns: an `end` never overtakes its `begin`.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
from collections.abc import Callable
from typing import Final

import attrs

from orlop.model.documents import NewerVersion, to_bytes
from orlop.model.messages import Seen
from orlop.server.election import (
    BeginTerm,
    Campaign,
    CampaignEnded,
    Effect,
    Election,
    ElectionSettings,
    Eligible,
    EndTerm,
    Event,
    GiveUp,
    LeaderSeen,
    Renew,
    RenewalEnded,
    Revoke,
    Tick,
)
from orlop.server.loading import (
    LEADER_KEY,
    FrameworkClasses,
    LeaderRecord,
    Term,
    begin_term,
    collector_paused,
    last_logged,
)
from orlop.server.mirror import Mirror, MirrorNews
from orlop.server.succession import Succession
from orlop.store.interface import Compare, Delete, Entry, Field, Lease, Put, Store, StoreError, StoreRefused

log = logging.getLogger(__name__)

#: A server without a plugin that owns objects leaves the lead to those that have it, for so many leases.
DEFER_LEASES: Final = 2
JOIN_S: Final = 10.0


class Candidate:
    """See the module. record: what it writes as the leader.

    begin: called with each term that begins, to return quickly. end: with the reason for which the last one ended.
    no_room: the store refused a campaign for lack of room, with the reason. clock: monotonic milliseconds.
    seen: see `begin_term`.
    """

    def __init__(
        self,
        *,
        store: Store,
        classes: FrameworkClasses,
        settings: ElectionSettings,
        record: LeaderRecord,
        clock: Callable[[], int],
        utc_ms: Callable[[], int],
        begin: Callable[[Term], None],
        end: Callable[[str], None],
        fatal: Callable[[Exception], None],
        no_room: Callable[[str], None] = lambda _: None,
        seen: Seen | None = None,
    ) -> None:
        self._store = store
        self._classes = classes
        self._settings = settings
        self._record = record
        self._clock = clock
        self._utc_ms = utc_ms
        self._begin = begin
        self._end = end
        self._fatal = fatal
        self._no_room = no_room
        self._seen = seen
        self._election = Election(settings)
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._leases: dict[int, Lease] = {}
        self._succession = Succession(record.server)
        self._turn = threading.Lock()
        self._revision = 0
        self._trouble = ""
        self.mirror = Mirror(store, classes, clock, utc_ms, self._mirrored)
        self._threads = [
            threading.Thread(target=self._decide_forever, name="orlop-election", daemon=True),
            threading.Thread(target=self._call_forever, name="orlop-lease", daemon=True),
        ]

    # From other threads

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        if self._settings.lease_ms is None:
            self._events.put(Eligible())
        else:
            self.mirror.start()

    def stop(self) -> None:
        """Leads no more, and lets the next one lead at once. Returns when the lease is given back, or soon."""
        self._events.put(None)
        for thread in self._threads:
            thread.join(timeout=JOIN_S)
        self.mirror.stop()

    def leads(self) -> bool:
        """Does this server lead, at this moment?"""
        return self._election.leads(self._clock())

    @property
    def led_until_ms(self) -> int:
        """Monotonic milliseconds: until when this server was certain to lead, the last time it did."""
        return self._election.certain_until_ms

    def give_up(self, reason: str) -> None:
        """The term cannot go on."""
        self._events.put(GiveUp(reason))

    # The mirror's thread

    def _mirrored(self, news: MirrorNews) -> None:
        leader = self.mirror.leader()
        with self._turn:
            self._succession.seen(leader)
        missing = sorted(news.owners - self._classes.keys())
        if news.error:
            self._events.put(Eligible(reason=news.error))
            return
        if news.newer:
            log.warning("this server leaves the lead to a newer one: %s", news.newer)
            self._events.put(Eligible(reason=news.newer))
            self._events.put(LeaderSeen(news.leader_revision, news.revision))
            return
        if missing and self._settings.lease_ms is not None:
            log.warning("frameworks with objects are not installed here: %s", ", ".join(missing))
        defer_ms = DEFER_LEASES * (self._settings.lease_ms or 0) if missing else 0
        self._events.put(Eligible(defer_ms=defer_ms))
        self._events.put(LeaderSeen(news.leader_revision, news.revision))

    def _copied(self, revision: int, entries: dict[str, Entry]) -> None:
        """The mirror has what the term begins from."""
        made = self.mirror.made()
        try:
            with collector_paused(is_loaded=made is not None):
                term = begin_term(
                    self._store,
                    entries,
                    self._classes,
                    revision,
                    new_cluster_id=secrets.token_hex(8),
                    utc_ms=self._utc_ms(),
                    seen=self._seen,
                    state=made,
                )
                if term.state.version:
                    told = last_logged(self._store, term.state.version)
                    with self._turn:
                        term = attrs.evolve(term, after=self._succession.why(told))
        except StoreError as error:
            self.give_up(f"the term could not begin: {error}")
            return
        except NewerVersion as error:
            if self._settings.lease_ms is None:
                self._fatal(error)
            else:  # a newer server was faster; it shall lead
                self.give_up(str(error))
            return
        except Exception as error:  # noqa: BLE001  (handed on: no term can begin from this state)
            self._fatal(error)
            return
        with self._turn:
            if self._revision == revision:
                self._begin(term)

    # The election's thread

    def _decide_forever(self) -> None:
        while True:
            try:
                event = self._events.get(timeout=self._election.next_tick_ms / 1000)
            except queue.Empty:
                event = Tick()
            if event is None:
                self._do(self._election.stop(self._clock()))
                self._calls.put(None)
                return
            self._do(self._election.handle(event, self._clock()))

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Campaign():
                    self._calls.put(self._campaign)
                case Renew():
                    self._calls.put(lambda lease=effect.lease: self._renew(lease))  # type: ignore[misc]
                case Revoke():
                    self._calls.put(lambda lease=effect.lease: self._revoke(lease))  # type: ignore[misc]
                case BeginTerm():
                    self._lead(effect.revision)
                case EndTerm():
                    self._stop_leading(effect.reason)

    def _lead(self, revision: int) -> None:
        with self._turn:
            self._revision = revision
        self.mirror.hand_over(revision, lambda entries: self._copied(revision, entries))
        if self._settings.lease_ms is None and not self.mirror.started:
            self.mirror.start()

    def _stop_leading(self, reason: str) -> None:
        with self._turn:
            self._revision = 0
            self._succession.led_until(self._record, reason)
            self._end(reason)
        self.mirror.resume()

    # The lease's thread

    def _call_forever(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def _campaign(self) -> None:
        asked_ms = self._clock()
        lease: Lease | None = None
        try:
            if self._settings.lease_ms is not None:
                lease = self._store.lease(max(1, round(self._settings.lease_ms / 1000)))
                self._leases[lease.id] = lease
            won = self._create_key(lease)
            error = ""
        except StoreError as failure:
            if str(failure) != self._trouble:  # said once, however often it is tried
                log.warning("this server cannot campaign, and tries again: %s", failure)
            won, error = 0, str(failure)
            if isinstance(failure, StoreRefused):
                self._no_room(str(failure))
        self._trouble = error
        self._events.put(
            CampaignEnded(won=won, lease=lease.id if lease is not None else 0, asked_ms=asked_ms, error=error)
        )

    def _create_key(self, lease: Lease | None) -> int:
        """The leader key's create revision, 0 when another one has it. Raises StoreError."""
        data = to_bytes(self._record)
        if lease is not None:
            absent = Compare(LEADER_KEY, Field.CREATE_REVISION, 0)
            result = self._store.transact([Put(LEADER_KEY, data, lease.id)], [absent])
            return result.revision if result.applied else 0
        # Nobody else can have this store open: what is there is from an earlier life, and a new key is a new epoch.
        self._store.transact([Delete(LEADER_KEY)])
        return self._store.transact([Put(LEADER_KEY, data)]).revision

    def _renew(self, lease_id: int) -> None:
        asked_ms = self._clock()
        try:
            kept, error = self._leases[lease_id].keep_alive(), ""
        except StoreError as failure:
            log.warning("the lease could not be renewed: %s", failure)
            kept, error = False, str(failure)
        self._events.put(RenewalEnded(lease=lease_id, asked_ms=asked_ms, kept=kept, error=error))

    def _revoke(self, lease_id: int) -> None:
        lease = self._leases.pop(lease_id, None)
        try:
            if lease is not None:
                lease.revoke()
        except StoreError as error:
            log.info("the lease could not be given back, and ends by itself: %s", error)
