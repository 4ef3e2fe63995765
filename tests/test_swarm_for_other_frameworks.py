"""Swarm's constraints and affinities for what other frameworks run: apps of Marathon, jobs of Chronos."""

from __future__ import annotations

from typing import Any

import pytest

from orlop.testing.harness import Cluster
from orlop_chronos import reading
from orlop_chronos.framework import Chronos
from orlop_chronos.orders import PutJob
from orlop_chronos.settings import Config as ChronosConfig
from orlop_marathon.framework import Marathon
from orlop_marathon.orders import CreateApp
from orlop_marathon.parsing import parse_app
from orlop_marathon.settings import Config as MarathonConfig
from orlop_swarm import hooks
from orlop_swarm.settings import Config


class Placed:
    """A cluster with Marathon, Chronos and Swarm's placement."""

    def __init__(self) -> None:
        settings = Config()
        self.cluster = Cluster(
            Marathon(MarathonConfig()),
            Chronos(ChronosConfig()),
            filters=hooks.node_filters(settings),
            scorers=hooks.node_scorers(settings),
        )
        for number in range(1, 5):
            self.cluster.add_node(f"n{number}", disk="100GiB", storage="ssd" if number > 2 else "disk")
        self.cluster.settle()

    def app(self, app_id: str, **app: Any) -> None:
        document = {"id": app_id, "cpus": 0.1, "mem": 32, "instances": 1, **app}
        self.cluster.command("marathon", CreateApp(app=parse_app(document)))
        self.cluster.settle()

    def job(self, name: str, **job: Any) -> None:
        document = {"name": name, "command": "true", "schedule": "R1//PT1H", "epsilon": "PT1H", **job}
        definition = reading.read_job(document, self.cluster.now.utc_ms, reading.Defaults())
        self.cluster.command("chronos", PutJob(definition=definition, names=reading.NAMES_V3))
        self.cluster.advance(1)

    def nodes(self, framework: str, group: str) -> list[str]:
        tasks = self.cluster.live(framework)
        return sorted(task.node for task in tasks if group in (task.group, task.key.split("#")[0]) and task.node)


def variables(**values: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


@pytest.mark.parametrize("image", [None, "busybox"])
def test_an_app_by_a_constraint_and_affinities(image: str | None) -> None:
    placed = Placed()
    runs: dict[str, Any] = {"cmd": "sleep 1000"}
    if image:
        runs["container"] = {"type": "DOCKER", "docker": {"image": image}}
    placed.app("/db", **runs, env={"constraint:storage": "=ssd", "constraint:node!": "n4"})
    assert placed.nodes("marathon", "/db") == ["n3"]
    placed.app("/web", **runs, instances=3, env={"affinity:orlop.group": "=/db"})
    assert placed.nodes("marathon", "/web") == ["n3"] * 3
    placed.app("/apart", **runs, instances=3, env={"affinity:orlop.group!": "/(db|apart)/"})
    assert placed.nodes("marathon", "/apart") == ["n1", "n2", "n4"]
    placed.app("/named", **runs, env={"affinity:container": "=/^web\\.instance-/"})
    assert placed.nodes("marathon", "/named") == ["n3"]


def test_an_app_by_a_strategy_of_its_own() -> None:
    placed = Placed()
    placed.app("/packed", cmd="sleep 1000", instances=8, env={"com.docker.swarm.strategy": "binpack"})
    assert len(set(placed.nodes("marathon", "/packed"))) == 1
    full = placed.nodes("marathon", "/packed")[0]
    placed.app("/spread", cmd="sleep 1000", instances=9, env={"com.docker.swarm.strategy": "spread"})
    nodes = placed.nodes("marathon", "/spread")
    assert {nodes.count(node) for node in {"n1", "n2", "n3", "n4"} - {full}} == {3}


def test_a_job_by_a_constraint_and_an_affinity() -> None:
    placed = Placed()
    placed.app("/db", cmd="sleep 1000", env={"constraint:node": "=n2"})
    placed.job("by-node", environmentVariables=variables(**{"constraint:node": "=/n[34]/", "constraint:node!": "n3"}))
    placed.job("beside", environmentVariables=variables(**{"affinity:orlop.group": "=/db"}))
    placed.job("contained", environmentVariables=variables(**{"affinity:orlop.group": "=/db"}),
               container={"type": "DOCKER", "image": "busybox"})  # fmt: skip
    found = {task.labels["job"]: task.node for task in placed.cluster.live("chronos")}
    assert found == {"by-node": "n4", "beside": "n2", "contained": "n2"}


def test_what_waits_says_why() -> None:
    placed = Placed()
    placed.app("/lost", cmd="sleep 1000", env={"affinity:container": "=nobody"})
    (waiting,) = placed.cluster.pending("marathon")
    assert str(placed.cluster.explain(waiting)) == "0 of 4 nodes fit: container==nobody (soft=false) (4)"
    placed.job("odd", environmentVariables=variables(**{"constraint:node": "n1"}))
    (waiting,) = placed.cluster.pending("chronos")
    assert placed.cluster.explain(waiting).ruled_out == (
        ("expressions", 'environment["constraint:node"]: One of operator ==, != is expected', 4),
    )


def test_what_waits_for_a_neighbour_is_placed_when_it_comes() -> None:
    placed = Placed()
    placed.app("/web", cmd="sleep 1000", env={"affinity:orlop.group": "=/db"})
    assert placed.nodes("marathon", "/web") == []
    placed.app("/db", cmd="sleep 1000", env={"constraint:node": "=n2"})
    assert placed.nodes("marathon", "/web") == placed.nodes("marathon", "/db") == ["n2"]
