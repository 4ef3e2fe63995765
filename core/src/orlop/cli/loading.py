"""The settings and plugins of this installation, for commands that look after it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from orlop.cli.failures import Failure
from orlop.cli.installed import entry_points
from orlop.configuration import ConfigurationError, Settings, load
from orlop.server import builtin
from orlop.server.plugin_host import PluginHost


def load_settings(config: Path | None) -> Settings:
    """The settings. Raises Failure with all that is wrong, one a line."""
    try:
        return load(config, os.environ)
    except ConfigurationError as error:
        raise Failure(str(error)) from error


def load_plugins(settings: Settings, only: str | None = None) -> PluginHost:
    """All plugins, or only one, loaded in this process. Raises Failure for an unknown one."""
    logging.getLogger("orlop").addHandler(logging.NullHandler())  # the records say what goes wrong
    found = [point for point in entry_points() if only in (None, point.name)]
    builtins = [("orlop", builtin)] if only in (None, "orlop") else []
    if not found and not builtins:
        raise Failure(f"there is no plugin {only}", code=4, hint="see `orlop plugins list --local`")
    host = PluginHost(settings, builtins, found=found)
    host.load()
    host.refuse_namesakes()
    return host
