"""Facts in the kernel: what they change of a node as a place, and that nothing of them is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import attrs
import pytest

from orlop.framework import Action, Ask, Framework, PortRequest, Process, Put, Resources, View
from orlop.kernel.events import AgentHello, NodeFactsChanged, ToNode
from orlop.kernel.kernel import Kernel
from orlop.model.clock import Now
from orlop.model.facts import FactsChange, ForeignContainer, HostPort, Image, NodeFacts, difference, in_full
from orlop.model.messages import Epoch, Hello, Welcome
from orlop.server.node_facts import ToldFacts
from orlop.testing.harness import Cluster


@attrs.frozen
class Wish:
    copies: int


class Wanted(Framework):
    """As many copies as were commanded last."""

    name = "wanted"
    documents: ClassVar[Mapping[str, type]] = {"wish": Wish}

    def reconcile(self, view: View) -> Iterator[Action]:
        for wish in view.objects("wish").values():
            for number in range(wish.copies):
                if f"copy-{number}" not in view.live:
                    yield Ask(f"copy-{number}", run=Process("sleep 1"), needs=Resources(cpus=1, mem="1GiB"))

    def command(self, view: View, command: int) -> Iterator[Action]:
        yield Put("wish", "it", Wish(command))


@attrs.frozen
class Ports:
    wanted: tuple[int | None, ...]


class Serving(Framework):
    """Tasks with one port each: those that were commanded last, by number or any (None)."""

    name = "serving"
    documents: ClassVar[Mapping[str, type]] = {"ports": Ports}

    def reconcile(self, view: View) -> Iterator[Action]:
        for ports in view.objects("ports").values():
            for position, port in enumerate(ports.wanted):
                if f"one-{position}" not in view.live:
                    yield Ask(f"one-{position}", run=Process("sleep 1"), ports=(PortRequest(number=port),))

    def command(self, view: View, command: tuple[int | None, ...]) -> Iterator[Action]:
        yield Put("ports", "it", Ports(command))


def _foreign(number: int = 1, *, cpus: int = 0, mem: int = 0, state: str = "running") -> ForeignContainer:
    return ForeignContainer(id=f"c{number}", state=state, cpus_thousandths=cpus, memory_bytes=mem)


def _facts(*containers: ForeignContainer) -> NodeFacts:
    return NodeFacts(containers={one.id: one for one in containers})


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster(Wanted())
    made.add_node("n1", cpus=4, mem="8GiB")
    return made


def test_foreign_containers_reduce_what_is_free_and_running_tasks_go_on(cluster: Cluster) -> None:
    cluster.command("wanted", 2)
    cluster.settle()
    cluster.set_facts("n1", _facts(_foreign(cpus=3500, mem=2**33)))
    candidate = cluster.state.candidates["n1"]
    assert candidate.free == Resources.of({**candidate.free, "cpus": 500 - 2000, "mem": -2 * 2**30})
    assert len(cluster.running()) == 2


def test_what_does_not_fit_beside_foreign_containers_waits_says_so_and_is_placed_when_they_go(cluster: Cluster) -> None:
    cluster.set_facts("n1", _facts(_foreign(cpus=3500)))
    cluster.command("wanted", 1)
    cluster.settle()
    (waiting,) = cluster.pending()
    assert cluster.explain(waiting).ruled_out == (("resources", "not enough cpus beside foreign containers", 1),)
    cluster.set_facts("n1", _facts(_foreign(cpus=3500, state="exited")))
    assert len(cluster.running()) == 1


def test_a_node_that_is_too_small_anyway_is_not_explained_by_foreign_containers(cluster: Cluster) -> None:
    cluster.command("wanted", 5)
    cluster.settle()
    cluster.set_facts("n1", _facts(_foreign(cpus=100)))
    (waiting,) = cluster.pending()
    assert cluster.explain(waiting).ruled_out == (("resources", "not enough cpus", 1),)


def test_facts_are_not_stored_and_begin_anew_with_a_session(cluster: Cluster) -> None:
    before = cluster.state
    info = cluster.nodes["n1"].info
    kernel, now, epoch = Kernel(), Now(before.utc_ms, 1), Epoch(1, 1)
    told = kernel.step(before, [NodeFactsChanged(node="n1", facts=_facts(_foreign(cpus=1000)))], now, epoch)
    assert (dict(told.puts), told.deletes, told.effects) == ({}, frozenset(), ())
    assert told.state.version == before.version
    assert told.state.candidates["n1"].free.get("cpus") == 3000
    again = kernel.step(told.state, [AgentHello(session="s2", hello=Hello(node=info))], now, epoch)
    assert again.state.candidates["n1"].facts is None
    assert again.state.candidates["n1"].free == before.candidates["n1"].free


def test_facts_come_with_the_hello_and_the_welcome_says_so(cluster: Cluster) -> None:
    before, hello = cluster.state, Hello(node=cluster.nodes["n1"].info)
    kernel, now, epoch = Kernel(), Now(before.utc_ms, 1), Epoch(1, 1)
    for facts in (_facts(_foreign(cpus=1000)), None):
        step = kernel.step(before, [AgentHello(session="s2", hello=hello, facts=facts)], now, epoch)
        (welcome,) = [
            one.message for one in step.effects if isinstance(one, ToNode) and isinstance(one.message, Welcome)
        ]
        assert step.state.candidates["n1"].facts == facts
        assert welcome.facts is (facts is not None)


def test_nothing_is_placed_on_a_node_before_its_agent_has_found_the_new_server(cluster: Cluster) -> None:
    """It is not known then what others run there."""
    cluster.nodes["n1"].connected = False
    cluster.restart()
    cluster.command("wanted", 1)
    cluster.settle()
    (waiting,) = cluster.pending()
    assert cluster.explain(waiting).ruled_out == (("health", "its agent has not found this server yet", 1),)
    hello = AgentHello(session="s", hello=Hello(node=cluster.nodes["n1"].info), facts=_facts(_foreign(cpus=3500)))
    cluster.step(hello)
    assert cluster.explain(waiting).ruled_out == (("resources", "not enough cpus beside foreign containers", 1),)
    cluster.return_node("n1")
    cluster.settle()
    assert len(cluster.running()) == 1


def test_facts_of_a_node_that_is_not_known_are_passed_over(cluster: Cluster) -> None:
    before = cluster.state
    cluster.set_facts("n9", _facts(_foreign(cpus=1000)))
    assert cluster.state is before


def test_changes_are_applied_to_what_was_told_in_full_and_what_was_refused_is_told_again() -> None:
    told = ToldFacts()
    first, second = _facts(_foreign(1)), _facts(_foreign(1), _foreign(2))
    assert told.told("n1", difference(first, second)) is None, "a change of what is not known"
    assert told.told("n1", in_full(first)) == NodeFactsChanged(node="n1", facts=first)
    told.refused("n1")
    assert told.told("n1", difference(first, second)) == NodeFactsChanged(node="n1", facts=second)
    assert told.again() == [NodeFactsChanged(node="n1", facts=second)]
    assert told.again() == []
    told.refused("n1")
    assert told.begin("n1", None) is None
    assert told.again() == []
    assert told.told("n1", FactsChange(images=(Image(id="i"),))) is None
    assert told.begin("n1", FactsChange(images=(Image(id="i"),))) is None, "a hello tells all or nothing"
    assert told.begin("n1", in_full(second)) == second
    assert told.told("n1", difference(second, first)) == NodeFactsChanged(node="n1", facts=first)


def test_ports_that_foreign_containers_publish_are_given_to_no_task() -> None:
    made = Cluster(Serving())
    made.add_node("n1", ports="31000-31003")
    foreign = attrs.evolve(_foreign(), host_ports=(HostPort(number=31001), HostPort(number=9, protocol="udp")))
    made.set_facts("n1", _facts(foreign))
    made.command("serving", (None, None, None, 31001))
    made.settle()
    assert {port for task in made.running() for port in task.ports} == {31000, 31002, 31003}
    (waiting,) = made.pending()
    assert made.explain(waiting).ruled_out == (("ports", "port 31001 is taken by a foreign container", 1),)
    made.set_facts("n1", _facts(attrs.evolve(foreign, state="exited")))
    made.settle()
    assert {port for task in made.running() for port in task.ports} == {31000, 31001, 31002, 31003}


def test_a_port_that_a_task_and_a_foreign_container_have_had_is_free_when_both_have_gone() -> None:
    made = Cluster(Serving())
    made.add_node("n1", ports="31000-31000")
    made.command("serving", (None,))
    made.settle()
    foreign = attrs.evolve(_foreign(), host_ports=(HostPort(number=31000, address="127.0.0.1"),))
    made.set_facts("n1", _facts(foreign))
    made.command("serving", ())
    made.kill_task(made.running()[0].id)
    made.settle()
    assert len(made.state.candidates["n1"].free_ports) == 0
    made.set_facts("n1", _facts())
    assert len(made.state.candidates["n1"].free_ports) == 1
