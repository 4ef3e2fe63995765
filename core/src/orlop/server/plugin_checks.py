"""What a plugin may be: its hooks compared with the contract, and the shape of what they return. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pluggy

from orlop import hookspecs
from orlop.checked_tables import did_you_mean
from orlop.framework import Framework
from orlop.server.framework_checks import check_framework

HOOKS: Final = frozenset(
    name for name, value in vars(hookspecs).items() if inspect.isfunction(value) and hasattr(value, "orlop_spec")
)


class NotAPlugin(Exception):
    """The plugin does not keep to the contract: its author's fault, which trying again does not mend."""


def register(name: str, plugin: Any) -> tuple[pluggy.PluginManager, tuple[str, ...], tuple[str, ...]]:
    """The plugin with a manager of its own; names of its hooks; warnings. Raises NotAPlugin."""
    manager = pluggy.PluginManager("orlop")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name)
    except pluggy.PluginValidationError as error:
        raise NotAPlugin(" ".join(str(error).split())) from error
    hooks, warnings = [], []
    for caller in manager.get_hookcallers(plugin) or ():
        implementations = caller.get_hookimpls()
        if caller.name not in HOOKS:
            if not any(one.optionalhook for one in implementations):
                warnings.append(f"there is no hook {caller.name}{did_you_mean(caller.name, HOOKS)}")
            continue
        if any(one.wrapper or one.hookwrapper for one in implementations):
            raise NotAPlugin(f"hook {caller.name}: wrappers are not possible, each plugin is called by itself")
        if len(implementations) > 1:
            raise NotAPlugin(f"hook {caller.name} is implemented {len(implementations)} times, expected once")
        hooks.append(caller.name)
    if not hooks:
        warnings.append("it implements no hook: are its functions marked with @hookimpl?")
    return manager, tuple(sorted(hooks)), tuple(sorted(warnings))


def complete(hook: str, answer: Any) -> Any:
    """The answer as it is used: iterators run to their end, so that what they raise is raised here.

    Raises TypeError for one of another shape than the contract's, NotAPlugin for what cannot work.
    """
    if isinstance(answer, Iterator):
        answer = tuple(answer)
    if answer is not None and hook in _SHAPES:
        _SHAPES[hook](answer)
    return answer


def configuration_of(classes: Sequence[type[Framework]]) -> type | None:
    """The settings class of a plugin that has no `configuration` hook. Raises NotAPlugin."""
    configs = list(dict.fromkeys(framework.config for framework in classes if framework.config is not None))
    if len(configs) > 1:
        raise NotAPlugin("several of its frameworks have settings: say which with the hook configuration()")
    return configs[0] if configs else None


def name_clashes(claims: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Plugin → why it cannot run, for all that claim another's framework. claims: plugin → its frameworks' names.

    Whose own name it is keeps it. Where nobody's is, nobody may have it: whoever did would kill the others' tasks.
    """
    reasons: dict[str, str] = {}
    for plugin, names in claims.items():
        for name in names:
            others = [other for other, theirs in claims.items() if other != plugin and name in theirs]
            if plugin == name or not others:
                continue
            if name in others:
                reasons[plugin] = f"its framework {name} has the name of the plugin {name}'s: expected another"
            else:
                known = ", ".join(others)
                reasons[plugin] = (
                    f"its framework {name} has the name of one of {known}, so that neither runs: expected another "
                    "name, or only one of them installed or allowed"
                )
            break
    return reasons


def _a_class(answer: Any) -> None:
    if not isinstance(answer, type):
        raise TypeError(f"expected an attrs class, got {answer!r}")


def _a_mapping(answer: Any) -> None:
    if not isinstance(answer, Mapping):
        raise TypeError(f"expected a mapping of URL schemes, got {answer!r}")


def _all(check: Callable[[Any], bool], expectation: str) -> Callable[[Any], None]:
    def check_all(answer: Any) -> None:
        if isinstance(answer, str | bytes | Mapping) or not isinstance(answer, Sequence):
            raise TypeError(f"expected a list of {expectation}, got {answer!r}")
        for one in answer:
            if not check(one):
                raise TypeError(f"expected a list of {expectation}, got {one!r} in it")

    return check_all


def _is_framework(one: Any) -> bool:
    return isinstance(one, type) and issubclass(one, Framework) and bool(getattr(one, "name", ""))


def _frameworks(answer: Any) -> None:
    _all(_is_framework, "subclasses of Framework with a name")(answer)
    names = [framework.name for framework in answer]
    for name in names:
        if names.count(name) > 1:
            raise NotAPlugin(f"{names.count(name)} of its frameworks are named {name}: expected a name for each")
    for framework in answer:
        try:
            check_framework(framework)
        except ValueError as error:
            raise NotAPlugin(str(error)) from error


def _is_command(one: Any) -> bool:
    return callable(getattr(one, "main", None)) and bool(getattr(one, "name", None))


_SHAPES: Final[Mapping[str, Callable[[Any], None]]] = {
    "configuration": _a_class,
    "stores": _a_mapping,
    "frameworks": _frameworks,
    "node_filters": _all(lambda one: hasattr(one, "prepare"), "objects with prepare()"),
    "node_scorers": _all(lambda one: hasattr(one, "prepare"), "objects with prepare()"),
    "runtimes": _all(lambda one: bool(getattr(one, "name", "")), "runtimes with a name"),
    "routes": _all(lambda one: isinstance(one, hookspecs.Routes), "Routes"),
    "commands": _all(_is_command, "click commands with a name"),
}
