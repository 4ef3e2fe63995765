"""Which plugins are installed, without importing any of them."""

from __future__ import annotations

from importlib.metadata import EntryPoint, distributions
from typing import Final

_GROUP: Final = "orlop"


def entry_points() -> list[EntryPoint]:
    """Plugins' entry points in the order of their names; of equal names the first is used, as when loading.

    The whole plugin host would be too much to import for a line of help.
    """
    found: dict[str, EntryPoint] = {}
    for distribution in distributions():
        try:
            points = list(distribution.entry_points.select(group=_GROUP))
        except Exception:  # noqa: BLE001  (broken metadata of something installed)
            continue
        for point in points:
            found.setdefault(point.name, point)
    return [found[name] for name in sorted(found)]


def plugin_names() -> list[str]:
    """Names of installed plugins."""
    return [point.name for point in entry_points()]
