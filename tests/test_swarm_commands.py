"""`orlop swarm …` and draining, on a real pool."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter

import docker.errors
import pytest
from swarm_pool import RunningPool
from waiting import wait_until

pytestmark = pytest.mark.docker

MOVES = ("-e", "reschedule:on-node-failure")


def orlop(pool: RunningPool, *words: str, code: int = 0) -> str:
    return pool.server.cli("swarm", *words, code=code)


def test_the_pool_at_a_glance(clean_pool: RunningPool) -> None:
    clean_pool.run("web", "-m", "64m")
    told = orlop(clean_pool, "info")
    assert "strategy  spread" in told
    assert "nodes     2, with 1 containers, 1 of them running" in told
    for engine in clean_pool.engines:
        (row,) = [line for line in told.splitlines() if line.startswith(f"{engine.name} ")]
        assert "Healthy" in row
    assert "64 MiB / " in told
    assert json.loads(orlop(clean_pool, "info", "-o", "json"))["Containers"] == 1
    assert sorted(orlop(clean_pool, "info", "-o", "name").split()) == sorted(one.name for one in clean_pool.engines)


def test_containers_with_their_nodes_and_policies(clean_pool: RunningPool) -> None:
    node = clean_pool.run("moves", *MOVES)
    clean_pool.docker("create", "--name", "stays", "busybox")
    client = clean_pool.engines[0].client()
    try:
        stranger = client.create_container("busybox", "true", name="stranger")["Id"]
    finally:
        client.close()
    found = {one["name"]: one for one in json.loads(orlop(clean_pool, "ps", "-o", "json"))}
    assert {name: (one["state"], one["policy"]) for name, one in found.items()} == {
        "moves": ("running", "on-node-failure"),
        "stays": ("created", "off"),
        "stranger": ("created", "off"),
    }
    assert found["moves"]["node"] == node
    strange = found["stranger"]
    assert (strange["task"], strange["id"], strange["node"]) == (None, stranger[:12], clean_pool.engines[0].name)
    assert "moves" in orlop(clean_pool, "ps")


def test_a_shell_is_told_where_the_pool_is(clean_pool: RunningPool) -> None:
    told = orlop(clean_pool, "env")
    assert told == f"export DOCKER_HOST={clean_pool.url}\n"
    script = f"{told} docker info --format '{{{{.Containers}}}}'"
    environment = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "0\n"


def test_rebalancing_moves_what_may_move_and_starts_it_again(clean_pool: RunningPool) -> None:
    first, second = (engine.name for engine in clean_pool.engines)
    with clean_pool.client() as client:
        client.create_network("inner")
    # Everything is put on one node, as if the other had just joined.
    clean_pool.server.cli("drain", second)
    for name in ("a1", "a2", "a3", "a4"):
        assert clean_pool.run(name, *MOVES) == first
    clean_pool.run("bound", *MOVES, "-v", "/srv:/srv")
    clean_pool.run("stays")
    stopped = "a1"
    clean_pool.docker("stop", "-t", "0", stopped)
    wait_until(lambda: task_state(clean_pool, stopped) == "prepared", "the kernel hears of the stop")
    assert "nothing is to be moved" in orlop(clean_pool, "rebalance")
    clean_pool.server.cli("undrain", second)
    before = {
        name: clean_pool.docker("inspect", "-f", "{{.Id}}", name) for name in ("a1", "a2", "a3", "a4", "bound", "stays")
    }
    plan = json.loads(orlop(clean_pool, "rebalance", "--dry-run", "-o", "json"))
    assert plan == [{"container": name, "source": first, "target": second} for name in ("a1", "a2", "a3")]
    told = orlop(clean_pool, "rebalance")
    assert told.splitlines() == [f"{number}/3  a{number}  {first} -> {second}" for number in (1, 2, 3)]
    after = {name: clean_pool.docker("inspect", "-f", "{{.Id}}", name) for name in before}
    assert [name for name in before if before[name] != after[name]] == ["a1", "a2", "a3"]
    assert {name: clean_pool.node(name) for name in before} == {
        "a1": second, "a2": second, "a3": second, "a4": first, "bound": first, "stays": first,
    }  # fmt: skip
    assert clean_pool.docker("ps", "-a", "--filter", "status=created", "--format", "{{.Names}}").split() == [stopped]
    assert "nothing is to be moved" in orlop(clean_pool, "rebalance")
    assert "swarm.rescheduled" in clean_pool.server.cli("events", "--limit", "1000")


def task_state(pool: RunningPool, name: str) -> str:
    tasks = pool.server.get(f"{pool.server.url}/v1/tasks?framework=swarm")["tasks"]
    return next((str(task["state"]) for task in tasks if task["name"] == name), "")


def until_on(pool: RunningPool, name: str, node: str) -> Counter[int]:
    """Inspects it again and again until it is on that node. How often each status was answered."""
    seen: Counter[int] = Counter()
    with pool.client() as client:

        def is_there() -> bool:
            try:
                shown = client.inspect_container(name)
            except docker.errors.APIError as error:
                seen[error.status_code] += 1
                return False
            seen[200] += 1
            return bool(shown["Node"]["Name"] == node)

        wait_until(is_there, f"{name} is on {node}")
    return seen


def test_what_is_removed_while_its_node_is_drained_stays_removed(clean_pool: RunningPool) -> None:
    """Its program does not heed the signal to end: so it is still there while the drain waits for it."""
    first, second = (engine.name for engine in clean_pool.engines[:2])
    clean_pool.run("web", "-e", f"constraint:node==~{second}", "-e", "reschedule:on-node-failure")
    clean_pool.run("other", "-e", f"constraint:node==~{second}", "-e", "reschedule:on-node-failure")
    try:
        clean_pool.server.cli("drain", second, "--deadline", "0s")
        clean_pool.docker("rm", "-f", "web")
        # Whoever looks for it meanwhile finds it, though there is a moment in which no engine has it.
        seen = until_on(clean_pool, "other", first)
        assert set(seen) == {200}, seen
        assert clean_pool.docker("ps", "-a", "--format", "{{.Names}}").split() == ["other"]
    finally:
        clean_pool.server.cli("undrain", second)


def test_a_drain_that_is_taken_back_brings_a_container_back_at_once(clean_pool: RunningPool) -> None:
    """Its program does not heed the signal to end: so its node takes tasks again before it has gone."""
    second = clean_pool.engines[1].name
    clean_pool.run("web", *MOVES, "-e", f"constraint:node=={second}")
    before = clean_pool.docker("inspect", "-f", "{{.Id}}", "web")
    try:
        clean_pool.server.cli("drain", second, "--deadline", "0s")
    finally:
        clean_pool.server.cli("undrain", second)

    def is_back() -> bool:
        told = clean_pool.docker("inspect", "-f", "{{.Id}}", "web", code=None)
        return told.startswith(tuple("0123456789abcdef")) and told != before

    wait_until(is_back, "it is made again")
    assert "already in use" not in clean_pool.server.cli("events")


def test_what_a_drain_cannot_move_is_explained(clean_pool: RunningPool) -> None:
    first, second = (engine.name for engine in clean_pool.engines)
    clean_pool.run("pinned", *MOVES, "-e", f"constraint:node=={second}")
    clean_pool.run("free", *MOVES, "-e", "constraint:node!=nobody", "-e", "affinity:container==pinned")
    assert clean_pool.node("free") == second
    try:
        clean_pool.server.cli("drain", second, "--deadline", "0s")
        wait_until(lambda: task_state(clean_pool, "pinned") == "pending", "the pinned one waits")
        told = clean_pool.server.cli("explain", "pinned")
        assert "waits" in told or "pending" in told
        assert f"node=={second}" in told
        (row,) = [one for one in json.loads(orlop(clean_pool, "ps", "-o", "json")) if one["name"] == "pinned"]
        assert (row["state"], row["node"]) == ("waits", None)
    finally:
        clean_pool.server.cli("undrain", second)
    wait_until(lambda: task_state(clean_pool, "pinned") == "running", "it is made again")
    assert clean_pool.node("pinned") == second
    assert first != second


def test_a_command_that_there_is_not_is_a_mistake_of_its_user(clean_pool: RunningPool) -> None:
    assert "No such command" in orlop(clean_pool, "resize", code=2)
