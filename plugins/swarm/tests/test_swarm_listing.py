"""One list of containers out of many: its order, its bounds, and what is hidden and shown in it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_swarm.engines.interface import EngineNode
from orlop_swarm.http.services import Known
from orlop_swarm.merging.containers import (
    About,
    published_address,
    shown_inspection,
)
from orlop_swarm.merging.filters import BadFilters, Filters
from orlop_swarm.merging.listing import Boundary, Listed, doubtful, listing, lost_rows, nanoseconds

SECOND = 10**9
NODES = [EngineNode(id=f"id-{name}", name=name, address="10.0.0.1") for name in ("alpha", "beta", "gamma")]


def row(identifier: str, moment: int, **more: Any) -> dict[str, Any]:
    return {"Id": identifier, "Names": [f"/{identifier}"], "Created": moment // SECOND, "Labels": {}, **more}


@st.composite
def pools(draw: st.DrawFn) -> list[tuple[EngineNode, str, int]]:
    """Containers with their nodes and exact moments of creation, no two of the same; many within one second."""
    moments = draw(st.lists(st.integers(0, 5 * SECOND - 1), unique=True, max_size=12))
    moments = [moment // SECOND * SECOND + moment % 7 if draw(st.booleans()) else moment for moment in moments]
    return [(draw(st.sampled_from(NODES)), f"c{n}", moment) for n, moment in enumerate(dict.fromkeys(moments))]


def lists_of(pool: list[tuple[EngineNode, str, int]]) -> list[Listed]:
    """As engines list them: each the newest first."""
    newest_first = sorted(pool, key=lambda one: -one[2])
    return [
        Listed(node=node, rows=[row(name, moment) for there, name, moment in newest_first if there == node])
        for node in NODES
    ]


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [one["Id"] for one in rows]


@given(pools(), st.integers(0, 14), st.randoms())
def test_with_all_moments_known_the_order_is_that_of_creation(pool: Any, limit: int, random: Any) -> None:
    lists = lists_of(pool)
    random.shuffle(lists)
    expected = [name for _, name, _ in sorted(pool, key=lambda one: -one[2])]
    moments = {name: moment for _, name, moment in pool}
    assert names(listing(lists, limit=limit, moments=moments)) == (expected[:limit] if limit else expected)


@given(pools(), st.data())
def test_moments_are_asked_for_only_where_they_decide(pool: Any, data: st.DataObject) -> None:
    lists = lists_of(pool)
    limit = data.draw(st.integers(0, 14))
    asked = {name for _, name in doubtful(lists, limit, ())}
    moments = {name: moment for _, name, moment in pool if name in asked}
    expected = [name for _, name, _ in sorted(pool, key=lambda one: -one[2])]
    assert names(listing(lists, limit=limit, moments=moments)) == (expected[:limit] if limit else expected)
    nodes_of_second: dict[int, set[str]] = {}
    for node, _, moment in pool:
        nodes_of_second.setdefault(moment // SECOND, set()).add(node.id)
    assert all(len(nodes_of_second[moment // SECOND]) > 1 for moment in moments.values())


@given(pools(), st.randoms())
def test_without_moments_the_answer_does_not_depend_on_who_answers_first(pool: Any, random: Any) -> None:
    lists = lists_of(pool)
    shuffled = list(lists)
    random.shuffle(shuffled)
    assert listing(lists) == listing(shuffled)
    for node in NODES:
        own = [name for there, name, _ in sorted(pool, key=lambda one: -one[2]) if there == node]
        assert [name for name in names(listing(lists)) if name in own] == own


@given(pools(), st.data())
def test_before_and_since_are_places_in_that_order(pool: Any, data: st.DataObject) -> None:
    if not pool:
        return
    node, name, moment = data.draw(st.sampled_from(pool))
    boundary = Boundary(moment=moment, node=node.id, name=node.name)
    moments = {identifier: at for _, identifier, at in pool}
    expected = [identifier for _, identifier, _ in sorted(pool, key=lambda one: -one[2])]
    at = expected.index(name)
    older, newer = expected[at + 1 :], expected[:at]

    def narrowed(keep: list[str]) -> list[Listed]:
        """The engine that holds the container has done its part."""
        return [
            Listed(node=one.node, rows=[r for r in one.rows if one.node != node or r["Id"] in keep])
            for one in lists_of(pool)
        ]

    assert names(listing(narrowed(older), before=boundary, moments=moments)) == older
    assert names(listing(narrowed(newer), since=boundary, moments=moments)) == newer


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-26T03:07:20.123456789Z", 1795662440 * SECOND + 123456789),
        ("2026-11-26T03:07:20.5Z", 1795662440 * SECOND + 500000000),
        ("2026-11-26T03:07:20Z", 1795662440 * SECOND),
        ("1970-01-01T00:00:00.000000001Z", 1),
    ],
)
def test_moments_keep_their_nanoseconds(text: str, moment: int) -> None:
    assert nanoseconds(text) == moment


def test_rows_are_shown_without_orlops_labels_and_with_their_nodes_address() -> None:
    ports = [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "127.0.0.1", "PrivatePort": 81, "PublicPort": 8081, "Type": "tcp"},
        {"PrivatePort": 82, "Type": "tcp"},
    ]
    raw = row("web", SECOND, Ports=ports, Labels={"orlop.task": "t", "a": "b"})
    raw["Names"] = ["/web", "/other/alias"]
    listed = [Listed(node=NODES[1], rows=[raw], address="10.0.0.9")]
    (shown,) = listing(listed)
    assert shown["Labels"] == {"a": "b"}
    assert shown["Names"] == ["/web", "/other/alias"]
    assert [port.get("IP") for port in shown["Ports"]] == ["10.0.0.9", "127.0.0.1", None]
    assert listing(listed, names="node")[0]["Names"] == ["/beta/web", "/beta/other/alias"]
    assert raw["Labels"] == {"orlop.task": "t", "a": "b"}, "what was given stays as it was"


@pytest.mark.parametrize(
    ("address", "nodes", "shown"),
    [("10.0.0.1", 1, "10.0.0.1"), ("10.0.0.1", 2, "10.0.0.1"), ("127.0.0.1", 1, ""), ("127.0.0.1", 2, "127.0.0.1")],
)
def test_one_node_that_is_here_shows_its_ports_as_an_engine_does(address: str, nodes: int, shown: str) -> None:
    assert published_address(EngineNode(id="1", name="n", address=address), nodes) == shown


def test_an_inspection_keeps_all_that_the_engine_says() -> None:
    body = {
        "Id": "1",
        "Unknown": {"kept": [1]},
        "Config": {"Labels": {"orlop.node": "x", "com.docker.swarm.id": "y"}, "Image": "busybox"},
        "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "::", "HostPort": "1"}], "81/tcp": None}, "Bridge": ""},
    }
    shown = shown_inspection(
        body, node=NODES[0], about=About(cpus=4, memory=5, labels=("rack=r1", "bare")), address="10.0.0.1"
    )
    assert shown["Unknown"] == {"kept": [1]}
    assert shown["Config"] == {"Labels": {"com.docker.swarm.id": "y"}, "Image": "busybox"}
    assert shown["NetworkSettings"] == {
        "Ports": {"80/tcp": [{"HostIp": "10.0.0.1", "HostPort": "1"}], "81/tcp": None},
        "Bridge": "",
    }
    assert shown["Node"] == {
        "ID": "id-alpha", "IP": "10.0.0.1", "Addr": "10.0.0.1", "Name": "alpha", "Cpus": 4, "Memory": 5,
        "Labels": {"rack": "r1", "bare": ""},
    }  # fmt: skip


def test_containers_without_labels_or_ports_are_shown_as_they_are() -> None:
    body = {"Id": "1", "Config": {"Labels": None}, "NetworkSettings": {"Ports": None}}
    shown = shown_inspection(body, node=NODES[0], about=About(), address="10.0.0.1")
    assert shown["Config"] == {"Labels": None}
    assert shown["NetworkSettings"] == {"Ports": None}


@pytest.mark.parametrize("text", ["nonsense", "{} x", '{"a": NaN}', "[]", "1", '{"a": 1}', '{"a": "b"}',
                                  '{"a": [1]}', '{"a": {"b": 1}}', '{"a": ["b"], "c": {"d": true}}'])  # fmt: skip
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(BadFilters):
        Filters.parse(text)


def test_both_forms_of_filters_are_read() -> None:
    assert Filters.parse('{"name": ["a", "b"]}').values == {"name": ("a", "b")}
    assert Filters.parse('{"name": {"a": true, "b": false}}').values == {"name": ("a",)}
    for nothing in ("", "null", "{}"):
        assert Filters.parse(nothing).values == {}
    assert Filters.parse('{"a": null, "b": [null, "\\ud800c"]}').values == {"a": (), "b": ("", "\ufffdc")}
    both = Filters.parse('{"name": ["a"], "node": ["n1"]}')
    assert both.without({"node"}) == '{"name":["a"]}'
    assert both.without({"node", "name"}) == ""


@pytest.mark.parametrize(
    ("value", "passes"),
    [("alpha", True), ("id-alpha", True), ("al", True), ("^l", False), ("[", False), ("beta", False)],
)
def test_nodes_are_chosen_by_name_id_or_expression(value: str, passes: bool) -> None:
    assert Filters({"node": (value,)}).chooses("alpha", "id-alpha") is passes


@pytest.mark.parametrize("value", ["(a*)*b", "(a|a)*b", "(?:" * 6 + "a?" + "){9}" * 6 + "b"])
def test_no_expression_takes_for_ever(value: str) -> None:
    """A backtracking engine does not come back from these."""
    assert not Filters({"node": (value,)}).chooses("a" * 1_000, "a" * 60)


LOST = Known(
    id="ab" * 32, name="web", node="id-beta", image="busybox:latest", image_id="sha256:1", created=7, state="running",
    labels={"tier": "front", "orlop.task": "t"}, command="sleep 1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        ({}, True),
        ({"id": ("abab",)}, True),
        ({"id": ("cd",)}, False),
        ({"name": ("^we",)}, True),
        ({"name": ("^/web$",)}, True),
        ({"name": ("other", "web")}, True),
        ({"name": ("other",)}, False),
        ({"label": ("tier",)}, True),
        ({"label": ("tier=front",)}, True),
        ({"label": ("tier=back",)}, False),
        ({"label": ("tier", "absent")}, False),
        ({"status": ("running",)}, True),
        ({"status": ("exited",)}, False),
        ({"ancestor": ("busybox",)}, True),
        ({"ancestor": ("alpine",)}, False),
        ({"node": ("beta",)}, True),
        ({"node": ("alpha",)}, False),
        ({"volume": ("v",)}, False),
    ],
)
def test_containers_out_of_reach_pass_the_filters_that_can_be_judged(filters: Any, shown: bool) -> None:
    rows = lost_rows([LOST], {node.id: node for node in NODES}, Filters(filters))
    assert bool(rows) is shown


def test_containers_out_of_reach_are_told_to_be_on_a_host_that_is_down() -> None:
    lost = lost_rows([LOST], {node.id: node for node in NODES}, Filters({}))
    (first, second) = listing([Listed(node=NODES[0], rows=[row("new", 9 * SECOND)])], lost)
    assert first["Id"] == "new"
    assert second["Status"] == "Host Down"
    assert second["State"] == "running"
    assert second["Labels"] == {"tier": "front"}
    assert second["Names"] == ["/web"]
