"""The session's messages as bytes: what goes in comes out, and nothing else gets in."""

import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.agent.task_record import TaskRecord
from orlop.agent.worker import Worker
from orlop.model import wire
from orlop.model.clock import Now
from orlop.model.messages import (
    Assignment,
    Assignments,
    Epoch,
    Goodbye,
    Heartbeat,
    Hello,
    Received,
    Refused,
    ToAgent,
    ToServer,
    Welcome,
)
from orlop.model.nodes import NodeInfo
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.tasks import Desired, Spec, Status, TaskState

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that stands in a message's class."""
    origin, arguments = get_origin(kind), get_args(kind)
    if attrs.has(kind) and kind not in (Resources, PortSet):
        return instances(kind)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is tuple:
        if arguments[1:] == (Ellipsis,):
            return st.lists(values(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*map(values, arguments))
    if kind == Mapping[str, Any]:
        return st.dictionaries(texts, json_values, max_size=3)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if kind is Resources:
        kinds = st.sampled_from(["cpus", "mem", "disk", "gpus"])
        return st.dictionaries(kinds, st.integers(0, 2**50)).map(Resources.of)
    if kind is PortSet:
        return st.lists(st.integers(1, 65535), max_size=5).map(PortSet)
    if kind is type(None):
        return st.none()
    simple: dict[Any, st.SearchStrategy[Any]] = {str: texts, int: numbers, bool: st.booleans()}
    return simple[kind] if kind in simple else st.sampled_from(list(kind))


def instances(cls: Any) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls)
    return st.builds(cls, **{field.name: values(hints[field.name]) for field in attrs.fields(cls)})


@pytest.mark.parametrize("cls", get_args(ToServer))
def test_what_agents_say_comes_back_as_it_was(cls: type) -> None:
    @given(instances(cls))
    def check(message: Any) -> None:
        assert wire.decode_to_server(wire.encode(message)) == message

    check()


@pytest.mark.parametrize("cls", get_args(ToAgent))
def test_what_servers_say_comes_back_as_it_was(cls: type) -> None:
    @given(instances(cls))
    def check(message: Any) -> None:
        assert wire.decode_to_agent(wire.encode(message)) == message

    check()


@given(instances(Hello))
def test_the_bytes_are_one_versioned_object(hello: Hello) -> None:
    document = orjson.loads(wire.encode(hello))
    assert (document["v"], document["type"]) == (1, "hello")


NODE = NodeInfo(id="n1", name="node7", address="10.0.0.7", resources=Resources.of({"cpus": 4000, "mem": 2**33}))
SPEC = Spec(runtime="docker", payload={"Image": "busybox", "HostConfig": {"Memory": 5}})
#: What version 1 looks like. These bytes never change: agents of the field send and expect them.
VERSION_1 = [
    (
        Hello(node=NODE, cluster_id="c1", statuses=(Status(task="t1", state=TaskState.RUNNING, sequence=3),)),
        (
            b'{"v":1,"type":"hello","node":{"id":"n1","name":"node7","address":"10.0.0.7",'
            b'"resources":{"cpus":4000,"mem":8589934592}},"cluster_id":"c1",'
            b'"statuses":[{"task":"t1","state":"running","sequence":3}]}'
        ),
    ),
    (Heartbeat(), b'{"v":1,"type":"heartbeat"}'),
    (Goodbye(), b'{"v":1,"type":"goodbye"}'),
    (
        Welcome(cluster_id="c1", epoch=Epoch(1, 77)),
        b'{"v":1,"type":"welcome","cluster_id":"c1","epoch":{"generation":1,"revision":77}}',
    ),
    (Refused(reason="no"), b'{"v":1,"type":"refused","reason":"no"}'),
    (Received(items=(("t1", 1, 3),)), b'{"v":1,"type":"received","items":[["t1",1,3]]}'),
    (
        Assignments(
            epoch=Epoch(1, 77),
            revision=5,
            full=True,
            items=(Assignment(task="t1", framework="f", key="k", name="a.b", spec=SPEC, desired=Desired.RUNNING),),
        ),
        (
            b'{"v":1,"type":"assignments","epoch":{"generation":1,"revision":77},"revision":5,"full":true,'
            b'"items":[{"task":"t1","framework":"f","key":"k","name":"a.b",'
            b'"spec":{"runtime":"docker","payload":{"Image":"busybox","HostConfig":{"Memory":5}}},"desired":"running"}]}'
        ),
    ),
]


@pytest.mark.parametrize(("message", "data"), VERSION_1, ids=lambda value: type(value).__name__)
def test_version_1_stays_what_it_is(message: Any, data: bytes) -> None:
    decode = wire.decode_to_server if isinstance(message, get_args(ToServer)) else wire.decode_to_agent
    assert decode(data) == message
    assert orjson.loads(wire.encode(message)) == orjson.loads(data)


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_refused_naming_both(version: int) -> None:
    data = orjson.dumps({"v": version, "type": "heartbeat"})
    with pytest.raises(wire.WrongVersion, match=f"version {version} .* version 1$") as caught:
        wire.decode_to_server(data)
    assert caught.value.found == version


def test_a_refusal_is_understood_in_any_version() -> None:
    assert wire.decode_to_agent(b'{"v":7,"type":"refused","reason":"speak 7","more":1}') == Refused(reason="speak 7")
    with pytest.raises(wire.WrongVersion):
        wire.decode_to_server(b'{"v":7,"type":"refused","reason":"speak 7"}')


def test_a_message_of_the_other_direction_is_refused() -> None:
    with pytest.raises(wire.WireError, match="not one that an agent sends: 'welcome'"):
        wire.decode_to_server(wire.encode(Welcome(cluster_id="c", epoch=Epoch(1, 1))))
    with pytest.raises(wire.WireError, match="not one that a server sends: 'heartbeat'"):
        wire.decode_to_agent(wire.encode(Heartbeat()))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"\x00\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"type":"heartbeat"}', "no version"),
        (b'{"v":true,"type":"heartbeat"}', "no version"),
        (b'{"v":1.0,"type":"heartbeat"}', "no version"),
        (b'{"v":1,"type":["hello"]}', "no type"),
        (b'{"v":1,"type":"helo"}', "unknown: 'helo'"),
        (b'{"v":1,"type":"statuses"}', "items"),
        (b'{"v":1,"type":"statuses","items":[{"task":"t","state":"flying"}]}', "expected TaskState"),
        (b'{"v":1,"type":"statuses","items":[{"task":"t","state":"running","sequence":"3"}]}', "expected int"),
        (b'{"v":1,"type":"hello","node":"n1"}', "node"),
        (b'{"v":1,"type":"hello","node":{"id":"n1","name":"n","address":"a","resources":[]}}', "resources"),
        (
            b'{"v":1,"type":"hello","node":{"id":"n1","name":"n","address":"a","resources":{},"ports":5}}',
            "ports",
        ),
    ],
)
def test_rubbish_is_refused_with_what_is_wrong(data: bytes, why: str) -> None:
    with pytest.raises(wire.WireError, match=why):
        wire.decode_to_server(data)


@given(st.binary(max_size=60) | json_values.map(lambda value: orjson.dumps({"v": 1, "type": "hello", "node": value})))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for decode in (wire.decode_to_server, wire.decode_to_agent):
        try:
            decode(data)
        except wire.WireError:
            continue


@given(st.sampled_from(VERSION_1), st.data())
def test_a_broken_message_raises_nothing_else(known: tuple[Any, bytes], data: st.DataObject) -> None:
    raw = bytearray(known[1])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for decode in (wire.decode_to_server, wire.decode_to_agent):
        try:
            decode(bytes(raw))
        except wire.WireError:
            continue


# --- in pieces ---


def assignment(task: str, size: int) -> Assignment:
    spec = Spec(runtime="process", payload={"command": "x" * size})
    return Assignment(task=task, framework="f", key=task, name=task, spec=spec, desired=Desired.RUNNING)


@given(st.lists(st.integers(0, 400), max_size=12), st.booleans(), st.integers(200, 2000))
def test_many_assignments_are_cut_without_changing_their_meaning(sizes: list[int], full: bool, bytes_max: int) -> None:
    items = tuple(assignment(f"t{number}", size) for number, size in enumerate(sizes))
    message = Assignments(epoch=Epoch(1, 1), revision=9, full=full, items=items)
    decoded = [wire.decode_to_agent(data) for data in wire.encode_in_pieces(message, bytes_max)]
    sent = [part for part in decoded if isinstance(part, Assignments)]
    assert sent == decoded
    assert [part.full for part in sent] == [False] * (len(sent) - 1) + [full]
    assert tuple(item for part in sent for item in part.items) == items
    one, other = worker_with_an_old_task(), worker_with_an_old_task()
    one.handle(message, NOW)
    for part in sent:
        other.handle(part, NOW)
    assert other.records == one.records
    assert one.records["old"].to_stop is full


NOW = Now(1, 1)


def worker_with_an_old_task() -> Worker:
    status = Status(task="old", state=TaskState.RUNNING)
    return Worker(["process"], [TaskRecord(assignment=assignment("old", 1), generation=1, revision=2, status=status)])


def test_pieces_keep_their_size() -> None:
    items = tuple(assignment(f"t{number}", 10_000) for number in range(100))
    message = Assignments(epoch=Epoch(1, 1), revision=9, full=True, items=items)
    sent = list(wire.encode_in_pieces(message, 50_000))
    assert len(sent) > 20
    assert max(map(len, sent)) < 60_000


def test_what_is_small_or_not_an_assignment_goes_whole() -> None:
    assert list(wire.encode_in_pieces(Heartbeat(), 1)) == [wire.encode(Heartbeat())]
