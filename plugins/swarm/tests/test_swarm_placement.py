"""Filters, strategies and the scheduler: each rule, score, tie-break and error of classic Swarm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from orlop_swarm.placement import filters, strategies
from orlop_swarm.placement.expressions import ExpressionError
from orlop_swarm.placement.places import Container, Held, Place, overcommitted
from orlop_swarm.placement.scheduler import Unplaceable, schedule
from orlop_swarm.placement.strategies import Arrivals, Needs, draw, weight
from orlop_swarm.placement.wanted import Binding, Wanted, read, read_environment, without_expressions

GIB = 2**30
CONDITIONS = "Unable to find a node that satisfies the following conditions "


def place(name: str, *containers: Container, images: Sequence[str] = (), **values: Any) -> Place:
    sizes = {"cpus": 4_000, "mem": 4 * GIB}
    return Place(id=f"id-{name}", name=name, held=Held(containers, images), **{**sizes, **values})


def container(name: str = "c", **values: Any) -> Container:
    return Container(id=f"id-{name}", names=(name,), **values)


def asked(*environment: str, labels: dict[str, str] | None = None, **host: Any) -> Wanted:
    return read({"Image": "busybox", "Env": list(environment), "Labels": labels or {}, "HostConfig": host})


def names(wanted: Wanted, *places: Place, needs: Needs = Needs(), **how: Any) -> list[str]:  # noqa: B008
    return [one.name for one in schedule(wanted, needs, places, **how)]


def error(wanted: Wanted, *places: Place, needs: Needs = Needs(), **how: Any) -> str:  # noqa: B008
    with pytest.raises(Unplaceable) as found:
        schedule(wanted, needs, places, **how)
    return str(found.value)


class Pool:
    """Places that get one container after the other, as the manager's cluster does."""

    def __init__(self, strategy: str, *places: Place) -> None:
        self._strategy = strategy
        self._held: dict[str, list[tuple[str, Needs]]] = {one.name: [] for one in places}
        self._places = {one.name: one for one in places}

    def put(self, name: str, needs: Needs) -> str:
        """Where it went."""
        found = schedule(Wanted(), needs, [self._now(one) for one in self._places.values()], strategy=self._strategy)
        self._held[found[0].name].append((name, needs))
        return found[0].name

    def empty(self, name: str) -> None:
        self._held[name].clear()

    def counts(self) -> list[int]:
        return [len(held) for held in self._held.values()]

    def _now(self, one: Place) -> Place:
        held = self._held[one.name]
        return Place(
            id=one.id,
            name=one.name,
            cpus=one.cpus,
            mem=one.mem,
            used_cpus=sum(needs.cpus for _, needs in held),
            used_mem=sum(needs.mem for _, needs in held),
            held=Held([container(name) for name, _ in held]),
        )


# --- what is asked ---


def test_labels_come_first_and_then_the_environment() -> None:
    found = asked(
        "A=1",
        "constraint:node==n1",
        "affinity:container!=web",
        "constraint:region==~us*",
        "reschedule:on-node-failure",
        "whitelist:node==n1|n2",
        labels={
            "com.docker.swarm.constraints": '["ssd==true"]',
            "com.docker.swarm.affinities": '["image==redis"]',
            "com.docker.swarm.whitelists": '["node==n3"]',
        },
    )
    assert list(map(str, found.constraints)) == ["ssd==true", "node==n1", "region==us*"]
    assert list(map(str, found.affinities)) == ["image==redis", "container!=web"]
    assert list(map(str, found.whitelists)) == ["node==n3", "node==n1|n2"]
    assert found.reschedule


def test_a_process_says_the_same_in_its_environment() -> None:
    found = read_environment(
        {
            "constraint:node": "=n1",
            "constraint:ssd!": "false",
            "com.docker.swarm.affinities": '["container==web"]',
            "com.docker.swarm.strategy": "binpack",
        }
    )
    assert list(map(str, (*found.constraints, *found.affinities))) == ["node==n1", "ssd!=false", "container==web"]
    assert found.strategy == "binpack"


def test_a_label_wins_over_a_variable_of_its_name() -> None:
    found = asked("com.docker.swarm.strategy=random", labels={"com.docker.swarm.strategy": "binpack"})
    assert found.strategy == "binpack"


def test_of_repeated_constraints_all_count_or_the_last_one() -> None:
    body = {"Env": ["constraint:node!=n1", "constraint:ssd==1", "constraint:node!=n2"]}
    assert list(map(str, read(body).constraints)) == ["node!=n1", "ssd==1", "node!=n2"]
    assert list(map(str, read(body, last_counts=True).constraints)) == ["node!=n2", "ssd==1"]


@pytest.mark.parametrize(
    ("environment", "labels", "message"),
    [
        (["A=1", "constraint:node"], {}, "Env[1]: One of operator ==, != is expected"),
        (["affinity:n==x"], {}, "Env[0]: Key 'n' is invalid"),
        ([], {"com.docker.swarm.constraints": '["aa==b", "bb=,"]'},
         'Labels["com.docker.swarm.constraints"][1]: One of operator ==, != is expected'),
        ([], {"com.docker.swarm.affinities": "aa==b"},
         'Labels["com.docker.swarm.affinities"]: expected a JSON list of texts'),
        ([], {"com.docker.swarm.whitelists": "[1]"},
         'Labels["com.docker.swarm.whitelists"]: expected a JSON list of texts'),
        (["com.docker.swarm.affinities=[]]"], {}, "Env[0]: expected a JSON list of texts"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_with_its_path(
    environment: list[str], labels: dict[str, str], message: str
) -> None:
    with pytest.raises(ExpressionError) as found:
        asked(*environment, labels=labels)
    assert str(found.value) == message


def test_the_container_does_not_see_what_was_said_of_its_place() -> None:
    environment = ["A=1", "constraint:node==n", "affinity:x==y", "reschedule:off", "whitelist:a==b", "constraints=1"]
    assert without_expressions(environment) == ["A=1", "constraints=1"]


def test_containers_that_are_called_by_whole_ids() -> None:
    one, other = "ab" * 32, "cd" * 32
    said = [f"affinity:container=={one}", f"affinity:container!=~{other}", f"affinity:container=={one}"]
    said += [
        "affinity:container==web",
        f"affinity:container=={one[:12]}",
        f"affinity:tier=={one}",
        f"constraint:rack=={one}",
    ]
    assert read({"Env": said}).whole_ids == (one, other)


def test_policies_of_rescheduling() -> None:
    assert not asked().reschedule
    assert not asked("reschedule:off").reschedule
    with pytest.raises(ExpressionError, match=r"^too many reschedule policies$"):
        _ = asked("reschedule:off", "reschedule:on-node-failure").reschedule
    with pytest.raises(ExpressionError, match=r"^invalid reschedule policy: always$"):
        _ = asked("reschedule:always").reschedule


# --- values of nodes ---


def test_overcommitment() -> None:
    assert [overcommitted(cpus * 1_000, 0.05, 1_000) for cpus in (2, 19, 20, 40)] == [2_000, 19_000, 21_000, 42_000]
    assert overcommitted(100 * GIB, 0.05) == 105 * GIB
    assert overcommitted(101, 0.059) == 106  # whole percents
    assert overcommitted(100, -0.5) == 50


# --- strategies ---


@pytest.mark.parametrize(
    ("needs", "spread", "binpack"),
    [
        (Needs(), -800, 1_200),  # healthy, nothing asked for
        (Needs(cpus=1_000), 150 - 1_000, 150 + 1_000),  # 2 of 4 cpus, and 100 for mem
        (Needs(mem=GIB), 150 - 1_000, 150 + 1_000),
        (Needs(cpus=1_000, mem=GIB), 100 - 1_000, 100 + 1_000),
        (Needs(mem=2 * GIB + 1), 175 - 1_000, 175 + 1_000),  # whole percents: 75
        (Needs(cpus=3_000), 200 - 1_000, 200 + 1_000),
        (Needs(cpus=3_050), None, None),  # 101
        (Needs(cpus=5_000), None, None),
        (Needs(mem=5 * GIB), None, None),
    ],
)
def test_weights(needs: Needs, spread: int | None, binpack: int | None) -> None:
    one = place("n", used_cpus=1_000, used_mem=GIB)
    assert (weight("spread", one, needs), weight("binpack", one, needs)) == (spread, binpack)


def test_health_outweighs_resources() -> None:
    ill, full = place("ill", health=66), place("full", used_mem=3 * GIB)
    for strategy in ("spread", "binpack"):
        assert names(Wanted(), ill, full, needs=Needs(mem=GIB), strategy=strategy)[0] == "full"


def test_ties_go_by_containers_and_then_by_names() -> None:
    places = [place("b"), place("c", container("1")), place("a"), place("d", container("2"), container("3"))]
    assert names(Wanted(), *places) == ["a", "b", "c", "d"]
    assert names(Wanted(), *places, strategy="binpack") == ["d", "c", "a", "b"]


def test_names_of_strategies_and_filters() -> None:
    assert [strategies.strategy(one) for one in ("spread", "binpack", "binpacking", "random")] == [
        "spread", "binpack", "binpack", "random",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"^strategy not supported$"):
        strategies.strategy("best")
    with pytest.raises(ValueError, match=r"^filter not supported"):
        filters.named(["health", "best"])
    assert list(filters.FILTERS) == [
        "health", "port", "containerslots", "dependency", "affinity", "constraint", "whitelist",
    ]  # fmt: skip


def test_spread_over_nodes_of_two_sizes() -> None:
    sizes = place("a", cpus=21_000, mem=64 * GIB), place("b", cpus=42_000, mem=128 * GIB)
    for needs, expected in ((Needs(), [30, 30]), (Needs(cpus=1_000), [20, 40])):
        pool = Pool("spread", *sizes)
        for number in range(60):
            pool.put(str(number), needs)
        assert pool.counts() == expected


@pytest.mark.parametrize(("strategy", "expected"), [("binpack", "b"), ("spread", "a")])
def test_of_equally_full_nodes_the_number_of_containers_decides(strategy: str, expected: str) -> None:
    a = place("a", container("1"), used_mem=2 * GIB)
    b = place("b", container("2"), container("3"), used_mem=2 * GIB)
    assert names(Wanted(), a, b, needs=Needs(mem=GIB), strategy=strategy)[0] == expected


@pytest.mark.parametrize("strategy", ["spread", "binpack"])
def test_a_hundred_nodes_take_a_hundred_containers(strategy: str) -> None:
    pool = Pool(strategy, *(place(f"n{number}", cpus=1_000, mem=GIB) for number in range(100)))
    for needs in (Needs(cpus=1_000), Needs(mem=GIB)):
        for number in range(100):
            pool.put(f"{needs}{number}", needs)
        with pytest.raises(Unplaceable, match=r"^no resources available to schedule container$"):
            pool.put("last", needs)
    assert pool.counts() == [2] * 100


def test_overcommitted_memory_fits() -> None:
    one = place("a", mem=overcommitted(100 * GIB, 0.05))
    assert names(Wanted(), one, needs=Needs(mem=105 * GIB)) == ["a"]
    assert error(Wanted(), one, needs=Needs(mem=106 * GIB)) == "no resources available to schedule container"


@pytest.mark.parametrize("strategy", ["spread", "binpack"])
def test_the_third_goes_to_the_fuller_or_to_the_emptier(strategy: str) -> None:
    pool = Pool(strategy, place("a"), place("b"))
    first, second = pool.put("1", Needs(mem=2 * GIB)), pool.put("2", Needs(mem=3 * GIB))
    assert first != second
    assert pool.put("3", Needs(mem=GIB)) == (second if strategy == "binpack" else first)


def test_binpack_fills_one_node_after_the_other() -> None:
    pool = Pool("binpack", *(place(name, cpus=2_000, mem=2 * GIB) for name in "abc"))
    one, two = Needs(mem=GIB), Needs(mem=2 * GIB)
    first = pool.put("1", one)
    assert pool.put("2", one) == first
    second = pool.put("3", two)
    third = pool.put("4", one)
    assert pool.put("5", one) == third
    assert len({first, second, third}) == 3
    with pytest.raises(Unplaceable):
        pool.put("6", one)
    pool.empty(second)
    assert pool.put("7", one) == second


def test_random_is_even_and_looks_at_no_resources() -> None:
    places = [place(name) for name in "abcd"]
    firsts = Counter(
        names(Wanted(), *places, needs=Needs(cpus=99_000), strategy="random", seed=str(seed))[0]
        for seed in range(4_000)
    )
    assert set(firsts) == set("abcd")
    assert all(850 < count < 1_150 for count in firsts.values()), firsts
    assert names(Wanted(), *places, strategy="random", seed="s") == names(
        Wanted(), *reversed(places), strategy="random", seed="s"
    )


def test_arrivals_are_even_and_each_is_independent_of_the_last() -> None:
    arrivals, nodes = Arrivals("seed"), [f"n{number}" for number in range(5)]
    firsts, repeats, last = Counter[str](), 0, ""
    for _ in range(5_000):
        chosen = min(nodes, key=arrivals.due)
        arrivals.arrived(chosen)
        firsts[chosen] += 1
        repeats += chosen == last
        last = chosen
    assert all(850 < count < 1_150 for count in firsts.values()), firsts
    assert 850 < repeats < 1_150  # one in five
    assert 0 < draw("a", "b") < 1
    assert draw("a", "b") != draw("ab", "")


# --- filters ---


def test_health_is_said_without_conditions() -> None:
    wanted = asked("constraint:node==a")
    assert error(wanted, place("a", health=0)) == "No healthy node available in the cluster"
    assert names(Wanted(), place("a", health=1), place("b", health=0)) == ["a"]
    assert error(Wanted()) == "No nodes available in the cluster"


def test_the_error_has_a_line_for_each_filter_up_to_the_failing_one() -> None:
    wanted = asked("constraint:foo==zz", "affinity:container==web", "whitelist:node==a")
    assert error(asked("constraint:foo==zz"), place("a")) == CONDITIONS + "\n[available container slots]\n[foo==zz]"
    assert error(wanted, place("a", container("web"))) == (
        CONDITIONS + "\n[available container slots]\n[container==web (soft=false)]\n[foo==zz]"
    )
    assert error(wanted, place("a")) == (CONDITIONS + "\n[available container slots]\n[container==web (soft=false)]")


def test_filters_are_those_that_are_chosen_in_their_order() -> None:
    chosen = filters.named(["constraint", "health"])
    assert error(asked("constraint:foo==zz"), place("a", health=0), filters=chosen) == CONDITIONS + "\n[foo==zz]"
    assert names(asked("whitelist:node==x"), place("a"), filters=chosen) == ["a"]


def bound(port: str, ip: str = "") -> dict[str, Any]:
    return {"PortBindings": {"80/tcp": [{"HostIp": ip, "HostPort": port}]}}


@pytest.mark.parametrize(
    ("ip", "port", "taken_ip", "taken_port", "conflict"),
    [
        ("", "80", "", "80", True),
        ("", "80", "", "81", False),
        ("", "80", "10.0.0.1", "80", True),
        ("10.0.0.1", "80", "0.0.0.0", "80", True),
        ("10.0.0.1", "80", "::", "80", True),
        ("10.0.0.1", "80", "10.0.0.1", "80", True),
        ("10.0.0.1", "80", "10.0.0.2", "80", False),
        ("", "", "", "", False),
        ("", "80", "", "", False),
    ],
)
def test_ports_of_the_node(ip: str, port: str, taken_ip: str, taken_port: str, conflict: bool) -> None:
    taken = place("a", container(bindings=(Binding(ip=taken_ip, port=taken_port),)))
    wanted = asked(**bound(port, ip))
    assert names(wanted, place("b"), taken) == (["b"] if conflict else ["b", "a"])
    if conflict:
        assert error(wanted, taken) == CONDITIONS + f"\n[port {port} (Bridge mode)]"


def test_ports_of_the_nodes_own_network() -> None:
    taken = place("a", container(host_network=True, exposed=("80/tcp",)))
    bridged = place("b", container(exposed=("80/tcp",)))
    body = {"ExposedPorts": {"80/tcp": {}}, "HostConfig": {"NetworkMode": "host", **bound("80")}}
    assert names(read(body), taken, bridged) == ["b"]
    assert error(read(body), taken) == CONDITIONS + "\n[port 80/tcp (Host mode)]"
    assert names(read({**body, "ExposedPorts": {"80/udp": {}}}), taken) == ["a"]


def test_slots() -> None:
    one = container()
    places = [
        place("full", one, labels={"containerslots": "1"}),
        place("room", one, labels={"containerslots": "2"}),
        place("odd", one, labels={"containerslots": "many"}),
        place("free", one),
    ]
    assert names(Wanted(), *places) == ["free", "odd", "room"]
    assert error(Wanted(), places[0]) == CONDITIONS + "\n[available container slots]"
    assert (
        error(Wanted(), place("none", labels={"containerslots": "0"})) == CONDITIONS + "\n[available container slots]"
    )


def test_dependencies() -> None:
    wanted = asked(VolumesFrom=["data:ro"], Links=["db:alias"], NetworkMode="container:net")
    everything = place("a", container("data"), container("db"), container("net"))
    part = place("b", container("data"), container("db"))
    assert names(wanted, everything, part) == ["a"]
    assert error(wanted, part) == (
        CONDITIONS + "\n[available container slots]\n[--volumes-from=data:ro --link=db:alias --net=container:net]"
    )
    assert names(asked(NetworkMode="container:id-net"), everything, part) == ["a"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("container==web", ["web"]),
        ("container!=web", ["db", "empty"]),
        ("container==id-db", ["db"]),
        ("container==id", []),  # no short ids
        ("container==/^(web|db)$/", ["db", "web"]),
        ("image==redis", ["db"]),
        ("image==redis:3", ["db"]),
        ("image==redis:4", []),
        ("image==sha256:abc", ["db"]),
        ("image==sha256", ["db"]),  # classic Swarm cuts ids like tags
        ("image==host:5000/app", ["web"]),
        ("image==host", []),
        ("image!=redis", ["empty", "web"]),
        ("tier==front", ["web"]),
        ("tier!=front", ["db", "empty"]),
        ("tier==back", []),
        ("other!=x", ["db", "empty", "web"]),
        ("every==/^$/", ["db"]),
        ("other==/^$/", ["db", "web"]),  # empty where it is missing; a node without containers has none
    ],
)
def test_affinities(expression: str, expected: list[str]) -> None:
    web = place(
        "web",
        container("web", labels={"tier": "front", "every": "1"}),
        container("web2", labels={"every": "2"}),
        images=("host:5000/app:1",),
    )
    db = place("db", container("db"), images=("sha256:abc", "redis:3"))
    wanted = asked(f"affinity:{expression}")
    places = (web, db, place("empty"))
    if expected:
        assert sorted(names(wanted, *places)) == expected
        assert sorted(names(wanted, *places)) == expected  # what was said before is remembered
    else:
        assert error(wanted, *places) == (CONDITIONS + f"\n[available container slots]\n[{expression} (soft=false)]")


@pytest.mark.parametrize(
    ("expressions", "expected"),
    [
        (["node==a"], ["a"]),
        (["node==id-a"], ["a"]),
        (["node!=a"], ["b", "c"]),
        (["node!=a", "node!=b"], ["c"]),
        (["node==/[ab]/"], ["a", "b"]),
        (["region==us*"], ["a", "b"]),
        (["region==us*", "ssd==true"], ["a"]),
        (["region!=us-1"], ["b", "c"]),
        (["ssd!=true"], ["b", "c"]),  # a missing label is an empty one
        (["ssd==/^$/"], ["b", "c"]),
        (["node==zz"], None),
    ],
)
def test_constraints(expressions: list[str], expected: list[str] | None) -> None:
    places = (
        place("a", labels={"region": "us-1", "ssd": "true"}),
        place("b", labels={"region": "us-2"}),
        place("c", labels={"node": "a"}),  # a label of that name does not count
    )
    wanted = asked(*(f"constraint:{one}" for one in expressions))
    if expected is not None:
        assert sorted(names(wanted, *places)) == expected
    else:
        assert error(wanted, *places).endswith("\n[node==zz]")


def test_whitelists() -> None:
    places = [place(name) for name in "abc"]
    assert names(asked("whitelist:node==a|c"), *places) == ["a", "c"]
    assert names(asked("whitelist:whatever==b"), *places) == ["b"]
    assert names(asked("whitelist:node!=a|c"), *places) == ["b"]
    assert error(asked("whitelist:node==id-a"), *places).endswith("\n[node==id-a (soft=false)]")


def test_wishes_count_all_or_none() -> None:
    places = [place("a", labels={"ssd": "1"}), place("b", labels={"zone": "x"}), place("c")]
    assert names(asked("constraint:ssd==~1"), *places) == ["a"]
    assert names(asked("constraint:ssd==~1", "constraint:zone==~y"), *places) == ["a", "b", "c"]
    assert names(asked("affinity:container==~web"), *places) == ["a", "b", "c"]
    assert names(asked("whitelist:node==~zz"), *places) == ["a", "b", "c"]
    assert names(asked("constraint:ssd==~1", "constraint:node!=c"), *places) == ["a"]
    assert error(asked("affinity:container==~web", "constraint:node==zz"), *places) == (
        CONDITIONS + "\n[available container slots]\n[container==web (soft=true)]\n[node==zz]"
    )


def test_wishes_give_way_to_the_strategy_too() -> None:
    small, large = place("a", mem=GIB), place("b", mem=8 * GIB)
    assert names(asked("constraint:node==~a"), small, large, needs=Needs(mem=4 * GIB)) == ["b"]
