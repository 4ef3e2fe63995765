"""Where containers go that Docker's own client makes, on a real pool of two engines, and how it is told that there is
no place; `test_swarm_for_other_frameworks.py` is about tasks of other frameworks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import docker
import pytest
import requests
from engines import Engine
from swarm_pool import RunningPool, running_pool
from waiting import wait_until

pytestmark = pytest.mark.docker

UNSATISFIED = "Unable to find a node that satisfies the following conditions \n"
REFUSED = 125


def first(pool: RunningPool) -> str:
    return pool.engines[0].name


def second(pool: RunningPool) -> str:
    return pool.engines[1].name


def refusal(pool: RunningPool, *options: str) -> str:
    return pool.docker("run", "-d", *options, "busybox", "true", code=REFUSED)


def info(pool: RunningPool) -> list[tuple[str, str]]:
    with pool.client() as client:
        return [(row[0].strip(" └"), row[1]) for row in client.info()["SystemStatus"]]


@pytest.fixture(scope="module")
def small(twin_members: list[Engine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    """A pool that packs, of nodes with 4 cpus and 1 GiB, three containers at most on each."""
    settings: dict[str, Any] = {
        "ORLOP_PLUGINS__SWARM__STRATEGY": "binpack",
        "ORLOP_AGENT__RESOURCES": '{ cpus = 4, mem = "1GiB" }',
        "ORLOP_AGENT__ATTRIBUTES": '{ containerslots = "3" }',
    }
    with running_pool(twin_members, tmp_path_factory.mktemp("small"), **settings) as running:
        yield running


@pytest.fixture
def packing(small: RunningPool) -> Iterator[RunningPool]:
    try:
        yield small
    finally:
        small.clear()


def test_constraints_choose_the_node(clean_pool: RunningPool) -> None:
    one, two = first(clean_pool), second(clean_pool)
    for name, expression, node in (
        ("by-attribute", "storage==disk", two),
        ("not-attribute", "storage!=disk", one),
        ("by-glob", "storage==s*", one),
        ("by-regex", "rack==/^r[2-9]$/", two),
        ("by-name", f"node=={two}", two),
        ("not-name", f"node!={two}", one),
        ("by-engine-label", f"engine=={two}", two),
    ):
        assert clean_pool.run(name, "-e", f"constraint:{expression}") == node, expression
    said = refusal(clean_pool, "-e", "constraint:storage==tape")
    assert f"{UNSATISFIED}[available container slots]\n[storage==tape]\n" in said
    assert "0 of 2 nodes fit: storage==tape (2)" in said


def test_constraints_are_kept_as_labels_and_not_in_the_environment(clean_pool: RunningPool) -> None:
    clean_pool.run("one", "-e", "constraint:storage==disk", "-e", "KEPT=yes", "-e", "affinity:container!=nobody")
    seen = json.loads(clean_pool.docker("inspect", "one"))[0]["Config"]
    assert seen["Env"] == ["KEPT=yes"]
    assert seen["Labels"] == {
        "com.docker.swarm.constraints": '["storage==disk"]',
        "com.docker.swarm.affinities": '["container!=nobody"]',
    }


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("constraint:storage", "Env[0]: One of operator ==, != is expected"),
        ("constraint:a b==x", "Env[0]: Key 'a b' is invalid"),
        ("affinity:container==a,b", "Env[0]: Value 'a,b' is invalid"),
        ("reschedule:sometimes", "invalid reschedule policy: sometimes"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(pool: RunningPool, variable: str, text: str) -> None:
    with pool.client() as client, pytest.raises(docker.errors.APIError) as refused:
        client.create_container("busybox", "true", environment=[variable])
    assert (refused.value.status_code, refused.value.explanation) == (400, text)


def test_names_that_no_engine_takes_are_refused_and_harm_nobody(clean_pool: RunningPool) -> None:
    """A key with a zero character was once the end of the server's leadership."""
    clean_pool.run("good")
    address = clean_pool.url.replace("tcp://", "http://")
    for name in ("a%00b", "a%20b", "%ED%A0%80a", "a"):
        created = requests.post(f"{address}/containers/create?name={name}", json={"Image": "busybox"}, timeout=60)
        renamed = requests.post(f"{address}/containers/good/rename?name={name}", timeout=60)
        for answer in (created, renamed):
            assert answer.status_code == 400, answer.text
            assert "Invalid container name (" in answer.json()["message"]
            assert "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed" in answer.json()["message"]
    labels = {"com.docker.swarm.id": "a\0b"}
    refused = requests.post(f"{address}/containers/create", json={"Image": "busybox", "Labels": labels}, timeout=60)
    assert "cannot be stored" in refused.json()["message"]
    assert clean_pool.docker("ps", "--format", "{{.Names}}") == "good\n"
    assert clean_pool.run("other")
    assert "leads no more" not in (clean_pool.folder / "orlop.log").read_text()


def test_a_strategy_that_there_is_not_is_refused(pool: RunningPool) -> None:
    said = refusal(pool, "-l", "com.docker.swarm.strategy=fewest")
    assert "strategy not supported: fewest" in said


def test_affinities_look_at_containers_and_their_labels(clean_pool: RunningPool) -> None:
    there = clean_pool.run("front", "-l", "tier=front")
    other = next(engine.name for engine in clean_pool.engines if engine.name != there)
    assert clean_pool.run("beside", "-e", "affinity:container==front") == there
    assert clean_pool.run("apart", "-e", "affinity:container!=front") == other
    its_id = clean_pool.docker("inspect", "-f", "{{.Id}}", "front").strip()
    assert clean_pool.run("by-id", "-e", f"affinity:container=={its_id}") == there
    assert clean_pool.run("by-label", "-e", "affinity:tier==front") == there
    assert clean_pool.run("not-label", "-e", "affinity:tier!=front") == other
    assert clean_pool.run("by-image", "-e", "affinity:image==busybox") in (there, other)
    said = refusal(clean_pool, "-e", "affinity:container==nobody")
    assert "[container==nobody (soft=false)]" in said


def test_wishes_are_left_out_together_when_they_leave_no_node(clean_pool: RunningPool) -> None:
    assert clean_pool.run("wish", "-e", "constraint:storage==~disk") == second(clean_pool)
    assert clean_pool.run("vain", "-e", "constraint:storage==~tape", "-e", "affinity:container==~wish") == first(
        clean_pool
    )


def test_whitelists_name_nodes(clean_pool: RunningPool) -> None:
    two = second(clean_pool)
    assert clean_pool.run("listed", "-e", f"whitelist:node==nobody|{two}") == two
    assert "[node==nobody|none (soft=false)]" in refusal(clean_pool, "-e", "whitelist:node==nobody|none")


def test_a_port_is_published_once_on_each_node(clean_pool: RunningPool) -> None:
    nodes = {clean_pool.run(name, "-p", "18080:80") for name in ("web1", "web2")}
    assert nodes == {first(clean_pool), second(clean_pool)}
    assert f"{UNSATISFIED}[port 18080 (Bridge mode)]\n" in refusal(clean_pool, "-p", "18080:80")
    clean_pool.docker("rm", "-f", "web1")
    assert clean_pool.run("web3", "-p", "18080:80") in nodes


def test_a_stopped_container_keeps_no_other_one_from_its_port(clean_pool: RunningPool) -> None:
    """As on one engine: whoever is started first has it, and the others are told so by their engine."""
    nodes = [clean_pool.run(name, "-p", "18081:80") for name in ("old1", "old2")]
    clean_pool.docker("stop", "-t", "0", "old1", "old2")
    assert clean_pool.run("new", "-p", "18081:80") in nodes
    old = ("old1", "old2")[nodes.index(clean_pool.node("new"))]
    assert "port is already allocated" in clean_pool.docker("start", old, code=1)


def test_a_host_port_is_exposed_once_on_each_node(clean_pool: RunningPool) -> None:
    nodes = {clean_pool.run(name, "--net", "host", "--expose", "80") for name in ("web1", "web2")}
    assert len(nodes) == 2
    assert "[port 80/tcp (Host mode)]" in refusal(clean_pool, "--net", "host", "--expose", "80")


@pytest.mark.parametrize(
    "option",
    [
        ("--link", "base"),
        ("--volumes-from", "base"),
        ("--net", "container:base"),
        ("--pid", "container:base"),
        ("--ipc", "container:base"),
    ],
)
def test_what_depends_on_a_container_goes_to_its_node(clean_pool: RunningPool, option: tuple[str, str]) -> None:
    for node in (first(clean_pool), second(clean_pool)):
        clean_pool.run("base", "-e", f"constraint:node=={node}", "-v", "/data", "--ipc", "shareable")
        # The other node is the emptier one.
        assert {clean_pool.run(f"user{number}", *option) for number in range(3)} == {node}
        clean_pool.clear()


def test_dependencies_on_two_nodes_are_refused(clean_pool: RunningPool) -> None:
    for engine in clean_pool.engines:
        clean_pool.run(f"on-{engine.name}", "-e", f"constraint:node=={engine.name}")
    links = [f"on-{engine.name}" for engine in clean_pool.engines]
    said = refusal(clean_pool, *(word for link in links for word in ("--link", link)))
    assert UNSATISFIED in said
    assert f"[--link={links[0]} --link={links[1]}]" in said


def test_spreading_evens_out_and_random_takes_any(clean_pool: RunningPool) -> None:
    nodes = [clean_pool.run(f"even{number}") for number in range(6)]
    assert [nodes.count(engine.name) for engine in clean_pool.engines] == [3, 3]
    packed = {clean_pool.run(f"packed{number}", "-l", "com.docker.swarm.strategy=binpack") for number in range(2)}
    assert len(packed) == 1
    chance = [clean_pool.run(f"any{number}", "-l", "com.docker.swarm.strategy=random") for number in range(2)]
    assert set(chance) <= {engine.name for engine in clean_pool.engines}


def test_packing_fills_one_node_up_to_its_slots(packing: RunningPool) -> None:
    nodes = [packing.run(f"one{number}") for number in range(6)]
    assert [len(set(nodes[:3])), len(set(nodes[3:])), len(set(nodes))] == [1, 1, 2]
    assert f"{UNSATISFIED}[available container slots]\n" in refusal(packing)
    assert ("Strategy", "binpack") in info(packing)


def test_reserved_cpus_and_memory_are_told_and_kept(packing: RunningPool) -> None:
    nodes = {packing.run(name, "-m", "700m", "--cpus", "1.5") for name in ("one", "two")}
    assert len(nodes) == 2
    rows = info(packing)
    assert [value for key, value in rows if key == "Reserved CPUs"] == ["1.5 / 4"] * 2
    assert [value for key, value in rows if key == "Reserved Memory"] == ["700 MiB / 1 GiB"] * 2
    said = refusal(packing, "-m", "400m")
    assert "no resources available to schedule container" in said
    assert "not enough mem (2)" in said
    assert packing.run("fits", "-m", "300m") in nodes
    packing.docker("rm", "-f", "one")
    assert packing.run("again", "-m", "700m") in nodes


def test_operators_see_containers_as_tasks(clean_pool: RunningPool) -> None:
    orlop: Any = clean_pool.server.cli
    node = clean_pool.run("web", "-e", "constraint:storage==disk")

    def row() -> list[str]:
        return next((line.split() for line in orlop("tasks").splitlines() if " web " in line), [])

    wait_until(lambda: row()[1:4] == ["swarm", "web", "running"], "its engine's start is heard of")
    assert node in row()
    story = orlop("explain", "web")
    assert f"state    running, wanted prepared, on {node}" in story
    assert orlop("exec", "web", "--", "echo", "inside") == "inside\n"
    clean_pool.docker("run", "--name", "speaks", "busybox", "echo", "said")
    assert orlop("logs", "speaks") == "said\n"
    clean_pool.docker("rm", "speaks")
    clean_pool.docker("stop", "-t", "0", "web")
    assert clean_pool.docker("ps", "-a", "--format", "{{.State}}") == "exited\n"
    clean_pool.docker("rm", "web")
    assert " web " not in orlop("tasks")
