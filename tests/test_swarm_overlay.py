"""Networks that span nodes, of engines that are in a swarm of Docker's own: their containers reach one another wherever
they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from engines import Engine, Lane
from swarm_pool import RunningPool, running_pool
from test_swarm_rescheduling import held, wait_rows
from twin_engines import twins
from waiting import wait_until

pytestmark = [pytest.mark.real, pytest.mark.docker]


def on(engine: Engine) -> tuple[str, str]:
    return "-e", f"constraint:node=={engine.name}"


@pytest.fixture(scope="module")
def spanned(engines: Lane) -> Iterator[list[Engine]]:
    """The second is a worker of the first's swarm: a worker makes no networks, and knows those only that it uses."""
    manager, worker = twins(engines, "sigma", "rho")
    with contextlib.closing(manager.client()) as leading, contextlib.closing(worker.client()) as joining:
        leading.init_swarm(advertise_addr=manager.address, listen_addr=f"{manager.address}:2377")
        token = leading.inspect_swarm()["JoinTokens"]["Worker"]
        joining.join_swarm([f"{manager.address}:2377"], token, advertise_addr=worker.address)
        try:
            yield [manager, worker]
        finally:
            worker.clear()
            manager.clear()
            joining.leave_swarm(force=True)
            leading.leave_swarm(force=True)


@pytest.fixture(scope="module")
def pool(spanned: list[Engine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    with running_pool(spanned, tmp_path_factory.mktemp("spanned")) as running:
        yield running


def test_containers_of_two_nodes_are_in_one_network(pool: RunningPool) -> None:
    manager, worker = pool.engines
    pool.docker("network", "create", "--driver", "overlay", "--attachable", "over")
    assert pool.docker("network", "ls", "--filter", "name=over", "--format", "{{.Name}} {{.Scope}}") == "over swarm\n"
    for engine in (worker, manager):
        assert pool.run(f"on-{engine.name}", *on(engine), "--network", "over") == engine.name
    pool.run("later", *on(worker))
    pool.docker("network", "connect", "--alias", "called", "over", "later")
    for source, target in ((worker, manager), (manager, worker)):
        pool.docker("exec", f"on-{source.name}", "ping", "-c", "1", "-W", "5", f"on-{target.name}")
    pool.docker("exec", f"on-{manager.name}", "ping", "-c", "1", "-W", "5", "called")
    shown = pool.docker("network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", "over").split()
    assert {"later", *(f"on-{engine.name}" for engine in pool.engines)} <= set(shown)
    assert pool.docker("network", "ls", "-q", "--filter", "name=over").count("\n") == 1
    assert sorted(pool.docker("ps", "--filter", "network=over", "--format", "{{.Names}}").split()) == [
        "later", f"on-{worker.name}", f"on-{manager.name}",
    ]  # fmt: skip
    # Nothing binds its containers to a node.
    free = [f"free{number}" for number in range(4)]
    assert {pool.run(name, "--network", "over") for name in free} == {engine.name for engine in pool.engines}
    assert "is in use by task" in pool.docker("network", "rm", "over", code=1)
    pool.docker("network", "disconnect", "over", "later")
    pool.docker("exec", f"on-{manager.name}", "ping", "-c", "1", "-W", "2", "called", code=1)
    pool.docker("rm", "-f", "later", *free, *(f"on-{engine.name}" for engine in pool.engines))
    pool.docker("network", "rm", "over")
    # The worker hears of it from the manager.
    wait_until(lambda: "over" not in pool.docker("network", "ls", "--format", "{{.Name}}").split(), "it is gone")


def test_a_container_that_moves_is_in_its_network_again(pool: RunningPool) -> None:
    manager, worker = pool.engines
    pool.docker("network", "create", "--driver", "overlay", "--attachable", "kept")
    pool.run("stays", *on(manager), "--network", "kept")
    wish = ("-e", f"constraint:node==~{worker.name}", "-e", "reschedule:on-node-failure")
    assert pool.run("moves", *wish, "--network", "kept", "--network-alias", "called") == worker.name
    pool.docker("exec", "stays", "ping", "-c", "1", "-W", "5", "called")
    pool.die(worker)
    try:
        wait_rows(pool, {"stays": "Up", "moves": "Up"})
        assert pool.node("moves") == manager.name
        for source, target in (("stays", "called"), ("moves", "stays")):
            pool.docker("exec", source, "ping", "-c", "1", "-W", "5", target)
    finally:
        pool.revive(worker)
    wait_until(pool.complete, "the node is back")
    wait_until(lambda: not held(worker), "its copy is removed")
