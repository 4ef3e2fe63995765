"""The plugin host: finds plugins, loads each by itself, calls its hooks one plugin at a time.

pluggy stops at the first implementation that raises, and its loader at the first plugin that does not import; so each
plugin is registered with a manager of its own, and every import and every call runs on a thread with a deadline. What
raises, exits or hangs is reported and left out; the others go on.

A plugin's life: found → `blocked`, when the settings do not want it; else imported and registered, its settings
checked → `loaded`, `configuration-error`, or `failed`. A loaded one that fails in a hook is `failed` from then on. One
that failed by what it did (not by what it is) is due for a retry after a back-off, which loads it anew; the server
asks `due_retries` and decides. A thread that hangs cannot be stopped: it is abandoned, and after `ABANDONED_MAX` of
them a plugin is not tried again before the next start. Neither is one without which the process had to begin anew.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, distributions
from itertools import takewhile
from typing import Any, Final

import attrs
import pluggy

from orlop import hookspecs
from orlop.configuration import (
    ConfigurationError,
    Problem,
    Settings,
    key_text,
    plugin_table,
    structure_plugin,
    unknown_plugin_tables,
)
from orlop.framework import Framework
from orlop.server.framework_checks import doubts
from orlop.server.plugin_checks import NotAPlugin, complete, configuration_of, name_clashes, register

log = logging.getLogger(__name__)

LOAD_TIMEOUT_S: Final = 30.0
CALL_TIMEOUT_S: Final = 10.0
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
ABANDONED_MAX: Final = 3
#: Hooks that take no settings and are called of plugins whose settings are wrong, too.
_WITHOUT_SETTINGS: Final = frozenset({"commands"})
_CONFIGURING: Final = frozenset({"configuration", "frameworks"})


@attrs.frozen(kw_only=True)
class PluginRecord:
    """What is known of a plugin. state: loaded, failed, blocked or configuration-error.

    hooks: those it implements. warnings: e.g. functions marked as hooks that are none. failures: in a row.
    retry_at_s: monotonic; None when trying again is of no use. abandoned: its threads that never returned.
    frameworks: names of those it has said to have, the last time that it said so.
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
    abandoned: int = 0
    frameworks: tuple[str, ...] = ()


class PluginTimeout(Exception):
    """A plugin did not return in time; its thread is abandoned."""


class PluginHost:
    """See the module.

    builtin: (name, plugin) pairs that are no distributions; a plugin is a module or an object with hooks.
    found: entry points, instead of those installed. set_aside: names of plugins that are not to be loaded, and why.
    clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        builtin: Iterable[tuple[str, Any]] = (),
        *,
        found: Sequence[EntryPoint] | None = None,
        set_aside: Mapping[str, str] | None = None,
        load_timeout_s: float = LOAD_TIMEOUT_S,
        timeout_s: float = CALL_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._builtin = dict(builtin)
        self._found = found
        self._set_aside = dict(set_aside or {})
        self._load_timeout_s = load_timeout_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._points: dict[str, EntryPoint] = {}
        self._records: dict[str, PluginRecord] = {}
        self._managers: dict[str, pluggy.PluginManager] = {}
        self._structured: dict[str, Any] = {}
        #: What plugins have answered to the hook `frameworks` since they were loaded.
        self._frameworks: dict[str, Any] = {}

    # Loading

    def load(self) -> None:
        """Finds and loads everything. Never raises for a plugin's fault."""
        for name in self._builtin:
            self._load(name)
        for point in sorted(found_plugins() if self._found is None else self._found, key=lambda point: point.name):
            if point.name in self._builtin or point.name in self._points:
                self._warn(point.name, f"its name is used twice; ignored: {_origin(point)}")
                continue
            self._points[point.name] = point
            self._load(point.name)

    def retry(self, name: str) -> PluginRecord:
        """Loads a plugin anew, whatever its state. Raises KeyError for an unknown one."""
        if name not in self._records:
            raise KeyError(name)
        self._load(name)
        return self._records[name]

    def due_retries(self, now_s: float) -> list[str]:
        """Failed plugins whose back-off is over at this moment of the clock."""
        return [
            name
            for name, record in self._records.items()
            if record.state == "failed" and record.retry_at_s is not None and record.retry_at_s <= now_s
        ]

    # Looking

    def records(self) -> list[PluginRecord]:
        """All plugins in the order of loading, blocked and broken ones included."""
        return list(self._records.values())

    def describe(self) -> list[dict[str, Any]]:
        """The records as JSON objects."""
        hidden = attrs.filters.exclude("retry_at_s")
        return [
            {key: list(value) if isinstance(value, tuple) else value for key, value in document.items()}
            for document in (attrs.asdict(record, filter=hidden) for record in self._records.values())
        ]

    def names(self) -> list[str]:
        """Loaded plugins, in the order of loading."""
        return [name for name, record in self._records.items() if record.state == "loaded"]

    def settings_of(self, name: str) -> Any:
        """The plugin's checked settings; None when it has none or was not loaded.

        They stay when it fails later: its frameworks are made anew in each term, and without them would want less.
        """
        return self._structured.get(name)

    def unknown_tables(self) -> list[Problem]:
        """`[plugins.NAME]` tables of which there is no plugin."""
        return unknown_plugin_tables(self._settings, self._records)

    def plugin_of(self, module: str) -> str:
        """Whose code a module's is, as far as its name says; empty where it is no plugin's."""
        path = module.split(".")
        shared = {name: _shared(path, point.module.split(".")) for name, point in self._points.items()}
        name = max(shared, key=shared.__getitem__, default="")
        return name if shared.get(name) else ""

    # Calling

    def call(self, name: str, hook: str, **arguments: Any) -> Any:
        """One plugin's answer; None when it does not implement the hook, is not loaded, or failed in it."""
        record = self._records.get(name)
        if record is None or hook not in record.hooks:
            return None
        if record.state != "loaded" and not (record.state == "configuration-error" and hook in _WITHOUT_SETTINGS):
            return None
        try:
            answer = self._frameworks_of(name) if hook == "frameworks" else self._call(name, hook, **arguments)
        except BaseException as error:  # noqa: BLE001  (SystemExit too: a plugin's fault never spreads)
            self._failed(name, f"in hook {hook}: {_text(error)}", error)
            return None
        if hook == "frameworks":
            self._said(name, answer or ())
            for text in (text for framework in answer or () for text in doubts(framework)):
                if text not in self._records[name].warnings:
                    self._warn(name, text)
        if hook not in _CONFIGURING:
            self._records[name] = attrs.evolve(self._records[name], failures=0)
        return answer

    def collect(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """(plugin, answer) of all that implement the hook and did not fail."""
        answers = [(name, self.call(name, hook, **arguments)) for name in list(self._records)]
        return [(name, answer) for name, answer in answers if answer is not None]

    def refuse(self, name: str, reason: str) -> None:
        """It does not go together with what else there is, and is not tried again before the next start."""
        self._failed(name, reason, NotAPlugin(reason))

    def misconfigured(self, name: str, error: ConfigurationError) -> None:
        """Its settings are wrong in a way that their class does not tell: as if it had."""
        log.error("plugin %s: %s", name, error)
        self._records[name] = attrs.evolve(self._records[name], state="configuration-error", error=str(error))

    def claims(self) -> dict[str, tuple[str, ...]]:
        """Plugin → names of frameworks that are its own, whether or not it can run.

        One that failed may have had them before, and has tasks by its own name at least.
        """
        claimed: dict[str, tuple[str, ...]] = {}
        for name in list(self._records):
            answer = self.call(name, "frameworks")
            record = self._records[name]
            if record.state == "configuration-error" and "frameworks" in record.hooks:
                with contextlib.suppress(Exception):
                    answer = self._frameworks_of(name)
            if record.state == "failed":
                claimed[name] = (name,)
            elif answer:
                self._said(name, answer)
                claimed[name] = self._records[name].frameworks
        return claimed

    def refuse_namesakes(self, only: str | None = None) -> None:
        """Plugins that claim another one's framework do not run. only: look at this one, and leave the others alone."""
        for name, reason in name_clashes(self.claims()).items():
            if self._records[name].state == "loaded" and only in (None, name):
                self.refuse(name, reason)

    # The machinery

    def _call(self, name: str, hook: str, **arguments: Any) -> Any:
        caller = getattr(self._managers[name].hook, hook)

        def work() -> Any:
            answers = caller(**arguments)
            return complete(hook, answers[0] if answers else None)

        return within(self._timeout_s, work)

    def _frameworks_of(self, name: str) -> Any:
        """As `_call`. It is called once after each loading: settings, names and tasks are those of the same classes."""
        if name not in self._frameworks:
            self._frameworks[name] = self._call(name, "frameworks")
        return self._frameworks[name]

    def _load(self, name: str) -> None:
        point, known = self._points.get(name), self._records.get(name)
        record = PluginRecord(
            name=name,
            state="loaded",
            builtin=point is None,
            failures=known.failures if known else 0,
            abandoned=known.abandoned if known else 0,
            frameworks=known.frameworks if known else (),
        )
        if point is not None and point.dist is not None:
            record = attrs.evolve(record, distribution=point.dist.name, version=point.dist.version)
        self._managers.pop(name, None)
        self._structured.pop(name, None)
        self._frameworks.pop(name, None)
        if reason := self._unwanted(name):
            self._records[name] = attrs.evolve(record, state="blocked", error=reason)
            return
        if reason := self._set_aside.get(name, ""):
            self._records[name] = attrs.evolve(record, state="failed", error=reason, failures=1, abandoned=1)
            return
        # until it is loaded it is not to be called, by another thread either
        self._records[name] = attrs.evolve(record, state="failed", error="is being loaded")
        try:
            self._managers[name], hooks, warnings = within(self._load_timeout_s, lambda: self._import(name))
            self._records[name] = record = attrs.evolve(self._records[name], hooks=hooks, warnings=warnings)
            self._structured[name] = self._configure(name, hooks)
        except ConfigurationError as error:
            self._records[name] = attrs.evolve(record, state="configuration-error", error=str(error))
        except BaseException as error:  # noqa: BLE001  (SystemExit too)
            self._failed(name, _text(error), error)
        else:
            self._records[name] = attrs.evolve(record, state="loaded", error="")

    def _import(self, name: str) -> tuple[pluggy.PluginManager, tuple[str, ...], tuple[str, ...]]:
        point = self._points.get(name)
        if point is None:
            return register(name, self._builtin[name])
        importlib.invalidate_caches()
        return register(name, point.load())

    def _configure(self, name: str, hooks: tuple[str, ...]) -> Any:
        cls = self._call(name, "configuration") if "configuration" in hooks else None
        if cls is None and "frameworks" in hooks:
            cls = configuration_of(self._frameworks_of(name) or ())
        if cls is None:
            if plugin_table(self._settings, name):
                source = str(self._settings.source or "configuration")
                key = key_text(("plugins", name))
                raise ConfigurationError([Problem(source, key, "expected nothing: this plugin has no settings")])
            return None
        if not attrs.has(cls):
            raise NotAPlugin(f"its configuration must be an attrs class, got {cls!r}")
        return within(self._timeout_s, lambda: structure_plugin(self._settings, name, cls))

    def _unwanted(self, name: str) -> str:
        server = self._settings.server
        if name in self._builtin:
            return ""
        if name in server.deny_plugins:
            return "[server] deny_plugins names it"
        return (
            "[server] allow_plugins does not name it"
            if server.allow_plugins and name not in server.allow_plugins
            else ""
        )

    def _said(self, name: str, frameworks: Sequence[type[Framework]]) -> None:
        names = tuple(framework.name for framework in frameworks)
        self._records[name] = attrs.evolve(self._records[name], frameworks=names)

    def _warn(self, name: str, text: str) -> None:
        log.warning("plugin %s: %s", name, text)
        record = self._records[name]
        self._records[name] = attrs.evolve(record, warnings=(*record.warnings, text))

    def _failed(self, name: str, text: str, error: BaseException) -> None:
        log.error("plugin %s: %s", name, text)
        record = self._records[name]
        abandoned = record.abandoned + isinstance(error, PluginTimeout)
        curable = not isinstance(error, NotAPlugin) and abandoned < ABANDONED_MAX
        delay_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(record.failures, 10))
        self._records[name] = attrs.evolve(
            record,
            state="failed",
            error=text,
            traceback="".join(traceback.format_exception(error)),
            failures=record.failures + 1,
            retry_at_s=self._clock() + delay_s if curable else None,
            abandoned=abandoned,
        )


def found_plugins() -> Iterator[EntryPoint]:
    """Installed plugins. A distribution whose metadata cannot be read hides only its own."""
    seen = set()
    for distribution in distributions():
        try:
            name = distribution.metadata["Name"]
            points = [] if name in seen else distribution.entry_points.select(group=hookspecs.ENTRY_POINT_GROUP)
        except Exception as error:  # noqa: BLE001  (whatever broken metadata leads to)
            log.warning("the metadata of an installed distribution cannot be read: %s", error)
            continue
        seen.add(name)  # the first one on the path is the one that is imported
        yield from points


def within(timeout_s: float, work: Callable[[], Any]) -> Any:
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


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many names two paths have in common, from the first on."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


def _origin(point: EntryPoint) -> str:
    return f"{point.value} of {point.dist.name}" if point.dist is not None else point.value


def _text(error: BaseException) -> str:
    if isinstance(error, NotAPlugin | PluginTimeout):
        return str(error)
    return "".join(traceback.format_exception_only(error)).strip()
