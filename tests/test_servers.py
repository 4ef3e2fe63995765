"""Several real servers on a real etcd: any of them may die, stand still, or lose its store."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from etcd_members import EtcdCluster, EtcdFactory
from running import wait_until
from servers import LEASE_S, Servers, call

from orlop.store.etcd import EtcdStore
from orlop.store.etcd_address import StoreAccess, parse_address
from orlop.store.interface import Put, StoreRefused

QUOTA_BYTES = 16 * 2**20

pytestmark = pytest.mark.real


@pytest.fixture
def members(etcds: EtcdFactory) -> Iterator[EtcdCluster]:
    with contextlib.closing(etcds.cluster(3)) as cluster:
        yield cluster


@pytest.fixture
def servers(members: EtcdCluster, tmp_path: Path) -> Iterator[Servers]:
    cluster = Servers(tmp_path, members.url())
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def app(name: str) -> dict[str, object]:
    return {"id": f"/{name}", "cmd": "sleep 1000", "cpus": 0.01, "mem": 1, "instances": 0}


def names_at(url: str) -> set[str]:
    status, document, _ = call(f"{url}/v2/apps")
    return {one["id"] for one in document["apps"]} if status == 200 else set()


def fill(members: EtcdCluster) -> None:
    """With history, from outside: one key, overwritten until the etcd takes nothing more."""
    with contextlib.closing(EtcdStore(parse_address(members.url("outside"), StoreAccess()))) as store:
        for number in range(4 * QUOTA_BYTES // 2**20):
            try:
                store.transact([Put("ballast", bytes([number % 256]) * 2**20)])
            except StoreRefused:
                return
    raise AssertionError("the quota was not reached")


def test_every_server_serves_and_what_was_acknowledged_survives_the_leaders_end(servers: Servers) -> None:
    acknowledged = set()
    for number, server in enumerate(servers.all):
        status, _, _ = call(f"{server.marathon}/v2/apps", "POST", app(f"one{number}"))
        assert status == 201, f"posted to {server.name}"
        acknowledged.add(f"/one{number}")
    for server in servers.all:
        assert names_at(server.marathon) == acknowledged
    leader = servers.leader()
    leader.kill()
    other = servers.others(leader)[0]

    def written() -> bool:
        status, document, _ = call(f"{other.marathon}/v2/apps", "POST", app("after"))
        assert status in (201, 503, 409), document
        return status in (201, 409)

    wait_until(written, lambda: f"a standby leads; {servers.logs()}")
    acknowledged.add("/after")
    leader.start()
    wait_until(servers.settled, lambda: f"the old one follows; {servers.logs()}")
    for server in servers.all:
        assert names_at(server.marathon) == acknowledged


def test_a_leader_that_stood_still_changes_nothing_when_it_wakes(servers: Servers) -> None:
    old = servers.leader()
    old.signal(signal.SIGSTOP)
    new = wait_until(
        lambda: next((one for one in servers.others(old) if one.leads), None),
        lambda: f"another one leads; {servers.logs()}",
    )
    assert call(f"{new.marathon}/v2/apps", "POST", app("meanwhile"))[0] == 201
    old.signal(signal.SIGCONT)
    wait_until(servers.settled, lambda: f"one leads and the others follow; {servers.logs()}")
    assert new.leads
    for server in servers.all:
        assert names_at(server.marathon) == {"/meanwhile"}
    assert "this server leads no more" in old.log.read_text()


def test_without_quorum_reads_say_how_old_they_are_and_writes_say_why_they_are_refused(
    servers: Servers, members: EtcdCluster
) -> None:
    assert call(f"{servers.all[0].marathon}/v2/apps", "POST", app("before"))[0] == 201
    wait_until(lambda: all(names_at(one.marathon) == {"/before"} for one in servers.all), "all know it")
    for member in members.members[1:]:
        member.kill()
    wait_until(
        lambda: all(one.health().get("status") == "degraded" for one in servers.all), "nobody leads", 10 * LEASE_S
    )
    for server in servers.all:
        status, document, headers = call(f"{server.marathon}/v2/apps")
        assert (status, {one["id"] for one in document["apps"]}) == (200, {"/before"})
        assert int(headers["Orlop-Stale-Ms"]) > 0
        assert "Stale" in headers["Warning"]
        status, document, _ = call(f"{server.marathon}/v2/apps", "POST", app("refused"), timeout_s=30)
        assert status == 503
        assert "nothing was changed" in str(document)
    members.heal()
    wait_until(servers.settled, lambda: f"all is well by itself; {servers.logs()}")
    assert names_at(servers.all[1].marathon) == {"/before"}
    assert call(f"{servers.all[2].marathon}/v2/apps", "POST", app("again"))[0] == 201


def test_a_server_that_is_started_without_quorum_serves_what_a_member_knows(
    servers: Servers, members: EtcdCluster
) -> None:
    assert call(f"{servers.all[0].marathon}/v2/apps", "POST", app("before"))[0] == 201
    for server in servers.all:
        server.kill()
    for member in members.members[1:]:
        member.kill()
    alone = servers.all[0]
    alone.start()
    wait_until(alone.health, lambda: f"it listens; {servers.logs()}")
    wait_until(
        lambda: names_at(alone.marathon) == {"/before"}, lambda: f"it serves what the member has; {servers.logs()}"
    )
    _, cluster, headers = call(f"{alone.url}/v1/cluster")
    assert int(headers["Orlop-Stale-Ms"]) > 0
    assert "Stale" in headers["Warning"]
    health = alone.health()
    assert (health["status"], health["role"]) == ("degraded", "standby")
    assert health["stale_ms"] > 0
    (reason,) = health["reasons"]
    assert "etcd" in reason
    assert cluster["read_only"] in reason
    said = alone.cli("status")
    assert f"READ ONLY  {cluster['read_only']}" in said
    assert "STALE" in said
    status, document, _ = call(f"{alone.marathon}/v2/apps", "POST", app("refused"), timeout_s=30)
    assert status == 503
    assert "nothing was changed" in str(document)
    members.heal()
    wait_until(lambda: alone.leads, lambda: f"it leads by itself; {servers.logs()}")
    assert names_at(alone.marathon) == {"/before"}
    assert call(f"{alone.marathon}/v2/apps", "POST", app("again"))[0] == 201
    assert "STALE" not in alone.cli("status")


def test_a_planned_stop_hands_the_lead_over_at_once(servers: Servers) -> None:
    leader = servers.leader()
    leader.signal(signal.SIGTERM)
    assert leader.process is not None
    assert leader.process.wait(30) == 0
    successor = servers.leader()
    assert successor is not leader
    log = leader.log.read_text()
    assert "Traceback" not in log, log[-3000:]
    told = [line.split()[1:3] for line in successor.cli("events", "--type", "leader").splitlines()]
    assert told == [["leader.began", leader.url], ["leader.ended", leader.url], ["leader.began", successor.url]]
    assert f"reason={leader.url}: this server stops" in successor.cli("events", "--subject", successor.url)


def test_the_event_stream_goes_on_at_the_next_leader(servers: Servers) -> None:
    call(f"{servers.all[0].marathon}/v2/apps", "POST", app("first"))
    standby = servers.others(servers.leader())[0]
    _, listed, _ = call(f"{standby.url}/v1/events?limit=1000")
    last = listed["events"][-1]["id"]
    servers.leader().kill()
    wait_until(lambda: call(f"{standby.marathon}/v2/apps", "POST", app("second"))[0] in (201, 409), "written")
    _, later, _ = call(f"{standby.url}/v1/events?after={last}")
    assert any("/second" in str(event) for event in later["events"])
    [began] = [event for event in later["events"] if event["type"] == "leader.began"]
    assert began["details"]["reason"].endswith("it led no more, and has not said why"), began
    assert not [event for event in later["events"] if event["id"] <= last and event["id"] == last]


def test_a_full_etcd_refuses_writes_and_is_made_room_in(etcds: EtcdFactory, tmp_path: Path) -> None:
    """A small quota is filled from outside with history; the leader is killed while it is full."""
    with contextlib.closing(etcds.cluster(1, "--quota-backend-bytes", str(QUOTA_BYTES))) as members:
        servers = Servers(tmp_path, members.url(), 2, ORLOP_STORE__QUOTA="16MiB")
        try:
            servers.start()
            fill(members)
            servers.leader().kill()

            def works_again() -> bool:
                alive = [one for one in servers.all if one.process is not None and one.process.poll() is None]
                return call(f"{alive[0].marathon}/v2/apps", "POST", app("room"), timeout_s=30)[0] in (201, 409)

            wait_until(works_again, lambda: f"room is made; {servers.logs()}", 120)
        finally:
            servers.close()
