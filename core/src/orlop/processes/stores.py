"""The store that the settings name."""

from __future__ import annotations

from pathlib import Path

from orlop.configuration import Settings
from orlop.model.resources import to_units
from orlop.server.plugin_host import PluginHost
from orlop.store.etcd_address import StoreAccess
from orlop.store.interface import Store
from orlop.store.opening import open_store


def store_url(settings: Settings, data: Path) -> str:
    """Where the state lives; by default in the data folder."""
    return settings.store.url or f"sqlite://{data / 'state.db'}"


def open_configured_store(settings: Settings, data: Path, plugins: PluginHost) -> Store:
    """Raises StoreError."""
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
    return open_store(store_url(settings, data), schemes, access)
