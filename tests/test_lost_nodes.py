"""Nodes that are lost, and nodes that only seem to be, with the default settings and real processes on hosts of their
own: what was on a dead one runs elsewhere soon, a hiccup of the network is no death, and who must not run twice does
not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from hosts import Hosts, RemoteCluster
from running import wait_until
from test_plugins_live import install

pytestmark = pytest.mark.real

#: As the operator guide states them for the default settings.
HICCUP_S: Final = 5.0
NOTICED_WITHIN_S: Final = 8.75
RUNS_ELSEWHERE_WITHIN_S: Final = 12.0
#: Its node notices within this time that it is alone.
ALONE_NOTICED_WITHIN_S: Final = 8.0
STOP_AFTER_MS: Final = 2_000
REPLACE_AFTER_MS: Final = 16_000

SINGLE: Final = f"""
from orlop.framework import Ask, Framework, PartitionPolicy, Policies, Process, Resources
from orlop.hookspecs import hookimpl

class Single(Framework):
    name = "single"
    def reconcile(self, view):
        if "one" not in view.live:
            partition = PartitionPolicy(stop_after_ms={STOP_AFTER_MS}, replace_after_ms={REPLACE_AFTER_MS})
            policies = Policies(partition=partition, kill_grace_ms=500)
            yield Ask("one", run=Process("exec sleep 1000"), needs=Resources(cpus=0.01, mem="8MiB"), policies=policies)

@hookimpl
def frameworks():
    return [Single]
"""


@pytest.fixture(scope="module")
def cluster(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteCluster]:
    """With three agents, and frameworks that say nothing about lost nodes, and one that does.

    Agents are far from the server: TCP alone, whose pauses double, would be heard again 8.3 s after a hiccup began.
    """
    plugins = tmp_path_factory.mktemp("plugins")
    install(plugins, "single", SINGLE)
    made = RemoteCluster(
        hosts,
        PYTHONPATH=str(plugins),
        ORLOP_PLUGINS__KEEPALIVE__COMMAND="exec sleep 1000",
        ORLOP_PLUGINS__KEEPALIVE__COPIES="6",
    )
    try:
        made.start_server()
        for name in ("n1", "n2", "n3"):
            agent = made.agents[name] = made.agent(name)
            agent.host.wait_long()
            agent.start("--token", made.token())
        made.wait_ready("n1", "n2", "n3")
        made.deploy("/spread", 6, constraints=[["hostname", "GROUP_BY"]])
        wait_until(lambda: len(of(made, "keepalive")) == 6 and len(of(made, "single")) == 1, "all of them run")
        yield made
    finally:
        made.close()


def of(cluster: RemoteCluster, framework: str) -> dict[str, str]:
    """Task id → name of its node, of a framework's running tasks that are not on a node that is away."""
    tasks = cluster.get(f"/v1/tasks?framework={framework}&state=running")["tasks"]
    return {task["id"]: task["node_name"] for task in tasks if not task["unreachable"]}


def processes(cluster: RemoteCluster) -> dict[str, list[int]]:
    """Task id → pids, on all hosts, as the machine sees them."""
    return {task: pids for agent in cluster.agents.values() for task, pids in agent.tasks().items()}


def node_events(cluster: RemoteCluster) -> list[dict[str, Any]]:
    return list(cluster.get("/v1/events?type=node&limit=1000")["events"])


HICCUPS: Final[dict[str, Callable[[RemoteCluster, str], None]]] = {
    "nothing comes through": lambda cluster, node: cluster.agents[node].host.lose(),
    "the node hears nothing": lambda cluster, node: cluster.agents[node].host.cut_incoming(),
    "the node is not heard": lambda cluster, node: cluster.server.host.ignore(cluster.agents[node].host.address),
}


@pytest.mark.parametrize("what", HICCUPS)
def test_a_hiccup_of_the_network_is_no_alarm(cluster: RemoteCluster, what: str) -> None:
    before, events = processes(cluster), node_events(cluster)
    ended = cluster.server.said().count("the session of node")
    began = time.monotonic()
    HICCUPS[what](cluster, "n2")
    time.sleep(began + HICCUP_S - time.monotonic())  # it is what is tested: not longer, not shorter
    cluster.agents["n2"].host.mend()
    cluster.server.host.mend()
    while time.monotonic() < began + NOTICED_WITHIN_S + 1:
        assert cluster.nodes()["n2"] == "ready"
    cluster.cli("exec", next(task for task, node in cluster.placed("/spread").items() if node == "n2"), "--", "true")
    assert node_events(cluster) == events
    assert processes(cluster) == before
    assert cluster.server.said().count("the session of node") == ended, "it went on, on the same connection"


def test_a_killed_agent_has_time_to_come_back(cluster: RemoteCluster) -> None:
    before, events = processes(cluster), node_events(cluster)
    agent = cluster.agents["n2"]
    began = time.monotonic()
    agent.kill()
    while time.monotonic() < began + NOTICED_WITHIN_S + 1:
        assert cluster.nodes()["n2"] == "ready"
    agent.start()
    wait_until(lambda: agent.said().count(" of cluster ") == 2, "it is up")
    cluster.deploy("/back", 1, constraints=[["hostname", "CLUSTER", "n2"]])
    cluster.call("DELETE", "/v2/apps/back?force=true", base=cluster.marathon)
    wait_until(lambda: processes(cluster) == before, "what ran goes on")
    assert [event for event in node_events(cluster)[len(events) :] if event["type"] == "node.unreachable"] == []


def test_a_task_that_must_not_run_twice_is_stopped_by_its_node_before_another_one_runs(cluster: RemoteCluster) -> None:
    ((task, node),) = of(cluster, "single").items()
    agent = cluster.agents[node]
    others = [one for name, one in cluster.agents.items() if name != node]
    kept = agent.tasks().keys() - {task}
    began = time.monotonic()
    agent.host.lose()
    try:
        wait_until(lambda: task not in agent.tasks(), "its own node stops it")
        stopped_s = time.monotonic() - began
        assert STOP_AFTER_MS / 1000 < stopped_s < ALONE_NOTICED_WITHIN_S + STOP_AFTER_MS / 1000 + 2
        assert agent.tasks().keys() == kept, "and nothing else"
        assert not of(cluster, "single").keys() - {task}, "another one does not run yet"
        (new,) = wait_until(lambda: of(cluster, "single").keys() - {task}, "another one runs")
        assert time.monotonic() - began > REPLACE_AFTER_MS / 1000 - 1.5
        assert any(new in other.tasks() for other in others)
        assert task not in agent.tasks()
    finally:
        agent.host.mend()
    cluster.wait_ready("n1", "n2", "n3")
    wait_until(lambda: processes(cluster).keys() == cluster.placed().keys(), "exactly what is wanted runs")
    assert of(cluster, "single").keys() == {new}


def test_what_ran_on_a_dead_node_runs_elsewhere_soon(cluster: RemoteCluster) -> None:
    wait_until(lambda: len(of(cluster, "keepalive")) == 6, "all of them run")
    # Where tasks are depends on what was lost before.
    name = next(iter(set(of(cluster, "marathon").values()) & set(of(cluster, "keepalive").values())))
    dead = cluster.agents[name]
    dead.host.lose()
    dead.kill_all()

    def elsewhere() -> bool:
        frameworks = [of(cluster, name) for name in ("marathon", "keepalive")]
        return all(len(tasks) == 6 and name not in tasks.values() for tasks in frameworks)

    wait_until(elsewhere, "all of it runs elsewhere", RUNS_ELSEWHERE_WITHIN_S)
    assert processes(cluster).keys() >= of(cluster, "marathon").keys() | of(cluster, "keepalive").keys()
    dead.host.mend()
    dead.start()
    cluster.wait_ready(name)
