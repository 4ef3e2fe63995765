"""Which containers are moved so that nodes are evenly full."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orlop_swarm.balancing import Movable, Move, plan
from orlop_swarm.placement import filters, wanted
from orlop_swarm.placement.places import Container, Place
from orlop_swarm.placement.strategies import Needs

GIB = 2**30
FILTERS = filters.named([name for name in filters.FILTERS if name not in ("health", "dependency")])


def place(name: str, *, used_cpus: int = 0, used_mem: int = 0, **labels: str) -> Place:
    return Place(id=name, name=name, cpus=4_000, mem=4 * GIB, used_cpus=used_cpus, used_mem=used_mem, labels=labels)


NOTHING = Needs()


def movable(name: str, node: str, needs: Needs = NOTHING, *said: str, nodes: frozenset[str] | None = None) -> Movable:
    read = wanted.read({"Env": list(said), "Image": "busybox"})
    container = Container(id=name, names=(name,), labels={"tier": name})
    return Movable(name=name, node=node, container=container, needs=needs, wanted=read, nodes=nodes)


def planned(places: list[Place], ones: list[Movable], **others: int) -> list[Move]:
    held = {node.id: [one.container for one in ones if one.node == node.id] for node in places}
    return plan(places, held, others, ones, FILTERS, said={one.container.id: one.wanted for one in ones})


def test_an_empty_node_gets_its_share() -> None:
    moves = planned([place("n1"), place("n2")], [movable(f"c{number}", "n1") for number in range(5)])
    assert moves == [Move(container=name, source="n1", target="n2") for name in ("c0", "c1")]


def test_even_nodes_stay_as_they_are() -> None:
    assert planned([place("n1"), place("n2")], [movable("a", "n1"), movable("b", "n2"), movable("c", "n1")]) == []


def test_others_tasks_count_and_stay() -> None:
    assert planned([place("n1"), place("n2")], [movable("a", "n1")], n2=3) == []
    assert planned([place("n1"), place("n2")], [movable("a", "n2")], n2=3) == [
        Move(container="a", source="n2", target="n1")
    ]


def test_what_is_taken_of_a_node_counts_before_how_many_there_are() -> None:
    one = Needs(mem=GIB)
    places = [place("n1", used_mem=3 * GIB), place("n2")]
    moves = planned(places, [movable(name, "n1", one) for name in "abc"], n2=20)
    assert moves == [Move(container="a", source="n1", target="n2")]


def test_nothing_moves_to_where_it_does_not_fit() -> None:
    large = Needs(mem=2 * GIB)
    places = [place("n1", used_mem=4 * GIB), place("n2", used_mem=2 * GIB + 1)]
    assert planned(places, [movable("a", "n1", large), movable("b", "n1", large)]) == []


def test_expressions_images_and_neighbours_are_heeded() -> None:
    places = [place("n1", disk="ssd"), place("n2", disk="ssd"), place("n3", disk="tape")]
    apart = movable("apart", "n1", NOTHING, "affinity:tier!=there")
    there = movable("there", "n2")
    fixed = [movable(f"fixed{number}", "n1", NOTHING, "constraint:node==n1") for number in range(3)]
    local = movable("local", "n1", nodes=frozenset(("n1",)))
    fast = movable("fast", "n1", NOTHING, "constraint:disk==ssd")
    moves = planned(places, [apart, there, *fixed, local, fast])
    assert moves == [
        Move(container="apart", source="n1", target="n3"),
        Move(container="fast", source="n1", target="n2"),
    ]


def test_what_others_demand_beside_them_stays_with_them() -> None:
    """`db` has `web` beside it, which has said so; nothing binds the others."""
    ones = [
        movable("db", "n1"),
        movable("web", "n1", NOTHING, "affinity:container==db"),
        movable("x", "n1"),
        movable("y", "n1"),
    ]
    moves = planned([place("n1"), place("n2")], ones)
    assert moves == [Move(container=name, source="n1", target="n2") for name in ("x", "y")]


def test_nothing_moves_to_where_others_do_not_want_it() -> None:
    alone = movable("alone", "n2", NOTHING, "affinity:tier!=/a|b/")
    ones = [movable(name, "n1") for name in ("a", "b", "x", "y", "z")]
    assert planned([place("n1"), place("n2")], [*ones, alone]) == [
        Move(container=name, source="n1", target="n2") for name in ("x", "y")
    ]
    assert planned([place("n1"), place("n2"), place("n3")], [*ones, alone]) == [
        Move(container="a", source="n1", target="n3"),
        Move(container="b", source="n1", target="n3"),
        Move(container="x", source="n1", target="n2"),
    ]


def test_wishes_and_what_is_broken_already_hold_nothing_back() -> None:
    wishes = movable("wishes", "n1", NOTHING, "affinity:container==~db")
    in_vain = movable("in-vain", "n1", NOTHING, "affinity:container==gone", "constraint:node==n1")
    moves = planned([place("n1"), place("n2")], [movable("db", "n1"), wishes, in_vain, movable("x", "n1")])
    assert [one.container for one in moves] == ["db", "wishes"]


def test_an_affinity_of_its_own_label_is_no_others() -> None:
    """Those of one service that demand to be apart: each finds itself on its node."""
    apart = [movable(name, node, NOTHING, "affinity:tier!=a") for name, node in (("a", "n1"), ("b", "n2"))]
    moves = planned([place("n1"), place("n2")], [*apart, movable("x", "n1"), movable("y", "n1")])
    assert [(one.container, one.target) for one in moves] == [("x", "n2")]


AMOUNTS = st.sampled_from([0, 0, GIB // 4, GIB // 2, GIB])


@given(st.lists(st.tuples(st.integers(0, 3), AMOUNTS), max_size=14))
def test_a_plan_leaves_nothing_to_do_and_no_node_too_full(drawn: list[tuple[int, int]]) -> None:
    names = ["n0", "n1", "n2", "n3"]
    ones = []
    used: Counter[str] = Counter()
    for number, (node, mem) in enumerate(drawn):
        if used[names[node]] + mem <= 4 * GIB:
            used[names[node]] += mem
            ones.append(movable(f"c{number:02}", names[node], Needs(mem=mem)))
    moves = planned([place(name, used_mem=used[name]) for name in names], ones)
    assert len({one.container for one in moves}) == len(moves)
    by_name = {one.name: one for one in ones}
    for one in moves:
        assert by_name[one.container].node == one.source != one.target
        used[one.source] -= by_name[one.container].needs.mem
        used[one.target] += by_name[one.container].needs.mem
        assert used[one.target] <= 4 * GIB
    if not any(one.needs.mem for one in ones):
        where = {one.name: one.node for one in ones} | {one.container: one.target for one in moves}
        counts = Counter(where.values())
        assert max(counts[name] for name in names) - min(counts[name] for name in names) <= 1
