"""Swarm's framework, without a server: names, what the kernel is asked for, what moves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orlop.framework import Delete, Desired, NotPlaced, Outcome, Refused, Task, TaskState, stopped_by_drain
from orlop.kernel.events import DrainNode
from orlop.model.facts import Image, NodeFacts
from orlop.testing.harness import Cluster
from orlop_swarm import hooks
from orlop_swarm.asking import ID_LABEL, InvalidRequest, resources_of, with_labels
from orlop_swarm.documents import CONTAINER, NAME
from orlop_swarm.framework import TRY_AGAIN_AFTER_MS, Swarm
from orlop_swarm.names import name_of
from orlop_swarm.orders import Change, Conflict, Create, Discard, Keep, Move, Rename, Reserve, Reserved
from orlop_swarm.settings import Config

MOVES = {"Env": ["reschedule:on-node-failure", "A=b"]}


class Pool:
    """A cluster with Swarm on it."""

    def __init__(self, nodes: int = 2, settings: Config | None = None) -> None:
        self.settings = settings or Config()
        filters, scorers = hooks.node_filters(self.settings), hooks.node_scorers(self.settings)
        self.cluster = Cluster(Swarm(self.settings), filters=filters, scorers=scorers)
        for number in range(nodes):
            self.cluster.add_node(f"n{number}", cpus=2, mem="2GiB", runtimes=("docker",))
        self.cluster.settle()

    def create(self, name: str = "", **body: Any) -> Task:
        order = Create(body={"Image": "busybox", **body}, name=name)
        reserved: Reserved = self.cluster.command("swarm", order)
        self.cluster.settle()
        return self.task(reserved.key)

    def task(self, key: str) -> Task:
        return self.cluster.view("swarm").tasks[key]

    def objects(self, kind: str) -> dict[str, Any]:
        return dict(self.cluster.view("swarm").objects(kind))

    def do(self, order: Any) -> Any:
        answer = self.cluster.command("swarm", order)
        self.cluster.settle()
        return answer


def test_a_container_is_prepared_and_its_name_is_its_own() -> None:
    pool = Pool()
    task = pool.create("web", HostConfig={"Memory": 2**30, "NanoCpus": 500_000_000}, Weird={"kept": [1]})
    assert (task.state, task.desired, task.name) == (TaskState.PREPARED, Desired.PREPARED, "web")
    spec = pool.cluster.view("swarm").spec(task)
    assert spec.resources.units == {"cpus": 500, "mem": 2**30}
    assert spec.payload["Weird"] == {"kept": [1]}
    assert (spec.payload["orlop_name"], spec.payload["orlop_exact"], spec.payload["orlop_pull"]) == (
        "web",
        True,
        "never",
    )
    with pytest.raises(Refused) as refused:
        pool.create("web")
    assert refused.value.reason == Conflict(name="web", key=task.key)
    assert str(refused.value.reason).startswith('Conflict. The container name "/web" is already in use by container')


def test_the_name_is_free_when_the_container_is_gone() -> None:
    pool = Pool()
    task = pool.create("web")
    pool.cluster.start_task(task)
    pool.cluster.stop_task(pool.task(task.key), code=3)
    assert pool.task(task.key).state is TaskState.PREPARED
    assert pool.objects(NAME)
    pool.cluster.end_task(pool.task(task.key), code=3)
    pool.cluster.settle()
    assert not pool.objects(NAME)
    assert not pool.objects(CONTAINER)
    assert pool.create("web").key != task.key


def test_names_are_made_up_and_differ() -> None:
    pool = Pool(settings=Config(overcommit=10))
    names = {pool.create().name for _ in range(30)}
    assert len(names) == 30
    assert all("_" in name for name in names)
    number = 2**127 + 12_345_678_901_234_567_890
    assert len({name_of(number, attempt) for attempt in range(40)}) == 40


def test_a_volume_that_no_engine_has_yet_is_where_the_first_is_placed_that_mounts_it() -> None:
    pool = Pool(nodes=3)
    body: dict[str, Any] = {"Image": "busybox", "HostConfig": {"Binds": ["new:/data"], "Memory": 2**20}}
    for number in range(6):
        pool.do(Create(body=body, name=f"user{number}", volumes=("new",)))
    tasks = list(pool.cluster.view("swarm").live.values())
    assert len(tasks) == 6
    assert len({task.node for task in tasks}) == 1
    large = {**body, "HostConfig": {**body["HostConfig"], "Memory": 2**31}}
    with pytest.raises(NotPlaced) as refused:
        pool.do(Create(body=large, volumes=("new",)))
    assert f"volume new is on {tasks[0].node}" in str(refused.value)
    others = {pool.create(f"other{number}", HostConfig={"Binds": [f"{number}:/data"]}).node for number in range(3)}
    assert len(others) > 1


#: As Docker's client sends `update --memory 64m --cpus 1.5 --restart always`.
UPDATE = {
    "BlkioWeight": 0,
    "CpuQuota": 0,
    "CpusetCpus": "",
    "DeviceRequests": None,
    "Memory": 2**26,
    "NanoCpus": 1_500_000_000,
    "OomKillDisable": False,
    "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
}


def test_what_is_changed_counts_and_is_not_forgotten_when_the_container_moves() -> None:
    pool = Pool()
    host = {"Memory": 2**30, "CpusetCpus": "0", "NetworkMode": "front", "PortBindings": {}}
    task = pool.create("web", HostConfig=host, **MOVES)
    free = pool.cluster.state.candidates[task.node or ""].free.units
    pool.do(Change(key=task.key, update=UPDATE))
    after = pool.cluster.state.candidates[task.node or ""].free.units
    assert (free["mem"] - after["mem"], free["cpus"] - after["cpus"]) == (2**26 - 2**30, 1500)
    pool.do(Change(key=task.key, update={"Memory": 0, "RestartPolicy": {"Name": ""}}))
    alias = {"Aliases": ["here"]}
    pool.do(Change(key=task.key, networks={"back": alias, "passing": {}}))
    pool.do(Change(key=task.key, networks={"passing": None, "front": None}))
    pool.cluster.step(DrainNode(node=task.node or "", drained=True, within_ms=0))
    pool.cluster.settle()
    moved = pool.task(task.key)
    assert moved.node != task.node
    spec = pool.cluster.view("swarm").spec(moved)
    changed = {"Memory": 2**26, "NanoCpus": 1_500_000_000, "RestartPolicy": UPDATE["RestartPolicy"]}
    assert spec.payload["HostConfig"] == {**host, **changed}
    assert spec.payload["orlop_networks"] == {"back": alias, "front": None}
    assert spec.resources.units == {"mem": 2**26, "cpus": 1500}


def test_nothing_is_left_to_change_of_what_is_gone() -> None:
    assert Pool().do(Change(key="gone", update=UPDATE)) is None


def on_port(number: int) -> dict[str, Any]:
    return {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": str(number)}]}}}


def test_a_container_that_runs_holds_its_port_and_one_that_does_not_gives_it_up_where_there_is_no_other_node() -> None:
    pool = Pool()
    first = pool.create("first", **on_port(80))
    pool.cluster.start_task(first)
    second = pool.create("second", **on_port(80))
    assert second.node != first.node, "it is made, and nobody runs: but there is another node"
    pool.cluster.start_task(pool.task(second.key))
    with pytest.raises(NotPlaced) as refused:
        pool.create("third", **on_port(80))
    assert "port 80 (Bridge mode)" in str(refused.value)
    pool.cluster.stop_task(pool.task(first.key), code=0)
    assert pool.create("third", **on_port(80)).node == first.node


@pytest.mark.parametrize("host", [False, True], ids=["bridge", "host"])
def test_nodes_without_a_stopped_container_of_the_port_go_first(host: bool) -> None:
    pool = Pool(nodes=3)
    body = {"HostConfig": {"NetworkMode": "host"}, "ExposedPorts": {"80/tcp": {}}} if host else on_port(80)
    stopped = pool.create("stopped", **body)
    pool.cluster.start_task(stopped)
    pool.cluster.stop_task(pool.task(stopped.key), code=0)
    others = {pool.create(f"other{number}", HostConfig={"Memory": 2**20}).node for number in range(20)}
    assert len(others) == 3
    places = [pool.create(f"new{number}", **body).node for number in range(2)]
    assert stopped.node not in places
    assert len(set(places)) == 2


def test_what_waits_for_a_place_goes_to_no_stopped_container_of_its_port() -> None:
    """It might be started before."""
    pool = Pool()
    moves = pool.create("moves", **MOVES, **on_port(80))
    stays = pool.create("stays", **on_port(80))
    pool.cluster.start_task(stays)
    pool.cluster.stop_task(pool.task(stays.key), code=0)
    pool.cluster.step(DrainNode(node=moves.node or "", drained=True, within_ms=0))
    pool.cluster.settle()
    assert pool.task(moves.key).state is TaskState.PENDING


@pytest.mark.parametrize("name", ["a\0b", "a", "a b", "_a", "a/b", "a\n", "x\ud800", "\u00e9e"])
def test_names_are_as_engines_want_them(name: str) -> None:
    pool = Pool()
    with pytest.raises(Refused) as refused:
        pool.create(name)
    text = f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    assert (type(refused.value.reason), str(refused.value.reason)) == (InvalidRequest, text)
    task = pool.create("good.Name_-1")
    with pytest.raises(Refused) as refused:
        pool.do(Reserve(key=task.key, name=name))
    assert str(refused.value.reason) == f"Error when allocating new name: {text.replace('(', '(/', 1)}"
    assert set(pool.objects(NAME)) == {"good.Name_-1"}


def test_an_id_that_cannot_be_stored_is_refused() -> None:
    pool = Pool()
    with pytest.raises(Refused, match="cannot be stored"):
        pool.create("web", Labels={ID_LABEL: "a\0b"})
    assert not pool.objects(NAME)


def test_what_finds_no_place_leaves_nothing() -> None:
    pool = Pool()
    with pytest.raises(NotPlaced):
        pool.create("big", HostConfig={"Memory": 2**40})
    pool.cluster.settle()
    assert not pool.objects(NAME)
    assert not pool.objects(CONTAINER)
    assert pool.create("big").live


def test_a_rename_holds_both_names_until_it_is_done() -> None:
    pool = Pool()
    one, other = pool.create("one"), pool.create("other")
    with pytest.raises(Refused):
        pool.do(Reserve(key=one.key, name="other"))
    pool.do(Reserve(key=one.key, name="new"))
    for name in ("one", "new"):
        with pytest.raises(Refused):
            pool.create(name)
    pool.do(Rename(key=one.key, name="new"))
    assert pool.create("one").live
    pool.do(Reserve(key=other.key, name="newer"))
    pool.do(Rename(key=other.key, name="other"))  # its engine has refused
    assert pool.create("newer").live
    assert {name: found.key for name, found in pool.objects(NAME).items()}["other"] == other.key


def test_a_second_reservation_gives_the_first_one_up() -> None:
    pool = Pool()
    one = pool.create("one")
    for name in ("new", "newer", "one", "newest"):
        pool.do(Reserve(key=one.key, name=name))
    assert set(pool.objects(NAME)) == {"one", "newest"}
    other = pool.create("new")
    with pytest.raises(Refused) as refused:  # the first rename is done only now
        pool.do(Rename(key=one.key, name="new"))
    assert refused.value.reason == Conflict(name="new", key=other.key)
    pool.do(Rename(key=one.key, name="newest"))
    assert {name: found.key for name, found in pool.objects(NAME).items()} == {"new": other.key, "newest": one.key}


def test_expressions_leave_the_environment_and_stay_as_labels() -> None:
    body = {
        "Env": ["A=b", "constraint:node==~n1", "affinity:image!=x", "reschedule:on-node-failure"],
        "Labels": {"mine": "1", "com.docker.swarm.constraints": '["rack==r1"]'},
    }
    changed = with_labels(body, "k" * 64, Config())
    assert changed["Env"] == ["A=b"]
    labels = changed["Labels"]
    assert json.loads(labels["com.docker.swarm.constraints"]) == ["rack==r1", "node==~n1"]
    assert json.loads(labels["com.docker.swarm.affinities"]) == ["image!=x"]
    assert json.loads(labels["com.docker.swarm.reschedule-policies"]) == ["on-node-failure"]
    assert (labels["mine"], labels[ID_LABEL]) == ("1", "k" * 64)
    assert with_labels(changed, "other", Config()) == changed
    assert with_labels({"Image": "x"}, "k", Config()) == {"Image": "x"}


@pytest.mark.parametrize(("expression", "beside"), [("==", True), ("!=", False), ("==~", True), ("!=~", False)])
def test_a_container_that_is_called_by_its_engines_id_is_found_wherever_it_moves(expression: str, beside: bool) -> None:
    pool = Pool()
    old, other = pool.create("old"), pool.create("other")
    assert old.node != other.node
    engines_id = "ab" * 32

    def create(name: str, **said: Any) -> Task:
        order = Create(body={"Image": "busybox", **said}, name=name, keys={engines_id: old.key})
        return pool.task(pool.do(order).key)

    for name, said in (
        ("by-variable", {"Env": [f"affinity:container{expression}{engines_id}"]}),
        ("by-label", {"Labels": {"com.docker.swarm.affinities": f'["container{expression}{engines_id}"]'}}),
    ):
        task = create(name, **said)
        assert (task.node == old.node) is beside
        labels = pool.cluster.view("swarm").spec(task).payload["Labels"]
        assert json.loads(labels["com.docker.swarm.affinities"]) == [f"orlop.key{expression}{old.key}"]
    with pytest.raises(NotPlaced):
        create("nobodys", Env=[f"affinity:container=={'cd' * 32}"])


def test_a_constraint_is_heeded_and_wishes_are_not_demands() -> None:
    pool = Pool(3)
    assert [pool.create(Env=["constraint:node==n2"]).node for _ in range(2)] == ["n2", "n2"]
    assert pool.create(Env=["constraint:node==~nowhere"]).live
    with pytest.raises(NotPlaced):
        pool.create(Env=["constraint:node==nowhere"])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"Env": ["constraint:node=n1"]}, "One of operator ==, != is expected"),
        ({"Env": ["reschedule:sometimes"]}, "invalid reschedule policy: sometimes"),
        ({"Env": ["reschedule:off", "reschedule:on-node-failure"]}, "too many reschedule policies"),
        ({"Env": "A=b"}, "Env: expected a list"),
        ({"HostConfig": {"Memory": "1g"}}, "HostConfig.Memory: expected a whole number"),
        ({"Labels": []}, "Labels: expected an object"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(body: dict[str, Any], text: str) -> None:
    pool = Pool()
    with pytest.raises(Refused) as refused:
        pool.create("bad", **body)
    assert isinstance(refused.value.reason, InvalidRequest)
    assert text in str(refused.value.reason)
    assert not pool.objects(NAME)


@pytest.mark.parametrize(
    ("host", "units", "cpus"),
    [
        ({"NanoCpus": 1_500_000_001}, "engine", 1501),
        ({"CpuQuota": 50_000}, "engine", 500),
        ({"CpuQuota": 50_000, "CpuPeriod": 25_000}, "engine", 2000),
        ({"CpuQuota": -1}, "engine", 0),
        ({"CpuShares": 2}, "engine", 0),
        ({"CpuShares": 2}, "shares", 2000),
    ],
)
def test_cpus_are_what_the_engine_limits(host: dict[str, int], units: str, cpus: int) -> None:
    assert resources_of(host, Config(cpu_units=units)).units.get("cpus", 0) == cpus


@pytest.mark.parametrize("units", ["engine", "shares"])
def test_shares_that_are_cpus_are_scaled_by_the_node(units: str) -> None:
    pool = Pool(settings=Config(cpu_units=units))
    task = pool.create("web", HostConfig={"CpuShares": 1})
    payload = pool.cluster.view("swarm").spec(task).payload
    assert (payload["HostConfig"], payload.get("orlop_shares_are_cpus", False)) == ({"CpuShares": 1}, units == "shares")


# When nodes fail


def test_one_that_moves_is_made_again_under_its_key_and_started_if_it_ran() -> None:
    pool = Pool()
    ran, stopped = pool.create("ran", **MOVES), pool.create("stopped", **MOVES)
    pool.cluster.start_task(ran)
    pool.cluster.settle()
    for node in ("n0", "n1"):
        before = {one.key: pool.task(one.key) for one in (ran, stopped)}
        away = [one for one in before.values() if one.node == node]
        assert away
        pool.cluster.lose_node(node)
        pool.cluster.settle()
        for one in away:
            now = pool.task(one.key)
            assert (now.node != node, now.id != one.id, now.name) == (True, True, one.name)
            assert now.state is (TaskState.RUNNING if one.key == ran.key else TaskState.PREPARED)
        pool.cluster.return_node(node)
        pool.cluster.settle()
        live = [task.key for task in pool.cluster.view("swarm").live.values()]
        assert sorted(live) == sorted((ran.key, stopped.key))
    entries = [one for one in pool.cluster.log if one.type == "swarm.rescheduled"]
    assert {one.details["name"] for one in entries} == {"ran", "stopped"}


def test_one_that_moves_leaves_the_home_of_its_network() -> None:
    pool = Pool()
    order = Create(body={"Image": "busybox", **MOVES}, name="web", home="n1")
    key = pool.do(order).key
    assert pool.task(key).node == "n1"
    pool.cluster.lose_node("n1")
    pool.cluster.settle()
    assert (pool.task(key).node, pool.task(key).live) == ("n0", True)


BUILT = Image(id="sha256:0123456789abcdef" + 48 * "0", tags=("built:latest",))


@pytest.mark.parametrize("reference", ["built", "built:latest", "docker.io/library/built", BUILT.id, "0123456789ab"])
def test_one_of_an_image_that_no_registry_has_goes_to_where_that_is_now(reference: str) -> None:
    pool = Pool(nodes=3)
    for name in ("n0", "n1", "n2"):
        pool.cluster.set_facts(name, NodeFacts())
    order = Create(body={**MOVES, "Image": reference}, name="web", having=("n1",))
    key = pool.do(order).key
    assert pool.task(key).node == "n1"
    pool.cluster.lose_node("n1")
    pool.cluster.settle()
    assert pool.task(key).node is None
    assert (f"image {reference} is not there", 2) in [
        row[1:] for row in pool.cluster.explain(pool.task(key)).ruled_out if row[0] == "image"
    ]
    pool.cluster.set_facts("n2", NodeFacts(images={BUILT.id: BUILT}))
    pool.cluster.settle()
    assert pool.task(key).node == "n2"


def test_where_no_facts_are_known_it_goes_to_where_the_image_was() -> None:
    pool = Pool(nodes=3)
    key = pool.do(Create(body={**MOVES, "Image": "built"}, name="web", having=("n1", "n2"))).key
    first = pool.task(key).node
    assert first in ("n1", "n2")
    pool.cluster.lose_node(first)
    pool.cluster.settle()
    assert pool.task(key).node == ({"n1", "n2"} - {first}).pop()


def test_one_without_a_policy_waits_for_its_node() -> None:
    pool = Pool()
    task = pool.create("stays")
    assert task.node is not None
    pool.cluster.start_task(task)
    pool.cluster.lose_node(task.node)
    pool.cluster.settle()
    waiting = pool.task(task.key)
    assert (waiting.id, waiting.live, waiting.unreachable) == (task.id, True, True)
    pool.cluster.return_node(task.node)
    pool.cluster.settle()
    assert not pool.task(task.key).unreachable


def test_what_a_client_removes_does_not_move() -> None:
    pool = Pool()
    task = pool.create("gone", **MOVES)
    pool.cluster.end_task(task, outcome=Outcome.KILLED)
    pool.cluster.settle()
    assert task.key not in pool.cluster.view("swarm").live
    assert not pool.objects(CONTAINER)


def test_a_drained_node_gives_up_what_moves() -> None:
    pool = Pool()
    task = pool.create("moves", **MOVES)
    pool.cluster.start_task(task)
    pool.cluster.settle()
    assert task.node is not None
    pool.cluster.step(DrainNode(node=task.node, drained=True, within_ms=0))
    pool.cluster.advance(1)
    now = pool.task(task.key)
    assert (now.node != task.node, now.state) == (True, TaskState.RUNNING)


@pytest.mark.parametrize("refused", [False, True])
def test_what_a_client_removes_while_its_node_is_drained_stays_removed(refused: bool) -> None:
    """Unless its engine does not remove it."""
    pool = Pool()
    task = pool.create("gone", **MOVES)
    pool.cluster.start_task(task)
    pool.cluster.settle()
    pool.cluster.nodes[task.node or ""].stops = lambda _: False
    pool.cluster.step(DrainNode(node=task.node or "", drained=True, within_ms=0))
    pool.cluster.settle()
    assert stopped_by_drain(pool.task(task.key))
    pool.do(Keep(key=task.key, moves=False))
    with pytest.raises(Refused):
        pool.create("gone")
    if refused:
        pool.do(Keep(key=task.key, moves=True))
    pool.cluster.end_task(pool.task(task.key), outcome=Outcome.KILLED)
    pool.cluster.settle()
    assert (task.key in pool.cluster.view("swarm").live) is refused
    assert bool(pool.objects(CONTAINER)) is bool(pool.objects(NAME)) is refused


def test_one_that_is_moved_is_made_anew_where_it_is_best_and_started_if_it_ran() -> None:
    pool = Pool(nodes=1)
    ran, stopped = pool.create("ran", **MOVES), pool.create("stopped", **MOVES)
    stays, _ = pool.create("stays"), pool.create("stays-too")
    pool.cluster.start_task(ran)
    pool.cluster.add_node("n1", cpus=2, mem="2GiB", runtimes=("docker",))
    pool.cluster.settle()
    for task in (ran, stopped):
        pool.do(Move(key=task.key, task=task.id))
        now = pool.task(task.key)
        assert (now.node != task.node, now.id != task.id, now.name) == (True, True, task.name)
    assert [pool.task(one.key).state for one in (ran, stopped)] == [TaskState.RUNNING, TaskState.PREPARED]
    for key, task_id in ((stays.key, stays.id), (ran.key, ran.id), ("nobody", "")):
        with pytest.raises(Refused):
            pool.do(Move(key=key, task=task_id))
    assert pool.task(stays.key).id == stays.id


def test_one_that_cannot_be_made_again_is_tried_again() -> None:
    pool = Pool()
    task = pool.create("moves", **MOVES)
    assert task.node is not None
    pool.cluster.lose_node(task.node)
    pool.cluster.settle()
    moved = pool.task(task.key)
    pool.cluster.end_task(moved, outcome=Outcome.ERROR, reason="port is already allocated")
    pool.cluster.settle()
    assert pool.task(task.key).state is TaskState.PENDING
    pool.cluster.advance(TRY_AGAIN_AFTER_MS / 1000 + 1)
    assert pool.task(task.key).state is TaskState.PREPARED


@pytest.mark.parametrize("body", [MOVES, {}])
def test_a_client_may_give_up_what_no_engine_can_be_told_of(body: dict[str, Any]) -> None:
    """One that moves waits for another node then, and one that does not for its own."""
    pool = Pool(1)
    task = pool.create("web", **body)
    pool.cluster.start_task(task)
    pool.cluster.settle()
    pool.cluster.lose_node("n0")
    pool.cluster.settle()
    assert pool.task(task.key).live
    with pytest.raises(Refused):
        pool.create("web")
    pool.do(Discard(key=task.key))
    assert task.key not in pool.cluster.view("swarm").live
    assert not pool.objects(NAME)
    pool.cluster.return_node("n0")
    pool.cluster.settle()
    assert not pool.cluster.view("swarm").live
    assert pool.create("web").live


def test_names_are_released_in_their_order() -> None:
    """Not in that of a set, which is another one in each process."""
    pool = Pool()
    released = []
    for number in range(12):
        task = pool.create(f"one{number}")
        pool.do(Reserve(key=task.key, name=f"other{number}"))
        actions = list(Swarm().command(pool.cluster.view("swarm"), Rename(key=task.key, name=f"new{number}")))
        released.append([action.id for action in actions if isinstance(action, Delete) and action.kind == NAME])
    assert released == [[f"one{number}", f"other{number}"] for number in range(12)]
