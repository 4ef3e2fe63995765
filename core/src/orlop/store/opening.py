"""From a store's URL to the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from orlop.store.interface import Store, StoreError
from orlop.store.memory import MemoryStore
from orlop.store.sqlite import SqliteStore

#: Opens the store of a URL (all of it, the scheme included). Raises StoreError.
StoreFactory = Callable[[str], Store]


def open_store(url: str, factories: Mapping[str, StoreFactory] = MappingProxyType({})) -> Store:
    """The store of `url`: `sqlite:///absolute/path` (the path taken as it is written), `memory://`, or a plugin's.

    factories: by scheme, those that plugins add. Raises StoreError: an unknown scheme, a malformed URL, or whatever
    keeps the store from being opened; ValueError if a plugin claims a scheme that is built in.
    """
    if claimed := _BUILT_IN.keys() & factories.keys():
        raise ValueError(f"a plugin offers stores for {', '.join(sorted(claimed))}, which is built in")
    known = {**_BUILT_IN, **factories}
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise StoreError(f"the store's URL {url!r} has no scheme; expected one like sqlite:///var/lib/orlop/store.db")
    if scheme not in known:
        raise StoreError(f"no store has the scheme {scheme!r}; there are {', '.join(sorted(known))}")
    return known[scheme](url)


def _open_sqlite(url: str) -> Store:
    path = url.removeprefix("sqlite://")
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise StoreError(f"the store's URL {url!r} must be sqlite:///absolute/path/of/a/file")
    return SqliteStore(path)


def _open_memory(url: str) -> Store:
    if url != "memory://":
        raise StoreError(f"the store's URL {url!r} must be just memory://")
    return MemoryStore()


_BUILT_IN: Final[Mapping[str, StoreFactory]] = MappingProxyType({"sqlite": _open_sqlite, "memory": _open_memory})
