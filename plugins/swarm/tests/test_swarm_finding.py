"""Owners and versions, on engines that are scripted: bounds of memory, engines that are away or of other versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

import attrs
import orjson
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from orlop.docker_containers import TASK_LABEL
from orlop_swarm.engines.interface import EngineNode, EngineUnavailable, Upgraded
from orlop_swarm.http.finding import SWARM_ID, Owners
from orlop_swarm.http.looking import Looking
from orlop_swarm.http.problems import NodeAway, NotFound, Problem
from orlop_swarm.http.services import Known
from orlop_swarm.http.versions import FRESH_S, RETRY_S, Spoken, Versions, common


@attrs.define
class ScriptedResponse:
    status: int
    body: bytes
    headers: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
    reason: str = ""

    async def read(self, limit: int = 2**20) -> bytes:
        return self.body

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self.body

    async def close(self) -> None:
        return None


class ScriptedEngine:
    """Holds containers (id → name); counts what it is asked."""

    def __init__(self, name: str, held: Mapping[str, str] | None = None) -> None:
        self.node = EngineNode(id=f"id-{name}", name=name, address="10.0.0.1")
        self.held = dict(held or {})
        self.away = False
        self.oldest = self.newest = ""
        self.labels: dict[str, str] = {}
        self.asked: list[str] = []
        self.version = {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10", "Os": "linux"}

    async def request(self, method: str, path: str, **options: Any) -> ScriptedResponse:
        self.asked.append(path)
        await asyncio.sleep(0)
        if self.away:
            raise EngineUnavailable(self.node.name, "it is away")
        if path == "/version":
            return ScriptedResponse(200, orjson.dumps(self.version))
        if path == "/info":
            return ScriptedResponse(200, orjson.dumps({"NCPU": 2, "MemTotal": 3, "Labels": ["a=b"]}))
        if path == "/_ping":
            return ScriptedResponse(200, b"OK")
        if path == "/containers/json":
            return ScriptedResponse(200, b"[]")
        reference = path.split("/")[2]
        exact = [one for one, name in self.held.items() if reference in (one, name)]
        found = exact or [one for one in self.held if one.startswith(reference)]
        if len(found) > 1:
            message = f"Multiple IDs found with provided prefix: {reference}"
            return ScriptedResponse(500, orjson.dumps({"message": message}))
        if not found:
            return ScriptedResponse(404, orjson.dumps({"message": f"No such container: {reference}"}))
        body: dict[str, Any] = {"Id": found[0], "Name": f"/{self.held[found[0]]}", "Created": "2026-11-26T03:07:20.5Z"}
        body["Config"] = {"Labels": self.labels}
        return ScriptedResponse(200, orjson.dumps(body))

    async def upgrade(self, method: str, path: str, **options: Any) -> Upgraded:
        raise AssertionError("nobody asks for it")


class ScriptedPool:
    def __init__(self, *engines: ScriptedEngine) -> None:
        self._engines = engines
        self.down: dict[str, str] = {}

    def nodes(self) -> list[EngineNode]:
        return [attrs.evolve(engine.node, unavailable=self.down.get(engine.node.name, "")) for engine in self._engines]

    def engine(self, node_id: str) -> ScriptedEngine:
        found = next(engine for engine in self._engines if engine.node.id == node_id)
        if reason := self.down.get(found.node.name):
            raise EngineUnavailable(found.node.name, reason)
        return found

    def engines(self) -> list[ScriptedEngine]:
        return [engine for engine in self._engines if engine.node.name not in self.down]


class NothingKnown:
    """old: values of the label `which` of old copies."""

    def __init__(self, *known: Known, old: Collection[str] = ()) -> None:
        self._known = known
        self._old = old

    async def left_behind(self) -> Callable[[str, Mapping[str, str]], bool]:
        return lambda name, labels: labels.get("which", "") in self._old

    async def settled(self, reference: str) -> bool:
        return False

    async def known(self, reference: str) -> Known | None:
        return next((one for one in self._known if reference in (one.id, one.name)), None)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nobody asks for {name}")


def two() -> tuple[ScriptedEngine, ScriptedEngine]:
    return ScriptedEngine("alpha", {"a1" * 32: "one"}), ScriptedEngine("beta", {"b1" * 32: "two"})


async def test_what_was_found_once_is_not_asked_for_again() -> None:
    alpha, beta = two()
    owners = Owners(ScriptedPool(alpha, beta), NothingKnown())
    for reference in ("one", "a1" * 6, "a1" * 32, "/one"):
        owner = await owners.find(reference)
        assert (owner.engine, owner.id) == (alpha, "a1" * 32)
    assert len(alpha.asked) == len(beta.asked) == 1
    assert not (await owners.find("one")).sure
    assert (await owners.find("one", sure=True)).sure
    assert len(alpha.asked) == 2


async def test_a_command_on_a_node_that_is_away_is_not_taken_for_none() -> None:
    alpha, beta = two()
    pool = ScriptedPool(alpha, beta)
    owners = Owners(pool, NothingKnown())
    owners.exec_seen("id-beta", "there")
    pool.down["beta"] = "its engine was killed"
    with pytest.raises(EngineUnavailable, match="the engine of node beta is not available: its engine was killed"):
        await owners.exec("there")
    with pytest.raises(NotFound):
        await owners.exec("nowhere")


async def test_of_a_whole_id_only_its_engine_is_asked_whether_it_is_there_still() -> None:
    alpha, beta = two()
    owners = Owners(ScriptedPool(alpha, beta), NothingKnown())
    await owners.find("one")
    owner = await owners.find("a1" * 32, sure=True)
    assert (owner.engine, owner.id, owner.sure) == (alpha, "a1" * 32, True)
    assert (len(alpha.asked), len(beta.asked)) == (2, 1)
    beta.held["a1" * 32] = alpha.held.pop("a1" * 32)
    assert (await owners.find("a1" * 32, sure=True)).engine is beta


async def test_memory_is_bounded() -> None:
    alpha, beta = two()
    owners = Owners(ScriptedPool(alpha, beta), NothingKnown(), remembered_max=30)
    for number in range(1_000):
        owners.seen("id-alpha", f"{number:064x}", f"name{number}")
        owners.created(f"{number:064x}", "2026-11-26T03:07:20Z")
        owners.exec_seen("id-alpha", str(number))
    assert len(owners._places) == 30
    assert len(owners._names) <= 30
    assert len(owners._moments) == 30
    assert not (await owners.find("name999")).sure
    with pytest.raises(NotFound):
        await owners.find("name1")


async def test_a_container_is_forgotten_with_all_that_it_was_called() -> None:
    alpha, beta = two()
    owners = Owners(ScriptedPool(alpha, beta), NothingKnown())
    for number, forgotten in enumerate((f"{0:064x}", "name1", f"{2:064x}"[:12], f"{3:064x}")):
        container = f"{number:064x}"
        owners.seen("id-alpha", container, f"name{number}")
        owners.seen("id-alpha", container, f"other{number}")
        owners.created(container, "2026-11-26T03:07:20Z")
        owners.forget(forgotten)
        assert not owners._places
        assert not owners._names
        assert not owners._moments


async def test_a_name_that_another_container_has_now_is_not_forgotten() -> None:
    alpha, beta = two()
    owners = Owners(ScriptedPool(alpha, beta), NothingKnown())
    owners.seen("id-alpha", "c1" * 32, "name")
    owners.seen("id-beta", "d1" * 32, "name")
    owners.forget("c1" * 32)
    assert (await owners.find("name")).engine is beta
    assert not beta.asked


async def test_a_node_that_is_down_is_not_believed_to_hold_anything() -> None:
    alpha, beta = two()
    pool = ScriptedPool(alpha, beta)
    owners = Owners(pool, NothingKnown(Known(id="b1" * 32, name="two", node="id-beta")))
    await owners.find("two")
    pool.down["beta"] = "it burns"
    with pytest.raises(Problem, match="Container two is on node beta, which is not available: it burns") as caught:
        await owners.find("two")
    assert caught.value.status == 503
    alpha.held["c1" * 32] = "two"
    assert (await owners.find("two")).engine is alpha


async def test_an_old_copy_is_not_found_and_what_may_move_is_looked_for_each_time() -> None:
    alpha, beta = two()
    alpha.labels = {SWARM_ID: "key", TASK_LABEL: "task", "which": "new"}
    owners = Owners(ScriptedPool(alpha, beta), NothingKnown(old=("old",)))
    assert (await owners.find("one")).engine is alpha
    beta.held, beta.labels = alpha.held, {SWARM_ID: "key", TASK_LABEL: "task", "which": "new"}
    alpha.labels = {SWARM_ID: "key", TASK_LABEL: "task", "which": "old"}
    for reference in ("one", "a1" * 6):
        assert (await owners.find(reference)).engine is beta


async def test_nothing_is_called_by_no_name() -> None:
    owners = Owners(ScriptedPool(*two()), NothingKnown())
    for reference in ("", "/", "alpha/"):
        with pytest.raises(NotFound, match="No such container: "):
            await owners.look(reference)


async def test_an_engine_that_goes_away_while_it_is_asked_hides_nothing_of_the_others() -> None:
    alpha, beta = two()
    beta.away = True
    owners = Owners(ScriptedPool(alpha, beta), NothingKnown())
    assert (await owners.find("one")).engine is alpha
    with pytest.raises(NotFound, match="No such container: two"):
        await owners.find("two")


async def test_what_is_known_on_a_node_that_does_not_answer_is_not_taken_for_nothing() -> None:
    alpha, beta = two()
    alpha.held["b1c2" * 16] = "short"
    owners = Owners(ScriptedPool(alpha, beta), NothingKnown(Known(id="b1" * 32, name="b1c", node="id-beta")))
    beta.away = True
    for reference in ("b1c", "b1" * 32):
        for sure in (False, True):
            with pytest.raises(NodeAway, match=f"Container {reference} is on node beta, .*: it is away") as caught:
                await owners.find(reference, sure=sure)
            assert caught.value.status == 503
    assert (await owners.find("b1c2" * 16)).engine is alpha, "a whole id has no other"
    assert (await owners.find("short")).engine is alpha
    with pytest.raises(NotFound):
        await owners.find("nobody")
    beta.away = False
    assert (await owners.find("b1" * 32)).engine is beta


async def test_a_prefix_may_be_that_of_one_that_does_not_answer() -> None:
    alpha, beta = two()
    alpha.held["b1b1c2c2" * 8] = "short"

    class Known64(NothingKnown):
        async def known(self, reference: str) -> Known | None:
            return Known(id="b1" * 32, name="two", node="id-beta") if reference == "b1b1" else None

    owners = Owners(ScriptedPool(alpha, beta), Known64())
    beta.away = True
    with pytest.raises(Problem, match="Multiple IDs found with provided prefix: b1b1"):
        await owners.find("b1b1")
    assert (await owners.find("b1b1c2")).engine is alpha


async def test_one_that_the_kernel_does_not_know_is_where_it_was_seen() -> None:
    alpha, beta = two()
    owners = Owners(ScriptedPool(alpha, beta), NothingKnown())
    await owners.find("two")
    beta.away = True
    for _ in range(2):
        with pytest.raises(NodeAway, match="Container two is on node beta"):
            await owners.find("two", sure=True)


async def test_a_name_wins_although_it_begins_ids_of_another_engine() -> None:
    alpha = ScriptedEngine("alpha", {"4f01" * 16: "x", "4f02" * 16: "y"})
    beta = ScriptedEngine("beta", {"ab" * 32: "4f", "4f01abcd" * 8: "z"})
    owners = Owners(ScriptedPool(alpha, beta), NothingKnown())
    assert (await owners.find("4f")).engine is beta
    named = await owners.named("4f")
    assert named is not None
    assert named.engine is beta
    assert await owners.named("4f0") is None
    with pytest.raises(Problem, match="Multiple IDs found with provided prefix: 4f01"):
        await owners.find("4f01")
    assert (await owners.find("4f02")).engine is alpha


@pytest.mark.parametrize(
    ("reference", "status", "message"),
    [
        ("ab", 400, "Multiple IDs found with provided prefix: ab"),
        ("cd", 500, "Multiple IDs found with provided prefix: cd"),
        ("twin", 400, "Container twin is on several nodes: alpha/twin, beta/twin"),
    ],
)
async def test_what_could_be_several_is_refused(reference: str, status: int, message: str) -> None:
    alpha = ScriptedEngine("alpha", {"ab" * 32: "x", "cd" * 32: "y", "cd01" * 16: "z", "11" * 32: "twin"})
    beta = ScriptedEngine("beta", {"ab01" * 16: "w", "22" * 32: "twin"})
    with pytest.raises(Problem) as caught:
        await Owners(ScriptedPool(alpha, beta), NothingKnown()).find(reference)
    assert (caught.value.status, caught.value.message) == (status, message)


async def test_an_id_goes_before_a_name_and_a_name_before_a_prefix() -> None:
    alpha = ScriptedEngine("alpha", {"ab" * 32: "x"})
    beta = ScriptedEngine("beta", {"cd" * 32: "abab", "ef" * 32: "ab" * 32})
    owners = Owners(ScriptedPool(alpha, beta), NothingKnown())
    assert (await owners.find("ab" * 32)).engine is alpha
    assert (await owners.find("abab")).engine is beta
    assert (await owners.find("ababab")).engine is alpha


def spoken(minimum: str, maximum: str) -> Spoken:
    return Spoken(minimum=minimum, maximum=maximum)


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([("1.12", "1.41")], ("1.12", "1.41")),
        ([("1.12", "1.41"), ("1.24", "1.50")], ("1.24", "1.41")),
        ([("1.24", "1.9"), ("1.12", "1.41")], ("1.9", "1.9")),
        ([("1.44", "1.52"), ("1.12", "1.41")], ("1.41", "1.41")),
    ],
)
def test_a_pool_speaks_what_all_its_engines_speak(ranges: Any, expected: tuple[str, str]) -> None:
    both = common(spoken(*one) for one in ranges)
    assert (both.minimum, both.maximum) == expected
    assert common(spoken(*one) for one in reversed(ranges)) == both


async def test_versions_are_asked_for_beside_the_requests_that_need_them() -> None:
    alpha, beta = two()
    now = [0.0]
    versions = Versions(ScriptedPool(alpha, beta), clock=lambda: now[0])
    beta.version["ApiVersion"] = "1.50"
    assert (await versions.spoken()).maximum == "1.41"
    assert versions.about("id-beta").cpus == 2
    assert alpha.asked.count("/version") == 1
    await versions.spoken()
    assert alpha.asked.count("/version") == 1
    alpha.version["ApiVersion"] = "1.44"
    now[0] += FRESH_S + 1
    assert (await versions.spoken()).maximum == "1.41", "nobody waits for the answer"
    for _ in range(20):
        await asyncio.sleep(0)
    assert (await versions.spoken()).maximum == "1.44"
    assert alpha.asked.count("/version") == 2


async def test_an_engine_that_has_been_replaced_by_another_version_is_asked_at_once() -> None:
    alpha, beta = two()
    versions = Versions(ScriptedPool(alpha, beta), clock=lambda: 0.0)
    await versions.spoken()
    assert beta.oldest == "1.12"
    beta.version |= {"ApiVersion": "1.54", "MinAPIVersion": "1.40"}
    assert (await versions.spoken()).minimum == "1.12", "nobody has heard of it"
    beta.newest = "1.54"
    for _ in range(2):
        assert (await versions.spoken()).minimum == "1.40"
        assert beta.oldest == "1.40"
        assert [engine.asked.count("/version") for engine in (alpha, beta)] == [1, 2]


async def test_an_engine_that_does_not_say_its_version_does_not_hold_up_the_others() -> None:
    alpha, beta = two()
    beta.away = True
    now = [0.0]
    versions = Versions(ScriptedPool(alpha, beta), clock=lambda: now[0])
    for _ in range(3):
        assert (await versions.spoken()).maximum == "1.41"
    asked = len(beta.asked)
    beta.away = False
    beta.version["ApiVersion"] = "1.40"
    assert (await versions.spoken()).maximum == "1.41"
    assert len(beta.asked) == asked
    now[0] += RETRY_S
    assert (await versions.spoken()).maximum == "1.40"


@pytest.mark.parametrize(
    ("reference", "node"),
    [("web", "a"), ("abc1", "a"), ("abd", "b"), ("nothing", ""), ("", ""), ("ab", None), ("fe", None), ("abc", "b")],
)
async def test_what_a_container_depends_on_is_one_in_the_whole_pool(reference: str, node: str | None) -> None:
    """`ab` is unique on one engine alone, `fe` on each, and `abc` is a name on one and begins ids on the other."""
    engines = (
        ScriptedEngine("a", {"abc1": "web", "abc2": "db", "fe1": "one"}),
        ScriptedEngine("b", {"abd1": "abc", "fe2": "two"}),
    )
    needed = Looking().dependencies(engines, {"HostConfig": {"NetworkMode": f"container:{reference}"}})
    if node is not None:
        assert await needed == node
        return
    with pytest.raises(Problem, match=f"Multiple IDs found with provided prefix: {reference}"):
        await needed
