"""Backups: what is read is what was written, damage is noticed, and a restored state is a new history."""

from __future__ import annotations

import gzip
import io

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.kernel import records
from orlop.model.documents import NewerVersion, from_bytes, to_bytes
from orlop.server import archive, redo
from orlop.server.archive import Backup, BackupError
from orlop.server.loading import LEADER_KEY
from orlop.store.interface import Limits, OutcomeUnknown, Put, Store
from orlop.store.memory import MemoryStore

META = records.Meta(cluster_id="c1", generation=3, version=9, utc_ms=5, next_sequence=4)
documents = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).map("objects/f/k/".__add__),
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), st.integers(-(2**53), 2**53), max_size=3),
    max_size=8,
)


def a_store(objects: dict[str, object] | None = None, limits: Limits | None = None) -> MemoryStore:
    store = MemoryStore(limits=limits) if limits else MemoryStore()
    store.transact([Put(records.META_KEY, to_bytes(META))])
    for key, document in (objects or {}).items():
        store.transact([Put(key, orjson.dumps({"v": 1, "d": document}))])
    return store


def contents(store: Store) -> dict[str, object]:
    return {entry.key: orjson.loads(entry.value) for entry in store.range("").entries}


def taken(store: Store) -> Backup:
    return archive.take(store, utc_ms=77, orlop_version="0.1")


def as_file(backup: Backup) -> bytes:
    file = io.BytesIO()
    archive.write(backup, file)
    return file.getvalue()


def generation_of(store: Store) -> int:
    entry = store.get(records.META_KEY)
    assert entry is not None
    return from_bytes(entry.value, records.Meta, "meta").generation


@given(documents, st.integers(2, 6))
def test_what_is_restored_is_what_was_there_in_a_new_generation(objects: dict[str, object], operations: int) -> None:
    source = a_store(objects)
    source.transact([Put(LEADER_KEY, b"{}"), Put(records.log_key(9), b'{"v":1}')])
    found = archive.read(io.BytesIO(as_file(taken(source))))
    assert (found.head.cluster_id, found.head.version, found.head.created) == ("c1", 9, 77)
    target = MemoryStore(limits=Limits(operations=operations, bytes=100_000))
    assert archive.restore(found, target, replace=False) == 4
    expected = contents(source)
    del expected[LEADER_KEY], expected[records.log_key(9)]
    expected[records.META_KEY] = {**expected[records.META_KEY], "generation": 4}  # type: ignore[dict-item]
    assert contents(target) == expected


def test_a_change_that_is_durable_and_not_in_its_place_yet_is_in_it() -> None:
    store = a_store(limits=Limits(operations=4, bytes=100_000))
    writes = [Put(f"objects/f/k/{number}", b'{"v":1}') for number in range(9)]
    planned = redo.plan(writes, Put(records.META_KEY, to_bytes(META)), 10, store.limits)
    for part in (*planned.before, planned.commit):
        store.transact(part)
    found = taken(store).documents
    assert {f"objects/f/k/{number}" for number in range(9)} <= found.keys()
    assert not [key for key in found if key.startswith(records.REDO)]


def test_a_store_with_a_state_is_replaced_only_on_demand_and_its_generation_counts() -> None:
    target = a_store({"objects/f/k/old": 1})
    raised = archive.restore(taken(a_store()), target, replace=True)
    assert raised == generation_of(target) == 4
    assert archive.restore(taken(a_store()), target, replace=True) == 5, "above what was given up"
    assert "objects/f/k/old" not in contents(target)
    before = contents(target)
    with pytest.raises(BackupError, match="--replace gives it up"):
        archive.restore(taken(a_store()), target, replace=False)
    assert contents(target) == before


def test_nothing_is_restored_under_a_leader() -> None:
    target = MemoryStore()
    target.exclusive = False
    target.transact([Put(LEADER_KEY, b"{}")])
    with pytest.raises(BackupError, match="stop all servers first"):
        archive.restore(taken(a_store()), target, replace=True)


def test_an_interrupted_restoring_leaves_no_state_and_can_be_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    objects: dict[str, object] = {f"objects/f/k/{number}": number for number in range(20)}
    backup = taken(a_store(objects))
    target = a_store({"objects/f/k/old": 1}, limits=Limits(operations=3, bytes=100_000))
    calls = iter(range(1_000))
    original = MemoryStore.transact

    def breaks(self: MemoryStore, *arguments: object) -> object:
        if next(calls) >= 3:
            raise OutcomeUnknown("no answer")
        return original(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "transact", breaks)
        with pytest.raises(OutcomeUnknown):
            archive.restore(backup, target, replace=True)
    assert records.META_KEY not in contents(target)
    archive.restore(backup, target, replace=True)
    assert contents(target).keys() == objects.keys() | {records.META_KEY}


def test_there_is_nothing_to_back_up_in_an_empty_store() -> None:
    with pytest.raises(BackupError, match="no cluster"):
        taken(MemoryStore())


@given(st.data())
def test_damage_is_noticed_or_does_not_matter(data: st.DataObject) -> None:
    backup = taken(a_store({"objects/f/k/a": 1, "objects/f/k/b": "text"}))
    whole = as_file(backup)
    kind = data.draw(st.sampled_from(["cut", "flip", "line"]))
    if kind == "cut":
        damaged = whole[: data.draw(st.integers(0, len(whole) - 9))]
    elif kind == "flip":
        position = data.draw(st.integers(10, len(whole) - 9))
        damaged = whole[:position] + bytes([whole[position] ^ data.draw(st.integers(1, 255))]) + whole[position + 1 :]
    else:
        rows = gzip.decompress(whole).splitlines(keepends=True)
        del rows[data.draw(st.integers(1, len(rows) - 1))]
        damaged = gzip.compress(b"".join(rows))
    try:
        found = archive.read(io.BytesIO(damaged))
    except BackupError:
        return
    # A few bits of the compressed form mean nothing, those that fill up its last byte for example.
    assert found == backup
    assert kind == "flip"


def test_a_backup_of_a_later_version_is_refused_by_both_numbers() -> None:
    rows = gzip.decompress(as_file(taken(a_store()))).splitlines(keepends=True)
    head = orjson.loads(rows[0]) | {"v": 99}
    with pytest.raises(NewerVersion, match="version 99, and this program knows up to 1"):
        archive.read(io.BytesIO(gzip.compress(orjson.dumps(head) + b"\n" + b"".join(rows[1:]))))


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"x", gzip.compress(b""), gzip.compress(b"[]\n"), gzip.compress(b'{"v":1}\n')],
    ids=["nothing", "a letter", "no rows", "a list", "only a version"],
)
def test_rubbish_is_no_backup(rubbish: bytes) -> None:
    with pytest.raises(BackupError):
        archive.read(io.BytesIO(rubbish))
