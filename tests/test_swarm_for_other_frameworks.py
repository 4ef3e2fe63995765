"""Swarm's constraints and affinities for what other frameworks run: apps of Marathon, jobs of Chronos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

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


CONSTRAINTS, AFFINITIES, WHITELISTS, STRATEGY = (
    f"com.docker.swarm.{kind}" for kind in ("constraints", "affinities", "whitelists", "strategy")
)
#: What is said in an environment, and on which nodes that is to be; /db is on n2, n3 and n4 have ssd.
SAID: Final[Sequence[tuple[dict[str, str], set[str]]]] = (
    ({"constraint:storage": "=ssd"}, {"n3", "n4"}),
    ({"constraint:storage!": "ssd"}, {"n1", "n2"}),
    ({"constraint:node": "=n[14]", "constraint:storage": "=d*"}, {"n1"}),
    ({"constraint:node": "=/^n[34]$/", "constraint:node!": "n3"}, {"n4"}),
    ({"constraint:storage": "=~tape"}, {"n1", "n2", "n3", "n4"}),
    ({"constraint:node": "=~n3"}, {"n3"}),
    ({CONSTRAINTS: '["storage==ssd", "node!=n4"]'}, {"n3"}),
    ({CONSTRAINTS: '["storage==ssd"]', "constraint:node!": "n3"}, {"n4"}),
    ({"affinity:orlop.group": "=/db"}, {"n2"}),
    ({"affinity:container": "=/^db\\./"}, {"n2"}),
    ({"affinity:image": "=busybox"}, {"n2"}),
    ({"affinity:image!": "busybox", "affinity:role!": "free"}, {"n1", "n3", "n4"}),
    ({"affinity:container!": "/^db\\./", "constraint:storage": "=disk"}, {"n1"}),
    ({AFFINITIES: '["orlop.group==/db"]'}, {"n2"}),
    ({AFFINITIES: '["orlop.group==~nobody"]', "constraint:node": "=n1"}, {"n1"}),
    ({"whitelist:node": "=n1|nobody"}, {"n1"}),
    ({WHITELISTS: '["node==n3|n4"]', "constraint:node!": "n4"}, {"n3"}),
    ({STRATEGY: "binpack"}, {"n2"}),
    ({STRATEGY: "spread"}, {"n1", "n3", "n4"}),
    ({STRATEGY: "random", "constraint:node": "=n4"}, {"n4"}),
)


@pytest.mark.parametrize(("said", "nodes"), SAID, ids=lambda value: str(value) if isinstance(value, dict) else "")
@pytest.mark.parametrize("image", [None, "busybox"])
def test_each_way_of_saying_where_counts_for_apps_and_jobs(
    image: str | None, said: dict[str, str], nodes: set[str]
) -> None:
    app, job = Placed(), Placed()
    for placed in (app, job):
        placed.app("/db", cmd="sleep 1000", cpus=1, container=docker_container(), env={"constraint:node": "=n2"})
    app.app("/web", cmd="sleep 1000", env=said, **({"container": docker_container(image)} if image else {}))
    container = {"container": {"type": "DOCKER", "image": image}} if image else {}
    job.job("web", environmentVariables=variables(**said), **container)
    of_app = app.nodes("marathon", "/web")
    of_job = [task.node for task in job.cluster.live("chronos")]
    assert (len(of_app), len(of_job)) == (1, 1)
    assert {*of_app, *of_job} <= nodes


def docker_container(image: str = "busybox", **parameters: str) -> dict[str, Any]:
    listed = [{"key": key.replace("_", "-"), "value": value} for key, value in parameters.items()]
    return {"type": "DOCKER", "docker": {"image": image, "parameters": listed}}


def test_the_labels_and_options_of_a_container_count_for_apps_and_jobs() -> None:
    placed = Placed()
    placed.app("/db", cmd="sleep 1000", container=docker_container(label="tier=back"), env={"constraint:node": "=n2"})
    (db,) = placed.cluster.live("marathon")
    label = f'{CONSTRAINTS}=["node==n3"]'
    placed.app("/labelled", cmd="sleep 1000", container=docker_container(label=label))
    placed.app("/beside", cmd="sleep 1000", env={"affinity:tier": "=back"})
    placed.app("/using", cmd="sleep 1000", container=docker_container(volumes_from=db.name))
    assert [placed.nodes("marathon", app) for app in ("/labelled", "/beside", "/using")] == [["n3"], ["n2"], ["n2"]]

    def job(name: str, **parameters: str) -> None:
        docker = docker_container(**parameters)["docker"]
        placed.job(name, container={"type": "DOCKER", **docker})

    job("labelled", label=label)
    job("using", volumes_from=db.name)
    found = {task.labels["job"]: task.node for task in placed.cluster.live("chronos")}
    assert found == {"labelled": "n3", "using": "n2"}


def test_the_slots_of_a_node_are_those_of_apps_and_jobs_together() -> None:
    placed = Placed()
    placed.cluster.add_node("small", disk="100GiB", storage="none", containerslots="2")
    placed.cluster.settle()
    here = {"constraint:storage": "=none"}
    placed.app("/first", cmd="sleep 1000", env=here)
    placed.job("second", environmentVariables=variables(**here))
    placed.app("/third", cmd="sleep 1000", env=here)
    placed.job("third", environmentVariables=variables(**here))
    assert [placed.nodes("marathon", app) for app in ("/first", "/third")] == [["small"], []]
    found = {task.labels["job"]: task.node for task in placed.cluster.live("chronos")}
    assert found == {"second": "small", "third": None}
    waiting = [*placed.cluster.pending("marathon"), *placed.cluster.pending("chronos")]
    assert ["available container slots" in str(placed.cluster.explain(one)) for one in waiting] == [True, True]


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
