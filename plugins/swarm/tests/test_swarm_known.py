"""What is known of containers without their engines: which one is meant, what it is called, how it is shown."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
from scripted_engines import Asked, Script, ScriptedPool, ScriptedResponse
from test_swarm_framework import MOVES, Pool
from test_swarm_switching import Kernel

from orlop.docker_containers import TASK_LABEL
from orlop.framework import Task
from orlop.kernel.events import AgentStatuses
from orlop_swarm.asking import ID_LABEL
from orlop_swarm.engines.interface import EngineNode, EngineUnavailable
from orlop_swarm.http.kernel_containers import KernelContainers
from orlop_swarm.http.known import known, meant, on_nodes
from orlop_swarm.http.looking import Looking
from orlop_swarm.http.ordering import Ordering
from orlop_swarm.http.problems import Problem
from orlop_swarm.merging.remembered import NEVER, inspection
from orlop_swarm.orders import Conflict, Discard, Rename, Reserve
from orlop_swarm.settings import Config


def made(pool: Pool, name: str, container: str, **body: Any) -> Task:
    """A container that its engine calls by this id."""
    task = pool.create(name, **body)
    status = attrs.evolve(task.status, external_id=container, sequence=task.status.sequence + 1)
    pool.cluster.step(AgentStatuses(session=f"session-{task.node}", node=task.node or "", statuses=(status,)))
    return pool.task(task.key)


def found(pool: Pool, reference: str) -> str | None:
    """The key of what is meant."""
    task = meant(reference, pool.cluster.view("swarm"))
    return task.key if task is not None else None


def test_a_renamed_container_is_found_and_listed_by_its_new_name() -> None:
    pool = Pool()
    task = made(pool, "old", "ab" * 32)
    pool.do(Reserve(key=task.key, name="new"))
    pool.do(Rename(key=task.key, name="new"))
    view = pool.cluster.view("swarm")
    assert (found(pool, "new"), found(pool, "old")) == (task.key, None)
    assert known(task, view).name == "new"
    assert [one.name for one in on_nodes({task.node or ""}, view)] == ["new"]


def test_one_is_meant_by_its_name_its_swarm_id_its_id_and_prefixes() -> None:
    pool = Pool()
    task, other = made(pool, "web", "abc0" + "1" * 60), made(pool, "abc", "abc0" + "2" * 60)
    for reference in ("web", task.key, task.key[:20], "abc0" + "1" * 60, "abc01"):
        assert found(pool, reference) == task.key
    assert found(pool, "abc") == other.key, "a name goes before a prefix"
    for reference in ("ab", "nobody", "/web", "abc03"):
        assert found(pool, reference) is None
    labelled = made(pool, "own", "e" * 64, Labels={ID_LABEL: "mine"})
    assert found(pool, "mine") == labelled.key


def test_an_inspection_without_the_engine_tells_what_was_asked_for_and_how_it_was_last_seen() -> None:
    pool = Pool(1)
    task = pool.create(
        "web",
        Cmd=["sleep", "7"],
        Entrypoint="/entry",
        Hostname="as asked",
        Env=["A=b", "constraint:node==n0"],
        HostConfig={"Memory": 64},
        NetworkingConfig={"EndpointsConfig": {"net": {"Aliases": ["w"]}}},
    )
    pool.cluster.start_task(task)
    pool.cluster.stop_task(pool.task(task.key), code=3)
    view = pool.cluster.view("swarm")
    one = attrs.evolve(known(pool.task(task.key), view), id="ab" * 32)
    shown = inspection(one, "it burns")
    assert (shown["Id"], shown["Name"], shown["Path"], shown["Args"]) == ("ab" * 32, "/web", "/entry", ["sleep", "7"])
    assert (shown["Config"]["Image"], shown["Config"]["Env"]) == ("busybox", ["A=b"])
    assert (shown["Config"]["Tty"], shown["Config"]["Hostname"]) == (False, "as asked"), "clients look at these"
    assert not shown["Config"].keys() & {"HostConfig", "NetworkingConfig", "orlop_name"}
    assert shown["HostConfig"] == {"Memory": 64}
    assert shown["NetworkSettings"]["Networks"] == {"net": {"Aliases": ["w"]}}
    state = shown["State"]
    assert (state["Status"], state["Running"], state["ExitCode"]) == ("exited", False, 3)
    assert (state["StartedAt"], state["Error"]) == (NEVER, "Host Down: it burns")
    shown = inspection(attrs.evolve(one, state="running", since_ms=1_764_000_000_250), "it burns")
    assert (shown["State"]["Running"], shown["State"]["StartedAt"]) == (True, "2025-11-24T16:00:00.250Z")
    assert inspection(attrs.evolve(one, body={}), "it burns")["Path"] == ""


def test_a_prefix_of_several_is_refused() -> None:
    pool = Pool()
    made(pool, "one", "abc0" + "1" * 60)
    made(pool, "two", "abc0" + "2" * 60)
    with pytest.raises(Problem, match="Multiple IDs found with provided prefix: abc0") as caught:
        found(pool, "abc0")
    assert caught.value.status == 400


def test_what_is_not_made_yet_is_listed_nowhere() -> None:
    pool = Pool(1)
    pool.create("web")
    assert list(on_nodes({"n0"}, pool.cluster.view("swarm"))) == []


async def test_one_that_was_just_made_is_known_before_its_id_is_written() -> None:
    pool = Pool()
    just, before = pool.create("just"), made(pool, "before", "b" * 64)
    containers = KernelContainers(cast("Any", Kernel(pool)), ScriptedPool({}), Looking(), Config())
    containers._ordering.made("a" * 64, just.key)
    for container, key in (("b" * 64, before.key), ("a" * 64, just.key), ("c" * 64, None), ("a" * 64, just.key)):
        assert await containers._ordering.key(container) == key


async def test_what_depends_on_a_container_of_a_node_that_is_away_is_told_so() -> None:
    pool = Pool(1)
    made(pool, "db", "ab" * 32)
    engines = ScriptedPool({"n0": lambda asked: ScriptedResponse([])})
    engines.nodes = lambda: [EngineNode(id="n0", name="n0", address="", unavailable="it is away")]  # type: ignore[method-assign]
    containers = KernelContainers(cast("Any", Kernel(pool)), engines, Looking(), Config())
    for reference in ("db", "/db", "ab" * 32, "abab"):
        with pytest.raises(Problem, match="is on node n0, which is not available: it is away") as caught:
            await containers._creating._refuse_away_from([reference])
        assert caught.value.status == 503
    await containers._creating._refuse_away_from(["nobody"])


class Holding(Kernel):
    """With the tasks that nodes hold, of every framework. others: ids of those of other frameworks."""

    others: tuple[str, ...] = ()

    def candidates(self) -> list[Any]:
        state = self._cluster.state
        held = [state.candidate(node.id) for node in state.nodes()]
        return [*held, SimpleNamespace(tasks=dict(enumerate(self.others)))]


async def is_left_behind(pool: Pool, name: str, task: str, others: tuple[str, ...] = (), swarm_id: str = "") -> bool:
    """Of a container with this name and these labels."""
    kernel = Holding(pool)
    kernel.others = others
    containers = KernelContainers(cast("Any", kernel), ScriptedPool({}), Looking(), Config())
    labels = {TASK_LABEL: task, ID_LABEL: swarm_id} if task else {ID_LABEL: swarm_id}
    return (await containers.left_behind())(name, labels)


async def test_what_has_moved_leaves_an_old_copy_and_an_image_gives_nobody_away() -> None:
    pool = Pool()
    before = made(pool, "web", "a" * 64, **MOVES)
    child = made(pool, "child", "b" * 64)
    assert not await is_left_behind(pool, "web", before.id, swarm_id=before.key)
    pool.cluster.lose_node(before.node or "")
    pool.cluster.settle()
    task = pool.task(before.key)
    assert (task.live, task.id != before.id) == (True, True), "it has moved"
    assert not await is_left_behind(pool, "web", task.id, swarm_id=task.key)
    assert await is_left_behind(pool, "web", before.id, swarm_id=task.key)
    # Their image says whose container it was made of.
    assert not await is_left_behind(pool, "child", child.id, swarm_id=task.key)
    assert not await is_left_behind(pool, "an-old-name", child.id, swarm_id=task.key)
    assert not await is_left_behind(pool, "app", "of-an-app", others=("of-an-app",), swarm_id=task.key)
    assert not await is_left_behind(pool, "foreign", "", swarm_id=task.key)
    assert not await is_left_behind(pool, "foreign", "of-another-cluster")


async def test_what_was_given_up_is_left_behind_once_its_task_has_ended() -> None:
    pool = Pool(1)
    task = made(pool, "web", "a" * 64)
    pool.cluster.lose_node("n0", gone=False)
    assert not await is_left_behind(pool, "web", task.id)
    pool.do(Discard(key=task.key))
    pool.cluster.end_task(task)
    pool.cluster.settle()
    assert await is_left_behind(pool, "web", task.id)


def absent(_: Asked) -> ScriptedResponse:
    return ScriptedResponse([{"message": "No such container"}], 404)


def there(_: Asked) -> ScriptedResponse:
    return ScriptedResponse([{}])


def silent(asked: Asked) -> ScriptedResponse:
    raise EngineUnavailable(asked.node, "it has just gone")


@pytest.mark.parametrize(
    ("container", "answer", "waited_for"), [("", absent, False), ("a" * 64, there, False), ("a" * 64, silent, False),
                                            ("a" * 64, absent, True)],
)  # fmt: skip
async def test_a_name_is_waited_for_only_when_its_holder_has_gone_from_its_engine(
    container: str, answer: Script, waited_for: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """container: the holder's; empty while it is being made."""
    pool = Pool(1)
    task = made(pool, "web", container) if container else pool.create("web")
    engines = ScriptedPool({"n0": answer})
    monkeypatch.setattr(engines, "nodes", lambda: [EngineNode(id=task.node or "", name="n0", address="")])
    ordering = Ordering(cast("Any", Kernel(pool)), engines)
    waited = list[str]()

    async def ended(key: str) -> None:
        waited.append(key)

    monkeypatch.setattr(ordering, "ended", ended)
    conflict = Conflict(name="web", key=task.key, container=container)
    with contextlib.nullcontext() if waited_for else pytest.raises(Problem, match="is already in use") as caught:
        await ordering._until_gone(conflict)
    assert waited == ([task.key] if waited_for else [])
    if caught is not None:
        assert caught.value.status == 409
