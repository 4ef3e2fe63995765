"""Terms of leadership over a store, as servers begin them."""

from __future__ import annotations

from orlop.model.documents import to_bytes
from orlop.model.messages import Seen
from orlop.server.loading import LEADER_KEY, LeaderRecord, Term, begin_term, list_entries
from orlop.store.interface import Delete, Put, Store


def begin(store: Store, seen: Seen | None = None, *, utc_ms: int = 1_000) -> Term:
    """Takes the lead, as the next server would."""
    store.transact([Delete(LEADER_KEY)])
    leader = to_bytes(LeaderRecord(server="s", url="", since_utc_ms=1))
    revision = store.transact([Put(LEADER_KEY, leader)]).revision
    return begin_term(store, list_entries(store)[0], {}, revision, new_cluster_id="c", utc_ms=utc_ms, seen=seen)
