"""Another authority takes over in a real cluster: nothing is stopped, no task and no session ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hosts import Hosts, RemoteCluster
from running import wait_until

from orlop.security import authority as signing

pytestmark = pytest.mark.real

NODES = ("n1", "n2")


@pytest.fixture
def cluster(hosts: Hosts) -> Iterator[RemoteCluster]:
    """A server and two agents that have joined over TLS."""
    made = RemoteCluster(hosts)
    try:
        made.start_server()
        for name in NODES:
            made.add_agent(name, wait=False)
        made.wait_ready(*NODES)
        yield made
    finally:
        made.close()


def authorities(cluster: RemoteCluster) -> tuple[str, ...]:
    """Fingerprints in the server's file for clients."""
    return signing.fingerprints((cluster.server.data / "ca.pem").read_bytes())


def tasks(cluster: RemoteCluster) -> dict[str, list[int]]:
    return {task: pids for agent in cluster.agents.values() for task, pids in agent.tasks().items()}


def test_the_authority_is_rotated_while_tasks_run_and_agents_stay_connected(cluster: RemoteCluster) -> None:
    cluster.deploy("/steady", 4, constraints=[["hostname", "GROUP_BY"]])
    before = tasks(cluster)
    assert len(before) == 4
    (old,) = authorities(cluster)
    assert "no rotation is under way" in cluster.cli("authority", "show")
    former_token = cluster.token()

    said = cluster.cli("authority", "rotate", "--after", "0", "--within", "1h", "--keep", "1h")
    assert "the new authority spreads" in said
    assert "ca.pem" in said
    assert "under way already" in cluster.cli("authority", "rotate", code=5)
    wait_until(lambda: "servers have the new authority" in cluster.cli("authority", "show"), "all nodes have renewed")
    wait_until(lambda: authorities(cluster)[0] != old, "the server's certificate is of the new one")
    new = authorities(cluster)[0]
    assert authorities(cluster) == (new, old)
    assert cluster.cli("authority", "show", "--pem").encode() == (cluster.server.data / "ca.pem").read_bytes()
    late = cluster.agent("late")
    late.start("--token", former_token)
    assert late.ended() == 1
    assert "a new authority since the token was made" in late.said()
    late.close()

    cluster.cli("authority", "hurry")
    wait_until(lambda: authorities(cluster) == (new,), "the old one is dropped")
    for name, agent in cluster.agents.items():
        kept = agent.data / "agent" / "tls" / "authority.pem"
        wait_until(lambda kept=kept: signing.fingerprints(kept.read_bytes()) == (new,), f"{name} trusts the new alone")
        assert "the session with the server ended" not in agent.said()
    cluster.deploy("/more", 2)
    assert {task: pids for task, pids in tasks(cluster).items() if task in before} == before
    states = [one["state"] for one in cluster.get("/v1/authority")["authorities"]]
    assert states == ["current"]

    for agent in cluster.agents.values():  # what is on their disks is enough to come back with
        agent.kill()
    cluster.server.kill()
    cluster.start_server()
    for agent in cluster.agents.values():
        agent.start()
    wait_until(lambda: all(agent.said().count(" of cluster ") == 2 for agent in cluster.agents.values()), "they are up")
    cluster.wait_ready(*NODES)
    cluster.deploy("/more", 3)
    cluster.add_agent("late", token=cluster.token())
    assert {task: pids for task, pids in tasks(cluster).items() if task in before} == before
