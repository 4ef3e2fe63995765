"""The Marathon framework: keeps apps running as their definitions say, and carries deployments through.

Theory of operation. Wanted is what the stored objects say: an app's record, and for apps of a running deployment how
far that deployment is with them. `handle` compares it with the app's tasks, app by app, and only for apps whose tasks
changed, whose time has come, or which a command of the same run touched; with `everything` for all of them.

A deployment is a stored plan. Its apps are of three kinds: those whose step is to come are kept as they were before
(their `original`), those of the present step are brought to their record, with a rolling restart if their
configuration changed, and those of past steps are like any other app. An action that was once finished stays
finished: an instance that fails later does not hold the deployment up. Steps may follow one another within one run.

Kept between runs are caches alone: how far each action of the present steps is, built specs, which apps have tasks on
unreachable nodes, and what was last said on the event bus. Everything else is read from the view, so a new leader
goes on where the last one was.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import attrs

from orlop.framework import (
    Action,
    Ask,
    Changed,
    Delete,
    Framework,
    Kill,
    Put,
    Refused,
    Reply,
    Spec,
    Task,
    View,
    WakeAt,
)
from orlop_marathon import backoff, events, executing, failures, reconciling, roles, root, specs
from orlop_marathon.deployments import ActionKind, Deployment, Original, PlannedAction, original_id
from orlop_marathon.errors import MarathonError
from orlop_marathon.model import AppRecord, GroupRecord
from orlop_marathon.reconciling import Decision, Instances, app_of
from orlop_marathon.settings import Config

_STARTED = "started"


@attrs.define
class _Track:
    """What is remembered of a running deployment.

    last: app → (index of the step with its last action, that action's kind). outstanding: apps of the present step
    that are not finished; None when none was looked at yet.
    """

    deployment: Deployment
    last: dict[str, tuple[int, ActionKind]]
    outstanding: set[str] | None = None

    @classmethod
    def of(cls, deployment: Deployment) -> _Track:
        last = {
            action.app: (index, action.action) for index, step in enumerate(deployment.steps) for action in step.actions
        }
        return cls(deployment=deployment, last=last)


@attrs.frozen(kw_only=True)
class _Said:
    """What was last said of a task. failures: in a row, per health check."""

    task: str
    state: str
    healthy: bool | None = None
    failures: tuple[int, ...] = ()

    @classmethod
    def of(cls, task: Task) -> _Said:
        failures = tuple(probe.consecutive_failures for probe in task.status.probes)
        return cls(task=task.id, state=events.mesos_state(task), healthy=task.healthy, failures=failures)


@attrs.define
class _Told:
    """What commands of one run want the handler of the same run to know."""

    run: uuid.UUID | None = None
    look_at: set[str] = attrs.field(factory=set)
    doomed: dict[str, str] = attrs.field(factory=dict)


class Marathon(Framework):
    """See the module."""

    name = "marathon"
    config = Config
    documents: ClassVar[Mapping[str, type]] = {
        root.APP: AppRecord,
        root.VERSION: AppRecord,
        root.HISTORY: root.History,
        root.GROUP: GroupRecord,
        root.DEPLOYMENT: Deployment,
        root.ORIGINAL: Original,
        root.BACKOFF: backoff.Backoff,
        root.FAILURE: failures.TaskFailure,
    }
    version = 1

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings if settings is not None else Config())
        self._told = _Told()
        self._tracks: dict[str, _Track] = {}
        self._owners: dict[str, _Track] = {}
        self._away: set[str] = set()
        self._specs: dict[str, tuple[AppRecord, bool, Spec]] = {}
        self._said: dict[str, _Said] = {}

    def command(self, view: View, command: Any) -> Iterable[Action]:
        """Carries out one of `orders`; replies with `executing.Result`, refuses with a MarathonError."""
        try:
            done = executing.execute(command, view, self.settings)
        except MarathonError as error:
            raise Refused(error) from error
        run = view.unique("run")
        if self._told.run != run:
            self._told = _Told(run=run)
        self._told.look_at |= done.look_at
        self._told.doomed |= done.doomed
        return [*done.actions, Reply(done.result)]

    def handle(self, view: View, changed: Changed) -> Iterable[Action]:
        told = self._told if self._told.run == view.unique("run") else _Told()
        if changed.everything:
            self._tracks.clear()
            self._away.clear()
            self._specs.clear()
        self._follow(view)
        look_at = {app_of(key) for key in changed.keys} | changed.wakeups | told.look_at
        if changed.everything:
            look_at |= {*view.objects(root.APP), *view.groups()}
        if changed.nodes:
            look_at |= self._away
        one_run = _Run(self, view, told.doomed)
        actions = self._task_events(view, changed)
        begun: set[str] = set()
        for track in self._touched(look_at, changed.everything):
            actions += one_run.advance(track, look_at, begun)
        for path in sorted(look_at | begun):
            actions += one_run.reconcile(path)
        return actions

    # Caches

    def _follow(self, view: View) -> None:
        """Brings the tracks up to the deployments of the view."""
        running = dict(view.objects(root.DEPLOYMENT))
        known = {path: track for path, track in self._tracks.items() if path in running}
        changed = len(known) != len(self._tracks)
        for deployment_id, deployment in running.items():
            track = known.get(deployment_id)
            if track is None:
                known[deployment_id] = _Track.of(deployment)
                changed = True
            elif track.deployment.current != deployment.current:
                track.deployment, track.outstanding = deployment, None
        self._tracks = known
        if changed or not known:
            self._owners = {path: track for track in known.values() for path in track.last}

    def _touched(self, look_at: set[str], everything: bool) -> list[_Track]:
        """Deployments that may get on, in a fixed order."""
        if everything:
            touched = set(self._tracks)
        else:
            touched = {self._owners[path].deployment.id for path in look_at if path in self._owners}
        return [self._tracks[deployment_id] for deployment_id in sorted(touched)]

    def owner(self, path: str) -> _Track | None:
        """The running deployment that acts upon the app."""
        return self._owners.get(path)

    def spec(self, record: AppRecord, enforced: bool) -> Spec:
        """The app's spec; the same object for the same record, which makes it cheap to ask again.

        enforced: does its top-level group enforce its role?
        """
        known = self._specs.get(record.app.id)
        if known is None or known[0].app != record.app or known[0].version != record.version or known[1] != enforced:
            built = specs.build_spec(record, env_vars_prefix=self.settings.env_vars_prefix, enforce_group_role=enforced)
            known = record, enforced, built
            self._specs[record.app.id] = known
        return known[2]

    def note(self, path: str, away: bool) -> None:
        """Remembers apps with tasks on unreachable nodes: they are looked at when nodes change."""
        if away:
            self._away.add(path)
        else:
            self._away.discard(path)

    def forget(self, path: str) -> None:
        """The app is gone."""
        self._specs.pop(path, None)
        self._away.discard(path)

    def _task_events(self, view: View, changed: Changed) -> list[Action]:
        """What to say on the event bus. After a start nothing is said: nobody has been listening."""
        actions: list[Action] = []
        if changed.everything:
            self._said.clear()
        for key in sorted(changed.keys):
            task = view.tasks.get(key)
            if task is None or task.state == "pending":
                continue
            now = _Said.of(task)
            before = self._said.get(key)
            if before is None or before.task != now.task:
                before = _Said(task=now.task, state="")
            if before.state != now.state:
                actions += events.task_events(view, task, health_changed=False)
            if task.live:
                actions += self._health_events(view, task, before, now)
                self._said[key] = now
            else:
                self._said.pop(key, None)
        return actions

    def _health_events(self, view: View, task: Task, before: _Said, now: _Said) -> list[Action]:
        actions: list[Action] = []
        record: AppRecord | None = view.objects(root.APP).get(task.group)
        if record is not None and reconciling.config_version(task) == record.last_config_change_at:
            counts = itertools.zip_longest(now.failures, before.failures, fillvalue=0)
            for check, (count, known) in zip(record.app.health_checks, counts, strict=False):
                if count > known:
                    actions.append(events.check_failed(view, task, check))
        if now.healthy is not None and now.healthy is not before.healthy:
            actions += events.task_events(view, task, health_changed=True)
        return actions


class _Run:
    """One run of the handler: what it has found out about apps so far."""

    def __init__(self, framework: Marathon, view: View, doomed: Mapping[str, str]) -> None:
        self._framework = framework
        self._view = view
        self._doomed = doomed
        self._apps = view.objects(root.APP)
        self._originals = view.objects(root.ORIGINAL)
        self._surveys: dict[str, tuple[AppRecord | None, Instances]] = {}

    # Deployments

    def advance(self, track: _Track, look_at: set[str], begun: set[str]) -> list[Action]:
        """Moves a deployment on as far as it gets; the apps of steps that begin are added to `begun`."""
        actions: list[Action] = []
        start = track.deployment
        while track.deployment.current < len(track.deployment.steps):
            current = track.deployment.current_actions
            if track.outstanding is None:
                track.outstanding = {action.app for action in current}
                examined = current
            else:
                examined = tuple(action for action in current if action.app in look_at)
            for action in examined:
                if action.app in track.outstanding and self._finished(track, action):
                    track.outstanding.discard(action.app)
            if track.outstanding:
                break
            actions += events.step_done(self._view, track.deployment, self._before(track.deployment))
            track.deployment = attrs.evolve(track.deployment, current=track.deployment.current + 1)
            track.outstanding = None
            if track.deployment.current < len(track.deployment.steps):
                actions += events.step_begins(self._view, track.deployment, {}, self._apps)
                begun |= {action.app for action in track.deployment.current_actions}
        if track.deployment.current == len(track.deployment.steps):
            actions += root.ended(self._view, track.deployment)
            actions.append(events.deployment_ended(self._view, track.deployment, success=True))
        elif track.deployment is not start:
            actions.append(Put(root.DEPLOYMENT, track.deployment.id, track.deployment))
        return actions

    def _before(self, deployment: Deployment) -> dict[str, AppRecord]:
        """The apps of the present step as they were before the deployment."""
        originals = {
            action.app: self._originals.get(original_id(deployment.id, root.APP, action.app))
            for action in deployment.current_actions
        }
        return {path: original.app for path, original in originals.items() if original is not None and original.app}

    def _finished(self, track: _Track, action: PlannedAction) -> bool:
        if action.action is ActionKind.START:
            return True
        if action.app not in self._apps and not self._view.group(action.app):
            return True
        record = self._record(action.app, track)
        found = reconciling.without_sick(self._survey(action.app, record))
        return self._decide(action.app, record, found, track).settled

    # Apps

    def _survey(self, path: str, record: AppRecord | None) -> Instances:
        """All of the app's tasks are looked at, so once per run will do."""
        known = self._surveys.get(path)
        if known is None or known[0] is not record:
            known = self._surveys[path] = record, reconciling.survey(self._view, path, record, self._doomed)
        return known[1]

    def _record(self, path: str, track: _Track | None) -> AppRecord | None:
        """What the app shall be at present: before its step in a deployment has begun, what it was."""
        if track is None or path not in self._apps or not _waits(path, track):
            return self._apps.get(path)
        original: Original | None = self._originals.get(original_id(track.deployment.id, root.APP, path))
        return original.app if original is not None else None

    def _decide(self, path: str, record: AppRecord | None, found: Instances, track: _Track | None) -> Decision:
        if record is None:
            return Decision() if path in self._apps else reconciling.nothing(self._view, found)
        if track is not None and track.last[path] == (track.deployment.current, ActionKind.RESTART):
            return reconciling.restart(self._view, found, record)
        return reconciling.steady(self._view, found, record, record.app.instances)

    def reconcile(self, path: str) -> list[Action]:
        """What to do for one app now."""
        track = self._framework.owner(path)
        record = self._record(path, track)
        surveyed = self._survey(path, record)
        found = reconciling.without_sick(surveyed)
        decision = self._decide(path, record, found, track)
        self._framework.note(path, found.away)
        actions: list[Action] = [Kill(task.key, reason) for task, reason in decision.kills]
        if record is None:
            if path not in self._apps:
                self._framework.forget(path)
            return actions
        actions += [Kill(task.key, reconciling.EXPUNGED) for task in found.expired]
        actions += self._failures(path, surveyed)
        asked, delay = self._asks(record, found, decision.starts)
        actions += delay
        actions += asked
        if found.wake_utc_ms is not None:
            actions.append(WakeAt(found.wake_utc_ms, path))
        return actions

    def _failures(self, path: str, found: Instances) -> list[Action]:
        """Kills of sick tasks, and the last failure to remember."""
        actions: list[Action] = []
        known: failures.TaskFailure | None = self._view.objects(root.FAILURE).get(path)
        last = failures.of_ended(self._view, found.ended, known)
        for task, cause in found.sick:
            actions.append(Kill(task.key, f"{reconciling.UNHEALTHY}: {cause}"))
            actions.append(events.unhealthy_kill(self._view, task, cause))
            last = failures.of_unhealthy(self._view, task, cause)
        if last is not None and path in self._apps:
            actions.append(Put(root.FAILURE, path, last))
        return actions

    def _asks(self, record: AppRecord, found: Instances, count: int) -> tuple[list[Action], list[Action]]:
        """Asks for `count` instances, and the back-off to store."""
        path, version = record.app.id, record.last_config_change_at
        vacant = [task for task in found.vacant if reconciling.config_version(task) == version][:count]
        keys = [(task.key, int(task.labels.get(reconciling.NUMBER_LABEL, "0")) + 1) for task in vacant]
        for position in range(count - len(vacant)):
            instance = self._view.unique("instance", path, str(position))
            keys.append((reconciling.instance_key(path, str(instance)), 1))
        delay, stored = self._backoff(record, found, {key for key, _ in keys})
        if not keys:
            return [], stored
        not_before = delay.not_before_utc_ms if delay is not None else 0
        spec = self._framework.spec(record, roles.enforced(path, self._view.objects(root.GROUP)))
        asks: list[Action] = [self._ask(record, spec, key, number, not_before) for key, number in keys]
        return asks, stored

    def _ask(self, record: AppRecord, spec: Spec, key: str, number: int, not_before: int) -> Ask:
        name = reconciling.task_name(key, number)
        return Ask(
            key,
            spec,
            group=record.app.id,
            role=record.app.role,
            name=name,
            environment=specs.task_environment(name),
            labels={
                reconciling.APP_LABEL: record.app.id,
                reconciling.VERSION_LABEL: record.last_config_change_at,
                reconciling.NUMBER_LABEL: str(number),
            },
            not_before_utc_ms=not_before if not_before > self._view.now.utc_ms else 0,
        )

    def _backoff(
        self, record: AppRecord, found: Instances, asked: set[str]
    ) -> tuple[backoff.Backoff | None, list[Action]]:
        """The app's delay as it is now, and how to store it."""
        path, version = record.app.id, record.last_config_change_at
        known: backoff.Backoff | None = self._view.objects(root.BACKOFF).get(path)
        counted = known.counted if known is not None else ()
        failed = [task for task in found.ended if backoff.counts(task) and reconciling.config_version(task) == version]
        fresh = sorted(
            (task for task in failed if task.id not in counted),
            key=lambda task: (task.ended_utc_ms or 0, task.sequence),
        )
        delay = backoff.after_failures(record.app, version, known, fresh, self._view.now.utc_ms)
        if not fresh or delay is None:
            if known is not None and delay is None:
                return None, [Delete(root.BACKOFF, path)]
            return delay, []
        left = tuple(task.id for task in failed if task.key not in asked)
        delay = attrs.evolve(delay, counted=left)
        return delay, [Put(root.BACKOFF, path, delay)] if path in self._apps else []


def _waits(path: str, track: _Track) -> bool:
    return track.last[path][0] > track.deployment.current
