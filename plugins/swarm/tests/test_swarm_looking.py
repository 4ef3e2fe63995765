"""What engines are asked before a container is made, and what they need not be asked again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
from scripted_engines import Asked, ScriptedPool, ScriptedResponse
from test_swarm_fan_out import serving

from orlop_swarm.http.kernel import KernelContainers
from orlop_swarm.http.looking import Looking
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.remembering import BELIEVED_S, Everywhere
from orlop_swarm.http.services import SERVICES, Created, Creation
from orlop_swarm.orders import Create
from orlop_swarm.settings import Config


class Images:
    """Of scripted engines: node → reference → id. pool: of these engines."""

    def __init__(self, held: Mapping[str, Mapping[str, str]]) -> None:
        self.held = {node: dict(images) for node, images in held.items()}
        self.pool = ScriptedPool(dict.fromkeys(held, self._answer))

    def _answer(self, asked: Asked) -> ScriptedResponse:
        if asked.method != "GET":
            return ScriptedResponse([[]])
        reference = asked.path.split("/")[2]
        if reference in self.held[asked.node]:
            return ScriptedResponse([{"Id": self.held[asked.node][reference], "RepoDigests": []}])
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


class Asking(KernelContainers):
    """Its kernel's nodes say what engines say. made: the orders, as they came. missing: what is not
    there, in an engine's words."""

    def __init__(self, engines: Images, looking: Looking) -> None:
        super().__init__(cast("Any", None), engines.pool, looking, Config())
        self.made: list[Create] = []
        self.missing = ""
        self._images = engines

    async def _make(self, order: Create) -> Created:
        self.made.append(order)
        node = (order.nodes or ("b",))[0]
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
    assert [order.nodes for order in asking.made] == [(), (), ("a",)]


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
