"""Nodes of a real pool that die and come back: what moves, what waits, and that nothing is there twice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from engines import Engine, Lane
from swarm_pool import RunningPool, running_pool
from twin_engines import twins
from waiting import wait_until

pytestmark = pytest.mark.docker

MOVES = ("-e", "reschedule:on-node-failure")
MOVES_BY_LABEL = ("-l", 'com.docker.swarm.reschedule-policies=["on-node-failure"]')
SWARM_ID = '{{index .Config.Labels "com.docker.swarm.id"}}'
PUT_ASIDE = "orlop.ended."
#: A lost node is noticed after nine seconds by default; the rest is for a machine that does other things, too.
MOVED_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def moving(engines: Lane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    """Two engines behind remote agents, and the server's own."""
    with running_pool(twins(engines, "eta", "theta", "iota"), tmp_path_factory.mktemp("moving")) as running:
        yield running


@pytest.fixture
def clean(moving: RunningPool) -> Iterator[RunningPool]:
    """Cleared afterwards, with all engines."""
    try:
        yield moving
    finally:
        moving.restore()


def on(engine: Engine) -> tuple[str, str]:
    """At first: a wish, so that it may go elsewhere later."""
    return "-e", f"constraint:node==~{engine.name}"


def rows(pool: RunningPool) -> dict[str, str]:
    """Name → status, of all containers. Fails when one is there twice."""
    told = [
        line.split("\t") for line in pool.docker("ps", "-a", "--format", "{{.Names}}\t{{.Status}}").splitlines() if line
    ]
    assert len({name for name, _ in told}) == len(told), f"twice: {told}"
    return {name: status.split(" ")[0] if status != "Host Down" else status for name, status in told}


def held(engine: Engine) -> dict[str, str]:
    """Name → state, as the engine itself says, without what the agent has put aside for its output."""
    with contextlib.closing(engine.client()) as client:
        told = [(one["Names"][-1].removeprefix("/"), one["State"]) for one in client.containers(all=True)]
    assert not [name for name, state in told if name.startswith(PUT_ASIDE) and state == "running"], told
    return {name: state for name, state in told if not name.startswith(PUT_ASIDE)}


def wait_rows(pool: RunningPool, expected: dict[str, str], deadline_s: float = MOVED_WITHIN_S) -> None:
    seen: dict[str, str] = {}

    def as_expected() -> bool:
        nonlocal seen
        seen = rows(pool)
        return seen == expected

    try:
        wait_until(as_expected, f"containers are {expected}", deadline_s)
    except AssertionError as error:
        raise AssertionError(f"{error}; they are {seen}; {pool.server.cli('tasks')}") from error


def test_what_has_the_policy_moves_as_it_was_and_the_rest_waits(clean: RunningPool) -> None:
    node = clean.engines[2]
    moving = {"by-variable": MOVES, "by-label": MOVES_BY_LABEL}
    for name, policy in moving.items():
        assert clean.run(name, *policy, *on(node), "-l", f"mine={name}") == node.name
    clean.docker("create", "--name", "created", *MOVES, *on(node), "busybox", "true")
    assert clean.run("stays", *on(node)) == node.name
    before = {name: clean.docker("inspect", "-f", SWARM_ID, name).strip() for name in (*moving, "created")}
    assert all(before.values())

    clean.die(node)
    wait_rows(clean, {"by-variable": "Up", "by-label": "Up", "created": "Created", "stays": "Host Down"})
    for name, identity in before.items():
        assert clean.docker("inspect", "-f", SWARM_ID, name).strip() == identity
        assert clean.node(name) != node.name
        assert clean.docker("inspect", "-f", "{{.Name}}", identity).strip() == f"/{name}"
    for name in moving:
        assert clean.docker("inspect", "-f", "{{.Config.Labels.mine}}", name).strip() == name
        assert clean.docker("exec", name, "echo", "inside") == "inside\n"
    assert clean.docker("inspect", "-f", "{{.State.Error}}", "stays").startswith("Host Down: the node is ")
    for command in (("logs", "stays"), ("start", "stays")):
        refusal = clean.docker(*command, code=1)
        assert f"is on node {node.name}, which is not available" in refusal
    taken = clean.docker("create", "--name", "stays", "busybox", code=1)
    assert 'The container name "/stays" is already in use' in taken

    node.revive()
    assert held(node)["by-variable"] == "exited", "it has its copies still"
    clean.start_agent(node)
    wait_until(clean.complete, "the node is back")
    wait_rows(clean, {"by-variable": "Up", "by-label": "Up", "created": "Created", "stays": "Exited"})
    wait_until(lambda: held(node) == {"stays": "exited"}, f"the copies on {node.name} are removed")
    clean.docker("start", "stays")
    assert clean.docker("exec", "stays", "echo", "inside") == "inside\n"


def test_what_a_client_is_told_of_a_container_that_moves_is_known_already(clean: RunningPool) -> None:
    """Were its node to die now, it would be made again as the client knows it."""
    with clean.client() as client:

        def running() -> set[str]:
            told = clean.server.get(f"{clean.server.url}/v1/tasks?framework=swarm&state=running")["tasks"]
            return {task["external_id"] for task in told}

        made = [client.create_container("busybox", "sleep 1000", environment=[MOVES[1]])["Id"] for _ in range(6)]
        for container in made:
            client.start(container)
            assert container in running()
            client.kill(container)
            assert container not in running()
            client.restart(container, timeout=0)
            assert container in running()
            client.stop(container, timeout=0)
            assert container not in running()
        brief = client.create_container("busybox", "true", environment=[MOVES[1]])["Id"]
        for _ in range(3):
            client.start(brief)
            client.wait(brief)


def test_what_was_changed_since_its_creation_is_as_it_was(clean: RunningPool) -> None:
    node = clean.engines[2]
    clean.docker("network", "create", "extra")
    clean.docker("network", "create", "passing")
    assert clean.run("changed", *MOVES, *on(node)) == node.name
    clean.docker("network", "connect", "--alias", "here", "extra", "changed")
    clean.docker("network", "connect", "passing", "changed")
    for network in ("passing", "bridge"):
        clean.docker("network", "disconnect", network, "changed")
    clean.docker("update", "--memory", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--restart", "always", "changed")
    clean.docker("rename", "changed", "renamed")
    assert reserved(clean, node) == ("0.5 / ", "64 MiB / ")

    clean.die(node)
    wait_rows(clean, {"renamed": "Up"})
    with clean.client() as client:
        seen = client.inspect_container("renamed")
    host, networks = seen["HostConfig"], seen["NetworkSettings"]["Networks"]
    assert seen["Node"]["Name"] != node.name
    assert (host["Memory"], host["NanoCpus"], host["RestartPolicy"]["Name"]) == (2**26, 500_000_000, "always")
    assert networks.keys() == {"extra"}
    assert "here" in networks["extra"]["Aliases"]
    assert clean.docker("exec", "renamed", "ping", "-c", "1", "-W", "5", "-q", "here")

    clean.revive(node)
    wait_until(clean.complete, "the node is back")
    wait_until(lambda: not held(node), f"the copy on {node.name} is removed")


def reserved(pool: RunningPool, node: Engine) -> tuple[str, str]:
    """The beginnings of what is told of the node's cpus and memory."""
    with pool.client() as client:
        rows_of_info = [(row[0].strip(" └"), row[1]) for row in client.info()["SystemStatus"]]
    there = rows_of_info[[name for name, _ in rows_of_info].index(node.name) :]
    cpus, memory = (next(text for name, text in there if name == f"Reserved {kind}") for kind in ("CPUs", "Memory"))
    return cpus[: cpus.index("/") + 2], memory[: memory.index("/") + 2]


def test_a_volume_whose_node_is_away_is_not_made_anew(clean: RunningPool) -> None:
    node = clean.engines[2]
    clean.run("user", *on(node), "-v", "mounted:/data")
    clean.docker("run", "--rm", *on(node), "-v", "left:/data", "busybox", "touch", "/data/file")
    clean.die(node)
    wait_rows(clean, {"user": "Host Down"})
    for volume in ("mounted", "left"):
        said = clean.docker("run", "--rm", "-v", f"{volume}:/data", "busybox", "true", code=125)
        assert f"volume {volume} is on node {node.name}, which is not available: " in said
        said = clean.docker("volume", "create", volume, code=1)
        assert f"volume {volume} is on node {node.name}, which is not available: " in said
    clean.revive(node)
    wait_until(clean.complete, "the node is back")
    assert clean.docker("run", "--rm", "-v", "left:/data", "busybox", "ls", "/data") == "file\n"


def test_a_container_whose_node_goes_away_while_it_is_made_is_not_waited_for(clean: RunningPool) -> None:
    node = clean.engines[1]
    clean.run("before")  # so that no engine need be asked for the image
    clean.docker("rm", "-f", "before")
    clean.kill_agent(node)
    bound = ("-e", f"constraint:node=={node.name}")
    said = clean.docker("create", "--name", "late", *bound, "busybox", code=1)
    assert f"node {node.name} went away while the container was being made: " in said
    clean.start_agent(node)
    wait_until(clean.complete, "the node is back")
    wait_rows(clean, {})
    assert clean.run("late", *on(node)) == node.name


def test_users_of_a_new_volume_that_start_at_once_share_it(clean: RunningPool) -> None:
    names = [f"user{number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as clients:
        nodes = list(clients.map(lambda name: clean.run(name, "-v", "shared:/data"), names))
    assert len(set(nodes)) == 1


def test_an_agent_that_is_back_in_time_finds_all_as_it_was(clean: RunningPool) -> None:
    node = clean.engines[1]
    assert clean.run("moves", *MOVES, *on(node)) == node.name
    identity = clean.docker("inspect", "-f", "{{.Id}}", "moves")
    clean.kill_agent(node)
    clean.start_agent(node)
    wait_until(clean.complete, "the node is back")
    assert rows(clean) == {"moves": "Up"}
    assert clean.docker("inspect", "-f", "{{.Id}}", "moves") == identity


def test_what_is_on_a_node_that_has_just_gone_is_not_said_to_be_nowhere(clean: RunningPool) -> None:
    """Before the kernel has noticed, and after."""
    node = clean.engines[1]
    for name in ("one", "moves"):
        assert clean.run(name, *on(node), *(MOVES if name == "moves" else ())) == node.name
    clean.run("here", *on(clean.engines[2]))
    clean.kill_agent(node)
    try:
        shown = clean.docker("inspect", "-f", "{{.State.Error}}", "one").strip()
        assert shown.startswith("Host Down: ")
        assert rows(clean) == {"one": "Host Down", "moves": "Host Down", "here": "Up"}
        for words in (("rm", "-f"), ("rm",), ("stop",), ("logs",), ("exec",), ("rename",)):
            more = {"exec": ["true"], "rename": ["other"]}.get(words[0], [])
            text = clean.docker(*words, "one", *more, code=None)
            assert f"is on node {node.name}, which is not available" in text, words
        assert "No such container: nobody" in clean.docker("stop", "nobody", code=1)
        assert "is already in use by container" in clean.docker("create", "--name", "one", "busybox", code=None)
    finally:
        clean.start_agent(node)
    wait_until(clean.complete, "the node is back")
    wait_rows(clean, {"one": "Up", "moves": "Up", "here": "Up"})


def kill_server(pool: RunningPool) -> Callable[[], None]:
    pool.server.kill()
    return pool.server.start


def kill_agent(pool: RunningPool) -> Callable[[], None]:
    pool.kill_agent(pool.engines[1])
    return lambda: pool.start_agent(pool.engines[1])


def kill_engine(pool: RunningPool) -> Callable[[], None]:
    pool.engines[1].kill()
    return pool.engines[1].start


@pytest.mark.parametrize("kill", [kill_server, kill_agent, kill_engine])
def test_what_is_killed_while_containers_move_costs_none(
    clean: RunningPool, kill: Callable[[RunningPool], Callable[[], None]]
) -> None:
    """The server that moves them, or the agent or engine of a node that they move to, which is back at once."""
    _, target, node = clean.engines
    names = [f"moves{number}" for number in range(8)]
    for name in names:
        clean.docker("run", "-d", "--name", name, *MOVES, *on(node), "--restart", "always", "busybox", "sleep", "1000")
    identities = {name: clean.docker("inspect", "-f", SWARM_ID, name) for name in names}
    assert held(node).keys() == set(names)
    clean.die(node)
    wait_until(lambda: held(target), "the first one moves", MOVED_WITHIN_S)
    mend = kill(clean)
    mend()
    wait_rows(clean, dict.fromkeys(names, "Up"))
    for name, identity in identities.items():
        assert clean.docker("inspect", "-f", SWARM_ID, name) == identity
    there = [name for engine in clean.engines[:2] for name in held(engine)]
    assert sorted(there) == names, "each is there once"
    clean.revive(node)
    wait_until(clean.complete, "the node is back")
    # Its engine has started the copies again; they end, and are removed.
    wait_until(lambda: not running_on(node) and not held(node), f"the copies on {node.name} end")
    wait_rows(clean, dict.fromkeys(names, "Up"))
    node.stop()
    node.start()
    wait_until(clean.complete, "the node is back again")
    assert not running_on(node), "what is kept for its output does not begin again with its engine"


def running_on(engine: Engine) -> list[str]:
    """Ids of the containers that run, whatever they are called."""
    with contextlib.closing(engine.client()) as client:
        return [one["Id"] for one in client.containers()]


def test_networks_and_links_are_there_again(clean: RunningPool) -> None:
    node = clean.engines[2]
    for engine in clean.engines[:2]:
        clean.run(f"on-{engine.name}", "-e", f"constraint:node=={engine.name}")
    clean.docker("network", "create", "--label", "kept=yes", "inner")  # at home on the node with the fewest containers
    for name, options in (("db", ()), ("web", ("--link", "db:database"))):
        assert clean.run(name, *MOVES, "--network", "inner", "--network-alias", f"{name}-alias", *options) == node.name
    clean.die(node)
    others = {f"on-{engine.name}": "Up" for engine in clean.engines[:2]}
    wait_rows(clean, {"db": "Up", "web": "Up", **others})
    assert clean.node("db") == clean.node("web") != node.name
    for called in ("db", "db-alias", "database"):
        clean.docker("exec", "web", "ping", "-c", "1", "-W", "5", called)
    assert clean.docker("network", "inspect", "-f", "{{.Labels.kept}}", "inner").strip() == "yes"
