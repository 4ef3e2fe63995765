"""What engines are asked before a container is made, and what they need not be asked again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import attrs
import pytest
from scripted_engines import Asked, ScriptedPool, ScriptedResponse
from test_swarm_fan_out import serving

from orlop_swarm.engines.answers import told
from orlop_swarm.engines.interface import EngineUnavailable
from orlop_swarm.http import volume_places
from orlop_swarm.http.creating import Creating
from orlop_swarm.http.looking import Holders, Looking
from orlop_swarm.http.ordering import Ordering
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.remembering import BELIEVED_S, Everywhere
from orlop_swarm.http.services import SERVICES, Created, Creation
from orlop_swarm.http.volume_places import VolumePlaces
from orlop_swarm.merging.copies import HOME_LABEL
from orlop_swarm.orders import Create
from orlop_swarm.settings import Config


class Images:
    """Of scripted engines: node → reference → id. pool: of these engines. named: node → when its images got names.
    more: node → further members of its images."""

    def __init__(
        self,
        held: Mapping[str, Mapping[str, str]],
        named: Mapping[str, str] | None = None,
        more: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.named = named or {}
        self.more = more or {}
        self.held = {node: dict(images) for node, images in held.items()}
        self.pool = ScriptedPool(dict.fromkeys(held, self._answer))

    def _answer(self, asked: Asked) -> ScriptedResponse:
        if asked.method != "GET":
            return ScriptedResponse([[]])
        reference = asked.path.split("/")[2]
        if reference in self.held[asked.node]:
            metadata = {"LastTagTime": self.named[asked.node]} if asked.node in self.named else {}
            image = {"Id": self.held[asked.node][reference], "RepoDigests": [], "Metadata": metadata}
            return ScriptedResponse([{**image, **self.more.get(asked.node, {})}])
        return ScriptedResponse([{"message": f"No such image: {reference}"}], 404)

    async def look(self, looking: Looking, reference: str = "x", *, anew: bool = False) -> tuple[set[str], int]:
        """Names of the nodes that have it, and how many engines were asked."""
        before = len(self.pool.asked)
        image = await looking.image(self.pool.engines(), reference, anew=anew)
        return set(image.nodes), len(self.pool.asked) - before


async def test_what_all_nodes_have_is_not_asked_again_for_a_while() -> None:
    now = [0.0]
    engines = Images({"a": {"x": "1"}, "b": {"x": "1"}})
    looking = Looking(Everywhere(lambda: now[0]))
    assert await engines.look(looking) == ({"a", "b"}, 2)
    assert await engines.look(looking) == ({"a", "b"}, 0)
    assert await engines.look(looking, anew=True) == ({"a", "b"}, 2)
    now[0] += BELIEVED_S
    assert await engines.look(looking) == ({"a", "b"}, 2)


async def test_what_one_node_lacks_or_has_otherwise_is_asked_each_time() -> None:
    looking = Looking()
    for held in ({"a": {"x": "1"}, "b": {}}, {"a": {"x": "1"}, "b": {"x": "2"}}):
        engines = Images(held)
        nodes = {node for node, images in held.items() if images}
        assert await engines.look(looking) == (nodes, 2)
        assert await engines.look(looking) == (nodes, 2)


@pytest.mark.parametrize(
    ("of_b", "meant"),
    [
        ("2026-11-26T10:00:00.002345678Z", {"b", "c"}),
        ("2026-11-26T09:00:00.5+01:00", {"a"}),
        ("0001-01-01T00:00:00Z", {"a"}),
    ],
)
async def test_a_name_means_the_image_that_has_got_it_last(of_b: str, meant: set[str]) -> None:
    named = {"a": "2026-11-26T10:00:00Z", "b": of_b, "c": "2020-01-01T00:00:00Z"}
    engines = Images({"a": {"x": "1"}, "b": {"x": "2"}, "c": {"x": "2"}}, named)
    assert await engines.look(Looking()) == (meant, 3)


#: As an engine tells of an image, and as one with containerd's store tells of the same image.
CLASSIC: Final = {
    "Created": "2026-11-26T10:00:00.5Z",
    "Os": "linux",
    "Architecture": "amd64",
    "Config": {"Hostname": "", "Cmd": ["sh"], "Env": None, "Labels": None, "ExposedPorts": None},
    "RootFS": {"Type": "layers", "Layers": ["sha256:a", "sha256:b"]},
}
CONTAINERD: Final = {
    **CLASSIC,
    "Config": {"Cmd": ["sh"], "Env": [], "Labels": {}},
    "RepoDigests": ["x@2"],
}


@pytest.mark.parametrize(
    ("changes", "meant"),
    [
        ({}, {"a", "b"}),
        ({"Created": "2026-11-26T10:00:00.6Z"}, {"b"}),
        ({"RootFS": {"Layers": ["sha256:a"]}}, {"b"}),
        ({"Config": {"Cmd": ["true"]}}, {"b"}),
        ({"Architecture": "arm64"}, {"b"}),
        ({"RootFS": {}}, {"b"}),
    ],
)
async def test_an_image_is_the_same_by_what_it_is_made_of(changes: Mapping[str, Any], meant: set[str]) -> None:
    named = {"a": "2026-11-26T10:00:00Z", "b": "2026-11-26T11:00:00Z"}
    engines = Images({"a": {"x": "1"}, "b": {"x": "2"}}, named, {"a": CLASSIC, "b": {**CONTAINERD, **changes}})
    looking = Looking()
    assert await engines.look(looking) == (meant, 2)
    assert await engines.look(looking) == (meant, 0 if meant == {"a", "b"} else 2)


@pytest.mark.parametrize(
    ("more", "registry"),
    [
        ({}, False),
        ({"RepoDigests": ["x@3"]}, True),
        ({"RepoDigests": ["x@1"]}, False),
        ({"RepoDigests": ["x@1", "y@3"]}, True),
        ({"RepoDigests": ["x@1"], "Identity": {"Build": [{"Ref": "r"}]}}, False),
        ({"RepoDigests": ["x@1"], "Identity": {"Pull": [{"Repository": "docker.io/library/x"}]}}, True),
    ],
)
async def test_what_was_built_here_is_in_no_registry(more: Mapping[str, Any], registry: bool) -> None:
    engines = Images({"a": {"x": "1"}}, more={"a": more})
    image = await Looking().image(engines.pool.engines(), "x")
    assert image.registry is registry


async def test_a_node_that_has_come_is_asked() -> None:
    looking = Looking()
    await Images({"a": {"x": "1"}}).look(looking)
    assert await Images({"a": {"x": "1"}, "b": {}}).look(looking) == ({"a"}, 2)


async def test_what_was_asked_before_a_change_is_not_believed_after_it() -> None:
    images = Everywhere(lambda: 0.0)
    asked_at = images.changes
    images.forget()
    images.told("x", frozenset("a"), asked_at)
    assert not images.has("x", frozenset("a"))
    images.told("x", frozenset("a"), images.changes)
    assert images.has("x", frozenset("a"))


@pytest.mark.parametrize(
    ("method", "path", "forgotten"),
    [
        ("DELETE", "/images/x", True),
        ("POST", "/v1.41/images/x/tag?repo=y", True),
        ("POST", "/v1.41/build", True),
        ("GET", "/images/json", False),
        ("POST", "/networks/prune", False),
    ],
)
async def test_what_changes_images_through_the_pool_ends_the_belief(method: str, path: str, forgotten: bool) -> None:
    engines = Images({"a": {"x": "1"}})
    async with serving(engines.pool) as client:
        assert client.app is not None
        images = client.app[SERVICES].images
        images.told("x", frozenset("a"), images.changes)
        await (await client.request(method, path)).read()
        assert images.has("x", frozenset("a")) is not forgotten


NETWORK = {"Scope": "local", "Labels": {HOME_LABEL: "a"}}


@pytest.mark.parametrize(
    ("networks", "volumes", "found"),
    [
        ({}, {}, Holders(nodes=None, for_good=False)),
        ({"a": NETWORK, "b": NETWORK}, {}, Holders(nodes=frozenset("a"), for_good=False)),
        ({"a": NETWORK}, {}, Holders(nodes=frozenset("a"), for_good=True)),
        ({"a": NETWORK, "b": NETWORK}, {"a": {"Scope": "local"}}, Holders(nodes=frozenset("a"), for_good=True)),
    ],
    ids=["nothing", "a network with copies", "a network of one node", "a volume, too"],
)
async def test_only_copies_of_a_network_are_on_other_nodes(
    networks: dict[str, Any], volumes: dict[str, Any], found: Holders
) -> None:
    def respond(asked: Asked) -> ScriptedResponse:
        held = networks if asked.path.startswith("/networks") else volumes
        there = held.get(asked.node)
        return ScriptedResponse([there]) if there else ScriptedResponse([{"message": "not found"}], 404)

    pool = ScriptedPool(dict.fromkeys("ab", respond))
    body = {"HostConfig": {"NetworkMode": "n", "Binds": ["v:/v"]}}
    unknown = () if volumes else ("v",)
    assert await Looking().holders(pool.engines(), body) == attrs.evolve(found, unknown=unknown)


@pytest.mark.parametrize(
    "host",
    [
        {"Binds": ["v:/v"], "VolumeDriver": "shared"},
        {"Mounts": [{"Type": "volume", "Source": "v", "VolumeOptions": {"DriverConfig": {"Name": "shared"}}}]},
        {"Binds": ["/v:/v"]},
    ],
)
async def test_a_volume_of_another_driver_may_span_nodes(host: dict[str, Any]) -> None:
    pool = ScriptedPool(dict.fromkeys("ab", lambda _: ScriptedResponse([{"message": "not found"}], 404)))
    assert (await Looking().holders(pool.engines(), {"HostConfig": host})).unknown == ()


async def test_the_volumes_of_a_node_that_goes_away_are_remembered() -> None:
    now, there = [0.0], {"a": {"v": "local", "s": "shared"}, "b": {"w": "local"}}

    def respond(asked: Asked) -> ScriptedResponse:
        if asked.node not in there:
            raise EngineUnavailable(asked.node, "it has gone away")
        volumes = [{"Name": name, "Driver": driver} for name, driver in there[asked.node].items()]
        return ScriptedResponse([{"Volumes": volumes}])

    pool = ScriptedPool(dict.fromkeys("ab", respond))
    places = VolumePlaces(lambda: now[0])
    await places.look(pool)
    assert [places.nodes(name) for name in ("v", "w", "s")] == [["id-a"], ["id-b"], []]
    asked = len(pool.asked)
    await places.look(pool)
    assert len(pool.asked) == asked, "that was a moment ago"
    del there["a"]
    there["b"] = {"x": "local"}
    now[0] += volume_places.BELIEVED_S
    await places.look(pool)
    assert [places.nodes(name) for name in ("v", "w", "x")] == [["id-a"], [], ["id-b"]]
    places.noted("id-b", "new")
    assert places.nodes("new") == ["id-b"]


async def test_a_volume_that_is_noted_while_its_engine_lists_others_is_remembered() -> None:
    now, there = [0.0], ["old"]

    def respond(asked: Asked) -> ScriptedResponse:
        listed = ScriptedResponse([{"Volumes": [{"Name": name, "Driver": "local"} for name in there]}])
        if there == ["old"]:
            places.noted("id-a", "new")
        return listed

    pool = ScriptedPool({"a": respond})
    places = VolumePlaces(lambda: now[0])
    await places.look(pool)
    assert [places.nodes(name) for name in ("old", "new")] == [["id-a"], ["id-a"]]
    there.clear()
    now[0] += volume_places.BELIEVED_S
    await places.look(pool)
    assert [places.nodes(name) for name in ("old", "new")] == [[], []], "the engine knows better by now"


async def test_what_answers_in_the_place_of_an_engine_spoils_nothing_for_the_others() -> None:
    def respond(asked: Asked) -> ScriptedResponse:
        if asked.node == "a":
            return ScriptedResponse([b"<html>Bad Gateway"], 502)
        return ScriptedResponse([{"Volumes": [{"Name": "v", "Driver": "local"}], "Id": "c" * 64, "Name": "/c"}])

    pool = ScriptedPool(dict.fromkeys("ab", respond))
    places = VolumePlaces()
    await places.look(pool)
    assert places.nodes("v") == ["id-b"]
    with pytest.raises(EngineUnavailable, match="status 502 and something that is no JSON"):
        await told(pool.engine("id-a"), "/volumes")
    assert (await told(pool.engine("id-b"), "/volumes"))[0] == 200


class Asking(Creating):
    """Its kernel's nodes say what engines say. made: the orders, as they came. missing: what is not
    there, in an engine's words."""

    def __init__(self, engines: Images, looking: Looking) -> None:
        super().__init__(cast("Any", None), engines.pool, looking, Config(), Ordering(cast("Any", None), engines.pool))
        self.made: list[Create] = []
        self.missing = ""
        self._images = engines

    async def _make(self, order: Create) -> Created:
        self.made.append(order)
        node = (order.having or ("b",))[0]
        if self.missing:
            raise Problem(404, self.missing)
        if order.body["Image"] not in self._images.held[node]:
            raise Problem(404, f"No such image: {order.body['Image']}")
        return Created(id="1", node=node, name="n")


async def test_an_image_that_has_gone_meanwhile_is_looked_for_and_found_elsewhere() -> None:
    engines = Images({"a": {"x": "1"}, "b": {"x": "1"}})
    asking = Asking(engines, Looking())
    await asking.create(Creation(body={"Image": "x"}))
    del engines.held["b"]["x"]
    assert (await asking.create(Creation(body={"Image": "x"}))).node == "a"
    assert [order.having for order in asking.made] == [(), (), ("a",)]


async def test_an_image_that_has_gone_everywhere_is_refused_as_by_one_engine() -> None:
    engines = Images({"a": {"x": "1"}, "b": {"x": "1"}})
    asking = Asking(engines, Looking())
    await asking.create(Creation(body={"Image": "x"}))
    engines.held = {"a": {}, "b": {}}
    with pytest.raises(Problem, match="No such image: x") as refused:
        await asking.create(Creation(body={"Image": "x"}))
    assert refused.value.status == 404


async def test_what_else_is_not_there_is_not_tried_again() -> None:
    engines = Images({"a": {"x": "1"}, "b": {"x": "1"}})
    asking = Asking(engines, Looking())
    await asking.create(Creation(body={"Image": "x"}))
    asking.missing = "No such network: n"
    with pytest.raises(Problem, match="No such network: n"):
        await asking.create(Creation(body={"Image": "x"}))
    assert len(asking.made) == 2
