"""Histories of anything, in any order: the invariants hold after each step, and a reload changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orlop.framework import Action, Ask, Framework, Kill, PortRequest, Process, Put, Resources, View
from orlop.kernel.events import DrainNode, Event, ForgetNode, KillTask
from orlop.model.facts import ForeignContainer, NodeFacts
from orlop.model.nodes import NodeState
from orlop.testing.harness import Cluster


@attrs.frozen
class Wish:
    copies: int


class Wanted(Framework):
    """As many copies per group as its stored wish says."""

    name = "wanted"
    documents = {"wish": Wish}  # noqa: RUF012

    def reconcile(self, view: View) -> Iterator[Action]:
        for group, wish in view.objects("wish").items():
            keys = {f"{group}-{number}" for number in range(wish.copies)}
            own = {key: task for key, task in view.live.items() if task.group == group}
            for key in sorted(keys - own.keys()):
                yield Ask(
                    key,
                    run=Process("sleep 1"),
                    needs=Resources(cpus=0.5, mem="64MiB"),
                    ports=(PortRequest(),),
                    group=group,
                )
            for key in sorted(own.keys() - keys):
                yield Kill(key, "not wanted")

    def command(self, view: View, command: tuple[str, int]) -> Iterator[Action]:
        group, copies = command
        yield Put("wish", group, Wish(copies))


@contextlib.contextmanager
def at_once(cluster: Cluster) -> Iterator[None]:
    """What is done in the block comes to the kernel as one batch."""
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "step", lambda *more: events.extend(more))
        yield
    cluster.step(*events)


def some_of(things: Sequence[Any]) -> st.SearchStrategy[list[Any]]:
    """Few or none, each once."""
    indices = st.lists(st.sampled_from(range(len(things))), max_size=4, unique=True) if things else st.just([])
    return indices.map(lambda chosen: [things[index] for index in chosen])


class Histories(RuleBasedStateMachine):
    groups = st.sampled_from(["red", "green", "blue"])

    @initialize(nodes=st.integers(1, 3))
    def begin(self, nodes: int) -> None:
        self.cluster = Cluster(Wanted())
        for number in range(nodes):
            self.cluster.add_node(f"n{number}", cpus=2, mem="1GiB", ports="31000-31003")

    @rule(group=groups, copies=st.integers(0, 6))
    def wish(self, group: str, copies: int) -> None:
        self.cluster.command("wanted", (group, copies))

    @rule()
    def settle(self) -> None:
        self.cluster.settle()

    @precondition(lambda self: self.cluster.running())
    @rule(data=st.data(), code=st.integers(0, 2))
    def a_task_ends(self, data: st.DataObject, code: int) -> None:
        self.cluster.end_task(data.draw(st.sampled_from(self.cluster.running())), code=code)

    @precondition(lambda self: self.cluster.live())
    @rule(data=st.data())
    def an_operator_kills(self, data: st.DataObject) -> None:
        self.cluster.kill_task(data.draw(st.sampled_from(self.cluster.live())).id)

    @rule(data=st.data(), gone=st.booleans())
    def a_node_is_lost(self, data: st.DataObject, gone: bool) -> None:
        self.cluster.lose_node(data.draw(st.sampled_from(sorted(self.cluster.nodes))), gone=gone)

    @rule(data=st.data())
    def a_node_returns(self, data: st.DataObject) -> None:
        node = self.cluster.nodes[data.draw(st.sampled_from(sorted(self.cluster.nodes)))]
        self.cluster.return_node(node.info.name)

    @rule(data=st.data())
    def a_node_is_forgotten(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.cluster.nodes)))
        node = self.cluster.state.node(name)
        gone = node is not None and node.state is NodeState.GONE
        assert self.cluster.forget_node(name) is gone
        assert (self.cluster.state.node(name) is None) is (gone or node is None)

    @rule(data=st.data(), drained=st.booleans())
    def a_node_is_drained(self, data: st.DataObject, drained: bool) -> None:
        self.cluster.step(DrainNode(node=data.draw(st.sampled_from(sorted(self.cluster.nodes))), drained=drained))

    @rule(data=st.data())
    def much_comes_at_once(self, data: st.DataObject) -> None:
        """In one batch, as under load."""
        with at_once(self.cluster):
            for task in data.draw(some_of(self.cluster.live())):
                self.cluster.step(KillTask(task=task.id, reason="operator", token=task.id))
            for task in data.draw(some_of(self.cluster.running())):
                self.cluster.end_task(task)
            for name in data.draw(some_of(sorted(self.cluster.nodes))):
                what = data.draw(st.sampled_from(["lost", "gone", "back", "forgotten", "drained", "undrained"]))
                if what == "back":
                    self.cluster.return_node(name)
                elif what == "forgotten":
                    self.cluster.step(ForgetNode(node=name, token=name))
                elif what in ("lost", "gone"):
                    self.cluster.lose_node(name, gone=what == "gone")
                else:
                    self.cluster.step(DrainNode(node=name, drained=what == "drained"))

    @rule(data=st.data(), cpus=st.sampled_from([0, 500, 3_000]), state=st.sampled_from(["running", "exited"]))
    def somebody_uses_an_engine(self, data: st.DataObject, cpus: int, state: str) -> None:
        container = ForeignContainer(id="c", state=state, cpus_thousandths=cpus)
        name = data.draw(st.sampled_from(sorted(self.cluster.nodes)))
        self.cluster.set_facts(name, NodeFacts(containers={"c": container}))

    @rule(seconds=st.floats(0.1, 100))
    def time_passes(self, seconds: float) -> None:
        self.cluster.advance(seconds)

    @rule()
    def the_server_restarts(self) -> None:
        before = self.cluster.state.tasks
        self.cluster.restart(Wanted())
        live = {task.id for task in before.values() if task.live}
        assert live <= {task.id for task in self.cluster.tasks()} | set(), "no live task is forgotten"

    @invariant()
    def nothing_runs_twice(self) -> None:
        keys = [task.key for task in self.cluster.running()]
        assert len(keys) == len(set(keys))

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        for name in list(self.cluster.nodes):
            self.cluster.return_node(name)
            self.cluster.step(DrainNode(node=name, drained=False))
        self.cluster.settle()
        wishes = self.cluster.view("wanted").objects("wish")
        wanted = sum(wish.copies for wish in wishes.values())
        running, waiting = len(self.cluster.running()), [t for t in self.cluster.live() if t.placement is None]
        assert running + len(waiting) == wanted, "everything wanted runs or waits"
        for task in waiting:
            assert self.cluster.explain(task).fits == 0, "what could be placed is placed"


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
