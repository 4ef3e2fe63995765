"""The kernel through the harness: the life of tasks, seen by a small framework."""

from collections import Counter
from collections.abc import Iterator

import attrs
import pytest

from orlop.framework import Action, Ask, Changed, Framework, Kill, PortRequest, Process, Resources, Task, View
from orlop.kernel import records
from orlop.kernel.events import DrainNode, KillTask
from orlop.kernel.kernel import KernelSettings
from orlop.model.tasks import ProbeResult
from orlop.server.framework_run import FrameworkRunner
from orlop.testing.harness import Cluster, NotIdempotent


@attrs.frozen
class Config:
    command: str = "sleep 1000"
    copies: int = 3
    cpus: float = 0.1


class KeepAlive(Framework):
    name = "keepalive"
    config = Config

    def reconcile(self, view: View) -> Iterator[Action]:
        wanted = {f"copy-{i}" for i in range(self.settings.copies)}
        for key in sorted(wanted - view.live.keys()):
            needs = Resources(cpus=self.settings.cpus, mem="32MiB")
            yield Ask(key, run=Process(self.settings.command), needs=needs, ports=(PortRequest(),), group="all")
        for key in sorted(view.live.keys() - wanted):
            yield Kill(key)


def make(copies: int = 3, nodes: int = 2, cpus: float = 0.1) -> Cluster:
    cluster = Cluster(KeepAlive(Config(copies=copies, cpus=cpus)))
    for number in range(nodes):
        cluster.add_node(f"n{number}")
    cluster.settle()
    return cluster


def test_asks_are_placed_and_spread() -> None:
    cluster = make(copies=4)
    assert Counter(task.node for task in cluster.running()) == {"n0": 2, "n1": 2}
    assert len({(task.node, task.ports) for task in cluster.running()}) == 4


def test_an_ended_task_is_replaced_by_a_new_one_under_its_key() -> None:
    cluster = make()
    victim = cluster.running()[0]
    cluster.end_task(victim, code=1)
    cluster.settle()
    assert len(cluster.running()) == 3
    assert cluster.view("keepalive").tasks[victim.key].id != victim.id


def test_restart_from_documents_changes_nothing() -> None:
    cluster = make()
    before = {task.id for task in cluster.running()}
    cluster.restart(KeepAlive(Config()))
    cluster.settle()
    assert {task.id for task in cluster.running()} == before


def test_restart_with_fewer_copies_kills_the_surplus() -> None:
    cluster = make()
    cluster.restart(KeepAlive(Config(copies=1)))
    cluster.settle()
    assert [task.key for task in cluster.running()] == ["copy-0"]


def test_what_cannot_be_placed_waits_and_says_why() -> None:
    cluster = make(copies=3, nodes=1, cpus=2)
    pending = [task for task in cluster.live() if task.placement is None]
    assert len(cluster.running()) == 2
    assert len(pending) == 1
    assert str(cluster.explain(pending[0])) == "0 of 1 nodes fit: not enough cpus (1)"
    cluster.add_node("later")
    cluster.settle()
    assert len(cluster.running()) == 3


class Pair(Framework):
    """One small task, and one that is larger."""

    name = "pair"

    def reconcile(self, view: View) -> Iterator[Action]:
        for key, cpus in (("small", 0.1), ("large", 0.2)):
            if key not in view.tasks:
                yield Ask(key, run=Process("true"), needs=Resources(cpus=cpus), group=key)


def test_all_that_waited_in_a_group_may_be_killed_as_a_node_becomes_free() -> None:
    cluster = Cluster(Pair())
    cluster.add_node("n")
    cluster.step(DrainNode(node="n", drained=True))
    cluster.settle()
    small = cluster.view("pair").tasks["small"]
    assert small.placement is None
    kill = KillTask(task=small.id, reason="operator", token="kill")
    cluster.step(kill, DrainNode(node="n", drained=False))
    cluster.settle()
    assert [task.key for task in cluster.running()] == ["large"]


def test_a_lost_nodes_tasks_run_elsewhere() -> None:
    cluster = make(copies=4)
    cluster.lose_node("n0")
    cluster.settle()
    assert {task.node for task in cluster.running()} == {"n1"}
    assert len(cluster.running()) == 4


def test_a_handler_that_wants_something_else_each_time_is_found() -> None:
    class Restless(Framework):
        name = "restless"

        def reconcile(self, view: View) -> Iterator[Action]:
            yield Ask(f"copy-{len(view.live)}", run=Process("true"))

    cluster = Cluster(Restless())
    with pytest.raises(NotIdempotent, match="copy-1"):
        cluster.settle()


@attrs.frozen
class Later:
    """One task, which may start at a time."""

    at_utc_ms: int = 0
    cpus: float = 0.1


class Delayed(Framework):
    name = "delayed"
    config = Later

    def reconcile(self, view: View) -> Iterator[Action]:
        if not view.tasks:
            needs = Resources(cpus=self.settings.cpus)
            yield Ask("one", run=Process("x"), needs=needs, not_before_utc_ms=self.settings.at_utc_ms)


@pytest.mark.parametrize("killed", [False, True])
def test_a_time_that_has_come_is_not_waited_for_again(killed: bool) -> None:
    """Whether its task has gone meanwhile, or has no place: no tick may follow a tick at the same moment for ever."""
    start_utc_ms = Cluster().now.utc_ms
    cluster = Cluster(Delayed(Later(at_utc_ms=start_utc_ms + 1000, cpus=99)))
    cluster.add_node("n0")
    cluster.settle()
    (task,) = cluster.live()
    if killed:
        cluster.kill_task(task.id)
        cluster.settle()
    cluster.advance(5)
    assert cluster.now.utc_ms == start_utc_ms + 5000
    if not killed:
        cluster.add_node("large", cpus=100)
        cluster.settle()
        assert [task.node for task in cluster.running()] == ["large"]


def test_the_event_log_is_kept_by_count_though_some_transactions_log_nothing() -> None:
    kept = 10
    cluster = make()
    cluster.kernel.settings = KernelSettings(log_records_kept=kept)
    for round_number in range(4 * kept):
        cluster.step(DrainNode(node="n0", drained=round_number % 2 == 0))
        for _ in range(round_number % 3):
            cluster.report_probes(cluster.running()[0], ProbeResult(consecutive_failures=cluster.state.version))
    versions = [int(key.removeprefix(records.LOG)) for key in cluster.documents if key.startswith(records.LOG)]
    assert versions
    assert min(versions) > cluster.state.version - kept


class Once(Framework):
    """Runs one task, one time."""

    name = "once"

    def reconcile(self, view: View) -> Iterator[Action]:
        if "it" not in view.tasks:
            yield Ask("it", run=Process("true"), needs=Resources(cpus=0.1, mem="32MiB"))


def test_nothing_is_committed_for_a_framework_that_has_seen_something_and_wants_nothing() -> None:
    """But for an end: its record is kept until the owner has seen it."""
    cluster = Cluster(Once())
    cluster.add_node("n0")
    cluster.settle()
    runner, it = FrameworkRunner(Once()), Changed(keys=frozenset({"it"}))
    assert runner.run(cluster.state, it, [], cluster.now, "").actions is None
    before = cluster.state.version
    cluster.end_task(cluster.running()[0], code=0)
    actions = runner.run(cluster.state, it, [], cluster.now, "").actions
    assert actions is not None
    assert actions.seen > before
    cluster.settle()
    assert cluster.state.framework("once").cursor > before
    assert runner.run(cluster.state, it, [], cluster.now, "").actions is None


def one_that_starts() -> tuple[Cluster, Task]:
    """A task whose node has not said that it runs."""
    cluster = make(copies=1, nodes=1)
    cluster.nodes["n0"].starts = lambda _: False
    cluster.end_task(cluster.running()[0])
    cluster.settle()
    (task,) = cluster.live("keepalive")
    return cluster, task


def test_what_ended_before_its_start_was_told_has_run_all_the_same() -> None:
    cluster, task = one_that_starts()
    cluster.advance(5)
    cluster.end_task(task, code=3)
    ended = cluster.state.tasks[task.id]
    assert ended.started_utc_ms == ended.ended_utc_ms == cluster.now.utc_ms


def test_what_was_ended_before_it_ran_has_not_run() -> None:
    cluster, task = one_that_starts()
    cluster.report_stopped(task)
    assert cluster.state.tasks[task.id].started_utc_ms is None


@pytest.mark.parametrize(("back_s", "told"), [(5, []), (3_600, ["3600"])])
def test_a_clock_that_was_set_back_is_told_once(back_s: int, told: list[str]) -> None:
    """By a little it is not followed, so that there is nothing to tell."""
    cluster = make()
    cluster.now = attrs.evolve(cluster.now, utc_ms=cluster.now.utc_ms - back_s * 1000)
    before_ms = cluster.state.utc_ms
    cluster.add_node("late")
    cluster.settle()
    cluster.add_node("later")
    cluster.settle()
    assert [entry.details["by_s"] for entry in cluster.log if entry.type == "clock.set_back"] == told
    assert (cluster.state.utc_ms < before_ms) == bool(told)
