"""Changes larger than a transaction: whatever is interrupted, the state is the one before or the one after."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.kernel import records
from orlop.server import redo
from orlop.store.interface import Delete, Limits, Put, StoreRefused
from orlop.store.memory import MemoryStore

META = Put(records.META_KEY, b'{"v":1,"version":7}')
keys = st.sampled_from([f"tasks/{number}" for number in range(40)])
values = st.builds(
    lambda text, number: orjson.dumps({"v": 1, "text": text, "number": number}),
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.integers(0, 2**53),
)
histories = st.dictionaries(keys, st.one_of(st.none(), values), min_size=1, max_size=40)


def as_writes(history: dict[str, bytes | None]) -> list[redo.Write]:
    return [Delete(key) if value is None else Put(key, value) for key, value in history.items()]


def applied(documents: dict[str, bytes], writes: tuple[redo.Write, ...]) -> dict[str, bytes]:
    """What the store makes of a transaction; it refuses what is too large or writes a key twice."""
    store = MemoryStore()
    if documents:
        store.transact([Put(key, value) for key, value in documents.items()])
    store.transact(writes)
    return {entry.key: entry.value for entry in store.range("").entries}


def plain(documents: dict[str, bytes]) -> dict[str, object]:
    return {key: orjson.loads(value) for key, value in documents.items()}


@given(histories, histories, st.integers(4, 12), st.integers(5_000, 9_000))
def test_interrupted_anywhere_it_is_all_or_nothing(
    before: dict[str, bytes | None], change: dict[str, bytes | None], operations: int, size: int
) -> None:
    limits = Limits(operations=operations, bytes=size)
    documents = {key: value for key, value in before.items() if value is not None}
    expected = {key: value for key, value in documents.items() if key not in change}
    expected |= {key: value for key, value in change.items() if value is not None} | {META.key: META.value}
    planned = redo.plan(as_writes(change), META, 7, limits)
    steps = [*planned.before, planned.commit, *planned.after]
    assert all(len(step) <= operations for step in steps)
    assert all(sum(len(one.key) + len(getattr(one, "value", b"")) for one in step) <= size for step in steps)
    committed = len(planned.before)
    for number, step in enumerate(steps):
        seen = redo.rolled_forward(documents)
        assert plain(seen) == plain(expected if number > committed else {k: v for k, v in before.items() if v})
        documents = applied(documents, step)
    assert plain(documents) == plain(expected)


@given(histories, st.integers(4, 12), st.data())
def test_a_new_leader_finishes_what_it_finds(
    change: dict[str, bytes | None], operations: int, data: st.DataObject
) -> None:
    limits = Limits(operations=operations, bytes=6_000)
    planned = redo.plan(as_writes(change), META, 7, limits)
    steps = [*planned.before, planned.commit, *planned.after]
    documents: dict[str, bytes] = {}
    for step in steps[: data.draw(st.integers(0, len(steps)))]:
        documents = applied(documents, step)
    expected = redo.rolled_forward(documents)
    finishing = redo.finishing(documents, limits)
    for number, step in enumerate(finishing):
        assert plain(redo.rolled_forward(documents)) == plain(expected), f"before step {number}"
        documents = applied(documents, step)
    assert plain(documents) == plain(expected)
    assert not [key for key in documents if key.startswith(records.REDO)]


def test_what_fits_is_one_transaction() -> None:
    writes: list[Put | Delete] = [Put("tasks/a", b"{}"), Delete("tasks/b")]
    assert redo.plan(writes, META, 1, Limits(operations=3, bytes=10_000)) == redo.Plan((), (*writes, META), ())


def test_one_document_that_is_too_large_is_refused_by_its_name() -> None:
    with pytest.raises(StoreRefused, match="objects/f/big/1 has"):
        redo.plan([Put("objects/f/big/1", b"0" * 20_000)], META, 1, Limits(operations=100, bytes=10_000))


def test_keys_count_by_their_bytes() -> None:
    key = "objects/f/thing/" + "\N{SNOWMAN}" * 1_000
    assert redo.size_of(Delete(key)) == len(key.encode()) + redo.OVERHEAD_BYTES
    limits = Limits(operations=100, bytes=20_000)
    planned = redo.plan([Put(f"{key}{number}", b"{}") for number in range(10)], META, 1, limits)
    steps = [*planned.before, planned.commit, *planned.after]
    assert all(sum(len(one.key.encode()) + len(getattr(one, "value", b"")) for one in step) <= 20_000 for step in steps)
