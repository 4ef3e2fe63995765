"""The best of all nodes is found without looking at all of them: it is the one that looking at each would find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.kernel import matcher
from orlop.kernel.events import (
    AgentHello,
    AgentStatuses,
    DrainNode,
    Event,
    ForgetNode,
    FrameworkActions,
    NodeFactsChanged,
    NodeSilent,
    Unplaced,
)
from orlop.kernel.filters import kernel_filters, kernel_scorers
from orlop.kernel.kernel import Kernel
from orlop.kernel.placement import Candidate, PlacementView
from orlop.kernel.sizes import Sizes, size_key
from orlop.kernel.state import CHANGES_KEPT, State
from orlop.model.asks import Request, spec_id
from orlop.model.clock import Now
from orlop.model.facts import ForeignContainer, NodeFacts
from orlop.model.messages import Epoch, Hello
from orlop.model.nodes import NodeInfo
from orlop.model.resources import Resources
from orlop.model.tasks import Exit, Outcome, Spec, Status, TaskState

EPOCH: Final = Epoch(1, 1)
NODES: Final = 9


class Hook:
    """A filter or a scorer that gives what `make` makes of the ask's command and the view."""

    def __init__(self, name: str, weight: float, make: Callable[[str, PlacementView], Any]) -> None:
        self.name = name
        self.weight = weight
        self._make = make

    def prepare(self, request: Request, view: PlacementView) -> Any:
        return self._make(request.spec.payload["command"], view)


def number(candidate: Candidate) -> int:
    return int(candidate.node.id.removeprefix("n"))


def telling(one: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(one, name, value)
    return one


def fewest_tasks(candidate: Candidate) -> float:
    return 1 / (1 + len(candidate.tasks))


telling(fewest_tasks, exact=True, by_size=True)


def most_tasks(command: str, _: PlacementView) -> Any:
    """A score by size of the ask's own."""
    if "packed" not in command:
        return fewest_tasks
    return telling(lambda candidate: len(candidate.tasks) / (len(candidate.tasks) + 3), exact=True, by_size=True)


def wished(command: str, view: PlacementView) -> Any:
    if "wish" not in command:
        return None
    score = telling(lambda candidate: 1.0 if number(candidate) in (3, 4) else 0.0, exact=True)
    if "told" in command:
        score.among = lambda seen: [node for node in ("n3", "n4") if node in seen.node_ids]
    return score


def odd(command: str, _: PlacementView) -> Any:
    return (lambda candidate: None if number(candidate) % 2 else "even") if "odd" in command else None


def named(command: str, _: PlacementView) -> Any:
    if "only" not in command:
        return None
    if "told" not in command:
        return lambda candidate: None if number(candidate) in (1, 2) else f"not {candidate.node.id}"
    check = telling(lambda candidate: None if number(candidate) == 1 else "two" if number(candidate) == 2 else "other")
    return telling(check, among=lambda view: ["n1", "n2", "n-gone"])


def failing(command: str, _: PlacementView) -> Any:
    def check(candidate: Candidate) -> str | None:
        if number(candidate) == 5:
            raise RuntimeError
        return None

    return telling(check, among=lambda view: 1 / 0) if "fails" in command else None


def tilted(command: str, _: PlacementView) -> Any:
    """A score that is no function of the size, small beside the leading one or large."""
    return (lambda candidate: number(candidate) * 7 % 5 / 5) if "tilted" in command else None


FILTERS: Final = (Hook("odd", 0, odd), Hook("named", 0, named), Hook("failing", 0, failing))
SCORERS: Final = (Hook("wished", 50, wished), Hook("tilted", 0.7, tilted), Hook("tasks", 5, most_tasks))


class Course:
    """A history of one kernel. remembers: with all that is remembered, or by looking at every node."""

    def __init__(self, *, remembers: bool) -> None:
        self.kernel = Kernel((*kernel_filters(), *FILTERS), (*SCORERS, *kernel_scorers()))
        if not remembers:
            self.kernel.planner._memory = None  # type: ignore[assignment]
        self.state = State(cluster_id="c")
        self.told: list[Any] = []
        self.count = 0
        self.do(*(hello(n) for n in range(NODES)))

    def do(self, *events: Event, keep: bool = True) -> None:
        step = self.kernel.step(self.state, events, Now(1_000, 1_000), EPOCH)
        if keep:
            self.state = step.state
            self.told += [one for one in step.effects if isinstance(one, Unplaced)]

    def ask(self, command: str, cpus: int, group: str = "", *, keep: bool = True) -> None:
        self.count += 1
        spec = Spec(runtime="process", payload={"command": command}, resources=Resources.of({"cpus": cpus}))
        request = Request(key=f"k{self.count}", spec_id=spec_id(spec), spec=spec, group=group, wait_ms=0)
        self.do(FrameworkActions(framework="f", seen=0, asks=(request,)), keep=keep)

    def end(self, which: int) -> None:
        placed = [task for task in self.state.tasks.values() if task.placement is not None and task.live]
        if placed:
            task = min(placed, key=lambda one: ((one.sequence * 7 + which) % 11, one.sequence))
            status = Status(
                task=task.id,
                state=TaskState.REMOVED,
                incarnation=1,
                sequence=1,
                exit=Exit(outcome=Outcome.FINISHED, code=0),
            )
            self.do(AgentStatuses(session="s", node=task.node or "", statuses=(status,)))

    def take(self, act: tuple[Any, ...]) -> None:
        match act:
            case ("ask", command, cpus, group):
                self.ask(command, cpus, group)
            case ("lost", command, cpus):
                self.ask(command, cpus, keep=False)
            case ("end", which):
                self.end(which)
            case ("drain", which, drained):
                self.do(DrainNode(node=f"n{which}", drained=drained))
            case ("forget", which):
                node = f"n{which}"
                self.do(NodeSilent(node=node, gone=True), ForgetNode(node=node))
            case ("node", which):
                self.do(hello(which))
            case ("foreign", which, cpus):
                one = ForeignContainer(
                    id="f", names=("f",), image="", labels={}, state="running", cpus_thousandths=cpus
                )
                self.do(NodeFactsChanged(node=f"n{which}", facts=NodeFacts(containers={"f": one})))

    @property
    def places(self) -> list[tuple[str, str | None]]:
        return sorted((task.key, task.node) for task in self.state.tasks.values())


def hello(which: int) -> AgentHello:
    resources = Resources.of({"cpus": 4_000 + 1_000 * (which % 2), "mem": 2**30})
    info = NodeInfo(id=f"n{which}", name=f"n{which}", address="", resources=resources, runtimes=("process",))
    return AgentHello(session=f"s{which}", hello=Hello(node=info))


COMMANDS = st.lists(
    st.sampled_from(["packed", "wish", "told", "odd", "only", "fails", "tilted"]), max_size=4, unique=True
).map(" ".join)
CPUS = st.sampled_from([0, 100, 900, 2_000, 9_000])
WHICH = st.integers(0, NODES - 1)
ACTS = st.one_of(
    st.tuples(st.just("ask"), COMMANDS, CPUS, st.sampled_from(["", "g"])),
    st.tuples(st.just("ask"), COMMANDS, CPUS, st.sampled_from(["", "g"])),
    st.tuples(st.just("lost"), COMMANDS, CPUS),
    st.tuples(st.just("end"), st.integers(0, 10)),
    st.tuples(st.just("drain"), WHICH, st.booleans()),
    st.tuples(st.just("node"), st.integers(0, NODES + 3)),
    st.tuples(st.just("forget"), WHICH),
    st.tuples(st.just("foreign"), WHICH, st.sampled_from([0, 500, 3_000])),
)


@pytest.fixture(autouse=True)
def no_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small clusters are searched as large ones are."""
    monkeypatch.setattr(matcher, "RANK_UP_TO_NODES", 0)
    monkeypatch.setattr(matcher, "SAMPLE_NODES_MIN", 0)


@settings(max_examples=300, deadline=None)
@given(st.lists(ACTS, max_size=25))
def test_it_is_the_node_that_looking_at_each_finds(acts: Sequence[tuple[Any, ...]]) -> None:
    """And what is not placed is explained alike, whatever was undone meanwhile."""
    quick, slow = Course(remembers=True), Course(remembers=False)
    for act in acts:
        quick.take(act)
        slow.take(act)
        assert quick.places == slow.places, act
        assert quick.told == slow.told, act
    sizes = quick.kernel.planner._memory.sizes
    sizes.follow(quick.state)
    check_sizes(sizes, quick.state)


def check_sizes(sizes: Sizes, state: State) -> None:
    """As if made anew."""
    expected: dict[Any, list[int]] = {}
    for position, node_id in enumerate(state.node_order):
        expected.setdefault(size_key(state.candidate(node_id)), []).append(position)
    assert {key: size.positions for key, size in sizes.all.items()} == expected


def test_few_nodes_are_looked_at() -> None:
    seen: list[str] = []

    def noting(command: str, _: PlacementView) -> Any:
        def check(candidate: Candidate) -> str | None:
            seen.append(candidate.node.id)
            return None

        return check

    course = Course(remembers=True)
    course.do(*(hello(n) for n in range(300)))
    course.kernel = Kernel((*kernel_filters(), Hook("noting", 0, noting)), (*SCORERS, *kernel_scorers()))
    course.ask("a", 100)
    seen.clear()
    course.ask("b", 100)
    assert len(seen) == 2, "one of each size that is equally good"


def test_after_more_changes_than_a_state_knows_of_all_nodes_are_looked_at() -> None:
    course = Course(remembers=True)
    sizes = Sizes()
    sizes.follow(course.state)
    for number_ in range(CHANGES_KEPT + 20):
        course.take(("foreign", number_ % 3, number_ + 1))
    assert len(course.state.changes) == CHANGES_KEPT
    sizes.follow(course.state)
    check_sizes(sizes, course.state)


def test_what_is_remembered_of_scores_is_bounded() -> None:
    course = Course(remembers=True)
    for number_ in range(100):
        course.ask("packed", number_ % 7)
        course.end(number_)
    memory = course.kernel.planner._memory
    assert len(memory._of_sizes) <= 64
    assert all(len(known) <= 3 * (NODES + 16) for known in memory._of_sizes.values())


def test_changes_do_not_tell_states_apart() -> None:
    course = Course(remembers=True)
    assert course.state.changes
    assert attrs.evolve(course.state, changes=()) == course.state
