"""The plugin host: finds plugins, loads each by itself, calls its hooks one plugin at a time.

pluggy stops at the first implementation that raises, and its loader at the first plugin that does not import; so each
plugin is registered with a manager of its own, and every import and every call runs on a thread with a deadline. What
raises, exits or hangs is reported and left out; the others go on, and it is tried again after a back-off.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import attrs
import pluggy

from orlop import hookspecs
from orlop.configuration import ConfigurationError, Settings, structure_plugin

log = logging.getLogger(__name__)

LOAD_TIMEOUT_S: Final = 10.0
CALL_TIMEOUT_S: Final = 10.0
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
_HOOKS: Final = frozenset(
    name for name, value in vars(hookspecs).items() if inspect.isfunction(value) and hasattr(value, "orlop_spec")
)


@attrs.frozen(kw_only=True)
class PluginRecord:
    """What is known of a plugin. state: loaded, failed, blocked or configuration-error.

    hooks: those it implements. warnings: e.g. functions marked as hooks that are none. retry_at_s: monotonic.
    """

    name: str
    state: str
    distribution: str = ""
    version: str = ""
    builtin: bool = False
    hooks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str = ""
    traceback: str = ""
    failures: int = 0
    retry_at_s: float | None = None


class PluginTimeout(Exception):
    """A plugin did not return in time; its thread is abandoned."""


@attrs.define
class _Loaded:
    manager: pluggy.PluginManager
    settings: Any


class PluginHost:
    """See the module. builtin: (name, module) pairs that are no distributions. found: entry points, for tests."""

    def __init__(
        self,
        settings: Settings,
        builtin: Iterable[tuple[str, Any]] = (),
        *,
        found: Sequence[EntryPoint] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._settings = settings
        self._builtin = dict(builtin)
        self._found = found
        self._timeout_s = timeout_s
        self._sources: dict[str, EntryPoint | None] = {}
        self._records: dict[str, PluginRecord] = {}
        self._loaded: dict[str, _Loaded] = {}

    def load(self) -> None:
        """Finds and loads everything. Never raises for a plugin's fault."""
        for name in self._builtin:
            self._sources[name] = None
            self._load(name)
        points = entry_points(group=hookspecs.ENTRY_POINT_GROUP) if self._found is None else self._found
        for point in sorted(points, key=lambda point: point.name):
            if point.name not in self._sources:
                self._sources[point.name] = point
                self._load(point.name)

    def retry(self, name: str) -> PluginRecord:
        """Loads a failed plugin again. Raises KeyError."""
        self._load(name)
        return self._records[name]

    def due_retries(self, now_s: float) -> list[str]:
        """Failed plugins whose back-off is over at this monotonic time."""
        return [
            name
            for name, record in self._records.items()
            if record.state == "failed" and record.retry_at_s is not None and record.retry_at_s <= now_s
        ]

    def records(self) -> list[PluginRecord]:
        """All plugins, blocked and broken ones included."""
        return list(self._records.values())

    def describe(self) -> list[dict[str, Any]]:
        """One JSON object each."""
        return [
            {
                "name": record.name,
                "state": record.state,
                "distribution": record.distribution,
                "version": record.version,
                "builtin": record.builtin,
                "hooks": list(record.hooks),
                "warnings": list(record.warnings),
                "error": record.error,
                "failures": record.failures,
            }
            for record in self._records.values()
        ]

    def names(self) -> list[str]:
        """Loaded plugins, in the order of loading."""
        return list(self._loaded)

    def settings_of(self, name: str) -> Any:
        """The plugin's checked settings; None when it has none."""
        loaded = self._loaded.get(name)
        return loaded.settings if loaded is not None else None

    def call(self, name: str, hook: str, **arguments: Any) -> Any:
        """One plugin's answer; None when it does not implement the hook, or failed in it."""
        loaded = self._loaded.get(name)
        if loaded is None or hook not in self._records[name].hooks:
            return None
        try:
            return _within(self._timeout_s, lambda: _first(getattr(loaded.manager.hook, hook)(**arguments)))
        except BaseException as error:  # noqa: BLE001  (SystemExit too: a plugin's fault never spreads)
            self._failed(name, f"in hook {hook}: {_text(error)}", error)
            return None

    def collect(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """(plugin, answer) of all that implement the hook and did not fail."""
        answers = [(name, self.call(name, hook, **arguments)) for name in self.names()]
        return [(name, answer) for name, answer in answers if answer is not None]

    def _load(self, name: str) -> None:
        point = self._sources[name]
        known = self._records.get(name)
        record = PluginRecord(name=name, state="loaded", builtin=point is None, failures=known.failures if known else 0)
        if point is not None and point.dist is not None:
            record = attrs.evolve(record, distribution=point.dist.name, version=point.dist.version)
        self._records[name] = record
        if self._blocked(name):
            self._records[name] = attrs.evolve(record, state="blocked", error="not wanted: see [server]")
            return
        try:
            plugin = self._builtin[name] if point is None else _within(LOAD_TIMEOUT_S, point.load)
            manager = pluggy.PluginManager("orlop")
            manager.add_hookspecs(hookspecs)
            manager.register(plugin, name)
        except BaseException as error:  # noqa: BLE001  (SystemExit too)
            self._failed(name, _text(error), error)
            return
        hooks, warnings = _examine(manager, plugin)
        self._records[name] = attrs.evolve(record, hooks=hooks, warnings=warnings)
        self._loaded[name] = _Loaded(manager, None)
        self._configure(name)

    def _configure(self, name: str) -> None:
        cls = self.call(name, "configuration") or self._framework_config(name)
        loaded = self._loaded.get(name)
        if loaded is None or cls is None:
            return
        try:
            loaded.settings = structure_plugin(self._settings, name, cls)
        except ConfigurationError as error:
            del self._loaded[name]
            self._records[name] = attrs.evolve(self._records[name], state="configuration-error", error=str(error))
        except Exception as error:  # noqa: BLE001  (a class that cannot be used at all)
            self._failed(name, f"its configuration class cannot be used: {_text(error)}", error)

    def _framework_config(self, name: str) -> type | None:
        classes = self.call(name, "frameworks") or ()
        configs = [framework.config for framework in classes if framework.config is not None]
        return configs[0] if len(configs) == 1 else None

    def _blocked(self, name: str) -> bool:
        server = self._settings.server
        if name in self._builtin:
            return False
        return name in server.deny_plugins or bool(server.allow_plugins and name not in server.allow_plugins)

    def _failed(self, name: str, text: str, error: BaseException) -> None:
        log.error("plugin %s: %s", name, text)
        self._loaded.pop(name, None)
        record = self._records[name]
        delay_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2**record.failures)
        self._records[name] = attrs.evolve(
            record,
            state="failed",
            error=text,
            traceback="".join(traceback.format_exception(error)),
            failures=record.failures + 1,
            retry_at_s=time.monotonic() + delay_s,
        )


def _within(timeout_s: float, work: Callable[[], Any]) -> Any:
    """The result of `work`, on a thread of its own. Raises what it raises, or PluginTimeout."""
    result: list[Any] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            result.append(work())
        except BaseException as error:  # noqa: BLE001  (handed to the caller)
            failure.append(error)

    thread = threading.Thread(target=target, name="orlop-plugin-call", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise PluginTimeout(f"it did not return within {timeout_s:g} s")
    if failure:
        raise failure[0]
    return result[0]


def _first(results: list[Any]) -> Any:
    return results[0] if results else None


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


def _examine(manager: pluggy.PluginManager, plugin: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    hooks, warnings = [], []
    for caller in manager.get_hookcallers(plugin) or ():
        if caller.name in _HOOKS:
            hooks.append(caller.name)
        else:
            close = get_close_matches(caller.name, _HOOKS, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            warnings.append(f"there is no hook {caller.name}{hint}")
    return tuple(sorted(hooks)), tuple(warnings)
