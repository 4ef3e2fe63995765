"""Nodes that come, or come back, get copies of the pool's networks."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from scripted_engines import Asked, ScriptedPool, ScriptedResponse

from orlop_swarm.engines.interface import EngineUnavailable
from orlop_swarm.http.keeping import NetworkKeeper
from orlop_swarm.merging.copies import HOME_LABEL, NETWORK_LABEL


class Networks:
    """Of scripted engines: node → id → network. removed_meanwhile: names that are gone before they are copied."""

    def __init__(self, *nodes: str) -> None:
        self.held: dict[str, dict[str, dict[str, Any]]] = {node: {} for node in nodes}
        self.pool = ScriptedPool(dict.fromkeys(nodes, self._answer))
        self.heard = {f"id-{node}" for node in nodes}
        self.keeper = NetworkKeeper(self.pool, lambda: self.heard)
        self.removed_meanwhile: set[str] = set()
        self.broken: set[str] = set()

    def add(self, node: str, name: str, **labels: str) -> None:
        self.held[node][f"{node}-{name}"] = {
            "Id": f"{node}-{name}",
            "Name": name,
            "Created": "2026-01-01",
            "Scope": "local",
            "Driver": "bridge",
            "Labels": labels,
        }

    def add_of_pool(self, home: str, name: str, *nodes: str) -> None:
        for node in (home, *nodes):
            self.add(node, name, **{NETWORK_LABEL: f"label-{name}", HOME_LABEL: home, "mine": "yes"})

    async def look(self) -> None:
        """Twice: what may be under way from its client is left alone at first."""
        await self.keeper.look()
        await self.keeper.look()

    def names(self, node: str) -> set[str]:
        return {one["Name"] for one in self.held[node].values()}

    def _answer(self, asked: Asked) -> ScriptedResponse:
        here = self.held[asked.node]
        if asked.node in self.broken:
            raise EngineUnavailable(asked.node, "it has gone away")
        if asked.path == "/networks":
            listed = list(here.values())
            return ScriptedResponse([listed])
        if asked.method == "POST":
            made = {**orjson.loads(asked.body or b""), "Id": f"made-{len(here)}", "Scope": "local"}
            if made["Name"] in self.names(asked.node):
                return ScriptedResponse([{"message": "it exists already"}], 409)
            for node in self.held if made["Name"] in self.removed_meanwhile else ():
                self.held[node].pop(f"{node}-{made['Name']}", None)
            here[made["Id"]] = made
            return ScriptedResponse([{"Id": made["Id"]}], 201)
        network = asked.path.split("/")[2]
        if asked.method == "DELETE":
            del here[network]
            return ScriptedResponse([], 204)
        return ScriptedResponse([here[network]]) if network in here else ScriptedResponse([{"message": "no"}], 404)


async def test_a_node_that_comes_back_gets_what_was_created_meanwhile() -> None:
    engines = Networks("a", "b")
    await engines.look()
    engines.pool.down["b"] = "it burns"
    await engines.look()
    engines.add_of_pool("a", "inner")
    engines.add("a", "bridge")
    engines.add("a", "by hand")
    await engines.look()
    assert engines.names("b") == set()
    engines.pool.down.clear()
    await engines.look()
    (copy,) = engines.held["b"].values()
    assert (copy["Name"], copy["Driver"], copy["Labels"]["mine"]) == ("inner", "bridge", "yes")
    assert copy["Labels"][NETWORK_LABEL] == "label-inner", "it belongs to the others"
    asked = len(engines.pool.asked)
    await engines.look()
    assert len(engines.pool.asked) == asked, "nobody is asked while nothing changes"


async def test_what_may_be_under_way_from_its_client_is_left_alone_at_first() -> None:
    engines = Networks("a", "b")
    engines.add_of_pool("a", "one")
    await engines.keeper.look()
    engines.add_of_pool("a", "two")
    await engines.keeper.look()
    assert engines.names("b") == set()
    await engines.keeper.look()
    assert engines.names("b") == {"one", "two"}


async def test_a_node_that_is_not_heard_of_here_is_left_to_the_server_that_leads() -> None:
    engines = Networks("a", "b")
    engines.add_of_pool("a", "inner")
    engines.heard = set()
    await engines.look()
    assert engines.pool.asked == []
    engines.heard = {"id-a", "id-b"}
    await engines.look()
    assert engines.names("b") == {"inner"}


async def test_what_its_home_does_not_have_is_not_spread() -> None:
    """It was removed while the node with the copy was away, say."""
    engines = Networks("a", "b", "c")
    engines.add_of_pool("a", "gone", "b")
    engines.held["a"].clear()
    await engines.look()
    assert engines.names("c") == set()


async def test_what_is_removed_while_it_is_copied_is_removed_again() -> None:
    engines = Networks("a", "b")
    engines.add_of_pool("a", "inner")
    engines.removed_meanwhile.add("inner")
    await engines.look()
    assert engines.names("a") == engines.names("b") == set()


async def test_an_engine_that_refuses_is_not_asked_again_and_one_that_goes_away_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engines = Networks("a", "b")
    engines.add_of_pool("a", "inner")
    engines.broken.add("b")
    await engines.look()
    engines.broken.clear()
    engines.add("b", "inner")
    await engines.look()
    assert "network inner is not copied to node b: it exists already" in caplog.text
    asked = len(engines.pool.asked)
    await engines.look()
    assert len(engines.pool.asked) == asked
