"""The etcd store beside a bare client of the same etcd: commits of 128 keys, listings.

Both do the same work in turns, on one member with its data on disk; the ratio is the median over the turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from etcd_members import EtcdCluster, EtcdFactory, missing

from orlop.store import etcd_protocol as protocol
from orlop.store.etcd import EtcdStore
from orlop.store.etcd_address import StoreAccess, parse_address
from orlop.store.etcd_protocol import messages
from orlop.store.interface import Compare, Field, Put

from .figures import Figure

__all__ = ["missing", "run"]

KEYS_PER_TRANSACTION: Final = 128
VALUE_BYTES: Final = 300
TRANSACTIONS_PER_TURN: Final = 40
LISTINGS_PER_TURN: Final = 5
TURNS: Final = 15

Pairs = list[tuple[str, bytes]]


class Bare:
    """What one writes without a store: the same messages on the same kind of connection."""

    def __init__(self, cluster: EtcdCluster) -> None:
        self.client = protocol.connect("127.0.0.1", cluster.members[0].port, "", "", "")
        self.fence = self.client.kvstub.Txn(
            messages.TxnRequest(success=[_put("/bare/fence", b"")]), timeout=5
        ).header.revision

    def commit(self, pairs: Pairs) -> None:
        request = messages.TxnRequest(
            compare=[
                messages.Compare(
                    key=b"/bare/fence",
                    target=messages.Compare.MOD,
                    result=messages.Compare.EQUAL,
                    mod_revision=self.fence,
                )
            ],
            success=[_put(f"/bare/{key}", value) for key, value in pairs],
        )
        assert self.client.kvstub.Txn(request, timeout=5).succeeded

    def list(self) -> int:
        answer = self.client.kvstub.Range(messages.RangeRequest(key=b"/bare/k", range_end=b"/bare/l"), timeout=5)
        return len([(kv.key.decode(), kv.value, kv.mod_revision) for kv in answer.kvs])


def _put(key: str, value: bytes) -> Any:
    return messages.RequestOp(request_put=messages.PutRequest(key=key.encode(), value=value))


class Stored:
    """The same through the store."""

    def __init__(self, cluster: EtcdCluster) -> None:
        self.store = EtcdStore(parse_address(cluster.url("store"), StoreAccess()))
        self.fence = Compare("fence", Field.MOD_REVISION, self.store.transact([Put("fence", b"")]).revision)

    def commit(self, pairs: Pairs) -> None:
        assert self.store.transact([Put(key, value) for key, value in pairs], [self.fence]).applied

    def list(self) -> int:
        return len(self.store.range("k").entries)


def _pairs(turn: int, number: int) -> Pairs:
    value = bytes([turn]) * VALUE_BYTES
    return [(f"k/{number:04}/{index:04}", value) for index in range(KEYS_PER_TRANSACTION)]


def _rate(work: Callable[[], int]) -> tuple[float, float]:
    """Keys per second, and per second of this process's processor time."""
    began, began_cpu = time.perf_counter(), time.process_time()
    keys = work()
    return keys / (time.perf_counter() - began), keys / (time.process_time() - began_cpu)


def _commits(one: Bare | Stored, turn: int) -> int:
    for number in range(TRANSACTIONS_PER_TURN):
        one.commit(_pairs(turn, number))
    return TRANSACTIONS_PER_TURN * KEYS_PER_TRANSACTION


def _listings(one: Bare | Stored, _: int) -> int:
    return sum(one.list() for _ in range(LISTINGS_PER_TURN))


def _compared(
    what: str, work: Callable[[Bare | Stored, int], int], bare: Bare, stored: Stored, at_least: float | None
) -> Iterator[Figure]:
    rates: dict[Bare | Stored, list[tuple[float, float]]] = {bare: [], stored: []}
    for turn in range(TURNS):
        for one in (bare, stored) if turn % 2 else (stored, bare):
            rates[one].append(_rate(lambda one=one, turn=turn: work(one, turn)))  # type: ignore[misc]
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(rates[stored], rates[bare], strict=True)]
    yield Figure(f"etcd, {what}: a bare client", statistics.median(rate for rate, _ in rates[bare]), "keys/s")
    yield Figure(f"etcd, {what}: the store", statistics.median(rate for rate, _ in rates[stored]), "keys/s")
    yield Figure(f"etcd, {what}: the store over the bare client", statistics.median(ratios), "", at_least=at_least)
    for name, one in (("a bare client", bare), ("the store", stored)):
        cost_us = 1e6 / statistics.median(rate for _, rate in rates[one])
        yield Figure(f"etcd, {what}: processor time of {name}", cost_us, "us/key")


def run() -> Iterator[Figure]:
    factory = EtcdFactory()
    try:
        cluster = factory.cluster()
        bare, stored = Bare(cluster), Stored(cluster)
        try:
            yield from _compared("128-key transactions", _commits, bare, stored, at_least=0.6)
            yield from _compared("listing 5,120 keys", _listings, bare, stored, at_least=None)
        finally:
            stored.store.close()
            bare.client.close()
    finally:
        factory.close()
