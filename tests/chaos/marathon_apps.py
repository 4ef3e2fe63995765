"""Clients that keep writing apps through any server. What was acknowledged must run in the end, once.

A watcher looks at every process of every task meanwhile: no task may end at all, and none may be on two nodes.
"""

from __future__ import annotations

import functools
import urllib.error
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from hosts import MARATHON_PORT

from chaos.cluster import SPARE, Cluster

CLIENTS: Final = 3
APPS_MAX: Final = 150
WRITE_EVERY_S: Final = 0.4
LOOK_EVERY_S: Final = 0.5


class MarathonApps:
    """See the module."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.acknowledged: set[str] = set()
        self.possible: set[str] = set()
        self.seen: dict[str, dict[int, str]] = {}
        self.wrong: list[str] = []

    def meanwhile(self) -> Sequence[Callable[[], None]]:
        return [*(functools.partial(self._write, f"client{number}-") for number in range(CLIENTS)), self._watch]

    def _write(self, name: str) -> None:
        """A client: new apps through any server, and a note of what it was answered."""
        chance = self._cluster.chance()
        number = 0
        while not self._cluster.over.wait(WRITE_EVERY_S) and number < APPS_MAX // CLIENTS:
            number += 1
            app: dict[str, Any] = {
                "id": f"/{name}{number}",
                "cmd": "exec sleep 100000",
                "cpus": 0.01,
                "mem": 4,
                "instances": 1,
                # Its power fails.
                "constraints": [["hostname", "UNLIKE", SPARE]],
            }
            try:
                self._cluster.call(chance.choice(self._cluster.servers), "POST", "/v2/apps", app, MARATHON_PORT)
            except urllib.error.HTTPError as error:
                text = error.read().decode(errors="replace")
                if "nothing was changed" not in text:
                    self.possible.add(app["id"])
                if error.code not in (503, 502, 409):
                    self.wrong.append(f"POST {app['id']}: {error.code} {text}")
            except (OSError, ValueError):
                self.possible.add(app["id"])
            else:
                self.acknowledged.add(app["id"])

    def _watch(self) -> None:
        while not self._cluster.over.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        """At every process of every task: no task on two nodes, none with a second life."""
        for agent in (*self._cluster.agents, self._cluster.spare):
            for task, pids in agent.tasks("MARATHON_APP_ID").items():
                known = self.seen.setdefault(task, {})
                for pid in pids:
                    known.setdefault(pid, agent.host.name)
                if len(set(known.values())) > 1:
                    self.wrong.append(f"task {task} ran on {sorted(set(known.values()))}")

    def check(self) -> None:
        cluster = self._cluster
        cluster.until(lambda: not self._get(1, "/v2/deployments"), "it settles")
        apps = {one["id"] for one in self._get(2, "/v2/apps")["apps"]}
        assert self.acknowledged <= apps, f"acknowledged and lost: {self.acknowledged - apps}"
        assert apps <= self.acknowledged | self.possible, f"of nowhere: {apps - self.acknowledged - self.possible}"
        assert self.acknowledged, "nothing was ever acknowledged"
        cluster.until(lambda: self._running() == apps, "every app runs once")
        self._look()
        assert not self.wrong, self.wrong
        gone = {
            task: pids for task, pids in self.seen.items() if not any(Path(f"/proc/{pid}").exists() for pid in pids)
        }
        assert not gone, f"tasks have ended, which nobody asked for: {gone}"
        print(f"Marathon: {len(self.acknowledged)} writes acknowledged, {len(self.possible)} of unknown outcome")

    def _get(self, server: int, path: str) -> Any:
        return self._cluster.call(self._cluster.servers[server], "GET", path, port=MARATHON_PORT)

    def _running(self) -> set[str]:
        tasks = self._cluster.call(self._cluster.servers[0], "GET", "/v1/tasks?state=running&framework=marathon")
        groups = [task["group"] for task in tasks["tasks"]]
        assert len(groups) == len(set(groups)), f"some run twice: {sorted(groups)}"
        return set(groups)
