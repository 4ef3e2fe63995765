"""Where tasks go, and in whose turn: DRF's worked numbers, filters, ports, searches of all sizes."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.kernel.events import AgentHello, FrameworkActions
from orlop.kernel.filters import kernel_filters, kernel_scorers
from orlop.kernel.kernel import Kernel
from orlop.kernel.placement import Candidate, PlacementView
from orlop.kernel.state import State
from orlop.model.asks import Request, spec_id
from orlop.model.clock import Now
from orlop.model.messages import Epoch, Hello
from orlop.model.nodes import NodeInfo
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.tasks import Constraint, PortRequest, Spec, Task

NOW = Now(1_000, 1_000)
EPOCH = Epoch(1, 1)


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


def asks(count: int, needs: Resources, role: str = "*", **members: object) -> tuple[Request, ...]:
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


def test_a_constraint_that_no_filter_knows_matches_nothing() -> None:
    kernel = Kernel()
    state = cluster(kernel, node("a", Resources(cpus=8)))
    after = place(kernel, state, asks(1, Resources(cpus=1), constraints=(Constraint(field="x", operator="NEAR"),)))
    (task,) = after.tasks.values()
    assert kernel.explain(after, task).ruled_out == (("operators", "no filter knows NEAR", 1),)


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
    assert filtered.explain(state, task).ruled_out == (("broken", "filter failed: RuntimeError", 1),)


def test_now_or_never_leaves_nothing_behind() -> None:
    kernel = Kernel()
    state = cluster(kernel, node("a", Resources(cpus=1)))
    request = attrs.evolve(asks(1, Resources(cpus=2))[0], wait_ms=0)
    step = kernel.step(state, [FrameworkActions(framework="f", seen=0, asks=(request,))], NOW, EPOCH)
    assert not [task for task in step.state.tasks.values() if task.live]
    (notice,) = [effect for effect in step.effects if hasattr(effect, "rejected") and effect.rejected]
    assert str(notice.rejected["*-0"]) == "0 of 1 nodes fit: not enough cpus (1)"


@given(
    nodes=st.integers(1, 150),
    groups=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=4),
)
def test_whatever_the_search_capacity_is_kept_and_used(nodes: int, groups: list[tuple[int, int]]) -> None:
    """Small clusters are searched whole, large ones sampled: none is overfilled, and what fits is placed."""
    kernel = Kernel()
    state = cluster(kernel, *(node(f"n{number:03d}", Resources(cpus=2)) for number in range(nodes)))
    for number, (count, tenths) in enumerate(groups):
        state = place(kernel, state, asks(count, Resources(cpus=tenths / 10), f"g{number}"))
    for candidate in state.candidates.values():
        assert candidate.free.get("cpus") >= 0
    for task in state.tasks.values():
        if task.placement is None:
            assert kernel.explain(state, task).fits == 0
