"""What the resources show: the state of one moment, rendered."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

from orlop.framework import Task, View
from orlop_marathon import queries, rendering, root
from orlop_marathon.deployments import Deployment
from orlop_marathon.groups import Tree
from orlop_marathon.model import AppRecord

#: Embedded in lists whether asked for or not, and in single apps.
ALWAYS: Final = frozenset({"counts", "deployments"})
SINGLE: Final = ALWAYS | {"tasks", "lastTaskFailure"}


class Reader:
    """One view, and what is looked up in it again and again."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.apps: Mapping[str, AppRecord] = view.objects(root.APP)

    @functools.cached_property
    def tree(self) -> Tree:
        return Tree(self.apps, self.view.objects(root.GROUP))

    @functools.cached_property
    def _deployments(self) -> dict[str, list[str]]:
        """App → ids of the running deployments that act upon it."""
        found: dict[str, list[str]] = {}
        deployments: Mapping[str, Deployment] = self.view.objects(root.DEPLOYMENT)
        for deployment_id, deployment in deployments.items():
            for path in deployment.affected:
                found.setdefault(path, []).append(deployment_id)
        return found

    # Tasks

    def live(self, path: str) -> list[Task]:
        """The app's tasks that have not ended, in the order of asking."""
        tasks = (task for task in self.view.group(path).values() if task.live)
        return sorted(tasks, key=lambda task: task.sequence)

    def placed(self, path: str) -> list[Task]:
        """Those that clients see: what waits for a place is in the queue instead."""
        return [task for task in self.live(path) if task.placement is not None]

    def host(self, task: Task) -> str:
        node = self.view.node(task.node)
        return node.info.name if node is not None else ""

    def task(self, task: Task) -> dict[str, Any]:
        return rendering.task_json(task, self.apps.get(task.group), self.view.node(task.node))

    def tasks(self, path: str) -> list[dict[str, Any]]:
        return [self.task(task) for task in self.placed(path)]

    def endpoints(self, path: str) -> str:
        """The app's lines of the list of tasks for scripts."""
        nodes = ((task, self.view.node(task.node)) for task in self.placed(path))
        return rendering.endpoints_text(self.apps[path].app, [(task, node) for task, node in nodes if node is not None])

    # Apps

    def definition(self, record: AppRecord) -> dict[str, Any]:
        """The app alone, without what is known of its tasks."""
        return rendering.app_json(record)

    def created(self, record: AppRecord, deployment: str | None) -> dict[str, Any]:
        """The answer to a creation: nothing has happened yet."""
        deployments = [deployment] if deployment is not None else []
        body = rendering.app_json(record, counts=rendering.counts([]), deployments=deployments)
        body.pop("versionInfo", None)
        return body

    def app(self, record: AppRecord, embed: frozenset[str]) -> dict[str, Any]:
        """The app with what is to be embedded."""
        path = record.app.id
        tasks = self.placed(path)
        more: dict[str, Any] = {}
        if "counts" in embed:
            more["counts"] = rendering.counts(tasks)
        if "deployments" in embed:
            more["deployments"] = self._deployments.get(path, [])
        if "tasks" in embed:
            more["tasks"] = [self.task(task) for task in tasks]
        if "lastTaskFailure" in embed:
            more["last_task_failure"] = self.view.objects(root.FAILURE).get(path)
        if "readiness" in embed:
            more["readiness"] = []
        if "taskStats" in embed:
            more["task_stats"] = rendering.task_stats_json(record, tasks, self.view.now.utc_ms)
        return rendering.app_json(record, **more)

    # Groups

    def group(self, path: str, embed: list[str]) -> dict[str, Any]:
        return rendering.group_json(self.tree, path, queries.parse_group_embed(embed), self.app)

    def group_at(self, path: str, version: str, records: Mapping[str, AppRecord], embed: list[str]) -> dict[str, Any]:
        """A group as it was; nothing is embedded in its apps."""
        tree = Tree(records, self.view.objects(root.GROUP))
        shown = rendering.group_json(
            tree, path, queries.parse_group_embed(embed), lambda record, _: self.definition(record)
        )
        return {**shown, "version": version}
