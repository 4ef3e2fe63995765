"""Nodes that an operator gives up for good: nothing is left of them, and what was on them is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from operator_stub import make_server, problem, read, with_client

from orlop.framework import Action, Ask, Framework, PartitionPolicy, Policies, Process, Resources, View
from orlop.kernel.events import AgentHello, DrainNode, ForgetNode, Forgotten, NodeSilent
from orlop.kernel.placement import changed_since
from orlop.model.messages import Hello
from orlop.model.tasks import Outcome
from orlop.server.liveness import Last, Liveness, LivenessSettings
from orlop.server.node_facts import ToldFacts
from orlop.testing.harness import EPOCH, Cluster


class Faithful(Framework):
    """One task, which waits for its node whatever happens."""

    name = "faithful"

    def reconcile(self, view: View) -> Iterator[Action]:
        if "one" not in view.live:
            policies = Policies(partition=PartitionPolicy(keep=True))
            yield Ask("one", run=Process("sleep 1000"), needs=Resources(cpus=1, mem="32MiB"), policies=policies)


def cluster_with_a_lost_node() -> tuple[Cluster, str, str]:
    """(the cluster, the lost node, the other one)."""
    cluster = Cluster(Faithful())
    cluster.add_nodes(2)
    cluster.settle()
    (task,) = cluster.running()
    lost = str(task.node)
    cluster.lose_node(lost)
    cluster.settle()
    assert [one.node for one in cluster.live()] == [lost], "it waits"
    return cluster, lost, next(name for name in cluster.nodes if name != lost)


def test_what_waited_for_it_is_lost_and_replaced() -> None:
    cluster, lost, other = cluster_with_a_lost_node()
    (before,) = cluster.live()
    assert cluster.forget_node(lost)
    cluster.settle()
    assert [one.node for one in cluster.running()] == [other]
    exit_ = cluster.state.tasks[before.id].status.exit
    assert exit_ is not None
    assert (exit_.outcome, exit_.reason) == (Outcome.LOST, f"node {lost} is forgotten")
    assert cluster.state.node(lost) is None
    assert list(cluster.state.node_order) == [other]
    assert cluster.log[-1].type != "node.forgotten"
    assert [one.subject for one in cluster.log if one.type == "node.forgotten"] == [lost]


def test_only_a_node_that_is_gone_is_forgotten() -> None:
    cluster = Cluster(Faithful())
    cluster.add_nodes(2)
    for name in (*cluster.nodes, "nobody"):
        assert not cluster.forget_node(name)
    lost, _ = sorted(cluster.nodes)
    cluster.lose_node(lost, gone=False)
    assert not cluster.forget_node(lost), "it is silent, and may come back"
    assert len(cluster.state.node_order) == 2
    cluster.lose_node(lost)
    cluster.return_node(lost)
    assert not cluster.forget_node(lost), "it came back"


def test_one_that_comes_back_is_new() -> None:
    cluster, lost, other = cluster_with_a_lost_node()
    cluster.step(DrainNode(node=lost, drained=True, within_ms=3_600_000))
    assert cluster.forget_node(lost)
    assert not cluster.state.draining
    cluster.settle()
    cluster.return_node(lost)
    cluster.settle()
    node = cluster.state.node(lost)
    assert node is not None
    assert node.schedulable, "its drain is forgotten too"
    assert [one.node for one in cluster.running()] == [other]


def test_forgotten_and_back_in_one_batch() -> None:
    cluster, lost, _ = cluster_with_a_lost_node()
    hello = Hello(node=cluster.nodes[lost].info, statuses=())
    cluster.step(ForgetNode(node=lost, token="forget"), AgentHello(session="s", hello=hello))
    assert cluster.state.node(lost) is not None
    cluster.restart(Faithful())
    assert cluster.state.node(lost) is not None, "it is stored"


def test_a_restarted_server_does_not_know_it() -> None:
    cluster, lost, other = cluster_with_a_lost_node()
    cluster.forget_node(lost)
    cluster.restart(Faithful())
    assert list(cluster.state.node_order) == [other]


def test_whoever_follows_changes_looks_at_all_nodes_again() -> None:
    cluster, lost, _ = cluster_with_a_lost_node()
    mark = cluster.state.changes[-1]
    assert changed_since(cluster.state.changes, mark) == []
    cluster.forget_node(lost)
    assert changed_since(cluster.state.changes, mark) is None


def test_the_shell_hears_of_it() -> None:
    cluster, lost, other = cluster_with_a_lost_node()
    step = cluster.kernel.step(cluster.state, [ForgetNode(node=lost), ForgetNode(node=other)], cluster.now, EPOCH)
    assert [one for one in step.effects if isinstance(one, Forgotten)] == [Forgotten(node=lost)]


def test_nobody_waits_for_a_forgotten_node() -> None:
    settings = LivenessSettings()
    liveness = Liveness(settings, iter(["a", "b"]), 0)
    liveness.forget("a")
    liveness.forget("nobody")
    silent_ms = settings.gone_ms(Last.NEVER)
    told = [one for at_ms in range(0, silent_ms + 500, 250) for one in liveness.tick(at_ms)]
    assert {one.node for one in told} == {"b"}


def test_facts_of_a_forgotten_node_are_not_told_again() -> None:
    facts = ToldFacts()
    facts.refused("a")
    facts.forget("a")
    assert facts.again() == []


def test_the_api_forgets_only_what_is_gone() -> None:
    server = make_server()

    async def work(client: TestClient[Any, Any]) -> None:
        refused = await problem(client.delete("/v1/nodes/n0"), 409)
        assert refused["error"] == "node n0 is ready: only a node that is gone can be forgotten"
        await problem(client.delete("/v1/nodes/nobody"), 404)
        server.cluster.step(NodeSilent(node="n0"), NodeSilent(node="n0", gone=True))
        async with client.delete("/v1/nodes/n0?reason=burnt") as response:
            assert (response.status, await response.json()) == (200, {"node": "n0", "name": "n0"})
        assert [node["name"] for node in (await read(client, "/v1/nodes"))["nodes"]] == ["n1"]
        (event,) = (await read(client, "/v1/events?type=node.forgotten"))["events"]
        assert event["details"] == {"name": "n0", "by": "operator: burnt"}
        await problem(client.delete("/v1/nodes/n0"), 404)

    with_client(work, server)


@pytest.mark.parametrize("query", ["reasons=x", f"reason={'x' * 5_000}"])
def test_what_is_no_query_of_it_changes_nothing(query: str) -> None:
    server = make_server()
    server.cluster.step(NodeSilent(node="n0"), NodeSilent(node="n0", gone=True))

    async def work(client: TestClient[Any, Any]) -> None:
        await problem(client.delete(f"/v1/nodes/n0?{query}"), 400)
        assert len((await read(client, "/v1/nodes"))["nodes"]) == 2

    with_client(work, server)
