"""Where tasks go, and in whose turn: DRF's worked numbers, filters, ports, searches of all sizes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.kernel import invariants
from orlop.kernel.events import AgentHello, AgentStatuses, FrameworkActions, Logged
from orlop.kernel.filters import kernel_filters, kernel_scorers
from orlop.kernel.kernel import Kernel
from orlop.kernel.placement import Candidate, PlacementView
from orlop.kernel.records import log_key
from orlop.kernel.state import State
from orlop.model.asks import Request, spec_id
from orlop.model.clock import Now
from orlop.model.log_entries import LogEntry, LogRecord
from orlop.model.messages import Epoch, Hello
from orlop.model.nodes import NodeInfo
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.tasks import Constraint, Exit, Outcome, PortRequest, Spec, Status, Task, TaskState

NOW = Now(1_000, 1_000)
EPOCH = Epoch(1, 1)
#: A backtracking engine does not come back from it.
HANGING = "(?:" * 6 + "v?" + "){9}" * 6 + "x"


def cluster(kernel: Kernel, *nodes: NodeInfo) -> State:
    hellos = [AgentHello(session=node.id, hello=Hello(node=node)) for node in nodes]
    return kernel.step(State(cluster_id="c"), hellos, NOW, EPOCH).state


def node(name: str, resources: Resources, ports: str = "31000-31009", **attributes: str) -> NodeInfo:
    return NodeInfo(
        id=name,
        name=name,
        address="",
        resources=resources,
        ports=PortSet.parse(ports),
        attributes=attributes,
        runtimes=("process",),
    )


def asks(count: int, needs: Resources, role: str = "*", **members: Any) -> tuple[Request, ...]:
    spec = attrs.evolve(Spec(runtime="process", payload={"role": role}, resources=needs), **members)
    return tuple(
        Request(key=f"{role}-{number}", spec_id=spec_id(spec), spec=spec, role=role, group=role)
        for number in range(count)
    )


def place(kernel: Kernel, state: State, *requests: tuple[Request, ...]) -> State:
    event = FrameworkActions(framework="f", seen=0, asks=tuple(one for group in requests for one in group))
    return kernel.step(state, [event], NOW, EPOCH).state


def placed(state: State, role: str = "*") -> list[Task]:
    return [task for task in state.tasks.values() if task.role == role and task.placement is not None]


@pytest.mark.parametrize(
    ("total", "demands", "weights", "expected"),
    [
        ((9, 18), {"a": (1, 4), "b": (3, 1)}, {}, {"a": 3, "b": 2}),
        ((90, 180), {"a": (1, 4), "b": (3, 1)}, {}, {"a": 30, "b": 20}),
        ((100, 10_000), {"a": (2, 300), "b": (6, 100)}, {}, {"a": 20, "b": 10}),
        ((90, 180), {"a": (1, 4), "b": (3, 1), "c": (1, 1)}, {}, {"a": 18, "b": 12, "c": 36}),
        ((90, 180), {"a": (1, 4), "b": (3, 1)}, {"a": 2.0}, {"a": 41, "b": 16}),
        ((90, 180), {"a": (1, 4), "b": (3, 1)}, {"b": 2.0}, {"a": 18, "b": 24}),
    ],
)
def test_dominant_resource_fairness(
    total: tuple[int, int], demands: dict[str, tuple[int, int]], weights: dict[str, float], expected: dict[str, int]
) -> None:
    """The worked numbers of the DRF paper (Ghodsi et al., NSDI 2011) and others computed with exact fractions."""
    kernel = Kernel(role_weights=weights)
    state = cluster(kernel, node("n", Resources(cpus=total[0], mem=f"{total[1]}GiB")))
    groups = [asks(100, Resources(cpus=cpus, mem=f"{mem}GiB"), role) for role, (cpus, mem) in demands.items()]
    after = place(kernel, state, *groups)
    assert {role: len(placed(after, role)) for role in demands} == expected


def test_an_explanation_counts_each_node_once() -> None:
    kernel = Kernel()
    small, big = Resources(cpus=1, mem="1GiB"), Resources(cpus=8, mem="8GiB")
    nodes = [node("a", small, rack="r1"), node("b", small, rack="r2"), node("c", big, rack="r2")]
    state = place(
        kernel,
        cluster(kernel, *nodes),
        asks(1, Resources(cpus=4), constraints=(Constraint(field="rack", operator="IS", value="r1"),)),
    )
    (task,) = state.tasks.values()
    explanation = kernel.explain(state, task)
    assert explanation.nodes == 3
    assert explanation.ruled_out == (("attributes", "rack IS r1", 2), ("resources", "not enough cpus", 1))


class Racks:
    """A filter by what an ask says beside its spec. shown: names and variables of the asks that it was shown."""

    name = "racks"

    def __init__(self) -> None:
        self.shown: list[tuple[str, Mapping[str, str]]] = []

    def prepare(self, request: Request, view: PlacementView) -> Callable[[Candidate], str | None] | None:
        self.shown.append((request.name, request.environment))
        rack = request.labels.get("rack")
        if rack is None:
            return None
        return lambda candidate: None if candidate.node.info.attributes.get("rack") == rack else f"not in rack {rack}"


RACKS = st.lists(st.sampled_from(["r1", "r2", "nowhere", None]), max_size=8)


@given(RACKS, st.integers(1, 3))
def test_a_filter_is_asked_for_asks_of_other_labels_anew(racks: list[str | None], batches: int) -> None:
    """Whether they come together or one after the other, and from a state that was loaded anew."""
    racks_filter = Racks()
    kernel = Kernel([racks_filter])
    many = Resources(cpus=100, mem="100GiB")
    state = cluster(kernel, node("n1", many, rack="r1"), node("n2", many, rack="r2"))
    wanted = asks(len(racks), Resources(cpus=1))
    requests = [
        attrs.evolve(one, labels={"rack": rack} if rack else {}, name=f"own-{one.key}", environment={"OWN": one.key})
        for one, rack in zip(wanted, racks, strict=True)
    ]
    for batch in range(batches):
        state = place(kernel, state, tuple(requests[batch::batches]))
    by_key = {task.key: task for task in state.tasks.values()}
    for request, rack in zip(requests, racks, strict=True):
        found = by_key[request.key].placement
        if rack == "nowhere":
            assert found is None
            assert kernel.explain(state, by_key[request.key]).ruled_out == (("racks", "not in rack nowhere", 2),)
        else:
            assert found is not None
            assert found.node in {"r1": ("n1",), "r2": ("n2",), None: ("n1", "n2")}[rack]
    assert set(map(str, racks_filter.shown)) <= {"('', {})"}
    invariants.check(state)


def test_a_constraint_that_no_filter_knows_matches_nothing() -> None:
    kernel = Kernel()
    state = cluster(kernel, node("a", Resources(cpus=8)))
    after = place(kernel, state, asks(1, Resources(cpus=1), constraints=(Constraint(field="x", operator="NEAR"),)))
    (task,) = after.tasks.values()
    assert kernel.explain(after, task).ruled_out == (("operators", "no filter knows NEAR", 1),)


@pytest.mark.parametrize(
    ("operator", "value", "reason"),
    [
        ("LIKE", "(a*)*b", "hostname LIKE (a*)*b"),
        ("UNLIKE", "(a|a)*", "hostname UNLIKE (a|a)*"),
        ("LIKE", HANGING, f"hostname LIKE {HANGING}: not a regular expression: invalid repetition size: {{9}}"),
        ("UNLIKE", "(", "hostname UNLIKE (: not a regular expression: missing ): ("),
    ],
)
def test_no_regular_expression_takes_for_ever_or_fails(operator: str, value: str, reason: str) -> None:
    """One that cannot be read was stored by an earlier version; it refuses every node, and says why."""
    kernel = Kernel()
    state = cluster(kernel, node("a" * 60, Resources(cpus=8)))
    constraint = Constraint(field="hostname", operator=operator, value=value)
    after = place(kernel, state, asks(1, Resources(cpus=1), constraints=(constraint,)))
    (task,) = after.tasks.values()
    assert kernel.explain(after, task).ruled_out == (("attributes", reason, 1),)


def test_fixed_ports_are_given_once_and_others_never_collide() -> None:
    kernel = Kernel()
    state = cluster(kernel, node("a", Resources(cpus=8)))
    fixed = asks(2, Resources(cpus=0.1), ports=(PortRequest(number=31_003), PortRequest()))
    after = place(kernel, state, fixed)
    (winner,) = placed(after)
    assert winner.ports[0] == 31_003
    more = place(kernel, after, asks(20, Resources(cpus=0.1), "other", ports=(PortRequest(),)))
    ports = [port for task in more.tasks.values() for port in task.ports]
    assert sorted(ports) == list(range(31_000, 31_010)), "all of them, each once"


def test_a_filter_that_raises_refuses_and_a_scorer_that_raises_counts_as_zero() -> None:
    class Broken:
        name = "broken"
        weight = 1.0

        def prepare(self, request: Request, view: PlacementView):
            def fail(candidate: Candidate):
                raise RuntimeError("bug")

            return fail

    needs = Resources(cpus=1)
    scored = Kernel(kernel_filters(), (*kernel_scorers(), Broken()))
    assert len(placed(place(scored, cluster(scored, node("a", needs)), asks(1, needs)))) == 1
    filtered = Kernel((*kernel_filters(), Broken()), kernel_scorers())
    state = place(filtered, cluster(filtered, node("a", needs)), asks(1, needs))
    (task,) = state.tasks.values()
    assert filtered.explain(state, task).ruled_out == (("broken", "filter failed: RuntimeError: bug", 1),)


@pytest.mark.parametrize("answer", [False, 5, {"not": "a text"}])
def test_what_a_filter_gives_that_is_no_reason_is_told_as_its_failure(answer: Any) -> None:
    class Mistaken:
        name = "mistaken"

        def prepare(self, request: Request, view: PlacementView):
            return lambda _: answer

    needs = Resources(cpus=1)
    kernel = Kernel((*kernel_filters(), Mistaken()), kernel_scorers())
    state = place(kernel, cluster(kernel, node("a", needs)), asks(1, needs))
    (task,) = state.tasks.values()
    reason = f"filter failed: it gave {answer!r}, not None or a text"
    assert kernel.explain(state, task).ruled_out == (("mistaken", reason, 1),)


def test_now_or_never_leaves_nothing_behind() -> None:
    kernel = Kernel()
    state = cluster(kernel, node("a", Resources(cpus=1)))
    request = attrs.evolve(asks(1, Resources(cpus=2))[0], wait_ms=0)
    step = kernel.step(state, [FrameworkActions(framework="f", seen=0, asks=(request,))], NOW, EPOCH)
    assert not [task for task in step.state.tasks.values() if task.live]
    (notice,) = [effect for effect in step.effects if hasattr(effect, "rejected") and effect.rejected]
    assert str(notice.rejected["*-0"]) == "0 of 1 nodes fit: not enough cpus (1)"


wanted_groups = st.lists(
    st.fixed_dictionaries(
        {
            "count": st.integers(1, 40),
            "tenths": st.integers(1, 20),
            "different": st.booleans(),
            "role": st.sampled_from(["*", "a", "b"]),
            "rack": st.sampled_from(["", "r0", "r1"]),
            "priority": st.integers(0, 1),
        }
    ),
    min_size=1,
    max_size=4,
)


def wanted(number: int, count: int, tenths: int, different: bool, role: str, rack: str, priority: int):
    constraints = (Constraint(field="rack", operator="IS", value=rack),) if rack else ()
    for one in range(count):
        payload = {"command": f"run {one if different else 0}"}
        spec = Spec(runtime="process", payload=payload, resources=Resources(cpus=tenths / 10), constraints=constraints)
        group = f"g{number}-{one}" if different else f"g{number}"
        yield Request(
            key=f"{number}-{one}", spec_id=spec_id(spec), spec=spec, group=group, role=role, priority=priority
        )


@settings(deadline=None)
@given(nodes=st.integers(1, 150), groups=wanted_groups, at_once=st.booleans())
def test_whatever_the_search_capacity_is_kept_and_used(nodes: int, groups: list[dict], at_once: bool) -> None:
    """Small clusters are ranked, large ones sampled first: none is overfilled, and what fits is placed."""
    kernel = Kernel()
    infos = (node(f"n{number:03d}", Resources(cpus=2), rack=f"r{number % 3}") for number in range(nodes))
    state = cluster(kernel, *infos)
    batches = [tuple(wanted(number, **group)) for number, group in enumerate(groups)]
    for batch in [batches] if at_once else [[one] for one in batches]:
        state = place(kernel, state, *batch)
        invariants.check(state)
    for candidate in state.candidates.values():
        assert candidate.free.get("cpus") >= 0
    for task in state.tasks.values():
        if task.placement is None:
            assert kernel.explain(state, task).fits == 0


@pytest.mark.parametrize("nodes", [10, 100, 300])
def test_different_asks_are_spread_like_identical_ones(nodes: int) -> None:
    kernel = Kernel()
    state = cluster(kernel, *(node(f"n{number:03d}", Resources(cpus=2)) for number in range(nodes)))
    group: dict[str, Any] = {"count": nodes, "tenths": 1, "different": True, "role": "*", "rack": "", "priority": 0}
    after = place(kernel, state, tuple(wanted(0, **group)))
    on_nodes = Counter(task.node for task in placed(after))
    assert max(on_nodes.values()) == 1, "there was an empty node for each of them"


def test_asks_that_need_nothing_go_round() -> None:
    kernel = Kernel()
    state = cluster(kernel, *(node(f"n{number}", Resources(cpus=2)) for number in range(5)))
    spec = Spec(runtime="process", payload={})
    needless = tuple(Request(key=f"k{number}", spec_id=spec_id(spec), spec=spec) for number in range(10))
    assert Counter(task.node for task in placed(place(kernel, state, needless))) == {f"n{n}": 2 for n in range(5)}


def test_a_scorer_with_a_memory_of_its_own_is_not_shared() -> None:
    """Each group goes to the node that the plugin's scorer chose for it, though all else about the groups is equal."""

    class Homes:
        name = "homes"
        weight = 100.0

        def prepare(self, request: Request, view: PlacementView):
            home = request.labels["home"]
            return lambda candidate: 1.0 if candidate.node.id == home else 0.0

    kernel = Kernel(kernel_filters(), (*kernel_scorers(), Homes()))
    state = cluster(kernel, *(node(f"n{number}", Resources(cpus=2)) for number in range(5)))
    spec = Spec(runtime="process", payload={}, resources=Resources(cpus=0.1))
    homes = tuple(
        Request(key=f"k{n}", spec_id=spec_id(spec), spec=spec, group=f"g{n}", labels={"home": f"n{n}"})
        for n in range(5)
    )
    after = place(kernel, state, homes)
    assert {task.key: task.node for task in placed(after)} == {f"k{n}": f"n{n}" for n in range(5)}


def test_a_counting_filter_opens_nodes_that_were_not_freed() -> None:
    """One licence for the cluster: its holder ends on a node too small for who waits, and another node has room."""

    class Licence:
        name = "licence"

        def prepare(self, request: Request, view: PlacementView):
            used = [task for task in view.group("f", "licensed") if task.placement is not None]

            def check(candidate: Candidate) -> str | None:
                return "no licence left" if used else None

            check.placed = used.append  # type: ignore[attr-defined]
            return check if request.group == "licensed" else None

    kernel = Kernel((*kernel_filters(), Licence()), kernel_scorers())
    state = cluster(kernel, node("big", Resources(cpus=8), rack="r1"), node("small", Resources(cpus=1), rack="r2"))

    def licensed(key: str, cpus: int, rack: str) -> tuple[Request, ...]:
        constraint = Constraint(field="rack", operator="IS", value=rack)
        spec = Spec(runtime="process", payload={}, resources=Resources(cpus=cpus), constraints=(constraint,))
        return (Request(key=key, spec_id=spec_id(spec), spec=spec, group="licensed"),)

    state = place(kernel, state, licensed("holder", 1, "r2"))
    state = place(kernel, state, licensed("waits", 4, "r1"))
    (holder,) = placed(state)
    assert holder.key == "holder"
    end = Status(task=holder.id, state=TaskState.REMOVED, sequence=1, exit=Exit(outcome=Outcome.FINISHED))
    state = kernel.step(state, [AgentStatuses(session="small", node="small", statuses=(end,))], NOW, EPOCH).state
    assert [task.node for task in placed(state) if task.key == "waits"] == ["big"]


def test_one_port_for_two_protocols() -> None:
    kernel = Kernel()
    state = cluster(kernel, node("a", Resources(cpus=8)))
    both = (PortRequest(number=31_003, protocol="tcp"), PortRequest(number=31_003, protocol="udp"), PortRequest())
    after = place(kernel, state, asks(1, Resources(cpus=0.1), ports=both))
    (task,) = placed(after)
    assert task.ports[:2] == (31_003, 31_003)
    assert 31_003 not in after.candidates["a"].free_ports
    assert len(after.candidates["a"].free_ports) == 8


HISTORY = """
import hashlib
from orlop.kernel.assignments import assignments
from orlop.kernel.events import Assign, Notify
from orlop.kernel.loading import encode
from test_placement import EPOCH, NOW, Kernel, FrameworkActions, Resources, cluster, node, wanted

kernel = Kernel()
state = cluster(kernel, *(node(f"n{number:03d}", Resources(cpus=2), rack=f"r{number % 3}") for number in range(120)))
written = hashlib.sha256()
for number in range(12):
    group = {"count": 25, "tenths": number % 5 + 3, "different": number % 2 == 0, "role": "ab*"[number % 3]}
    asks = tuple(wanted(number, **group, rack="", priority=number % 2))
    step = kernel.step(state, [FrameworkActions(framework=f"f{number % 4}", seen=0, asks=asks)], NOW, EPOCH)
    state = step.state
    for key, document in step.puts.items():
        written.update(key.encode() + encode(document))
    for effect in step.effects:
        shown = sorted(effect.keys) if isinstance(effect, Notify) else effect
        shown = assignments(effect) if isinstance(effect, Assign) else shown
        written.update(repr(shown).encode())
print(written.hexdigest())
"""


def test_the_same_history_gives_the_same_bytes_under_any_hash_seed() -> None:
    folder = str(Path(__file__).parent)
    results = {
        subprocess.run(
            [sys.executable, "-c", HISTORY],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": folder},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(results) == 1


def test_what_is_only_told_is_stored_with_a_number_of_its_own() -> None:
    kernel = Kernel()
    state = cluster(kernel, node("a", Resources(cpus=100)))
    told = []
    for what in ("f.one", "f.two"):
        entry = LogEntry(type=what, utc_ms=1)
        step = kernel.step(state, [FrameworkActions(framework="f", seen=0, log=(entry,))], NOW, EPOCH)
        (logged,) = [effect for effect in step.effects if isinstance(effect, Logged)]
        assert step.puts[log_key(logged.version)] == LogRecord(entries=(entry,))
        told.append(logged.version)
        state = step.state
    assert told[0] < told[1]


def test_the_event_log_says_how_much_was_left_out() -> None:
    kernel = Kernel()
    state = cluster(kernel, node("a", Resources(cpus=100)))
    own = tuple(LogEntry(type="f.said", utc_ms=1) for _ in range(100))
    many = asks(450, Resources(cpus=0.1))
    step = kernel.step(state, [FrameworkActions(framework="f", seen=0, asks=many, log=own)], NOW, EPOCH)
    (record,) = [document for document in step.puts.values() if isinstance(document, LogRecord)]
    assert [entry.type for entry in record.entries] == ["f.said"] * 100 + ["task.placed"] * 400 + ["log.truncated"]
    assert record.entries[-1].details == {"left_out": "50"}
