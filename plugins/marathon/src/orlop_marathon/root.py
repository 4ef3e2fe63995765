"""The root: all apps and groups at one moment, and the way from one root to the next.

Every change of apps or groups, however small, leads from one root to another: that is what is validated, what a
deployment is the difference of, and what its version names. The order of checks is Marathon's (1.11,
`MarathonSchedulerService`, `GroupManagerImpl`): number of deployments, new root, service ports, versions, validation,
locks; nothing is stored before all of them are passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from orlop.framework import Action, Delete, Emit, Put, View, format_utc, parse_utc
from orlop_marathon import errors, events, paths, roles, service_ports, validation
from orlop_marathon.deployments import (
    ActionKind,
    Deployment,
    Original,
    PlannedAction,
    original_id,
    plan,
)
from orlop_marathon.groups import Tree
from orlop_marathon.model import App, AppRecord, GroupRecord
from orlop_marathon.reconciling import config_version
from orlop_marathon.settings import Config

APP, VERSION, HISTORY, GROUP = "app", "version", "history", "group"
DEPLOYMENT, ORIGINAL, BACKOFF, FAILURE = "deployment", "original", "backoff", "failure"


@attrs.frozen(kw_only=True)
class History:
    """The stored object `history`, by the app's id: its versions that are kept, the oldest first."""

    versions: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Root:
    """apps: absolute path → record. groups: of those that have a record, the root group's included."""

    apps: Mapping[str, AppRecord]
    groups: Mapping[str, GroupRecord]

    @classmethod
    def of(cls, view: View) -> Root:
        return cls(apps=dict(view.objects(APP)), groups=dict(view.objects(GROUP)))

    @property
    def version(self) -> str:
        root = self.groups.get(paths.ROOT)
        return root.version if root is not None else ""

    def has_group(self, path: str) -> bool:
        """Does the group exist, by itself or as the parent of something?"""
        return path == paths.ROOT or path in self.groups or any(
            paths.is_below(one, path) for one in (*self.apps, *self.groups)
        )  # fmt: skip

    def definitions(self) -> dict[str, App]:
        return {path: record.app for path, record in self.apps.items()}


@attrs.frozen(kw_only=True)
class Wanted:
    """The root that shall be.

    scope: the group that the event bus is told of. restarted: apps that get a new configuration although nothing of
    theirs differs. remembered: records of old whose configuration is taken up again where the definition is equal.
    cancelled: deployments that end in any case.
    """

    apps: Mapping[str, App]
    groups: Mapping[str, GroupRecord]
    scope: str
    force: bool = False
    restarted: frozenset[str] = frozenset()
    remembered: Mapping[str, AppRecord] = attrs.field(factory=dict)
    cancelled: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class Deployed:
    """What became of it. actions: to store it. affected: apps to look at."""

    deployment: Deployment
    root: Root
    actions: tuple[Action, ...]
    affected: frozenset[str]


def next_version(root: Root, now_utc_ms: int) -> str:
    """A version later than any before, even if the clock has not moved."""
    earliest = parse_utc(root.version) + 1 if root.version else 0
    return format_utc(max(now_utc_ms, earliest))


def deploy(view: View, settings: Config, wanted: Wanted, *, dry_run: bool = False) -> Deployed:
    """Everything that leads to the wanted root. Raises MarathonError; then nothing changes."""
    running: dict[str, Deployment] = dict(view.objects(DEPLOYMENT))
    before = Root.of(view)
    version = next_version(before, view.now.utc_ms)
    wanted_apps = roles.filled_in(wanted.apps, wanted.groups, settings.default_role)
    apps = service_ports.assign(wanted_apps, before.definitions(), settings.local_port_min, settings.local_port_max)
    after = Root(
        apps=records(before, apps, version, wanted),
        groups=_groups(before, wanted, apps, version),
    )
    _validate(settings, before, after, apps)
    return _planned(view, settings, before, after, wanted, running, version, dry_run)


def _planned(
    view: View,
    settings: Config,
    before: Root,
    after: Root,
    wanted: Wanted,
    running: Mapping[str, Deployment],
    version: str,
    dry_run: bool,
) -> Deployed:
    tree = Tree(after.apps, after.groups)
    steps = plan(before.apps, after.apps, tree.layers)
    affected = {action.app for step in steps for action in step.actions}
    conflicts = {
        one.id: one for one in running.values() if one.id in wanted.cancelled or not affected.isdisjoint(one.affected)
    }
    if conflicts and not wanted.force and not dry_run:
        raise errors.locked(sorted(conflicts))
    # One that takes the place of others does not add to them: that is how to get out of too many.
    if steps and not conflicts and not dry_run and len(running) >= settings.max_running_deployments:
        raise errors.too_many_deployments(settings.max_running_deployments)
    interrupted = list(conflicts.values())
    taken_over = (restarts_under_way(interrupted) | _emptied(view, before.apps, interrupted)) & affected
    if taken_over:
        steps = plan(before.apps, after.apps, tree.layers, taken_over)
    deployment = Deployment(
        id=str(view.unique("deployment", version)),
        version=version,
        steps=steps,
        groups=tuple(sorted(_changed(before.groups, after.groups) - {paths.ROOT})),
        started_utc_ms=view.now.utc_ms,
    )
    actions = [
        *_cancelled(view, conflicts.values()),
        *_stored(view, settings, before, after),
        events.group_changed(view, wanted.scope, version),
        *_begun(view, before, after, deployment),
    ]
    touched = affected | {path for one in conflicts.values() for path in one.affected}
    return Deployed(deployment=deployment, root=after, actions=tuple(actions), affected=frozenset(touched))


def _validate(settings: Config, before: Root, after: Root, apps: Mapping[str, App]) -> None:
    for path, app in sorted(apps.items()):
        known = before.apps.get(path)
        if known is None or not _equal(known.app, app):
            old = known.app if known is not None else None
            validation.validate_app(app, settings.defaults)
            validation.validate_role(app, roles.allowed(path, after.groups, settings.default_role, old))
            validation.validate_update(old, app)
    validation.validate_root(apps, after.groups)


def records(before: Root, apps: Mapping[str, App], version: str, wanted: Wanted) -> dict[str, AppRecord]:
    """The records of the next root: versions move only for what differs (Marathon 1.11, `VersionInfo`)."""
    found = {}
    for path, app in apps.items():
        known = before.apps.get(path)
        old = wanted.remembered.get(path)
        if known is not None and _equal(known.app, app) and path not in wanted.restarted:
            found[path] = known
        elif old is not None and _same_configuration(old.app, app):
            found[path] = attrs.evolve(old, app=app, version=version)
        elif known is None:
            found[path] = AppRecord(app=app, version=version, last_scaling_at=version, last_config_change_at=version)
        elif path in wanted.restarted and _equal(known.app, app):
            found[path] = attrs.evolve(known, version=version, last_config_change_at=version)
        elif _same_configuration(known.app, app) and path not in wanted.restarted:
            found[path] = attrs.evolve(known, app=app, version=version, last_scaling_at=version)
        else:
            found[path] = AppRecord(app=app, version=version, last_scaling_at=version, last_config_change_at=version)
    return found


def _equal(one: object, other: object) -> bool:
    """Equality of values that are mostly the very same object."""
    return one is other or one == other


def _same_configuration(one: App, other: App) -> bool:
    return attrs.evolve(one, instances=other.instances) == other


def _groups(before: Root, wanted: Wanted, apps: Mapping[str, App], version: str) -> dict[str, GroupRecord]:
    """The groups of the next root: parents of what is new exist from now on, and what changed has the version."""
    found = dict(wanted.groups)
    known = before.definitions()
    changed = {path for path in known.keys() | apps.keys() if not _equal(known.get(path), apps.get(path))}
    changed |= wanted.restarted
    changed |= _changed(before.groups, wanted.groups)
    for path in list(changed):
        for group in paths.parents(path):
            if group not in found and not (path in apps or path in found):
                continue
            found.setdefault(group, GroupRecord(id=group))
            changed.add(group)
    changed.add(paths.ROOT)
    found.setdefault(paths.ROOT, GroupRecord(id=paths.ROOT))
    return {
        path: attrs.evolve(record, version=version) if path in changed or not record.version else record
        for path, record in found.items()
    }


def _changed(before: Mapping[str, GroupRecord], after: Mapping[str, GroupRecord]) -> set[str]:
    return {path for path in before.keys() | after.keys() if not _equal(before.get(path), after.get(path))}


def restarts_under_way(deployments: Iterable[Deployment]) -> set[str]:
    """Apps whose restart these deployments have not finished."""
    return {action.app for action in _under_way(deployments) if action.action is ActionKind.RESTART}


def _emptied(view: View, apps: Mapping[str, AppRecord], deployments: Iterable[Deployment]) -> set[str]:
    """Apps that these deployments scale, and that still have instances of an earlier configuration: they were changed
    and scaled to nothing in one, which is no restart."""
    scaled = {action.app for action in _under_way(deployments) if action.action is ActionKind.SCALE}
    return {path for path in scaled & apps.keys() if _has_older_instances(view, apps[path])}


def _under_way(deployments: Iterable[Deployment]) -> Iterator[PlannedAction]:
    for deployment in deployments:
        for step in deployment.steps[deployment.current :]:
            yield from step.actions


def _has_older_instances(view: View, record: AppRecord) -> bool:
    tasks = view.group(record.app.id).values()
    return any(task.live and config_version(task) != record.last_config_change_at for task in tasks)


def _stored(view: View, settings: Config, before: Root, after: Root) -> Iterator[Action]:
    for path in sorted(before.apps.keys() - after.apps.keys()):
        yield from _forgotten(view, path)
    for path, record in sorted(after.apps.items()):
        if not _equal(before.apps.get(path), record):
            yield Put(APP, path, record)
            yield from _versioned(view, settings, record)
    for path in sorted(_changed(before.groups, after.groups)):
        yield Put(GROUP, path, after.groups[path]) if path in after.groups else Delete(GROUP, path)


def version_id(path: str, version: str) -> str:
    return f"{path}@{version}"


def _versioned(view: View, settings: Config, record: AppRecord) -> Iterator[Action]:
    """Keeps the new version, and the newest ones before it."""
    path = record.app.id
    known = view.objects(HISTORY).get(path, History()).versions
    versions = (*(one for one in known if one != record.version), record.version)
    beyond = max(0, len(versions) - settings.max_versions)
    yield Put(VERSION, version_id(path, record.version), record)
    yield Put(HISTORY, path, History(versions=versions[beyond:]))
    for version in versions[:beyond]:
        yield Delete(VERSION, version_id(path, version))


def _forgotten(view: View, path: str) -> Iterator[Action]:
    """Everything that is kept of an app goes with it."""
    yield Delete(APP, path)
    for version in view.objects(HISTORY).get(path, History()).versions:
        yield Delete(VERSION, version_id(path, version))
    for kind in (HISTORY, BACKOFF, FAILURE):
        if path in view.objects(kind):
            yield Delete(kind, path)


def _begun(view: View, before: Root, after: Root, deployment: Deployment) -> Iterator[Action]:
    if not deployment.steps:
        yield events.deployment_ended(view, deployment, success=True)
        return
    yield Put(DEPLOYMENT, deployment.id, deployment)
    yield Emit(
        "deployment_started",
        subject=deployment.id,
        details={"version": deployment.version, "apps": ", ".join(deployment.affected[:10])},
    )
    yield from events.step_begins(view, deployment, before.apps, after.apps)
    for path in deployment.affected:
        if path in before.apps:
            yield Put(ORIGINAL, original_id(deployment.id, APP, path), Original(app=before.apps[path]))
    for path in deployment.groups:
        if path in before.groups:
            yield Put(ORIGINAL, original_id(deployment.id, GROUP, path), Original(group=before.groups[path]))


def ended(view: View, deployment: Deployment) -> Iterator[Action]:
    """Removes the deployment and what was kept for it."""
    yield Delete(DEPLOYMENT, deployment.id)
    originals = view.objects(ORIGINAL)
    for kind, affected in ((APP, deployment.affected), (GROUP, deployment.groups)):
        for path in affected:
            if (object_id := original_id(deployment.id, kind, path)) in originals:
                yield Delete(ORIGINAL, object_id)


def _cancelled(view: View, deployments: Iterable[Deployment]) -> Iterator[Action]:
    for deployment in deployments:
        yield from ended(view, deployment)
        yield events.deployment_ended(view, deployment, success=False, reason="cancelled")


def reverted(view: View, root: Root, deployment: Deployment) -> Wanted:
    """The present root with what this deployment changed taken back; later changes of other apps stay."""
    apps: dict[str, App] = root.definitions()
    groups: dict[str, GroupRecord] = dict(root.groups)
    originals: Mapping[str, Any] = view.objects(ORIGINAL)
    remembered = {}
    for path in deployment.affected:
        original = originals.get(original_id(deployment.id, APP, path))
        if original is None:
            apps.pop(path, None)
        else:
            apps[path] = original.app.app
            remembered[path] = original.app
    for path in deployment.groups:
        original = originals.get(original_id(deployment.id, GROUP, path))
        if original is None:
            groups.pop(path, None)
        else:
            groups[path] = original.group
    return Wanted(
        apps=apps,
        groups=groups,
        scope=paths.ROOT,
        force=True,
        remembered=remembered,
        cancelled=frozenset({deployment.id}),
    )
