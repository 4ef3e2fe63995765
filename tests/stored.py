"""What is in a store, for tests that know that it is there."""

from __future__ import annotations

from collections.abc import Iterable

from orlop.store.interface import Change, Entry, Store


def entry_of(store: Store, key: str, *, revision: int | None = None, stale: bool = False) -> Entry:
    """What `get` says of a key that is there."""
    entry = store.get(key, revision=revision, stale=stale)
    assert entry is not None, f"{key} is not stored"
    return entry


def value_of(store: Store, key: str, *, revision: int | None = None, stale: bool = False) -> bytes:
    return entry_of(store, key, revision=revision, stale=stale).value


def values_put(changes: Iterable[Change]) -> list[bytes]:
    """What the changes have put; none of them is a deletion."""
    values = []
    for change in changes:
        assert change.entry is not None, f"{change.key} was deleted"
        values.append(change.entry.value)
    return values
