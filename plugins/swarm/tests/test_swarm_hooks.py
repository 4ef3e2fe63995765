"""Placement as hooks: what a framework's tasks get of it, on clusters of the harness."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.framework import Action, Ask, Docker, Framework, PortRequest, Process, Resources, Spec, View
from orlop.kernel.filters import kernel_filters
from orlop.testing.harness import Cluster
from orlop_swarm import hooks
from orlop_swarm.candidates import Facts
from orlop_swarm.placement.expressions import parse
from orlop_swarm.placement.filters import FILTERS
from orlop_swarm.settings import Config

PROCESS, DOCKER = "process", "docker"


@attrs.frozen
class Wish:
    """A task: its key, what it runs, and what it takes."""

    key: str
    run: Spec
    needs: Resources = attrs.field(factory=Resources)
    group: str = ""


class Runs(Framework):
    """Runs what it is told, in the order of telling."""

    name = "swarm"

    def reconcile(self, view: View) -> Iterator[Action]:
        for one in self.settings:
            if one.key not in view.live:
                yield Ask(one.key, run=one.run, needs=one.needs, group=one.group, name=one.key)


class Other(Runs):
    """Another framework: it has no strategy unless it names one."""

    name = "other"


def saying(runtime: str, *said: str, image: str = "busybox", **body: Any) -> Spec:
    """A spec whose environment says this."""
    if runtime == DOCKER:
        return Docker(image, Env=list(said), **body)
    return Process("true", environment=dict(one.partition("=")[::2] for one in said))


def cluster(
    *wishes: Wish, nodes: Mapping[str, Mapping[str, Any]], kind: type[Framework] = Runs, config: Config | None = None
) -> Cluster:
    config = config or Config()
    made = Cluster(filters=hooks.node_filters(config), scorers=hooks.node_scorers(config))
    for name, attributes in nodes.items():
        made.add_node(name, **attributes)
    told: list[Wish] = []
    made.install(kind(told))
    for wish in wishes:  # one after the other, as clients do
        told.append(wish)
        made.install(kind(told))
        made.settle()
    return made


def where(made: Cluster) -> dict[str, str | None]:
    return {task.key: task.node for task in made.live()}


NODES: dict[str, dict[str, Any]] = {"n1": {"ssd": "1", "zone": "a"}, "n2": {"zone": "b"}, "n3": {"zone": "b"}}


@pytest.mark.parametrize("runtime", [PROCESS, DOCKER])
@pytest.mark.parametrize(
    ("said", "nodes"),
    [
        ("constraint:node==n2", {"n2"}),
        ("constraint:node!=/n[12]/", {"n3"}),
        ("constraint:ssd==1", {"n1"}),
        ("constraint:zone==~a", {"n1"}),
        ("constraint:ostype==linux", {"n1", "n2", "n3"}),
        ("whitelist:node==n1|n3", {"n1", "n3"}),
        ('com.docker.swarm.constraints=["zone==b", "node!=n3"]', {"n2"}),
    ],
)
def test_constraints_whatever_the_runtime(runtime: str, said: str, nodes: set[str]) -> None:
    made = cluster(*(Wish(str(number), saying(runtime, said)) for number in range(4)), nodes=NODES)
    assert set(where(made).values()) == nodes


def test_a_label_of_a_container() -> None:
    run = saying(DOCKER, Labels={"com.docker.swarm.constraints": json.dumps(["zone==b", "node==~n3"])})
    made = cluster(*(Wish(str(number), run) for number in range(3)), nodes=NODES)
    assert set(where(made).values()) == {"n3"}


@pytest.mark.parametrize("runtime", [PROCESS, DOCKER])
def test_affinities_to_tasks_of_every_kind(runtime: str) -> None:
    made = cluster(
        Wish("db", saying(DOCKER, "constraint:node==n3", image="redis:6", Labels={"tier": "back"})),
        Wish("job", saying(PROCESS, "constraint:node==n2"), group="batch"),
        Wish("by-name", saying(runtime, "affinity:container==db")),
        Wish("by-glob", saying(runtime, "affinity:container==d*")),
        Wish("by-image", saying(runtime, "affinity:image==redis")),
        Wish("by-label", saying(runtime, "affinity:tier==back")),
        Wish("by-group", saying(runtime, "affinity:orlop.group==batch")),
        Wish("apart", saying(runtime, "affinity:tier!=back", "affinity:orlop.group!=batch")),
        nodes=NODES,
    )
    assert where(made) == {
        "db": "n3", "by-name": "n3", "by-glob": "n3", "by-image": "n3", "by-label": "n3",
        "job": "n2", "by-group": "n2", "apart": "n1",
    }  # fmt: skip


def test_tasks_of_one_ask_keep_apart_from_each_other() -> None:
    """They are placed as a group, in one step."""
    run = saying(DOCKER, "affinity:app!=web", Labels={"app": "web"})
    made = Cluster(filters=hooks.node_filters(Config()), scorers=hooks.node_scorers(Config()))
    made.add_nodes(3)
    made.install(Runs([Wish(str(number), run) for number in range(4)]))
    made.settle()
    assert sorted(filter(None, where(made).values())) == ["n1", "n2", "n3"]
    (left,) = made.pending()
    assert made.explain(left).ruled_out == (("affinity", "app!=web (soft=false)", 3),)


def test_wishes_give_way_to_what_is_needed() -> None:
    big = Resources(cpus=3)
    made = cluster(
        *(Wish(str(number), saying(PROCESS, "constraint:node==~n2"), big) for number in range(3)), nodes=NODES
    )
    assert where(made)["0"] == "n2"
    assert sorted(map(str, where(made).values())) == ["n1", "n2", "n3"]


def test_wishes_count_all_or_none_and_before_the_strategy() -> None:
    made = cluster(
        *(Wish(f"fill-{number}", saying(PROCESS, "constraint:node==n1")) for number in range(3)),
        Wish("one", saying(PROCESS, "constraint:zone==~a")),
        Wish("two", saying(PROCESS, "constraint:zone==~a", "affinity:container==~nobody")),
        nodes=NODES,
    )
    assert where(made)["one"] == "n1"
    assert where(made)["two"] == "n2"


@pytest.mark.parametrize(
    ("said", "row"),
    [
        ("constraint:node==n9", ("constraint", "node==n9", 3)),
        ("affinity:container==web", ("affinity", "container==web (soft=false)", 3)),
        ("whitelist:node==n8|n9", ("whitelist", "node==n8|n9 (soft=false)", 3)),
        ("constraint:n", ("expressions", "Env[0]: One of operator ==, != is expected", 3)),
        ("com.docker.swarm.strategy=best", ("expressions", "strategy not supported: best", 3)),
    ],
)
def test_what_waits_is_explained(said: str, row: tuple[str, str, int]) -> None:
    made = cluster(Wish("a", saying(DOCKER, said)), nodes=NODES)
    (waiting,) = made.pending()
    assert made.explain(waiting).ruled_out == (row,)


def test_ports_of_the_kernel_and_published_ones_keep_out_of_each_others_way() -> None:
    bound: dict[str, Any] = {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "31005"}]}}}
    fixed = attrs.evolve(saying(PROCESS), ports=(PortRequest(number=31005),))
    given = attrs.evolve(saying(PROCESS), ports=(PortRequest(),))
    made = cluster(Wish("published", saying(DOCKER, **bound)), Wish("fixed", fixed), nodes={"n1": {}, "n2": {}})
    assert len(set(where(made).values())) == 2
    made = cluster(Wish("given", given), nodes={"n1": {}, "n2": {}})
    (task,) = made.running()
    bound["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"] = str(task.ports[0])
    wishes = [Wish("given", given), *(Wish(f"published-{number}", saying(DOCKER, **bound)) for number in range(2))]
    made = cluster(*wishes, nodes={"n1": {}, "n2": {}})
    (waiting,) = made.pending()
    assert ("port", f"port {task.ports[0]} (Bridge mode)", 2) in made.explain(waiting).ruled_out
    assert len({where(made)["given"], where(made)["published-0"]}) == 2


def test_ports_and_slots_and_dependencies() -> None:
    bound: dict[str, Any] = {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}}
    made = cluster(
        *(Wish(f"port-{number}", saying(DOCKER, **bound)) for number in range(3)),
        Wish("linked", saying(DOCKER, HostConfig={"Links": ["port-0:alias"]})),
        nodes={"n1": {}, "n2": {}, "small": {"containerslots": "0"}},
    )
    places = where(made)
    assert {places["port-0"], places["port-1"]} == {"n1", "n2"}
    assert places["linked"] == places["port-0"]
    (waiting,) = made.pending()
    assert made.explain(waiting).ruled_out == (
        ("port", "port 8080 (Bridge mode)", 2),
        ("containerslots", "available container slots", 1),
    )


def test_only_the_filters_that_are_chosen() -> None:
    wish = Wish("a", saying(DOCKER, "constraint:node==n3", "affinity:container==nobody"))
    made = cluster(wish, nodes=NODES, config=Config(filters=("constraint",)))
    assert where(made) == {"a": "n3"}


def test_the_last_constraint_alone_counts_where_it_is_so_chosen() -> None:
    wish = Wish("a", saying(DOCKER, "constraint:node!=n1", "constraint:node!=n2"))
    config = Config(repeated_constraints="last")
    assert where(cluster(wish, nodes={"n1": {}, "n2": {}})) == {"a": None}
    assert where(cluster(wish, nodes={"n1": {}, "n2": {}}, config=config)) == {"a": "n1"}


@pytest.mark.parametrize(("kind", "said"), [(Runs, ()), (Other, ("com.docker.swarm.strategy=binpack",))])
def test_binpack_fills_one_node_after_the_other(kind: type[Framework], said: tuple[str, ...]) -> None:
    wishes = [Wish(str(number), saying(PROCESS, *said), Resources(cpus=1)) for number in range(9)]
    made = cluster(*wishes, nodes=NODES, kind=kind, config=Config(strategy="binpacking"))
    counts = Counter(where(made)[str(number)] for number in range(8))
    assert sorted(counts.values()) == [4, 4]


def test_spread_goes_by_what_is_left_and_then_by_containers() -> None:
    made = cluster(
        Wish("large", saying(PROCESS, "constraint:node==n1"), Resources(cpus=3)),
        *(Wish(f"small-{number}", saying(PROCESS), Resources(cpus=1)) for number in range(4)),
        nodes=NODES,
    )
    assert Counter(where(made).values()) == {"n1": 1, "n2": 2, "n3": 2}
    made = cluster(
        Wish("large", saying(PROCESS, "constraint:node==n1"), Resources(cpus=3)),
        *(Wish(f"none-{number}", saying(PROCESS)) for number in range(5)),  # which ask for nothing
        nodes=NODES,
    )
    assert Counter(where(made).values()) == {"n1": 2, "n2": 2, "n3": 2}


def test_spread_is_exact_in_a_large_cluster() -> None:
    """Where no strategy is named, a sample of the nodes would do."""
    nodes: dict[str, dict[str, str]] = {f"n{number:03d}": {} for number in range(130)}
    filled = [Wish(f"f{name}", saying(PROCESS, f"constraint:node=={name}")) for name in nodes if name != "n077"]
    made = Cluster(filters=hooks.node_filters(Config()), scorers=hooks.node_scorers(Config()))
    made.add_nodes(0)
    for name in nodes:
        made.add_node(name)
    made.install(Runs(filled))
    made.settle()
    made.install(Runs([*filled, Wish("last", saying(PROCESS))]))
    made.settle()
    assert where(made)["last"] == "n077"


def test_random_is_the_same_each_time_and_uses_all_nodes() -> None:
    def places() -> dict[str, str | None]:
        wishes = [Wish(str(number), saying(PROCESS)) for number in range(30)]
        made = Cluster(filters=hooks.node_filters(config), scorers=hooks.node_scorers(config))
        made.add_nodes(3)
        made.install(Runs(wishes))
        made.settle()
        return where(made)

    config = Config(strategy="random")
    assert places() == places()
    assert min(Counter(places().values()).values()) >= 3
    assert len(set(places().values())) == 3


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"strategy": "best"}, "strategy: strategy not supported; known: spread, binpack, random"),
        ({"filters": ("health", "best")}, "filters: filter not supported: 'best'"),
        ({"overcommit": -2.0}, "overcommit: swarm.overcommit should be larger than -1, -2.000000 is invalid"),
        ({"cpu_units": "x"}, "'cpu_units' must be in"),
        ({"repeated_constraints": "x"}, "'repeated_constraints' must be in"),
    ],
)
def test_settings_are_checked(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as found:
        Config(**settings_)
    assert message in str(found.value)


# --- against a reference that is slow and plain ---

EXPRESSIONS = st.tuples(
    st.sampled_from(["constraint", "affinity", "whitelist"]),
    st.sampled_from(["node", "zone", "container", "image", "tier"]),
    st.sampled_from(["==", "!=", "==~", "!=~"]),
    st.sampled_from(["n1", "n2", "n*", "/n[12]/", "a", "b", "c0", "c1", "/c[0-2]$/", "redis", "red*", "n1|n3"]),
).map(lambda one: f"{one[0]}:{one[1]}{one[2]}{one[3]}")


def allowed(said: list[str], made: Cluster, node: str, *, wishes: bool) -> bool:
    """Whether a node satisfies all that is said, by looking at everything anew."""
    held = [task for task in made.live() if task.node == node]
    payloads = [made.state.spec_of(task).payload for task in held]
    for text in said:
        kind, _, rest = text.partition(":")
        expression = parse(rest)
        if expression.soft and not wishes:
            continue
        texts: list[str]
        if kind == "whitelist":
            if (node in expression.value.split("|")) != expression.equal:
                return False
            continue
        if kind == "constraint":
            texts = [node] if expression.key == "node" else [dict(NODES[node]).get(expression.key, "")]
        elif expression.key == "container":
            texts = [text for task in held for text in (task.id, task.name)]
        elif expression.key == "image":
            texts = [text for payload in payloads for text in (payload["Image"], payload["Image"].split(":")[0])]
        else:
            texts = [payload["Labels"].get(expression.key, "") for payload in payloads]
        if not expression.matches(texts):
            return False
    return True


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.lists(EXPRESSIONS, max_size=3), st.sampled_from(["redis:6", "nginx"]), st.sampled_from("xab")),
        max_size=6,
    ),
    st.sampled_from(["spread", "binpack"]),
)
def test_each_goes_where_the_reference_would_put_it(asked: list[tuple[list[str], str, str]], strategy: str) -> None:
    config = Config(strategy=strategy)
    made = Cluster(filters=hooks.node_filters(config), scorers=hooks.node_scorers(config), check_idempotence=False)
    for name, attributes in NODES.items():
        made.add_node(name, **attributes)
    told: list[Wish] = []
    for number, (said, image, tier) in enumerate(asked):
        able = [node for node in NODES if allowed(said, made, node, wishes=True)]
        able = able or [node for node in NODES if allowed(said, made, node, wishes=False)]
        counts = Counter(dict.fromkeys(NODES, 0))
        counts.update(task.node for task in made.live() if task.node)
        best = (max if strategy == "binpack" else min)((counts[node] for node in able), default=0)
        told.append(Wish(f"c{number}", saying(DOCKER, *said, image=image, Labels={"tier": tier})))
        made.install(Runs(told))
        made.settle()
        found = where(made)[f"c{number}"]
        if found is None:
            assert not able, (said, able)
        else:
            assert found in able, (said, found, able)
            assert counts[found] == best, (said, found, counts)


def test_the_kernels_filters_stay_in_force() -> None:
    assert [one.name for one in hooks.node_filters(Config())] == ["expressions", *list(FILTERS)[1:], "volumes", "image"]
    made = cluster(*(Wish(str(number), saying(PROCESS), Resources(cpus=2)) for number in range(7)), nodes=NODES)
    assert len(made.pending()) == 1
    assert {one.name for one in kernel_filters()} >= {"health", "resources", "ports"}


def test_what_a_spec_says_is_remembered_no_longer_than_the_spec() -> None:
    facts = Facts(Config())
    spec = saying(DOCKER, "constraint:node==n1")
    assert facts._read("id", spec) is facts._read("id", spec)
    assert len(facts._specs) == 1
    del spec
    gc.collect()
    assert not facts._specs
