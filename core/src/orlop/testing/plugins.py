"""An installed plugin, loaded for a test as a server loads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orlop.configuration import Settings
from orlop.framework import Framework
from orlop.server.plugin_host import PluginHost, found_plugins


class PluginBroken(AssertionError):
    """The plugin is not installed, does not load, or loads with warnings; the text says what is wrong."""


def load_frameworks(name: str, settings: Mapping[str, Any]) -> list[Framework]:
    """New instances of the plugin's frameworks, with these settings.

    name: of its entry point, which is that of its table. settings: what stands in `[plugins.NAME]`.
    Raises PluginBroken.
    """
    found = [point for point in found_plugins() if point.name == name]
    if not found:
        raise PluginBroken(f"{name}: there is no such entry point in the group orlop; is its package installed?")
    host = PluginHost(Settings(plugins={name: dict(settings)}), found=found)
    host.load()
    classes = [one for _, answer in host.collect("frameworks") for one in answer]
    (record,) = host.records()
    wrong = [*record.warnings, *([record.error] if record.error else [])]
    if wrong or record.state != "loaded":
        raise PluginBroken(f"{name} is {record.state}: {'; '.join(wrong)}")
    return [one(host.settings_of(name)) for one in classes]
