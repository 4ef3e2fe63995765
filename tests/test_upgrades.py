"""The next version takes over from this one, process by process, while tasks run; and an older one harms nothing.

What the next version changes is in `next_version`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etcd_members import EtcdCluster, EtcdFactory
from running import wait_until
from servers import LEASE_S, AgentProcess, ServerProcess, Servers, call

from orlop.model.documents import version_of
from orlop.store.etcd import EtcdStore
from orlop.store.etcd_address import StoreAccess, parse_address

pytestmark = pytest.mark.real

NEXT = (str(Path(__file__).parent / "next_version.py"),)
NOW = ServerProcess.program


class Upgraded:
    """Three servers on an etcd, and two agents."""

    def __init__(self, folder: Path, members: EtcdCluster) -> None:
        self.members = members
        self.servers = Servers(folder, members.url())
        self.agents = [
            AgentProcess(folder, "a1", self.servers, "31000-31099"),
            AgentProcess(folder, "a2", self.servers, "31100-31199"),
        ]

    def write(self, app_id: str, instances: int = 1, *, at: ServerProcess | None = None) -> None:
        """An app is created or changed, through any server, and deployed."""
        server = at or self.servers.all[0]
        body: dict[str, Any] = {"id": app_id, "cmd": "exec sleep 1000", "cpus": 0.01, "mem": 8, "instances": instances}
        body["constraints"] = [["hostname", "GROUP_BY"]]

        def accepted() -> bool:
            status, document, _ = call(f"{server.marathon}/v2/apps{app_id}?force=true", "PUT", body, timeout_s=40)
            assert status in (200, 201, 503), document
            return status != 503

        wait_until(accepted, lambda: f"{app_id} is taken; {self.servers.logs()}")
        wait_until(lambda: self.running(app_id) == instances, lambda: f"{app_id} runs; {self.servers.logs()}")

    def running(self, app_id: str) -> int:
        status, document, _ = call(f"{self.servers.all[0].marathon}/v2/apps{app_id}")
        return int(document["app"]["tasksRunning"]) if status == 200 else -1

    def tasks(self) -> dict[int, str]:
        return {pid: folder for agent in self.agents for pid, folder in agent.tasks().items()}

    def replace(self, server: ServerProcess, program: tuple[str, ...]) -> None:
        """An orderly stop, and a start from another version."""
        server.signal(signal.SIGTERM)
        assert server.process is not None
        assert server.process.wait(30) == 0
        server.program = program
        server.start()
        wait_until(self.servers.settled, lambda: f"one leads and the others follow; {self.servers.logs()}", 60)

    def versions(self) -> dict[str, set[int]]:
        """Kind of document → versions of those that are stored."""
        found: dict[str, set[int]] = {}
        with contextlib.closing(EtcdStore(parse_address(self.members.url(), StoreAccess(cluster="orlop")))) as store:
            for prefix in ("tasks/", "objects/marathon/app/", "nodes/"):
                entries = store.range(prefix).entries
                found[prefix] = {version_of(entry.value, entry.key) for entry in entries}
        return found

    def document(self) -> dict[str, bytes]:
        """The whole state."""
        with contextlib.closing(EtcdStore(parse_address(self.members.url(), StoreAccess(cluster="orlop")))) as store:
            prefixes = ("meta/", "tasks/", "objects/", "nodes/", "specs/", "frameworks/")
            return {entry.key: entry.value for prefix in prefixes for entry in store.range(prefix).entries}

    def close(self) -> None:
        for agent in self.agents:
            agent.close()
        self.servers.close()


@pytest.fixture
def cluster(etcds: EtcdFactory, tmp_path: Path) -> Iterator[Upgraded]:
    with contextlib.closing(etcds.cluster(3)) as members, contextlib.closing(Upgraded(tmp_path, members)) as made:
        made.servers.start()
        yield made


def session_version(server: ServerProcess) -> int:
    """The newest version of the session that the server speaks."""
    _, document, _ = call(f"{server.url}/v1/agents/cluster")
    return int(document["session_version"])


def test_servers_are_replaced_one_by_one_and_then_agents_while_tasks_run(cluster: Upgraded) -> None:
    """The second agent is of the next version from the beginning: it speaks to servers that are not."""
    servers = cluster.servers
    cluster.agents[0].start(NOW)
    cluster.agents[1].start(NEXT)
    wait_until(lambda: len(call(f"{servers.all[0].url}/v1/nodes")[1]["nodes"]) == 2, "both agents are there")
    cluster.write("/first", 4)
    before = cluster.tasks()
    assert len(before) == 4
    assert all(agent.tasks() for agent in cluster.agents), "both run some"
    leader = servers.leader()
    assert session_version(leader) == 1
    # those that stand by first, the leader last
    for number, server in enumerate([*servers.others(leader), leader]):
        cluster.replace(server, NEXT)
        for at in servers.all:
            status, document, _ = call(f"{at.marathon}/v2/apps/first", timeout_s=30)
            assert (status, document["app"]["instances"]) == (200, 4)
        cluster.write(f"/after-{number}", at=server)
        assert {pid: folder for pid, folder in cluster.tasks().items() if pid in before} == before
    assert session_version(servers.leader()) == 2
    assert "Traceback" not in servers.logs()
    assert cluster.versions()["tasks/"] == {1, 2}, "what has not changed is as it was written"
    assert {1, 2} >= cluster.versions()["objects/marathon/app/"] >= {2}

    old = cluster.agents[0]
    old.kill()
    old.start(NEXT)
    wait_until(lambda: old.said().count(" of cluster ") == 2, "it is up")
    cluster.write("/first", 6)
    now = cluster.tasks()
    assert {pid: folder for pid, folder in now.items() if pid in before} == before, "the upgraded agent adopts them"
    status, listed, _ = call(f"{servers.all[0].url}/v1/tasks?group=/first&state=running")
    assert status == 200
    assert sum(int(task["external_id"]) in before for task in listed["tasks"]) == 4


def test_an_older_server_stands_by_for_a_newer_one_and_writes_over_nothing(cluster: Upgraded) -> None:
    servers = cluster.servers
    cluster.agents[0].start(NOW)
    cluster.write("/first", 2)
    old, *others = servers.all
    for server in others:
        cluster.replace(server, NEXT)
    if old.leads:
        cluster.replace(old, NOW)
    cluster.write("/second", at=old)
    before = cluster.tasks()
    wait_until(
        lambda: "leaves the lead to a newer one" in old.log.read_text(), "the old one knows why it must not lead"
    )
    for server in others:
        server.kill()
    wait_until(lambda: old.health().get("status") == "degraded", "nobody leads", 10 * LEASE_S)
    kept = cluster.document()
    (reason,) = old.health()["reasons"]
    assert "version 2" in reason
    assert "knows up to 1" in reason
    status, document, _ = call(f"{old.url}/v1/cluster")
    assert status == 503
    assert "cannot read the state" in document["error"]
    status, document, _ = call(f"{old.marathon}/v2/apps", "POST", {"id": "/x", "cmd": "true"}, timeout_s=30)
    assert status == 503
    assert "nothing was changed" in str(document)
    assert old.process is not None
    assert old.process.poll() is None, "it waits"
    assert cluster.document() == kept
    assert cluster.tasks() == before
    others[0].start()
    wait_until(lambda: others[0].leads, lambda: f"the newer one leads again; {servers.logs()}")
    cluster.write("/third", at=old)
    assert {pid: folder for pid, folder in cluster.tasks().items() if pid in before} == before


def test_an_agent_of_an_older_version_leaves_the_records_of_a_newer_one_alone(cluster: Upgraded) -> None:
    agent = cluster.agents[1]
    agent.start(NEXT)
    cluster.write("/first", 2)
    before = cluster.tasks()
    agent.kill()
    agent.start(NOW)
    assert agent.process is not None
    assert agent.process.wait(60) == 1
    said: Any = agent.said()
    assert "agent record task/" in said
    assert "has version 2, and this program knows up to 1" in said
    assert "Traceback" not in said
    assert cluster.tasks() == before
    agent.start(NEXT)
    wait_until(lambda: agent.said().count(" of cluster ") == 2, "it is up")
    cluster.write("/first", 3)
    assert {pid: folder for pid, folder in cluster.tasks().items() if pid in before} == before
