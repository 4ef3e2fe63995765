"""What is remembered of nodes from one decision to the next: it agrees with what looking at everything anew gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.framework import Action, Ask, Docker, Framework, PlacementView, Resources, View
from orlop.kernel import matcher
from orlop.kernel.events import DrainNode
from orlop.model.facts import ForeignContainer, Image, NodeFacts
from orlop.testing.harness import Cluster
from orlop_swarm import hooks
from orlop_swarm.candidates import Facts
from orlop_swarm.placement.expressions import parse
from orlop_swarm.placement.index import Index
from orlop_swarm.placement.places import Container, Held
from orlop_swarm.placement.wanted import Binding
from orlop_swarm.settings import Config

NODES: Final = 7
#: (what is said, cpus, strategy)
Wish = tuple[tuple[str, ...], float, str]


class Runs(Framework):
    """Runs what it is told: key → wish; now or never."""

    name = "swarm"

    def reconcile(self, view: View) -> Iterator[Action]:
        for key, (said, cpus, strategy) in self.settings.items():
            if key not in view.live and key not in view.tasks:
                labels = {"tier": f"t{len(key) % 3}", "com.docker.swarm.strategy": strategy}
                run = Docker(f"image-{len(said)}:1", Env=list(said), Labels=labels)
                yield Ask(key, run=run, needs=Resources(cpus=cpus), name=key, wait_ms=0)


EXPRESSIONS = st.tuples(
    st.sampled_from(["constraint", "affinity", "whitelist"]),
    st.sampled_from(["node", "zone", "container", "image", "tier"]),
    st.sampled_from(["==", "!=", "==~", "!=~"]),
    st.sampled_from(["n1", "n2", "n*", "/n[1-4]$/", "z0", "z1", "k1", "kk1", "/k+[0-2]$/", "image-1", "im*", "t1"]),
).map(lambda one: f"{one[0]}:{one[1]}{one[2]}{one[3]}")
WISHES = st.tuples(
    st.lists(EXPRESSIONS, max_size=3).map(tuple),
    st.sampled_from([0, 0.1, 0.7, 1.5]),
    st.sampled_from(["spread", "binpack"]),
)
ACTS = st.one_of(
    st.tuples(st.just("ask"), WISHES),
    st.tuples(st.just("ask"), WISHES),
    st.tuples(st.just("end"), st.integers(0, 9)),
    st.tuples(st.just("drain"), st.integers(1, NODES)),
    st.tuples(st.just("forget"), st.integers(1, NODES)),
    st.tuples(
        st.just("foreign"),
        st.tuples(st.integers(1, NODES), st.sampled_from(["k1", "x"]), st.sampled_from(["", "im:2"])),
    ),
)


class Course:
    def __init__(self, *, remembers: bool) -> None:
        hooks.facts_of.cache_clear()
        config = Config()
        filters, scorers = hooks.node_filters(config), hooks.node_scorers(config)
        self.facts = hooks.facts_of(config)
        self.cluster = Cluster(filters=filters, scorers=scorers, check_idempotence=False)
        if not remembers:
            self.cluster.kernel.planner._memory = None  # type: ignore[assignment]  # nothing is remembered
        for number in range(1, NODES + 1):
            self.cluster.add_node(f"n{number}", zone=f"z{number % 2}")
        self.told: dict[str, Wish] = {}

    def take(self, act: tuple[str, Any]) -> None:
        match act:
            case ("ask", wish):
                self.told[f"{'k' * (1 + len(self.told) % 3)}{len(self.told)}"] = wish
                self.cluster.install(Runs(self.told))
            case ("end", which):
                running = self.cluster.running()
                if running:
                    self.cluster.end_task(running[which % len(running)])
            case ("drain", which):
                self.cluster.step(DrainNode(node=f"n{which}", drained=True))
            case ("forget", which):
                self.cluster.lose_node(f"n{which}")
                self.cluster.forget_node(f"n{which}")
            case ("foreign", (which, name, image)):
                one = ForeignContainer(id=name, names=(name,), image=image, labels={"tier": "t1"}, state="running")
                images = {"i": Image(id="i", tags=("image-1:1",))} if image else {}
                self.cluster.set_facts(f"n{which}", NodeFacts(containers={name: one}, images=images))
        self.cluster.settle()

    @property
    def ends(self) -> list[tuple[str, str | None, str]]:
        """Where each is, or why it is nowhere."""
        return [(task.key, task.node, task.desired_reason) for task in self.cluster.tasks()]


@pytest.fixture(autouse=True)
def no_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small clusters are searched as large ones are."""
    monkeypatch.setattr(matcher, "RANK_UP_TO_NODES", 0)
    monkeypatch.setattr(matcher, "SAMPLE_NODES_MIN", 0)


@settings(max_examples=80, deadline=None)
@given(st.lists(ACTS, max_size=10))
def test_each_goes_where_it_would_go_by_looking_at_every_node(acts: Sequence[tuple[str, Any]]) -> None:
    quick, slow = Course(remembers=True), Course(remembers=False)
    for act in acts:
        quick.take(act)
        slow.take(act)
        assert quick.ends == slow.ends, act
    check_indexes(quick)


def check_indexes(course: Course) -> None:
    """As if made anew."""
    view, facts = PlacementView(course.cluster.state), course.facts
    for index, read in ((facts._by_labels, facts._labels_of), (facts._by_contents, facts._contents_of)):
        index.fewest(view, [("node", "n1")])
        anew = Facts(Config())
        fresh = Index(anew._labels_of if read == facts._labels_of else anew._contents_of)
        fresh.fewest(view, [("node", "n1")])
        assert index._of_key == fresh._of_key


def test_what_has_gone_while_more_came_is_gone() -> None:
    """Nobody looked in between."""
    beside = (("affinity:container==k0",), 0.0, "spread")
    course = Course(remembers=True)
    course.take(("ask", (("constraint:node==n1",), 0.0, "spread")))
    course.take(("ask", beside))
    assert [task.node for task in course.cluster.tasks()] == ["n1", "n1"]
    course.take(("end", 0))
    course.take(("end", 0))
    for _ in range(3):
        course.take(("ask", (("constraint:node==n1",), 0.0, "spread")))
    course.take(("ask", beside))
    assert [task.node for task in course.cluster.live()] == ["n1"] * 3
    check_indexes(course)


TEXTS = st.sampled_from(["a", "b", "c", "reg:5000/a", "a:1"])
CONTAINERS = st.lists(
    st.builds(
        Container,
        id=TEXTS,
        names=st.lists(TEXTS, max_size=2).map(tuple),
        images=st.lists(TEXTS, max_size=2).map(tuple),
        labels=st.dictionaries(st.sampled_from(["xx", "yy", "image", "container"]), TEXTS),
        bindings=st.lists(st.builds(Binding, ip=st.just(""), port=TEXTS), max_size=1).map(tuple),
        host_network=st.booleans(),
        exposed=st.lists(TEXTS, max_size=1).map(tuple),
    ),
    max_size=4,
)


@given(CONTAINERS, CONTAINERS, st.lists(TEXTS, max_size=2))
def test_a_node_with_more_containers_is_as_if_made_anew(
    first: list[Container], more: list[Container], images: list[str]
) -> None:
    before = Held(first, images)
    grown, anew, untouched = before.with_more(more), Held([*first, *more], images), Held(first, images)
    for one, other in ((grown, anew), (before, untouched)):
        for member in ("texts", "_having", "count", "bindings", "exposed"):
            assert getattr(one, member) == getattr(other, member)
        for text in ("xx==a", "yy!=/^$/", "xx==/^$/", "container==a*", "image==reg*", "image==a", "container!=b"):
            assert one.satisfies(parse(text)) == other.satisfies(parse(text)), text


NODE_TEXTS = st.dictionaries(st.sampled_from(["xx", "yy"]), st.frozensets(st.sampled_from("abc"), min_size=1))


PAIRS = st.tuples(st.sampled_from(["xx", "yy"]), st.sampled_from("abc"))


class Moment:
    """Nodes, each with its texts, and all changes that led to them."""

    def __init__(self) -> None:
        self.texts: dict[str, Mapping[str, Set[str]]] = {}
        self.changes: list[str] = []

    @property
    def node_ids(self) -> list[str]:
        return sorted(self.texts)

    def changed(self, mark: Any = None) -> tuple[object, list[str] | None]:
        """The mark is a number of changes; half of the time it is forgotten."""
        known = mark is not None and len(self.changes) % 2
        return len(self.changes), self.changes[mark:] if known else None


@given(st.lists(st.tuples(st.sampled_from(["n1", "n2", "n3"]), NODE_TEXTS), max_size=12), st.data())
def test_an_index_follows_all_changes(
    changes: list[tuple[str, dict[str, frozenset[str]]]], data: st.DataObject
) -> None:
    moment = Moment()
    index = Index(lambda node_id, _: moment.texts[node_id])
    for node_id, texts in changes:
        moment.texts[node_id] = texts
        moment.changes.append(node_id)
        wanted = data.draw(
            st.lists(st.tuples(st.sampled_from(["xx", "yy"]), st.sampled_from("abc")), min_size=1, max_size=2)
        )
        having = [{one for one, its in moment.texts.items() if text in its.get(key, ())} for key, text in wanted]
        found = index.fewest(moment, wanted)  # type: ignore[arg-type]
        assert found is not None
        assert set(found) == min(having, key=len)
        key = data.draw(st.sampled_from(["xx", "yy"]))
        matching = {one for one, its in moment.texts.items() if its.get(key, frozenset()) & {"a", "b"}}
        assert index.matching(moment, parse(f"{key}==/[ab]/")) == matching  # type: ignore[arg-type]
