"""The real Marathon in a simulated cluster: clients that create, scale, upgrade, restart, kill and remove apps.

Commands are plain data, (what, path, arguments…), so that plans can be printed and shortened; the framework here makes
Marathon's own orders of them, as its routes do.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from orlop.framework import Action, Framework, Refused, View
from orlop.kernel.state import State
from orlop.model.tasks import Task
from orlop.testing.simulation.plan import Operation
from orlop.testing.simulation.world import Broken
from orlop_marathon import orders, parsing, reconciling, root
from orlop_marathon.framework import Marathon
from orlop_marathon.model import AppRecord

#: App → what it says of nodes that cannot be reached, and of its upgrades.
APPS: Final[dict[str, dict[str, Any]]] = {
    "/shop/web": {},
    "/shop/db": {"unreachableStrategy": "disabled", "upgradeStrategy": {"minimumHealthCapacity": 0.5}},
    "/mail": {"unreachableStrategy": {"inactiveAfterSeconds": 9, "expungeAfterSeconds": 20}},
    "/batch": {"upgradeStrategy": {"minimumHealthCapacity": 0, "maximumOverCapacity": 0}},
}
UNKNOWN: Final = "outcome is not known"


def document(path: str, instances: int, release: int) -> dict[str, Any]:
    """An app as clients write it."""
    return {
        "id": path,
        "cmd": f"serve {release}",
        "cpus": 0.25,
        "mem": 64,
        "instances": instances,
        "maxLaunchDelaySeconds": 5,
        **APPS[path],
    }


class SimulatedMarathon(Marathon):
    """Marathon, told what to do in plain data."""

    def command(self, view: View, command: Any) -> Iterable[Action]:
        return super().command(view, self._order(view, command))

    @staticmethod
    def _order(view: View, command: Any) -> orders.Order:
        match command:
            case "put", path, instances, release:
                update = parsing.parse_app_update(document(path, instances, release))
                return orders.UpdateApps(updates=((path, update),), force=True)
            case "scale", path, instances:
                update = parsing.parse_app_update({"instances": instances})
                return orders.UpdateApps(updates=((path, update),), create=False, force=True)
            case "upgrade", path, release:
                update = parsing.parse_app_update({"cmd": f"serve {release}"})
                return orders.UpdateApps(updates=((path, update),), create=False, force=False)
            case "restart", path:
                return orders.RestartApp(path=path)
            case "remove", path:
                return orders.DeleteApp(path=path)
            case "kill", path, number:
                live = sorted(view.group(path).values(), key=lambda task: task.key)
                if not live:
                    raise Refused("there is nothing to kill")
                return orders.KillTasks(names=(live[number % len(live)].name,))
            case _:
                raise ValueError(f"no such command: {command}")


@attrs.define
class Possible:
    """What an app may be after all that was answered; more may be possible than is, never less."""

    exists: set[bool] = attrs.field(factory=lambda: {False})
    instances: set[int] = attrs.field(factory=set)
    releases: set[int] = attrs.field(factory=set)

    def took(self, command: tuple[Any, ...], certain: bool) -> None:
        """A command was carried out, or may have been."""
        news: tuple[set[Any] | None, ...]
        match command:
            case "put", _, instances, release:
                news = {True}, {instances}, {release}
            case "scale", _, instances:
                news = {True}, {instances}, None
            case "upgrade", _, release:
                news = {True}, None, {release}
            case "remove", _:
                news = {False}, None, None
            case _:
                return
        possible: tuple[set[Any], ...] = (self.exists, self.instances, self.releases)
        for known, new in zip(possible, news, strict=True):
            if new is not None:
                if certain:
                    known.clear()
                known |= new


class MarathonWorkload:
    """Clients of Marathon. After all is healed each app has exactly its instances, of its configuration."""

    frameworks: Mapping[str, Callable[[], Framework]] = {"marathon": SimulatedMarathon}

    def __init__(self) -> None:
        self._possible = {path: Possible() for path in APPS}
        self._releases = 0

    def operation(self, chance: random.Random) -> Operation:
        """Creating, scaling, upgrading, restarting, killing and removing, the first most often."""
        self._releases += 1
        path = chance.choice(sorted(APPS))
        kind = chance.choices(("put", "scale", "upgrade", "restart", "remove", "kill"), (6, 3, 3, 2, 1, 1))[0]
        arguments: tuple[Any, ...] = {
            "put": (chance.randint(0, 4), self._releases),
            "scale": (chance.randint(0, 6),),
            "upgrade": (self._releases,),
            "kill": (chance.randrange(100),),
        }.get(kind, ())
        return Operation(0, "command", ("marathon", (kind, path, *arguments)))

    def answered(self, framework: str, value: Any, answer: Any, error: Exception | None) -> None:
        """Done: it counts. Nothing was changed: it does not. Otherwise both are possible."""
        if error is None or UNKNOWN in str(error):
            self._possible[value[1]].took(value, certain=error is None)

    def unanswered(self, framework: str, value: Any) -> None:
        """Nobody knows."""
        self._possible[value[1]].took(value, certain=False)

    def check(self, state: State, running: Iterable[tuple[str, str]]) -> None:
        """See the class; and no deployment goes on for ever."""
        objects = state.framework("marathon").objects
        hanging = sorted(objects.get(root.DEPLOYMENT) or ())
        if hanging:
            raise Broken(f"deployments hang: {', '.join(hanging)}")
        apps = {path: stored.value for path, stored in (objects.get(root.APP) or {}).items()}
        for path, possible in self._possible.items():
            self._check_definition(path, possible, apps.get(path))
        live = [task for task in state.tasks.values() if task.live]
        for path, record in apps.items():
            _check_tasks(state, record, [task for task in live if task.group == path])
        surplus = sorted(task.key for task in live if task.group not in apps)
        if surplus:
            raise Broken(f"tasks of apps that are not there: {', '.join(surplus)}")
        found, expected = Counter(running), Counter((task.framework, task.key) for task in live)
        if found != expected:
            raise Broken(f"running are too few of {dict(expected - found)} and too many of {dict(found - expected)}")

    @staticmethod
    def _check_definition(path: str, possible: Possible, record: AppRecord | None) -> None:
        if (record is not None) not in possible.exists:
            raise Broken(f"app {path} {'exists' if record else 'is missing'}, which no answer allows")
        if record is None:
            return
        release = int((record.app.cmd or "").removeprefix("serve "))
        if record.app.instances not in possible.instances or release not in possible.releases:
            raise Broken(f"app {path} has {record.app.instances} of release {release}; answered was {possible}")


def _check_tasks(state: State, record: AppRecord, tasks: list[Task]) -> None:
    path, wanted = record.app.id, record.app.instances
    if len(tasks) != wanted:
        raise Broken(f"app {path} has {len(tasks)} tasks instead of {wanted}")
    for task in tasks:
        version = task.labels[reconciling.VERSION_LABEL]
        commands = str(state.spec_of(task).payload)
        if version != record.last_config_change_at or f"{record.app.cmd}'" not in commands:
            raise Broken(f"task {task.key} is of configuration {version}, and runs {commands}")
