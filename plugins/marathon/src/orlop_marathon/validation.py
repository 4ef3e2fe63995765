"""Whether an app, an update of one and the whole tree may be accepted.

Source: Marathon 1.11, AppDefinition, Group and RootGroup. The rules of a single app are in `app_rules`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orlop_marathon import app_rules, paths
from orlop_marathon.errors import Problem, not_valid
from orlop_marathon.groups import DependencyCycle, Tree, records
from orlop_marathon.model import App, Defaults, GroupRecord, Volume


def validate_app(app: App, defaults: Defaults | None = None) -> None:
    """Raises MarathonError (422 "Object is not valid") when the app breaks rules of its own."""
    problems = list(app_rules.problems(app, defaults or Defaults()))
    if problems:
        raise not_valid(problems)


def validate_role(app: App, allowed: frozenset[str]) -> None:
    """Raises MarathonError when the app may not have its role."""
    if app.role not in allowed:
        raise not_valid([Problem("/role", f"got {app.role}, expected one of: {', '.join(sorted(allowed))}")])


def validate_root(apps: Mapping[str, App], groups: Mapping[str, GroupRecord]) -> None:
    """Raises MarathonError when apps and groups do not make a sound tree. It does not look into the apps."""
    problems = [*_clashes(apps, groups), *_enforced_roles(groups)]
    try:
        Tree(records(apps), groups).layers(apps.keys())
    except DependencyCycle:
        problems.append(Problem("/", "Dependency graph has cyclic dependencies."))
    if problems:
        raise not_valid(problems)


def validate_update(old: App | None, new: App) -> None:
    """Raises MarathonError when an app that keeps data would change what its data depends on."""
    if old is None or not (old.resident or new.resident):
        return
    problems = list(_resident_changes(old, new))
    if problems:
        raise not_valid(problems)


# --- the tree ---


def _clashes(apps: Mapping[str, App], groups: Mapping[str, GroupRecord]) -> Iterator[Problem]:
    occupied = set(groups)
    for path in (*apps, *groups):
        occupied.update(paths.parents(path))
    for path in sorted(occupied & apps.keys()):
        yield Problem(path, "Groups and Applications may not have the same identifier.")


def _enforced_roles(groups: Mapping[str, GroupRecord]) -> Iterator[Problem]:
    for path, group in groups.items():
        if group.enforce_role and paths.parent(path) != paths.ROOT:
            text = f"enforceRole can only be set for top-level groups, and {path} is not top-level"
            yield Problem(f"{path}/enforceRole", text)


def _resident_changes(old: App, new: App) -> Iterator[Problem]:
    def kept(app: App) -> dict[str, Volume]:
        return {volume.container_path: volume for volume in app.volumes if volume.persistent}

    if kept(old) != kept(new):
        yield Problem("/", "Persistent volumes can not be changed!")
    advice = "If you need to make this change, please create a new service."
    for member in ("cpus", "mem", "disk", "gpus", "require_ports"):
        if getattr(old, member) != getattr(new, member):
            path = "/requirePorts" if member == "require_ports" else f"/{member}"
            text = f"Services with persistent volumes configured may not change resource requirements. {advice}"
            yield Problem(path, text)
    if _host_ports(old) != _host_ports(new):
        text = f"Services with persistent volumes configured may not change host ports. {advice}"
        yield Problem("/", text)


def _host_ports(app: App) -> set[int | None]:
    if app.host_networking:
        ports = app.port_definitions or ()
        return {definition.port if app.require_ports else 0 for definition in ports}
    return {mapping.host_port for mapping in app.port_mappings}
