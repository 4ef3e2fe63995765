"""Values: resources in integer units, port sets, versioned documents, statuses."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.model.clock import format_utc, parse_utc
from orlop.model.documents import DocumentError, NewerVersion, from_bytes, to_bytes
from orlop.model.ports import PortSet
from orlop.model.resources import ResourceError, Resources, show
from orlop.model.tasks import (
    Desired,
    Exit,
    Outcome,
    PortRequest,
    Probe,
    ProbeKind,
    Spec,
    Status,
    Task,
    TaskState,
)

units = st.dictionaries(st.sampled_from(["cpus", "mem", "disk", "gpus", "fpga"]), st.integers(0, 2**50))
ports = st.frozensets(st.integers(0, 65_535), max_size=50)


def test_people_write_units_and_the_kernel_counts_integers() -> None:
    assert dict(Resources(cpus=0.1, mem="32MiB", bandwidth="10Mbit/s", gpus=1)) == {
        "cpus": 100,
        "mem": 32 * 2**20,
        "bandwidth": 10_000_000,
        "gpus": 1000,
    }


def test_requests_are_rounded_up() -> None:
    assert Resources(cpus=0.0001)["cpus"] == 1
    assert Resources(mem="0.3B")["mem"] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("mem", 32), ("mem", "32"), ("disk", "1 parsec"), ("cpus", "NaN"), ("cpus", -1), ("cpus", True), ("Cpus", 1)],
)
def test_what_is_not_a_quantity_is_named(name: str, value: Any) -> None:
    with pytest.raises(ResourceError, match=f"^{name}: "):
        Resources(**{name: value})


@given(units, units)
def test_sums_never_drift(one: dict[str, int], other: dict[str, int]) -> None:
    a, b = Resources.of(one), Resources.of(other)
    assert a + b - b == a
    assert hash(a + b) == hash(b + a)
    assert a.shortage(a + b) is None


@given(st.integers(0, 2**60))
def test_quantities_are_shown_with_their_unit(amount: int) -> None:
    assert show("mem", amount).endswith("B")


@given(ports, ports)
def test_port_sets_are_sets(one: frozenset[int], other: frozenset[int]) -> None:
    a, b = PortSet(one), PortSet(other)
    assert set(a | b) == one | other
    assert set(a & b) == one & other
    assert set(a - b) == one - other
    assert PortSet.parse(str(a)) == a
    assert len(a) == len(one)


@given(ports, st.lists(st.integers(0, 65_535), max_size=5))
def test_a_port_set_without_some_ports(one: frozenset[int], taken: list[int]) -> None:
    left = PortSet(one)
    for port in taken:
        left = left.without(port)
        assert len(left) == sum(1 for _ in left)
    assert set(left) == one - set(taken)


@given(ports, st.integers(0, 65_535))
def test_the_first_port_from_somewhere(one: frozenset[int], start: int) -> None:
    above = [port for port in one if port >= start]
    assert PortSet(one).first_from(start) == (min(above) if above else min(one, default=None))


@pytest.mark.parametrize("text", ["1-", "5-3", "70000", "a", "1-2-3"])
def test_bad_ranges(text: str) -> None:
    with pytest.raises(ValueError, match="31000-32000"):
        PortSet.parse(text)


def test_a_changed_task_is_another_one() -> None:
    status = Status(task="t", state=TaskState.PENDING)
    task = Task(id="t", framework="f", key="k", spec="s", labels={"a": "b"}, status=status)
    stopped = task.changed(desired=Desired.STOPPED, desired_reason="why")
    assert stopped == attrs.evolve(task, desired=Desired.STOPPED, desired_reason="why")
    assert task.desired is Desired.RUNNING
    with pytest.raises(KeyError):
        task.changed(nonsense=1)


@given(st.integers(0, 4_000_000_000_000))
def test_times_go_there_and_back(utc_ms: int) -> None:
    assert parse_utc(format_utc(utc_ms)) == utc_ms


def test_documents_keep_payloads_faithfully() -> None:
    payload = {"Image": "x", "Unknown": {"deep": [1, None, {"k": 1.5}]}}
    spec = Spec(
        runtime="docker",
        payload=payload,
        resources=Resources(cpus=1),
        ports=(PortRequest(container=80),),
        probes=(Probe(kind=ProbeKind.HTTP, port_index=0),),
    )
    assert from_bytes(to_bytes(spec), Spec, "spec") == spec


def test_a_newer_document_is_refused_by_name() -> None:
    with pytest.raises(NewerVersion, match="spec x has version 9, and this program knows up to 1"):
        from_bytes(b'{"v": 9}', Spec, "spec x")


@given(st.binary(max_size=50))
def test_rubbish_is_no_document(data: bytes) -> None:
    with pytest.raises(DocumentError):
        from_bytes(data, Spec, "spec")


@pytest.mark.parametrize("sequence", [b'"1"', b"1.5", b"true", b"null"])
def test_types_are_strict(sequence: bytes) -> None:
    with pytest.raises(DocumentError):
        from_bytes(b'{"v": 1, "task": "t", "state": "running", "sequence": ' + sequence + b"}", Status, "status")


def test_removed_is_final() -> None:
    removed = Status(task="t", state=TaskState.REMOVED, exit=Exit(outcome=Outcome.FINISHED))
    later = Status(task="t", state=TaskState.RUNNING, incarnation=2, sequence=9)
    assert not later.advances(removed)
    assert removed.advances(later) is False
    assert Status(task="t", state=TaskState.RUNNING, incarnation=3).advances(later)


def test_a_line_break_is_no_part_of_a_name() -> None:
    with pytest.raises(ResourceError, match="expected a name"):
        Resources(**{"cpus\n": 1})
