"""Carries out orders: from an order and a view to actions, or to a `MarathonError` and no change at all."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from orlop.framework import Action, Kill, Put, Task, View
from orlop_marathon import errors, events, groups, orders, parsing, paths, reconciling, validation, wire
from orlop_marathon.backoff import Backoff
from orlop_marathon.deployments import Step
from orlop_marathon.model import App, AppRecord, GroupRecord
from orlop_marathon.root import (
    BACKOFF,
    DEPLOYMENT,
    GROUP,
    HISTORY,
    VERSION,
    Deployed,
    History,
    Root,
    Wanted,
    deploy,
    ended,
    reverted,
    version_id,
)
from orlop_marathon.settings import Config

DELAY_RESET = "its delay was reset"


@attrs.frozen(kw_only=True)
class Result:
    """What the one who gave the order gets.

    version, deployment: None where the order makes no deployment. record: of an app that was created.
    created: paths of apps or groups that did not exist. tasks: those killed. steps: of a dry run.
    """

    version: str | None = None
    deployment: str | None = None
    record: AppRecord | None = None
    created: frozenset[str] = frozenset()
    tasks: tuple[Task, ...] = ()
    steps: tuple[Step, ...] = ()


@attrs.frozen(kw_only=True)
class Executed:
    """actions: to be committed. look_at: apps that the framework's handler has to look at in the same run.

    doomed: keys of tasks that the actions kill, with the reasons; the view of this run does not show it yet.
    """

    result: Result
    actions: tuple[Action, ...] = ()
    look_at: frozenset[str] = frozenset()
    doomed: Mapping[str, str] = attrs.field(factory=dict)


@functools.singledispatch
def execute(order: Any, view: View, settings: Config) -> Executed:
    """Carries the order out. Raises MarathonError."""
    raise TypeError(f"{order!r} is no order, on version {view.version} with {settings}")


def _executed(deployed: Deployed, *more: Action, **result: Any) -> Executed:
    return Executed(
        result=Result(version=deployed.deployment.version, deployment=deployed.deployment.id, **result),
        actions=(*more, *deployed.actions),
        look_at=deployed.affected,
    )


# --- apps ---


def _posted(view: View, origin: orders.Origin, apps: Iterable[App]) -> list[Action]:
    return [events.app_posted(view, origin.client_ip, origin.uri, wire.write(app)) for app in apps]


@execute.register
def _create_app(order: orders.CreateApp, view: View, settings: Config) -> Executed:
    root, path = Root.of(view), order.app.id
    if path in root.apps:
        validation.validate_app(order.app, settings.defaults)
        raise errors.app_exists(path)
    wanted = Wanted(
        apps=root.definitions() | {path: order.app},
        groups=root.groups,
        scope=paths.parent(path),
        force=order.force,
    )
    deployed = deploy(view, settings, wanted)
    record = deployed.root.apps[path]
    return _executed(deployed, *_posted(view, order.origin, [record.app]), record=record, created=frozenset({path}))


@execute.register
def _update_apps(order: orders.UpdateApps, view: View, settings: Config) -> Executed:
    root = Root.of(view)
    apps = root.definitions()
    for path, update in order.updates:
        known = apps.get(path)
        if known is None and (not order.create or update.version is not None):
            raise errors.unknown_app(path)
        if update.version is not None:
            apps[path] = _version_of(view, path, update.version)
        else:
            apps[path] = parsing.merge(known, update, order.partial, id=path, defaults=settings.defaults)
    touched = [path for path, _ in order.updates]
    scope = paths.parent(touched[0]) if len(touched) == 1 else paths.ROOT
    wanted = Wanted(apps=apps, groups=root.groups, scope=scope, force=order.force)
    deployed = deploy(view, settings, wanted)
    posted = [deployed.root.apps[path].app for path in touched]
    return _executed(deployed, *_posted(view, order.origin, posted), created=frozenset(touched) - root.apps.keys())


def _version_of(view: View, path: str, version: str) -> App:
    found = view.objects(VERSION).get(version_id(path, version))
    if found is None:
        raise errors.unknown_app(path)
    app: App = found.app
    return app


@execute.register
def _delete_app(order: orders.DeleteApp, view: View, settings: Config) -> Executed:
    root, path = Root.of(view), order.path
    if path not in root.apps:
        raise errors.unknown_app(path)
    apps = root.definitions()
    del apps[path]
    wanted = Wanted(apps=apps, groups=root.groups, scope=paths.parent(path), force=order.force)
    return _executed(deploy(view, settings, wanted))


@execute.register
def _restart_app(order: orders.RestartApp, view: View, settings: Config) -> Executed:
    root, path = Root.of(view), order.path
    if path not in root.apps:
        raise errors.unknown_app(path)
    wanted = Wanted(
        apps=root.definitions(),
        groups=root.groups,
        scope=paths.parent(path),
        force=order.force,
        restarted=frozenset({path}),
    )
    return _executed(deploy(view, settings, wanted))


# --- groups ---


@execute.register
def _change_group(order: orders.ChangeGroup, view: View, settings: Config) -> Executed:
    root, path = Root.of(view), order.update.id
    existed = root.has_group(path)
    if order.create_only and path in root.apps:
        raise errors.path_is_app(path)
    if order.create_only and existed:
        raise errors.group_exists(path)
    if order.update.version is not None:
        apps, new_groups = _group_version(view, root, path, order.update.version)
    else:
        if order.update.scale_by is not None and not existed:
            raise errors.unknown_group(path)
        apps, new_groups = groups.apply_group_update(root.definitions(), root.groups, order.update)
    wanted = Wanted(apps=apps, groups=new_groups, scope=paths.parent(path), force=order.force)
    deployed = deploy(view, settings, wanted, dry_run=order.dry_run)
    if order.dry_run:
        return Executed(result=Result(steps=deployed.deployment.steps))
    return _executed(deployed, created=frozenset() if existed else frozenset({path}))


def group_versions(view: View, path: str) -> list[str]:
    """Versions that a group can be seen at, the oldest first: all kept versions of apps below, and its own."""
    found = {
        version
        for app, history in view.objects(HISTORY).items()
        if paths.is_below(app, path)
        for version in history.versions
    }
    if path in (known := view.objects(GROUP)):
        found.add(known[path].version)
    return sorted(found - {""})


def apps_at(view: View, path: str, version: str) -> dict[str, AppRecord]:
    """The apps below a group as they were at a version. Apps that were removed since are forgotten."""
    found = {}
    versions = view.objects(VERSION)
    for app, history in view.objects(HISTORY).items():
        if paths.is_below(app, path):
            known: History = history
            at = max((one for one in known.versions if one <= version), default=None)
            if at is not None and version_id(app, at) in versions:
                found[app] = versions[version_id(app, at)]
    return found


def _group_version(view: View, root: Root, path: str, version: str) -> tuple[dict[str, App], Mapping[str, GroupRecord]]:
    if version not in group_versions(view, path):
        raise errors.unknown_group(path, version)
    apps = {one: app for one, app in root.definitions().items() if not paths.is_below(one, path)}
    return apps | {one: record.app for one, record in apps_at(view, path, version).items()}, root.groups


@execute.register
def _delete_group(order: orders.DeleteGroup, view: View, settings: Config) -> Executed:
    root, path = Root.of(view), order.path
    if not root.has_group(path):
        raise errors.unknown_group(path)
    wanted = Wanted(
        apps={one: app for one, app in root.definitions().items() if not paths.is_below(one, path)},
        groups={one: record for one, record in root.groups.items() if one != path and not paths.is_below(one, path)},
        scope=paths.parent(path),
        force=order.force,
    )
    return _executed(deploy(view, settings, wanted))


@execute.register
def _enforce_role(order: orders.EnforceRole, view: View, _: Config) -> Executed:
    root, path = Root.of(view), order.path
    if path == paths.ROOT or paths.parent(path) != paths.ROOT:
        raise errors.not_valid_at("/", "Path needs to be top-level")
    if not root.has_group(path):
        raise errors.unknown_group(path)
    known = root.groups.get(path) or GroupRecord(id=path, version=root.version)
    return Executed(result=Result(), actions=(Put(GROUP, path, attrs.evolve(known, enforce_role=order.enforce)),))


# --- deployments, tasks, queue ---


@execute.register
def _cancel_deployment(order: orders.CancelDeployment, view: View, settings: Config) -> Executed:
    deployment = view.objects(DEPLOYMENT).get(order.id)
    if deployment is None:
        raise errors.unknown_deployment(order.id)
    if order.force:
        return Executed(
            result=Result(),
            actions=(
                *ended(view, deployment),
                events.deployment_ended(view, deployment, success=False, reason="cancelled"),
            ),
            look_at=frozenset(deployment.affected),
        )
    return _executed(deploy(view, settings, reverted(view, Root.of(view), deployment)))


@execute.register
def _kill_tasks(order: orders.KillTasks, view: View, settings: Config) -> Executed:
    if order.scale and order.wipe:
        raise errors.scale_and_wipe()
    named = (view.task_named(name) for name in dict.fromkeys(order.names))
    tasks = tuple(task for task in named if task is not None and task.live)
    reason = reconciling.REQUESTED
    if order.scale:
        reason = reconciling.SCALED
    elif order.wipe:
        reason = reconciling.WIPED
    doomed = {task.key: reason for task in tasks}
    kills = tuple(Kill(key, why) for key, why in doomed.items())
    if not order.scale:
        look_at = frozenset(task.group for task in tasks)
        return Executed(result=Result(tasks=tasks), actions=kills, look_at=look_at, doomed=doomed)
    root = Root.of(view)
    apps = root.definitions()
    killed: dict[str, list[Task]] = {}
    for task in tasks:
        killed.setdefault(task.group, []).append(task)
    for path in apps.keys() & killed.keys():
        app = apps[path]
        apps[path] = attrs.evolve(app, instances=max(0, app.instances - _places(view, app, killed[path])))
    wanted = Wanted(apps=apps, groups=root.groups, scope=paths.ROOT, force=order.force)
    executed = _executed(deploy(view, settings, wanted), *kills, tasks=tasks)
    return attrs.evolve(executed, doomed=doomed)


def _places(view: View, app: App, killed: Sequence[Task]) -> int:
    """How many of the app's instances its tasks `killed` are.

    One that is being stopped already counts only where another would be started in its place, so that a kill that is
    sent twice scales once.
    """
    active = sum(task.live and not task.stopping for task in view.group(app.id).values())
    again = sum(task.stopping for task in killed)
    return len(killed) - again + min(again, max(0, app.instances - active))


@execute.register
def _reset_delay(order: orders.ResetDelay, view: View, _: Config) -> Executed:
    waiting = [task for task in view.group(order.path).values() if task.live and task.placement is None]
    if not waiting:
        raise errors.not_queued(order.path)
    doomed = {task.key: DELAY_RESET for task in waiting if task.not_before_utc_ms > view.now.utc_ms}
    actions: list[Action] = [Kill(key, reason) for key, reason in doomed.items()]
    known: Backoff | None = view.objects(BACKOFF).get(order.path)
    if known is not None:
        actions.append(Put(BACKOFF, order.path, attrs.evolve(known, delay_ms=0.0, reference_utc_ms=0)))
    return Executed(result=Result(), actions=tuple(actions), look_at=frozenset({order.path}), doomed=doomed)
