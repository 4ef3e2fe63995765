"""What filters and strategies see of a node beside its tasks: images, foreign containers, what the engine says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_swarm_hooks import DOCKER, PROCESS, Runs, Wish, saying, where

from orlop.framework import PlacementView, Resources
from orlop.model.facts import (
    EngineFacts,
    ForeignContainer,
    HostPort,
    Image,
    NodeFacts,
    applied,
    difference,
)
from orlop.testing.harness import Cluster
from orlop_swarm import hooks
from orlop_swarm.candidates import Facts
from orlop_swarm.placement.places import Container, Held
from orlop_swarm.placement.wanted import Binding
from orlop_swarm.settings import Config

ENGINE = EngineFacts(
    version="20.10.24",
    storage_driver="overlay2",
    kernel_version="6.1.0-18-amd64",
    operating_system="Debian GNU/Linux 12 (bookworm)",
    os_type="linux",
    labels={"disk": "ssd", "rack": "r9", "storagedriver": "zfs"},
)
REDIS = Image(id="sha256:11aa", tags=("registry:5000/redis:6", "redis:6"))
WEB = ForeignContainer(
    id="0123",
    names=("web",),
    image="nginx:1",
    labels={"tier": "front"},
    state="exited",
    host_ports=(HostPort(number=8080), HostPort(number=9090, address="10.0.0.1")),
)
FACTS = {
    "n1": NodeFacts(images={REDIS.id: REDIS}),
    "n2": NodeFacts(containers={WEB.id: WEB}, engine=EngineFacts(labels={"containerslots": "1"})),
    "n3": NodeFacts(engine=ENGINE),
}


def cluster(facts: Mapping[str, NodeFacts], *wishes: Wish) -> Cluster:
    config = Config()
    made = Cluster(filters=hooks.node_filters(config), scorers=hooks.node_scorers(config))
    for name in ("n1", "n2", "n3"):
        made.add_node(name, rack="r1")
    for name, known in facts.items():
        made.set_facts(name, known)
    made.install(Runs(list(wishes)))
    made.settle()
    return made


def bound(port: str, address: str = "") -> dict[str, Any]:
    return {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": port, "HostIp": address}]}}}


@pytest.mark.parametrize(
    ("said", "nodes"),
    [
        ("affinity:image==redis", "n1"),
        ("affinity:image==redis:6", "n1"),
        ("affinity:image==registry:5000/redis", "n1"),
        ("affinity:image==sha256:11aa", "n1"),
        ("affinity:image==/red.s$/", "n1"),
        ("affinity:image==nginx", "n2"),
        ("affinity:image!=redis", "n2 n3"),
        ("affinity:container==web", "n2"),
        ("affinity:container==0123", "n2"),
        ("affinity:container!=web", "n1 n3"),
        ("affinity:tier==front", "n2"),
        ("affinity:tier!=fr*", "n1 n3"),
        ("constraint:disk==ssd", "n3"),
        ("constraint:rack==r1", "n1 n2 n3"),
        ("constraint:storagedriver==overlay2", "n3"),
        ("constraint:kernelversion==/^6\\.1/", "n3"),
        ("constraint:operatingsystem==Debian*", "n3"),
        ("constraint:ostype==linux", "n1 n2 n3"),
    ],
)
@pytest.mark.parametrize("runtime", [PROCESS, DOCKER])
def test_expressions_see_facts(runtime: str, said: str, nodes: str) -> None:
    free_slots = {**FACTS, "n2": attrs.evolve(FACTS["n2"], engine=EngineFacts())}
    wishes = [Wish(str(number), saying(runtime, said, image="own")) for number in range(6)]
    assert set(where(cluster(free_slots, *wishes)).values()) == set(nodes.split())


@pytest.mark.parametrize(
    ("body", "row"),
    [
        (bound("8080"), ("port", "port 8080 (Bridge mode)", 1)),
        (bound("8080", "10.0.0.2"), ("port", "port 8080 (Bridge mode)", 1)),
        (bound("9090", "10.0.0.1"), ("port", "port 9090 (Bridge mode)", 1)),
        (bound("9090", "10.0.0.2"), None),
        (bound("8081"), None),
        ({"HostConfig": {"Links": ["web:alias"]}}, None),
        ({"HostConfig": {"Links": ["other:alias"]}}, ("dependency", "--link=other:alias", 3)),
    ],
)
def test_ports_and_names_of_foreign_containers_count(body: dict[str, Any], row: tuple[str, str, int] | None) -> None:
    facts = {"n2": attrs.evolve(FACTS["n2"], engine=EngineFacts())}
    made = cluster(facts, Wish("a", saying(DOCKER, "constraint:node==n2", **body)))
    if row is None:
        assert where(made) == {"a": "n2"}
    else:
        (waiting,) = made.pending()
        assert row in made.explain(waiting).ruled_out


def test_foreign_containers_take_slots_and_an_engines_label_limits_them() -> None:
    made = cluster(FACTS, Wish("a", saying(PROCESS, "constraint:node==n2")))
    (waiting,) = made.pending()
    assert ("containerslots", "available container slots", 1) in made.explain(waiting).ruled_out


def test_spread_counts_foreign_containers_and_what_they_take() -> None:
    busy = ForeignContainer(id="b", state="running", memory_bytes=2**30, cpus_thousandths=1000)
    idle = ForeignContainer(id="i", state="running")
    facts = {"n1": NodeFacts(containers={"b": busy}), "n2": NodeFacts(containers={"i": idle})}
    needing = [Wish(str(number), saying(PROCESS), Resources(cpus=1)) for number in range(3)]
    assert Counter(where(cluster(facts, *needing[:2])).values()) == {"n2": 1, "n3": 1}
    assert Counter(where(cluster(facts, Wish("a", saying(PROCESS)))).values()) == {"n3": 1}


def test_what_waits_for_an_image_or_a_container_is_placed_when_it_comes() -> None:
    made = cluster(
        {},
        Wish("image", saying(PROCESS, "affinity:image==redis")),
        Wish("container", saying(PROCESS, "affinity:container==web")),
        Wish("label", saying(PROCESS, "constraint:disk==ssd")),
    )
    assert set(where(made).values()) == {None}
    for name, facts in FACTS.items():
        made.set_facts(name, attrs.evolve(facts, engine=facts.engine if name == "n3" else EngineFacts()))
    assert where(made) == {"image": "n1", "container": "n2", "label": "n3"}


# --- what is remembered of nodes is what they are ---

_IDS = st.sampled_from("abc")
_FACTS = st.builds(
    NodeFacts,
    engine=st.builds(EngineFacts, labels=st.dictionaries(_IDS, _IDS, max_size=2)),
    images=st.dictionaries(_IDS, _IDS, max_size=3).map(
        lambda found: {key: Image(id=key, tags=(f"{tag}:1",)) for key, tag in found.items()}
    ),
    containers=st.dictionaries(_IDS, _IDS, max_size=3).map(
        lambda found: {key: ForeignContainer(id=key, names=(name,)) for key, name in found.items()}
    ),
)


@settings(max_examples=60)
@given(st.lists(st.one_of(_FACTS, st.none()), max_size=6))
def test_places_are_true_to_the_newest_facts(told: list[NodeFacts | None]) -> None:
    """None: a task is placed there meanwhile."""
    made = Cluster(check_idempotence=False)
    made.add_node("n1", zone="z")
    remembering, known, wishes = Facts(Config()), NodeFacts(), [Wish("0", saying(DOCKER, image="own:1"))]
    for facts in told:
        if facts is None:
            wishes.append(Wish(str(len(wishes)), saying(DOCKER, image="own:1")))
            made.install(Runs(wishes))
            made.settle()
        else:
            known = applied(known, difference(known, facts))
            made.set_facts("n1", known)
        candidate, view = made.state.candidates["n1"], PlacementView(made.state)
        anew = Facts(Config()).place_with_held(candidate, view)
        place = remembering.place_with_held(candidate, view)
        assert (place.labels, place.count, place.used_cpus) == (anew.labels, anew.count, anew.used_cpus)
        assert place.held is not None
        assert anew.held is not None
        assert (place.held.names, place.held.images) == (anew.held.names, anew.held.images)
        expected = Held(
            [Container(id=task.id, names=(task.name,), images=("own:1",)) for task in made.live()]
            + [Container(id=one.id, names=one.names) for one in known.containers.values()],
            [name for image in known.images.values() for name in (image.id, *image.tags)],
        )
        assert (place.held.names, place.held.images) == (expected.names, expected.images)


def test_addresses_of_foreign_ports_are_kept() -> None:
    made = cluster({"n2": FACTS["n2"]})
    held = Facts(Config()).place_with_held(made.state.candidates["n2"], PlacementView(made.state)).held
    assert held is not None
    assert held.bindings == [Binding(ip="", port="8080"), Binding(ip="10.0.0.1", port="9090")]
