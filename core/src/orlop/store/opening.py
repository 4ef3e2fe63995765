"""From a store's URL to the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from orlop.store.etcd_address import SCHEMES as ETCD_SCHEMES
from orlop.store.etcd_address import EtcdAddress, StoreAccess, parse_address
from orlop.store.interface import Store, StoreError
from orlop.store.memory import MemoryStore
from orlop.store.sqlite import SqliteStore

#: Opens the store of a URL (all of it, the scheme included). Raises StoreError.
StoreFactory = Callable[[str], Store]

_DEFAULT_ACCESS: Final = StoreAccess()


def open_store(
    url: str,
    factories: Mapping[str, StoreFactory] = MappingProxyType({}),
    access: StoreAccess = _DEFAULT_ACCESS,
) -> Store:
    """The store of `url`, or that of a plugin, which gets the whole URL. Built in are:

    `sqlite:///absolute/path` (the path taken as it is written), `memory://`, `etcd://HOST:PORT,HOST:PORT/PREFIX` and
    the same with `etcds://` for TLS (see `etcd_address`), which connects when it is first used.

    factories: by scheme, those that plugins add. access: what an etcd's URL does not say. Raises StoreError: an unknown
    scheme, a malformed URL, or whatever keeps the store from being opened; ValueError if a plugin claims a scheme that
    is built in.
    """
    return store_of(url, factories, access)()


def store_of(
    url: str,
    factories: Mapping[str, StoreFactory] = MappingProxyType({}),
    access: StoreAccess = _DEFAULT_ACCESS,
) -> Callable[[], Store]:
    """What opens the store, once it is called. Raises as `open_store` does for what can be told by the URL alone."""
    if claimed := _BUILT_IN.keys() & factories.keys():
        raise ValueError(f"a plugin offers stores for {', '.join(sorted(claimed))}, which is built in")
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise StoreError(f"the store's URL {url!r} has no scheme; expected one like sqlite:///var/lib/orlop/store.db")
    if scheme in _BUILT_IN:
        return _BUILT_IN[scheme](url, access)
    if scheme not in factories:
        known = ", ".join(sorted({*_BUILT_IN, *factories}))
        raise StoreError(f"no store has the scheme {scheme!r}; there are {known}")
    return partial(factories[scheme], url)


def is_missing(url: str) -> Path | None:
    """The file of an embedded store, where opening the URL would make a new store; None where it would not."""
    scheme, _, path = url.partition("://")
    if scheme != "sqlite":
        return None
    try:
        return Path(path) if Path(path).stat().st_size == 0 else None
    except FileNotFoundError:
        return Path(path)
    except (OSError, ValueError):
        return None  # what is wrong with it is said when it is opened


def _sqlite_of(url: str, _: StoreAccess) -> Callable[[], Store]:
    path = url.removeprefix("sqlite://")
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise StoreError(f"the store's URL {url!r} must be sqlite:///absolute/path/of/a/file")
    return partial(SqliteStore, path)


def _memory_of(url: str, _: StoreAccess) -> Callable[[], Store]:
    if url != "memory://":
        raise StoreError(f"the store's URL {url!r} must be just memory://")
    return MemoryStore


def _etcd_of(url: str, access: StoreAccess) -> Callable[[], Store]:
    return partial(_open_etcd, parse_address(url, access))


def _open_etcd(address: EtcdAddress) -> Store:
    from orlop.store.etcd import EtcdStore  # gRPC takes its time to load, and the other stores do without it

    return EtcdStore(address)


_BUILT_IN: Final[Mapping[str, Callable[[str, StoreAccess], Callable[[], Store]]]] = MappingProxyType(
    {"sqlite": _sqlite_of, "memory": _memory_of, **dict.fromkeys(ETCD_SCHEMES, _etcd_of)}
)
