"""Chronos at servers that do not lead: any of them serves PyPI's client, and tells the truth when none leads."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chronos
import pytest
from chronos_client import job, use_every_method
from etcd_members import EtcdFactory
from running import wait_until
from servers import AgentProcess, ServerProcess, Servers, call

# The client leaves its connections to the garbage collector.
pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

PREFIXES = ["/scheduler", "/v1/scheduler"]


@pytest.fixture(scope="module")
def servers(etcds: EtcdFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Three, with an agent."""
    folder = tmp_path_factory.mktemp("standbys")
    with (
        contextlib.closing(etcds.cluster()) as members,
        contextlib.closing(Servers(folder, members.url())) as made,
        contextlib.closing(AgentProcess(folder, "a1", made)) as agent,
    ):
        made.start()
        agent.start()
        wait_until(lambda: ready(made), lambda: f"the node is ready; {made.logs()}")
        yield made


def ready(servers: Servers) -> bool:
    nodes: list[dict[str, Any]] = call(f"{servers.all[0].url}/v1/nodes")[1]["nodes"]
    return [node["state"] for node in nodes] == ["ready"]


class Answer:
    """Of a server to one request, without a client that would follow or repeat anything."""

    def __init__(self, server: ServerProcess, method: str, path: str, body: Any = None) -> None:
        with contextlib.closing(http.client.HTTPConnection(server.chronos_address, timeout=60)) as connection:
            data = json.dumps(body) if body is not None else None
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            self.status = answer.status
            self.headers = answer.headers
            text = answer.read()
            self.document: Any = json.loads(text) if text else None

    @property
    def message(self) -> str:
        """Of an error, as clients need it: a text in an object."""
        assert isinstance(self.document, dict), self.document
        assert isinstance(self.document["message"], str)
        return self.document["message"]


def one_standby(servers: Servers) -> ServerProcess:
    wait_until(servers.settled, lambda: f"one leads and the others follow; {servers.logs()}")
    return servers.others(servers.leader())[0]


@pytest.mark.parametrize("version", [None, "v1"], ids=["2.x", "3.x"])
def test_every_method_through_a_standby(servers: Servers, version: str | None) -> None:
    standby = one_standby(servers)
    use_every_method(chronos.connect(standby.chronos_address, scheduler_api_version=version))
    assert not standby.leads


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_client_in_the_middle_of_a_change_of_leader(servers: Servers, prefix: str) -> None:
    """Its write is with a leader that vanishes: nobody knows. The next ones are refused, until another one leads."""
    standby = one_standby(servers)
    assert Answer(standby, "POST", f"{prefix}/iso8601", job("before", schedule="R0//PT1H")).status == 204
    leader = servers.leader()
    leader.signal(signal.SIGSTOP)
    found: list[Answer] = []
    under_way = job("under-way", schedule="R0//PT1H")
    writer = threading.Thread(
        target=lambda: found.append(Answer(standby, "POST", f"{prefix}/iso8601", under_way)), daemon=True
    )
    writer.start()
    wait_until(lambda: connections(leader), "the write has come to the leader")
    leader.kill()
    writer.join(60)
    (unknown,) = found
    assert unknown.status == 503
    assert unknown.message.startswith("the outcome is not known: ")
    refused: list[Answer] = []

    def taken() -> bool:
        read = Answer(standby, "GET", f"{prefix}/jobs")
        assert read.status == 200, read.document
        assert "before" in [one["name"] for one in read.document]
        answer = Answer(standby, "PUT", f"{prefix}/job/before/disable")
        if answer.status != 204:
            refused.append(answer)
        return answer.status == 204

    wait_until(taken, lambda: f"another one leads; {servers.logs()}")
    assert refused, "for a while nobody leads"
    for answer in refused:
        assert answer.status == 503, answer.document
        assert answer.message.startswith(("nothing was changed: ", "the outcome is not known: ")), answer.message
    for name in [one["name"] for one in Answer(standby, "GET", f"{prefix}/jobs").document]:
        assert name in ("before", "under-way")
        assert Answer(standby, "DELETE", f"{prefix}/job/{name}").status == 204
    leader.start()


def connections(server: ServerProcess) -> bool:
    """Does a request wait for this server to read it? It stands still, so that what is sent to it stays unread."""
    _, _, port = server.address.rpartition(":")
    local = f"{0x7F000001.to_bytes(4, 'little').hex().upper()}:{int(port):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1] == local and int(row[4].split(":")[1], 16) > 0 for row in rows if row[3] == "01")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_no_server_sends_a_client_elsewhere(servers: Servers, prefix: str) -> None:
    standby = one_standby(servers)
    for server in (standby, servers.leader()):
        for method, path, status in (
            ("GET", "/jobs", 200),
            ("GET", "/leader", 200),
            ("GET", "/graph/csv", 200),
            ("PUT", "/job/nope", 400),
            ("DELETE", "/job/nope", 400),
            ("POST", "/iso8601", 400),
        ):
            connection = http.client.HTTPConnection(server.chronos_address, timeout=60)
            with contextlib.closing(connection):
                connection.request(method, prefix + path, "{}" if method == "POST" else None)
                answer = connection.getresponse()
                assert (method, path, answer.status) == (method, path, status)
                assert "Location" not in answer.headers
                assert answer.headers["Content-Type"]
                text = answer.read().decode()
                assert status == 200 or isinstance(json.loads(text)["message"], str)


@pytest.mark.parametrize("path", ["/leader", *(f"{prefix}/leader" for prefix in PREFIXES)])
def test_each_server_names_the_leaders_address_of_chronos(servers: Servers, path: str) -> None:
    """Not its own, nor the leader's for operators, where the request has gone through."""
    one_standby(servers)
    leader = servers.leader()
    for server in servers.all:
        assert Answer(server, "GET", path).document == {"leader": leader.chronos_address}
