"""Deployments: the plan that leads from one set of apps to another, and its stored form.

A plan is a sequence of steps; the actions of a step go on at the same time, and a step begins when the one before is
finished: first everything removed is stopped, then everything new is started (which means nothing but that it
exists), then come the apps that change, dependencies first (Marathon 1.11, `DeploymentPlan`).

What is stored is the plan and how far it is. What each action has to achieve stands in the app's own object; what
was before, which is needed for taking a deployment back and for apps that wait for their step, is stored as one
`original` object per app and group, so that no object grows with the number of apps but the plan itself.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Mapping

import attrs

from orlop_marathon.model import AppRecord, GroupRecord


class ActionKind(enum.StrEnum):
    START = "StartApplication"
    SCALE = "ScaleApplication"
    RESTART = "RestartApplication"
    STOP = "StopApplication"


@attrs.frozen(kw_only=True)
class PlannedAction:
    action: ActionKind
    app: str


@attrs.frozen(kw_only=True)
class Step:
    actions: tuple[PlannedAction, ...]


@attrs.frozen(kw_only=True)
class Deployment:
    """The stored object `deployment`, by its id.

    version: of the root group that it leads to. current: index of the step under way.
    groups: paths of groups that it changes. started_utc_ms: when it was made.
    """

    id: str
    version: str
    steps: tuple[Step, ...]
    current: int = 0
    groups: tuple[str, ...] = ()
    started_utc_ms: int = 0

    @property
    def affected(self) -> list[str]:
        """The apps it acts upon, sorted."""
        return sorted({action.app for step in self.steps for action in step.actions})

    @property
    def current_actions(self) -> tuple[PlannedAction, ...]:
        return self.steps[self.current].actions if self.current < len(self.steps) else ()


@attrs.frozen(kw_only=True)
class Original:
    """The stored object `original`, by `original_id`: what an app or group was before a deployment.

    There is none for what did not exist.
    """

    app: AppRecord | None = None
    group: GroupRecord | None = None


def original_id(deployment: str, kind: str, path: str) -> str:
    """kind: `app` or `group`."""
    return f"{deployment}/{kind}{path}"


def plan(
    before: Mapping[str, AppRecord],
    after: Mapping[str, AppRecord],
    layers: Callable[[Collection[str]], Iterable[Iterable[str]]],
    restarted: Iterable[str] = (),
) -> tuple[Step, ...]:
    """The steps from one set of apps to another; empty when there is nothing to do.

    layers: puts apps of `after` into the order of their dependencies. restarted: apps whose running restart is taken
    over, and which are restarted even if nothing but their number changes.
    """
    removed = sorted(before.keys() - after.keys())
    added = sorted(after.keys() - before.keys())
    taken_over = frozenset(restarted)
    changed = dict.fromkeys(added, ActionKind.SCALE)
    for path in after.keys() & before.keys():
        kind = _change(before[path], after[path], path in taken_over)
        if kind is not None:
            changed[path] = kind
    steps = [
        [PlannedAction(action=ActionKind.STOP, app=path) for path in removed],
        [PlannedAction(action=ActionKind.START, app=path) for path in added],
        *(
            [PlannedAction(action=changed[path], app=path) for path in layer]
            for layer in (layers(changed) if len(changed) > 1 else [changed])
        ),
    ]
    return tuple(Step(actions=tuple(actions)) for actions in steps if actions)


def _change(before: AppRecord, after: AppRecord, taken_over: bool) -> ActionKind | None:
    if before is after or (before == after and not taken_over):
        return None
    if before.last_config_change_at != after.last_config_change_at or taken_over:
        return ActionKind.RESTART if after.app.instances else ActionKind.SCALE
    return ActionKind.SCALE if before.app.instances != after.app.instances or before != after else None


def plan_json(deployment: Deployment) -> list[dict[str, object]]:
    """`steps` of the API."""
    return [step_json(step) for step in deployment.steps]


def step_json(step: Step) -> dict[str, object]:
    return {"actions": [action_json(action) for action in step.actions]}


def action_json(action: PlannedAction) -> dict[str, str]:
    return {"action": action.action.value, "app": action.app}
