"""One app at one moment: which of its tasks count, and what is to be done so that it becomes as wanted.

An app's instances are its tasks; there is no other record of them. The key of a task is `<app>#<instance>`, so an
instance survives its tasks: one that failed is asked for again under the same key, with the next number. What is
surplus is killed for a reason of `DECOMMISSIONED`, and its key is not used again.

Everything here is a pure function of the view. What an app shall be is said by its caller: `steady` keeps a number of
instances, of whatever configuration; `restart` replaces those of an outdated configuration; `nothing` ends all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import attrs

from orlop.framework import NodeState, Task, TaskState, View
from orlop_marathon import rolling
from orlop_marathon.model import AppRecord, KillSelection, Operator, UnreachableStrategy

#: Labels of a task: its app, its configuration (`lastConfigChangeAt`), the number of this start of its instance.
APP_LABEL: Final = "app"
VERSION_LABEL: Final = "version"
NUMBER_LABEL: Final = "n"

SCALED: Final = "the app was scaled down"
REPLACED: Final = "replaced by the new configuration"
REPLACED_UNREADY: Final = "replaced by the new configuration while not healthy"
STOPPED: Final = "the app was stopped"
WIPED: Final = "killed and wiped on request"
EXPUNGED: Final = "its node was unreachable for too long"
REQUESTED: Final = "killed on request"
UNHEALTHY: Final = "killed since health check failed"
#: Reasons of kills after which the instance is not started again.
DECOMMISSIONED: Final = frozenset({SCALED, REPLACED, REPLACED_UNREADY, STOPPED, WIPED, EXPUNGED})

_STATE_RANK: Final = {TaskState.PENDING: 1, TaskState.STARTING: 3, TaskState.RUNNING: 4}
_OTHER_RANK: Final = 2


def instance_key(path: str, instance: str) -> str:
    return f"{path}#{instance}"


def app_of(key: str) -> str:
    """The app of a task's key."""
    return key.rpartition("#")[0]


def instance_id(key: str) -> str:
    """Marathon's instance id, `shop_db.instance-<uuid>`."""
    path, _, instance = key.rpartition("#")
    return f"{path.strip('/').replace('/', '_')}.instance-{instance}"


def task_name(key: str, number: int) -> str:
    """Marathon's task id, `shop_db.instance-<uuid>._app.1`."""
    return f"{instance_id(key)}._app.{number}"


def config_version(task: Task) -> str:
    return task.labels.get(VERSION_LABEL, "")


@attrs.frozen(kw_only=True)
class Instances:
    """The tasks of one app.

    active: live, wanted so far, and not given up on an unreachable node. leaving: being killed, not gone.
    expired: on a node that was unreachable for so long that they shall be killed. vacant: ended ones whose instance
    is to be started again, if anything is. ended: all ended ones. ready: keys of running and healthy ones.
    sick: active ones that fail a health check too often, with the cause.
    away: some are on unreachable nodes. wake_utc_ms: when something here changes by time alone.
    """

    active: tuple[Task, ...] = ()
    leaving: tuple[Task, ...] = ()
    expired: tuple[Task, ...] = ()
    vacant: tuple[Task, ...] = ()
    ended: tuple[Task, ...] = ()
    ready: frozenset[str] = frozenset()
    sick: tuple[tuple[Task, str], ...] = ()
    away: bool = False
    wake_utc_ms: int | None = None


def survey(view: View, path: str, record: AppRecord | None, doomed: Mapping[str, str] = {}) -> Instances:
    """The app's tasks. doomed: keys killed by commands of this very run, with the reasons."""
    strategy = record.app.unreachable_strategy if record is not None else UnreachableStrategy()
    found: dict[str, list[Task]] = {"active": [], "leaving": [], "expired": [], "vacant": [], "ended": []}
    away = False
    wake: list[int] = []
    for task in sorted(view.group(path).values(), key=lambda task: task.sequence):
        if task.key in doomed:
            found["leaving" if task.placement else "vacant"].append(attrs.evolve(task, desired_reason=doomed[task.key]))
        elif not task.live:
            found["ended"].append(task)
            found["vacant"].append(task)
        elif is_away(view, task):
            away = True
            kind, at = _unreachable(view, task, strategy)
            if kind:
                found[kind].append(task)
            if at is not None:
                wake.append(at)
        else:
            found["leaving" if task.stopping else "active"].append(task)
    found["vacant"] = [task for task in found["vacant"] if task.desired_reason not in DECOMMISSIONED]
    active = found["active"]
    sick = tuple(_sick(view, active, record)) if record is not None else ()
    return Instances(
        **{kind: tuple(tasks) for kind, tasks in found.items()},
        ready=frozenset(task.key for task in active if is_ready(view, task)),
        sick=sick,
        away=away,
        wake_utc_ms=min(wake, default=None),
    )


def _unreachable(view: View, task: Task, strategy: UnreachableStrategy) -> tuple[str, int | None]:
    """What a task on an unreachable node counts as, empty for nothing, and until when."""
    if task.stopping:
        return "", None
    if strategy.disabled:
        return "active", None
    node = view.node(task.node)
    now = view.now.utc_ms
    since = node.state_since_utc_ms if node is not None else now
    inactive = since + strategy.inactive_after_seconds * 1000
    expunged = since + strategy.expunge_after_seconds * 1000
    if now >= expunged:
        return "expired", None
    return ("", expunged) if now >= inactive else ("active", inactive)


def is_away(view: View, task: Task) -> bool:
    """Is its node not heard of? A node that is back counts at once, even before it reports on the task."""
    if not task.unreachable:
        return False
    node = view.node(task.node)
    return node is None or node.state is not NodeState.READY


def is_ready(view: View, task: Task) -> bool:
    """Running, reachable, and healthy where it has health checks."""
    if not task.running or is_away(view, task):
        return False
    return not view.spec(task).probes or task.healthy is True


def _sick(view: View, tasks: Iterable[Task], record: AppRecord) -> Iterator[tuple[Task, str]]:
    """Tasks of the present configuration that fail a check too often.

    Marathon 1.11, `Health.consecutiveFailures`: the count is taken before the present failure is added, so with
    `maxConsecutiveFailures` 3 the fourth failure in a row kills; 0 never kills.
    """
    checks = record.app.health_checks
    for task in tasks if checks else ():
        if not task.running or is_away(view, task) or config_version(task) != record.last_config_change_at:
            continue
        for check, result in zip(checks, task.status.probes, strict=False):
            if 0 < check.max_consecutive_failures < result.consecutive_failures:
                yield task, result.last_failure_cause or "no cause is known"
                break


@attrs.frozen(kw_only=True)
class Decision:
    """What to do for one app now.

    kills: tasks with the reasons. starts: number of instances to ask for. settled: everything is as wanted, or will
    be with the kills of tasks that are not placed yet.
    """

    kills: tuple[tuple[Task, str], ...] = ()
    starts: int = 0
    settled: bool = True


def without_sick(found: Instances) -> Instances:
    """The instances once the sick ones are being killed."""
    if not found.sick:
        return found
    keys = {task.key for task, _ in found.sick}
    return attrs.evolve(
        found,
        active=tuple(task for task in found.active if task.key not in keys),
        leaving=found.leaving + tuple(task for task in found.active if task.key in keys),
        ready=found.ready - keys,
    )


def nothing(view: View, found: Instances) -> Decision:
    """End all tasks."""
    tasks = found.active + found.expired
    placed = [task for task in tasks if task.placement and not is_away(view, task)]
    return Decision(kills=tuple((task, STOPPED) for task in tasks), settled=not placed and not found.leaving)


def steady(view: View, found: Instances, record: AppRecord, instances: int) -> Decision:
    """Keep this number of instances, whatever their configuration."""
    surplus = max(0, len(found.active) - instances)
    starts = max(0, instances - len(found.active) - len(found.leaving))
    victims = select(view, record, found.active, surplus)
    chosen = {task.key for task in victims}
    kept = [task for task in found.active if task.key not in chosen]
    quiet = not starts and not found.leaving and all(task.placement is None for task in victims)
    return Decision(
        kills=tuple((task, SCALED) for task in victims),
        starts=starts,
        settled=quiet and len(kept) == instances and all(task.key in found.ready for task in kept),
    )


def restart(view: View, found: Instances, record: AppRecord) -> Decision:
    """Replace the instances of outdated configuration, as far as the upgrade strategy lets us at this moment."""
    limit = rolling.bounds(record.app)
    current = record.last_config_change_at
    new = [task for task in found.active if config_version(task) == current]
    old = [task for task in found.active if config_version(task) != current]
    surplus = select(view, record, new, max(0, len(new) - limit.instances))
    excess = {task.key for task in surplus}
    new = [task for task in new if task.key not in excess]
    situation = _situation(found, current, old, new)
    victims = _old_victims(view, record, old, found.ready, rolling.kills(limit, situation))
    kills = [(task, SCALED) for task in surplus]
    kills += [(task, REPLACED if task.key in found.ready else REPLACED_UNREADY) for task in victims]
    at_once = sum(task.placement is None for task in victims)
    starts = rolling.starts(limit, situation, at_once)
    everything_gone = at_once == len(old) and not situation.leaving
    all_new = situation.new == situation.new_ready == limit.instances
    return Decision(
        kills=tuple(kills),
        starts=starts,
        settled=all_new and everything_gone and all(task.placement is None for task in surplus),
    )


def _situation(found: Instances, current: str, old: Sequence[Task], new: Sequence[Task]) -> rolling.Situation:
    leaving = [task for task in found.leaving if config_version(task) != current]
    unready = sum(task.desired_reason == REPLACED_UNREADY for task in leaving)
    old_ready = sum(task.key in found.ready for task in old)
    return rolling.Situation(
        old_ready=old_ready,
        old_unready=len(old) - old_ready,
        leaving_ready=len(leaving) - unready,
        leaving_unready=unready,
        # New ones that are being killed (for their health, say) come back: they keep their place.
        new=len(new) + len(found.leaving) - len(leaving),
        new_ready=sum(task.key in found.ready for task in new),
    )


def _old_victims(view: View, record: AppRecord, old: Sequence[Task], ready: frozenset[str], count: int) -> list[Task]:
    """Outdated instances to kill: those that are not ready first."""
    unready = [task for task in old if task.key not in ready]
    chosen = select(view, record, unready, min(count, len(unready)))
    healthy = [task for task in old if task.key in ready]
    return chosen + select(view, record, healthy, min(count - len(chosen), len(healthy)))


def select(view: View, record: AppRecord, tasks: Sequence[Task], count: int) -> list[Task]:
    """Which instances to kill, when some have to go (Marathon 1.11, `KillSelection` and `ScaleActor`).

    First those whose loss evens out the app's GROUP_BY constraints, then unreachable before pending before starting
    before running ones, then outdated ones, then by the app's kill selection.
    """
    if count <= 0:
        return []
    ranked = sorted(tasks, key=lambda task: _rank(view, record, task))
    fields = [one.field for one in record.app.constraints if one.operator == Operator.GROUP_BY]
    if not fields:
        return ranked[:count]
    chosen: list[Task] = []
    for _ in range(min(count, len(ranked))):
        crowds = {field: _crowds(view, field, ranked) for field in fields}
        victim = min(
            enumerate(ranked),
            key=lambda item: (-sum(crowds[field][_value(view, field, item[1])] for field in fields), item[0]),
        )[1]
        ranked.remove(victim)
        chosen.append(victim)
    return chosen


def _rank(view: View, record: AppRecord, task: Task) -> tuple[int, bool, int, int]:
    state = 0 if is_away(view, task) else _STATE_RANK.get(task.state, _OTHER_RANK)
    started = task.started_utc_ms or task.created_utc_ms
    youngest = record.app.kill_selection is KillSelection.YOUNGEST_FIRST
    order = (-started, -task.sequence) if youngest else (started, task.sequence)
    return state, config_version(task) == record.last_config_change_at, *order


def _crowds(view: View, field: str, tasks: Sequence[Task]) -> dict[str, int]:
    found: dict[str, int] = {}
    for task in tasks:
        value = _value(view, field, task)
        found[value] = found.get(value, 0) + 1
    return found


def _value(view: View, field: str, task: Task) -> str:
    """The value of a constraint's field for a task; empty while it has no node."""
    node = view.node(task.node)
    if node is None:
        return ""
    if field in ("hostname", "@hostname"):
        return node.info.name
    return node.info.attributes.get(field.removeprefix("@"), "")
