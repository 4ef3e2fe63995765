"""A cluster with Marathon, for tests: the real kernel and simulated nodes."""

from __future__ import annotations

from typing import Any

from orlop.framework import Changed, Refused, Task
from orlop.testing.harness import Cluster
from orlop_marathon import orders, parsing, root
from orlop_marathon.framework import Marathon
from orlop_marathon.settings import Config

NAME = Marathon.name


class World:
    """A cluster with one Marathon; orders in JSON, as routes would give them."""

    def __init__(self, *, nodes: int = 3, settings: Config | None = None) -> None:
        self.settings = settings or Config()
        # The harness asks again only after its nodes have reacted, which is another moment: see `again` instead.
        self.cluster = Cluster(Marathon(self.settings), check_idempotence=False)
        for number in range(nodes):
            self.cluster.add_node(f"n{number}", cpus=64, mem="64GiB")
        self.cluster.settle()

    def give(self, order: Any) -> Any:
        try:
            return self.cluster.command(NAME, order)
        except Refused as refused:
            raise refused.reason from None

    def create(self, **document: Any) -> Any:
        app = {"cmd": "sleep 1", "cpus": 0.1, "mem": 16, **document}
        return self.give(orders.CreateApp(app=parsing.parse_app(app)))

    def update(self, path: str, *, force: bool = False, **document: Any) -> Any:
        update = parsing.parse_app_update(document)
        return self.give(orders.UpdateApps(updates=((path, update),), force=force))

    def put_group(self, document: dict[str, Any], *, force: bool = False, **options: Any) -> Any:
        update = parsing.parse_group_update(document)
        return self.give(orders.ChangeGroup(update=update, force=force, **options))

    def settle(self) -> None:
        self.cluster.settle()
        self.again()

    def again(self) -> None:
        """At rest, a Marathon that knows nothing but the view wants nothing new."""
        fresh = Marathon(self.settings)
        actions = list(fresh.handle(self.cluster.view(NAME), Changed(everything=True, nodes=True)))
        kinds = {type(action).__name__ for action in actions}
        assert kinds <= {"WakeAt"}, actions

    def hold(self) -> None:
        """From now on nodes neither start nor stop anything by themselves."""
        for node in self.cluster.nodes.values():
            node.starts = lambda _: False
            node.stops = lambda _: False

    def move(self, task: Task) -> None:
        """What a held node owes: the task gets running, or is gone."""
        if task.stopping:
            self.cluster.report_stopped(task)
        else:
            self.cluster.report_running(task)
        self.cluster.settle()

    def movable(self, path: str | None = None) -> list[Task]:
        return [task for task in self.live(path) if task.placement is not None and (task.stopping or not task.running)]

    def live(self, path: str | None = None) -> list[Task]:
        return [task for task in self.cluster.live(NAME) if path in (None, task.group)]

    def running(self, path: str | None = None) -> list[Task]:
        return [task for task in self.live(path) if task.running and not task.stopping]

    def objects(self, kind: str) -> dict[str, Any]:
        return dict(self.cluster.view(NAME).objects(kind))

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.cluster.published if event["eventType"] == kind]

    @property
    def deployments(self) -> dict[str, Any]:
        return self.objects(root.DEPLOYMENT)


CHECKED = {"healthChecks": [{"protocol": "HTTP", "portIndex": 0, "maxConsecutiveFailures": 3}]}


def actions_of(deployment: Any) -> list[list[tuple[str, str]]]:
    return [[(str(action.action), action.app) for action in step.actions] for step in deployment.steps]


def member(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "cmd": "sleep 1", "cpus": 0.1, "mem": 16, **more}
