"""The tree of groups: who is below whom, who waits for whom, and what an update of a group makes of it.

Groups exist in two ways: explicitly, as a stored `GroupRecord`, and implicitly, as the parents of apps and of other
groups. Nothing here stores anything; a `Tree` is made of the records of one moment, and is cheap to make.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Final

import attrs

from orlop_marathon import paths
from orlop_marathon.errors import not_valid_at, unknown_group
from orlop_marathon.model import App, AppRecord, GroupRecord
from orlop_marathon.parsing import GroupUpdate

#: Stands for "never": the version of groups that nobody made explicitly.
NO_VERSION: Final = "1970-01-01T00:00:00.000Z"


class DependencyCycle(ValueError):
    """Apps that wait for one another. path: apps in the cycle."""

    def __init__(self, path: Iterable[str]) -> None:
        self.path = tuple(path)
        super().__init__(f"cyclic dependencies: {' -> '.join(self.path)}")


class Tree:
    """Apps and groups of one moment, indexed by their places. Immutable once made."""

    def __init__(self, apps: Mapping[str, AppRecord], groups: Mapping[str, GroupRecord]) -> None:
        self.apps = apps
        self.groups = groups
        self._apps_in: dict[str, list[str]] = {paths.ROOT: []}
        self._groups_in: dict[str, set[str]] = {paths.ROOT: set()}
        for path in groups:
            self._add_group(path)
        for path in sorted(apps):
            around = paths.parent(path)
            self._add_group(around)
            self._apps_in[around].append(path)

    def _add_group(self, path: str) -> None:
        child = None
        for here in (path, *paths.parents(path)):
            known = here in self._apps_in
            self._apps_in.setdefault(here, [])
            children = self._groups_in.setdefault(here, set())
            if child is not None:
                children.add(child)
            if known:
                return
            child = here

    def __contains__(self, path: object) -> bool:
        """Is there such a group, explicit or not? The root always is."""
        return path in self._groups_in

    def require(self, path: str) -> None:
        """Raises MarathonError (404) when there is no such group."""
        if path not in self:
            raise unknown_group(path)

    def group(self, path: str) -> GroupRecord:
        """The record of a group; a default one for a group that exists only as a parent."""
        return self.groups.get(path) or GroupRecord(id=path, version=NO_VERSION)

    def apps_in(self, group: str) -> tuple[str, ...]:
        """Apps directly in a group, sorted."""
        return tuple(self._apps_in.get(group, ()))

    def groups_in(self, group: str) -> tuple[str, ...]:
        """Groups directly in a group, sorted."""
        return tuple(sorted(self._groups_in.get(group, ())))

    def apps_below(self, group: str) -> Iterator[str]:
        """All apps below, at any depth, in the order of the tree."""
        waiting = [group]
        while waiting:
            here = waiting.pop()
            yield from self.apps_in(here)
            waiting.extend(reversed(self.groups_in(here)))

    def groups_below(self, group: str) -> Iterator[str]:
        """All groups below, at any depth; not the group itself."""
        waiting = list(reversed(self.groups_in(group)))
        while waiting:
            here = waiting.pop()
            yield here
            waiting.extend(reversed(self.groups_in(here)))

    def dependencies(self, app: str) -> frozenset[str]:
        """The apps that must be up before this one: its own dependencies and those of the groups around it.

        A group's id stands for every app below it. Ids of what does not exist count for nothing.
        """
        named = set(self.apps[app].app.dependencies)
        for around in paths.parents(app):
            if around in self.groups:
                named.update(self.groups[around].dependencies)
        found: set[str] = set()
        for path in named:
            if path in self.apps:
                found.add(path)
            elif path in self:
                found.update(self.apps_below(path))
        return frozenset(found)

    def layers(self, affected: Collection[str]) -> list[tuple[str, ...]]:
        """`affected` apps in the order of their dependencies: each layer waits for the ones before it only.

        Dependencies lead through apps that are not affected, too: of a → b → c with b left out, c still goes first.
        Raises DependencyCycle.
        """
        depth: dict[str, int] = {}
        graph = {path: self.dependencies(path) for path in self.apps}
        try:
            order = list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise DependencyCycle(error.args[1]) from None
        wanted = set(affected)
        for path in order:
            below = max((depth[one] for one in graph[path]), default=0)
            depth[path] = below + (path in wanted)
        layers: dict[int, list[str]] = {}
        for path in sorted(wanted & depth.keys()):
            layers.setdefault(depth[path], []).append(path)
        return [tuple(layers[level]) for level in sorted(layers)]


def records(apps: Mapping[str, App]) -> dict[str, AppRecord]:
    """Apps without a version yet, as a `Tree` takes them."""
    return {
        path: AppRecord(app=app, version="", last_scaling_at="", last_config_change_at="") for path, app in apps.items()
    }


def apply_group_update(
    apps: Mapping[str, App], groups: Mapping[str, GroupRecord], update: GroupUpdate
) -> tuple[dict[str, App], dict[str, GroupRecord]]:
    """All apps and groups after the update; the versions of new groups are left empty for the caller to fill in.

    Marathon 1.11: what the update does not say stays. Given `apps` replace those directly in the group, given
    `groups` those directly below it; what is missing from a given list is removed with everything below.
    `version` is not looked at here: the caller knows the stored definitions. Raises MarathonError.
    """
    new_apps, new_groups = dict(apps), dict(groups)
    if update.scale_by is not None:
        _scale(new_apps, new_groups, update)
    else:
        _apply(new_apps, new_groups, update)
    return new_apps, new_groups


def without_group(
    apps: Mapping[str, App], groups: Mapping[str, GroupRecord], path: str
) -> tuple[dict[str, App], dict[str, GroupRecord]]:
    """All apps and groups without this group and everything below; of the root only what is below goes."""
    return (
        {one: app for one, app in apps.items() if not paths.is_below(one, path)},
        {one: group for one, group in groups.items() if one != path and not paths.is_below(one, path)},
    )


def _scale(apps: dict[str, App], groups: Mapping[str, GroupRecord], update: GroupUpdate) -> None:
    if update.id not in Tree(records(apps), groups):
        raise unknown_group(update.id)
    assert update.scale_by is not None
    for path, app in apps.items():
        if paths.is_below(path, update.id):
            scaled = app.instances * update.scale_by
            if not scaled < 2**31:
                raise not_valid_at("/scaleBy", f"{path} would have more than {2**31 - 1} instances")
            apps[path] = attrs.evolve(app, instances=math.ceil(scaled))


def _apply(apps: dict[str, App], groups: dict[str, GroupRecord], update: GroupUpdate) -> None:
    old = groups.get(update.id) or GroupRecord(id=update.id)
    groups[update.id] = attrs.evolve(
        old,
        dependencies=old.dependencies if update.dependencies is None else update.dependencies,
        enforce_role=old.enforce_role if update.enforce_role is None else update.enforce_role,
    )
    if update.apps is not None:
        for path in [path for path in apps if paths.parent(path) == update.id]:
            del apps[path]
        for app in update.apps:
            if app.id in apps:
                raise not_valid_at("/apps", f"{app.id} is given twice")
            apps[app.id] = app
    if update.groups is not None:
        kept = {group.id for group in update.groups}
        for gone in _children(apps, groups, update.id) - kept:
            for table in (apps, groups):
                for path in [path for path in table if path == gone or paths.is_below(path, gone)]:
                    if table is groups or path != gone:
                        del table[path]
        for group in update.groups:
            if group.id not in kept:
                raise not_valid_at("/groups", f"{group.id} is given twice")
            kept.remove(group.id)
            _apply(apps, groups, group)


def _children(apps: Mapping[str, App], groups: Mapping[str, GroupRecord], group: str) -> set[str]:
    """Groups directly below, explicit or not."""
    depth = len(paths.segments(group)) + 1
    found = set()
    for path in (*groups, *(paths.parent(app) for app in apps)):
        if paths.is_below(path, group):
            found.add(paths.join(paths.segments(path)[:depth]))
    return found
