"""Facts of nodes: what is read from an engine's JSON, and changes that bring one state to another."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import attrs
import orjson
import pytest
from engine_facts import facts_of
from hypothesis import given
from hypothesis import strategies as st

from orlop.agent.facts import FactsTelling
from orlop.agent.runtimes.docker_facts import (
    BYTES_MAX,
    CONTAINERS_MAX,
    IMAGES_MAX,
    LABELS_CHARACTERS_MAX,
    engine_of,
    foreign_of,
    image_of,
)
from orlop.docker_containers import CLUSTER_LABEL, TASK_LABEL
from orlop.model.documents import from_plain, to_plain
from orlop.model.facts import (
    EngineFacts,
    FactsChange,
    ForeignContainer,
    HostPort,
    Image,
    NodeFacts,
    applied,
    difference,
    in_full,
)
from orlop.model.messages import FACTS, Facts, Hello
from orlop.model.nodes import NodeInfo
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.tasks import Status, TaskState
from orlop.model.wire import LANGUAGE, MESSAGE_BYTES_MAX, decode_to_server

_IDS = st.sampled_from(["a", "b", "c", "d"])
_TEXTS = st.sampled_from(["", "x", "y"])
_STATES = st.sampled_from(["running", "paused", "restarting", "created", "exited", "dead"])


def _by_id(ids: Any, value: Any) -> Any:
    return st.lists(ids.flatmap(value), max_size=6).map(lambda found: {one.id: one for one in found})


_FACTS = st.builds(
    NodeFacts,
    engine=st.builds(EngineFacts, version=_TEXTS, labels=st.dictionaries(_IDS, _TEXTS, max_size=2)),
    images=_by_id(_IDS, lambda key: st.builds(Image, id=st.just(key), tags=st.lists(_TEXTS, max_size=2).map(tuple))),
    containers=_by_id(
        _IDS,
        lambda key: st.builds(
            ForeignContainer,
            id=st.just(key),
            state=_STATES,
            memory_bytes=st.integers(0, 3),
            host_ports=st.sampled_from([(), (HostPort(number=80),), (HostPort(number=81, protocol="udp"),)]),
        ),
    ),
)


@given(_FACTS, _FACTS)
def test_a_difference_brings_the_old_facts_to_the_new_ones(old: NodeFacts, new: NodeFacts) -> None:
    change = difference(old, new)
    assert applied(old, change) == new
    assert applied(applied(old, change), change) == new
    assert change.empty == (old == new)


@given(st.lists(_FACTS, min_size=1, max_size=5), _FACTS)
def test_facts_by_changes_equal_the_facts_in_full_whatever_was_known(states: list[NodeFacts], known: NodeFacts) -> None:
    told = applied(known, in_full(states[0]))
    for before, after in pairwise(states):
        told = applied(told, difference(before, after))
    assert told == states[-1]
    assert told.foreign_use == states[-1].foreign_use
    assert told.foreign_ports == states[-1].foreign_ports


@given(_FACTS, _FACTS)
def test_a_change_survives_being_written_and_read(old: NodeFacts, new: NodeFacts) -> None:
    for change in (difference(old, new), in_full(new)):
        assert from_plain(to_plain(change), FactsChange, "a change") == change


def test_a_change_carries_only_what_changed() -> None:
    images = {str(number): Image(id=str(number)) for number in range(100)}
    old = NodeFacts(images=images)
    new = NodeFacts(images={**images, "7": Image(id="7", tags=("x:1",))})
    assert difference(old, new) == FactsChange(images=(Image(id="7", tags=("x:1",)),))
    assert applied(old, difference(old, new)).containers is old.containers


def test_only_live_foreign_containers_use_something() -> None:
    states = ("running", "paused", "restarting", "created", "exited", "dead")
    containers = [
        ForeignContainer(
            id=str(n),
            state=state,
            memory_bytes=10**n,
            cpus_thousandths=2 * 10**n,
            host_ports=(HostPort(number=n + 1),),
        )
        for n, state in enumerate(states)
    ]
    facts = NodeFacts(containers={one.id: one for one in containers})
    assert facts.foreign_use == Resources.of({"mem": 111, "cpus": 222})
    assert facts.foreign_ports == PortSet([1, 2, 3])


def _inspected(**changes: Any) -> dict[str, Any]:
    return {
        "Id": "c1",
        "Name": "/web",
        "Config": {"Image": "nginx:1", "Labels": {"tier": "front"}},
        "State": {"Status": "running"},
        "HostConfig": {},
        **changes,
    }


def test_a_foreign_container_is_read_from_its_inspection() -> None:
    asked = {"80/tcp": [{"HostIp": "", "HostPort": "8080"}], "81/tcp": [{"HostPort": ""}], "82/tcp": None}
    published = {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
        "81/tcp": [{"HostIp": "10.0.0.1", "HostPort": "49153"}],
        "53/udp": None,
    }
    item = _inspected(
        HostConfig={"Memory": 64, "NanoCpus": 1_500_000_001, "PortBindings": asked},
        NetworkSettings={"Ports": published},
    )
    assert foreign_of(item, "blue") == ForeignContainer(
        id="c1",
        names=("web",),
        image="nginx:1",
        labels={"tier": "front"},
        state="running",
        memory_bytes=64,
        cpus_thousandths=1501,
        host_ports=(HostPort(number=8080), HostPort(number=49153, address="10.0.0.1")),
    )


@pytest.mark.parametrize(
    ("host", "thousandths"),
    [
        ({}, 0),
        ({"CpuQuota": -1}, 0),
        ({"CpuQuota": 50_000}, 500),
        ({"CpuQuota": 50_000, "CpuPeriod": 0}, 500),
        ({"CpuQuota": 1, "CpuPeriod": 3000}, 1),
        ({"CpuQuota": 30_000, "CpuPeriod": 10_000}, 3000),
    ],
)
def test_a_quota_is_a_reservation_of_cpus(host: dict[str, int], thousandths: int) -> None:
    found = foreign_of(_inspected(HostConfig=host), "blue")
    assert found is not None
    assert found.cpus_thousandths == thousandths


def test_tasks_of_another_cluster_are_foreign_and_those_of_this_one_are_not() -> None:
    item = _inspected(Config={"Image": "x", "Labels": {CLUSTER_LABEL: "blue", TASK_LABEL: "t1"}})
    assert foreign_of(item, "blue") is None
    assert foreign_of(item, "green") is not None
    assert foreign_of(_inspected(Config={"Labels": {CLUSTER_LABEL: "blue"}}), "blue") is not None


def test_an_image_without_a_digest_is_local() -> None:
    built = image_of({"Id": "i", "RepoTags": ["b:1", "a:1", "<none>:<none>"], "RepoDigests": ["<none>@<none>"]})
    assert built == Image(id="i", tags=("a:1", "b:1"))
    assert built.local
    assert not image_of({"Id": "i", "RepoTags": None, "RepoDigests": ["b@sha256:1"]}).local


def test_an_engine_is_read_from_its_info() -> None:
    info = {
        "ServerVersion": "20.10.24",
        "Driver": "overlay2",
        "KernelVersion": "6.1",
        "OperatingSystem": "Debian 12",
        "OSType": "linux",
        "Labels": ["zone=a=b", "bare"],
    }
    assert engine_of(info) == EngineFacts(
        version="20.10.24",
        storage_driver="overlay2",
        kernel_version="6.1",
        operating_system="Debian 12",
        os_type="linux",
        labels={"zone": "a=b", "bare": ""},
    )
    assert engine_of({"Labels": None}) == EngineFacts()


def test_facts_are_bounded_and_what_takes_something_is_told_first() -> None:
    idle = [_inspected(Id=f"a{n:05}", State={"Status": "exited"}) for n in range(CONTAINERS_MAX)]
    busy = _inspected(Id="z")
    facts = facts_of({}, [{"Id": f"{n:05}"} for n in range(IMAGES_MAX + 1)], [*idle, busy], "blue")
    assert len(facts.images) == IMAGES_MAX
    assert len(facts.containers) == CONTAINERS_MAX
    assert "z" in facts.containers


def test_labels_without_room_are_left_out() -> None:
    long = "v" * LABELS_CHARACTERS_MAX
    found = foreign_of(_inspected(Config={"Labels": {"a": "1", "b": long, "c": "3"}}), "blue")
    assert found is not None
    assert found.labels == {"a": "1", "c": "3"}


def test_all_facts_of_a_node_fit_into_a_message() -> None:
    wide = "\x01" * (LABELS_CHARACTERS_MAX - 1)
    containers = [_inspected(Id=str(n), Config={"Labels": {"a": wide}}) for n in range(200)]
    images = [{"Id": f"{n:03}", "RepoTags": [f"{'x' * 100}:{tag}" for tag in range(1000)]} for n in range(100)]
    facts = facts_of({"Labels": [f"a={wide}"]}, images, containers, "blue")
    assert 0 < len(facts.images) < len(images)
    assert 0 < len(facts.containers) < len(containers)
    size = len(orjson.dumps(to_plain(in_full(facts))))
    assert BYTES_MAX < size < MESSAGE_BYTES_MAX


def test_facts_are_told_in_full_with_each_hello_and_then_by_changes() -> None:
    telling, first = FactsTelling(), NodeFacts(images={"a": Image(id="a")})
    second = NodeFacts(images={**first.images, "b": Image(id="b")})
    assert telling.hello() is None, "nothing is known yet"
    assert telling.welcomed([FACTS], known=False) is None
    assert telling.changed(first) == Facts(change=in_full(first))
    assert telling.changed(first) is None
    assert telling.changed(second) == Facts(change=difference(first, second))
    assert telling.hello() == in_full(second)
    assert telling.changed(first) is None, "it is told after the welcome"
    assert telling.welcomed([FACTS], known=True) == Facts(change=difference(second, first))
    telling.hello()
    assert telling.welcomed([FACTS], known=True) is None, "all was said"


def test_a_server_that_has_not_got_those_of_the_hello_is_told_all_of_them() -> None:
    telling, facts = FactsTelling(), NodeFacts(images={"a": Image(id="a")})
    telling.changed(facts)
    telling.hello()
    assert telling.welcomed([FACTS], known=False) == Facts(change=in_full(facts))


def test_a_hello_that_is_too_large_goes_without_facts() -> None:
    facts = in_full(NodeFacts(images={"a": Image(id="a")}))
    node = NodeInfo(id="n1", name="n1", address="n1", resources=Resources())
    status = Status(task="t", state=TaskState.RUNNING, sequence=1, message="m" * 2**20)
    largest = Hello(node=node, statuses=(status,) * 31, facts=facts)
    (data,) = LANGUAGE.dialect(1).encode_in_pieces(largest)
    assert decode_to_server(data) == largest
    larger = Hello(node=node, statuses=(status,) * 32, facts=facts)
    (data,) = LANGUAGE.dialect(1).encode_in_pieces(larger)
    assert decode_to_server(data) == attrs.evolve(larger, facts=None)


def test_a_server_that_does_not_ask_for_facts_is_told_none() -> None:
    telling, facts = FactsTelling(), NodeFacts(images={"a": Image(id="a")})
    assert telling.changed(facts) is None
    telling.hello()
    assert telling.welcomed(["song"], known=False) is None
    assert telling.changed(NodeFacts()) is None
