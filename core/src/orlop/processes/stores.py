"""The store that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orlop.configuration import Settings
from orlop.model.resources import to_units
from orlop.server.plugin_host import PluginHost
from orlop.store.etcd_address import SCHEMES as ETCD_SCHEMES
from orlop.store.etcd_address import StoreAccess, parse_address
from orlop.store.interface import Store, StoreError
from orlop.store.opening import store_of


def store_url(settings: Settings, data: Path) -> str:
    """Where the state lives; by default in the data folder."""
    return settings.store.url or f"sqlite://{data / 'state.db'}"


def open_configured_store(settings: Settings, data: Path, plugins: PluginHost) -> Store:
    """Raises StoreError."""
    return configured_store(settings, data, plugins)()


def configured_store(settings: Settings, data: Path, plugins: PluginHost) -> Callable[[], Store]:
    """What opens it. Raises StoreError for what can be told without doing so."""
    schemes = {scheme: make for _, stores in plugins.collect("stores") for scheme, make in stores.items()}
    store = settings.store
    access = StoreAccess(
        cluster=settings.cluster.name,
        ca_file=store.ca_file,
        cert_file=store.cert_file,
        key_file=store.key_file,
        user=store.user,
        password=store.password,
        timeout_s=store.timeout_s,
        quota_bytes=to_units("disk", store.quota),
    )
    url = store_url(settings, data)
    if url.partition("://")[0] in ETCD_SCHEMES:
        timeout_s, lease_s = parse_address(url, access).access.timeout_s, settings.cluster.lease_s
        if timeout_s > lease_s:
            raise StoreError(f"timeout_s is {timeout_s:g}: expected no more than [cluster] lease_s, {lease_s:g}")
    return store_of(url, schemes, access)
