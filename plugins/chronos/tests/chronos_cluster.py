"""A cluster with Chronos on it, for tests: real kernel, real framework, virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from orlop.framework import Task
from orlop.testing.harness import Cluster, Refused
from orlop_chronos import documents, orders, reading, rendering
from orlop_chronos.documents import Progress, Run, run_id
from orlop_chronos.errors import ChronosError
from orlop_chronos.framework import Chronos
from orlop_chronos.orders import Order
from orlop_chronos.settings import Config


class ChronosCluster:
    """Jobs are named by what is put; tasks run until they are ended."""

    def __init__(self, nodes: int = 1, **settings: Any) -> None:
        self.settings = Config(**settings)
        self.cluster = Cluster(Chronos(self.settings))
        for number in range(nodes):
            self.cluster.add_node(f"n{number}", cpus=64, mem="64GiB")
        self.cluster.settle()

    @property
    def now_ms(self) -> int:
        return self.cluster.now.utc_ms

    def give(self, order: Order) -> Any:
        answer = self.cluster.command("chronos", order)
        self.cluster.settle()
        return answer

    def put(self, name: str, **document: Any) -> None:
        document = {"name": name, "command": "true", **document}
        if "parents" not in document:
            document.setdefault("schedule", "R//PT1H")
        definition = reading.read_job(document, self.now_ms, reading.Defaults())
        self.give(orders.PutJob(definition=definition, names=reading.NAMES_V3))

    def advance(self, seconds: float) -> None:
        self.cluster.advance(seconds)
        self.cluster.settle()

    def running(self, name: str = "") -> list[Task]:
        """Tasks that run, of one job or of all."""
        return [task for task in self.cluster.running() if not name or task.group == name]

    def finish(self, name: str, *, code: int = 0) -> None:
        """The job's only task ends."""
        (task,) = self.running(name)
        self.cluster.end_task(task, code=code)
        self.cluster.settle()

    def progress(self, name: str) -> Progress:
        found: Progress = self.cluster.view("chronos").objects(documents.PROGRESS)[name]
        return found

    def runs(self, name: str) -> list[Run]:
        """In the order of their numbers."""
        progress = self.progress(name)
        stored = self.cluster.view("chronos").objects(documents.RUN)
        ids = (run_id(name, number) for number in range(progress.oldest_run, progress.next_run))
        return [stored[one] for one in ids if one in stored]

    def states(self, name: str) -> list[str]:
        return [run.state.value for run in self.runs(name)]

    def show(self, name: str) -> dict[str, Any]:
        """As the API does."""
        view = self.cluster.view("chronos")
        return rendering.job(view.objects(documents.JOB)[name], self.progress(name))

    def names(self) -> list[str]:
        return list(self.cluster.view("chronos").objects(documents.JOB))


def refused(cluster: ChronosCluster, order: Order) -> str:
    """Why the order is refused, which it must be."""
    with pytest.raises(Refused) as error:
        cluster.give(order)
    assert isinstance(error.value.reason, ChronosError)
    assert error.value.reason.status == 400
    return error.value.reason.message
