"""Jobs that wait for others, and what becomes of them when those are deleted."""

from __future__ import annotations

import attrs
import pytest
from chronos_cluster import ChronosCluster, refused

from orlop.framework import Delete
from orlop.testing.harness import Refused
from orlop_chronos import documents, executing, graph, orders, rendering
from orlop_chronos.desk import Desk
from orlop_chronos.documents import Cause
from orlop_chronos.framework import Chronos


def test_the_trace_of_chronos_own_test() -> None:
    """A -> {B, C}, B -> {D, E}, C -> E."""
    cluster = ChronosCluster()
    cluster.put("A", schedule="R//P1D")
    cluster.put("B", parents=["A"])
    cluster.put("C", parents=["A"])
    cluster.put("D", parents=["B"])
    cluster.put("E", parents=["B", "C"])
    trace = []
    for finished in ("A", "B", "C", "D", "E", "*A", "C", "B"):
        if finished == "*A":
            cluster.give(orders.StartJob(name="A"))
        before = {task.id for task in cluster.running()}
        cluster.finish(finished.strip("*"))
        started = [task.group for task in cluster.running() if task.id not in before]
        trace.append((finished, sorted(started)))
    assert trace == [
        ("A", ["B", "C"]), ("B", ["D"]), ("C", ["E"]), ("D", []), ("E", []),
        ("*A", ["B", "C"]), ("C", []), ("B", ["D", "E"]),
    ]  # fmt: skip


def test_a_child_says_which_run_it_is_due_to() -> None:
    cluster = ChronosCluster()
    cluster.put("a")
    cluster.put("b", parents=["a"])
    cluster.finish("a")
    (run,) = cluster.runs("b")
    assert (run.cause, run.because_of) == (Cause.PARENT, "a/0")


def test_every_success_of_an_only_parent_counts() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT10S", concurrent=True)
    cluster.put("b", parents=["a"], concurrent=True)
    cluster.advance(15)
    for task in cluster.running("a"):
        cluster.cluster.end_task(task)
    cluster.cluster.settle()
    assert len(cluster.running("b")) == 2


def test_a_soft_error_is_a_success_to_children() -> None:
    for soft in (False, True):
        cluster = ChronosCluster()
        cluster.put("a", retries=0, softError=soft)
        cluster.put("b", parents=["a"])
        cluster.finish("a", code=1)
        assert len(cluster.running("b")) == soft


@pytest.mark.parametrize(
    ("rule", "codes", "expected"),
    [
        ("all_success", (0, 0), 1),
        ("all_success", (0, 1), 0),
        ("all_failed", (1, 1), 1),
        ("all_failed", (1, 0), 0),
        ("all_done", (1, 0), 1),
        ("one_success", (1, 0), 1),
        ("one_success", (1, 1), 0),
        ("one_failed", (0, 1), 1),
        ("one_failed", (0, 0), 0),
    ],
)
def test_trigger_rules(rule: str, codes: tuple[int, int], expected: int) -> None:
    cluster = ChronosCluster()
    cluster.put("a", retries=0)
    cluster.put("b", retries=0)
    cluster.put("c", parents=["a", "b"], triggerRule=rule)
    for name, code in zip("ab", codes, strict=True):
        cluster.finish(name, code=code)
    assert len(cluster.runs("c")) == expected


@pytest.mark.parametrize(
    ("rule", "expected"), [("all_done", 1), ("all_success", 0), ("all_failed", 0), ("one_failed", 0)]
)
def test_a_parent_that_was_killed_is_done_and_nothing_else(rule: str, expected: int) -> None:
    cluster = ChronosCluster()
    cluster.put("a", retries=0)
    cluster.put("b", parents=["a"], triggerRule=rule)
    cluster.give(orders.KillRuns(name="a"))
    assert cluster.states("a") == ["killed"]
    assert len(cluster.runs("b")) == expected


def test_a_run_that_was_replaced_is_not_done() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT10S", overlap="replace")
    cluster.put("b", parents=["a"], triggerRule="all_done")
    cluster.advance(15)
    assert cluster.states("a") == ["killed", "active"]
    assert cluster.runs("b") == []
    cluster.finish("a")
    assert len(cluster.runs("b")) == 1


@pytest.mark.parametrize(("rule", "codes"), [("all_success", (0, 1)), ("all_failed", (1, 0))])
def test_what_a_parent_has_done_is_not_undone_by_its_next_run(rule: str, codes: tuple[int, int]) -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT10S", retries=0)
    cluster.put("b", retries=0)
    cluster.put("c", parents=["a", "b"], triggerRule=rule)
    for code in codes:
        cluster.finish("a", code=code)
        cluster.advance(10)
    cluster.finish("b", code=codes[0])
    assert len(cluster.runs("c")) == 1
    assert cluster.progress("c").edges == {}


def test_marking_a_job_as_succeeded_starts_its_children() -> None:
    cluster = ChronosCluster()
    cluster.put("a", disabled=True)
    cluster.put("b", parents=["a"])
    assert cluster.give(orders.MarkSucceeded(name="a"))
    assert len(cluster.running("b")) == 1
    assert not cluster.give(orders.MarkSucceeded(name="z"))


def test_what_parents_have_done_survives_a_new_leader() -> None:
    cluster = ChronosCluster()
    cluster.put("a")
    cluster.put("b")
    cluster.put("c", parents=["a", "b"])
    cluster.finish("a")
    cluster.cluster.restart(Chronos(cluster.settings))
    cluster.cluster.settle()
    cluster.finish("b")
    assert len(cluster.running("c")) == 1


def test_parents_that_do_not_exist_and_circles_are_refused() -> None:
    cluster = ChronosCluster()
    cluster.put("a")
    cluster.put("b", parents=["a"])
    cluster.put("c", parents=["b"])
    with pytest.raises(Refused, match=r"parents\[1\]: there is no job 'z'"):
        cluster.put("d", parents=["a", "z"])
    with pytest.raises(Refused, match="a -> b -> c -> a"):
        cluster.put("a", parents=["c"])
    assert cluster.names() == ["a", "b", "c"]
    cluster.finish("a")
    assert len(cluster.running("b")) == 1


def test_a_changed_set_of_parents_begins_anew() -> None:
    cluster = ChronosCluster()
    for name in "ab":
        cluster.put(name)
    cluster.put("c", parents=["a", "b"])
    cluster.finish("a")
    cluster.put("c", parents=["b", "a"], command="other")
    assert cluster.progress("c").edges == {"a": "succeeded"}
    cluster.put("c", parents=["b"])
    assert cluster.progress("c").edges == {}


# --- deletion ---


def family() -> ChronosCluster:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R7//PT1H")
    cluster.put("x")
    cluster.put("b", parents=["a"])
    cluster.put("c", parents=["b"], description="kept")
    cluster.put("d", parents=["a", "x"])
    return cluster


def test_children_of_a_deleted_child_inherit_its_parents() -> None:
    cluster = family()
    cluster.give(orders.DeleteJob(name="b"))
    assert cluster.show("c")["parents"] == ["a"]
    assert cluster.show("c")["description"] == "kept"
    cluster.finish("a")
    assert len(cluster.running("c")) == 1


def test_an_only_child_takes_the_schedule_of_a_deleted_job_and_another_drops_it() -> None:
    cluster = family()
    cluster.give(orders.DeleteJob(name="a"))
    assert cluster.running("a") == []
    shown = cluster.show("b")
    assert "parents" not in shown
    assert shown["schedule"].startswith("R6/")
    assert cluster.show("d")["parents"] == ["x"]
    cluster.advance(3600)
    assert len(cluster.running("b")) == 1


def test_what_a_deleted_job_has_missed_is_not_made_up_for_by_its_heir() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R/2023-11-01T00:30:00Z/PT1H", disabled=True)
    cluster.put("b", parents=["a"])
    cluster.advance(2 * 3600)
    cluster.give(orders.DeleteJob(name="a"))
    cluster.advance(1)
    assert cluster.runs("b") == []
    upcoming = cluster.progress("b").upcoming
    assert upcoming is not None
    assert cluster.now_ms < upcoming.at_ms <= cluster.now_ms + 3_600_000
    cluster.advance(3600)
    assert [(run.cause, run.nominal_ms) for run in cluster.runs("b")] == [(Cause.TIME, upcoming.at_ms)]


def test_an_heir_excludes_its_own_days() -> None:
    """It is Tuesday, 14 November."""
    cluster = ChronosCluster()
    cluster.put("a", schedule="R/2023-11-15T03:00:00Z/P1D", exclude=["THU"])
    cluster.put("b", parents=["a"], exclude=["WED", "2023-11-17"])
    cluster.give(orders.DeleteJob(name="a"))
    for _ in range(6):
        cluster.advance(86_400)
        for task in cluster.running("b"):
            cluster.cluster.end_task(task)
        cluster.cluster.settle()
    assert [rendering.instant(run.nominal_ms)[:10] for run in cluster.runs("b")] == [
        "2023-11-16", "2023-11-18", "2023-11-19", "2023-11-20",
    ]  # fmt: skip


def test_what_becomes_of_children_can_be_chosen() -> None:
    cluster = family()
    assert "has children: b, d" in refused(cluster, orders.DeleteJob(name="a", children=orders.Children.REFUSE))
    cluster.give(orders.DeleteJob(name="a", children=orders.Children.DETACH))
    assert cluster.show("b")["disabled"]
    assert cluster.show("d")["parents"] == ["x"]
    cluster.give(orders.DeleteJob(name="b", children=orders.Children.DELETE))
    assert cluster.names() == ["d", "x"]


def chain(length: int) -> ChronosCluster:
    """a0 <- a1 <- a2, and so on, of which none has run."""
    cluster = ChronosCluster()
    cluster.put("a0", schedule="R0//PT1H")
    for number in range(1, length):
        cluster.put(f"a{number}", parents=[f"a{number - 1}"])
    return cluster


def test_a_chain_that_is_longer_than_calls_go_deep_is_deleted() -> None:
    cluster = chain(1_100)
    cluster.put("other", schedule="R0//PT1H")
    cluster.put("below", parents=["a7", "other"])
    cluster.give(orders.DeleteJob(name="a1", children=orders.Children.DELETE))
    assert cluster.names() == ["a0", "other"]
    assert list(cluster.cluster.view("chronos").objects(documents.CHILDREN)) == []


def test_no_more_is_deleted_at_once_than_one_order_may(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = chain(4)
    monkeypatch.setattr(executing, "MOST_DELETED_TOGETHER", 3)
    reason = refused(cluster, orders.DeleteJob(name="a0", children=orders.Children.DELETE))
    assert "at most 3 jobs and runs in all" in reason
    assert cluster.names() == ["a0", "a1", "a2", "a3"]
    monkeypatch.setattr(executing, "MOST_DELETED_TOGETHER", 4)
    cluster.give(orders.DeleteJob(name="a0", children=orders.Children.DELETE))
    assert cluster.names() == []


def test_gaps_behind_a_run_that_goes_on_are_no_runs_to_delete(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = ChronosCluster(history_count=3)
    cluster.put("a", schedule="R//PT10S", overlap="forbid")
    cluster.put("b", parents=["a"])
    for _ in range(50):
        cluster.advance(10)
    assert [run.number for run in cluster.runs("a")] == [0, 48, 49, 50]
    order = orders.DeleteJob(name="a", children=orders.Children.DELETE)
    monkeypatch.setattr(executing, "MOST_DELETED_TOGETHER", 5)
    assert "at most 5 jobs and runs in all" in refused(cluster, order)
    monkeypatch.setattr(executing, "MOST_DELETED_TOGETHER", 6)
    cluster.give(order)
    assert cluster.names() == []
    assert not cluster.cluster.view("chronos").objects(documents.RUN)


def test_deleting_a_job_takes_no_longer_for_gaps_behind_a_run_that_goes_on() -> None:
    cluster = ChronosCluster(history_count=3)
    cluster.put("a", schedule="R//PT10S", overlap="forbid")
    cluster.put("b", schedule="R//PT10S", overlap="allow")
    cluster.advance(50)
    desk = Desk(cluster.cluster.view("chronos"), cluster.settings)
    numbers = desk.run_numbers("a")
    # As after some centuries, in which nobody can look at each number.
    new = attrs.evolve(cluster.runs("a")[0], number=10**9)
    desk.put_run(new)
    desk.put_progress("a", attrs.evolve(cluster.progress("a"), next_run=10**9 + 1))
    assert desk.run_numbers("a") == [*numbers, 10**9]
    desk.delete_run("a", numbers[1])
    assert desk.run_numbers("a") == [numbers[0], *numbers[2:], 10**9]
    desk.delete_job("a")
    assert desk.run_numbers("a") == []
    deleted = [action.id for action in desk.actions() if isinstance(action, Delete) and action.kind == documents.RUN]
    assert sorted(deleted) == sorted(run.id for run in cluster.runs("a"))


def test_a_deleted_job_leaves_nothing_behind() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT10S")
    cluster.finish("a")
    cluster.advance(10)
    cluster.give(orders.DeleteJob(name="a"))
    view = cluster.cluster.view("chronos")
    assert [len(view.objects(kind)) for kind in Chronos.documents] == [0] * len(Chronos.documents)
    assert cluster.running() == []
    cluster.put("a", schedule="R1//PT10S")
    assert len(cluster.running("a")) == 1


def test_a_job_has_no_more_children_than_a_document_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "CHILDREN_BYTES_MAX", 10)
    cluster = ChronosCluster()
    cluster.put("a", schedule="R0//PT1H")
    cluster.put("child", parents=["a"])
    cluster.put("baby", parents=["a"])
    with pytest.raises(Refused, match="parents\\[0\\]: job 'a' has 2 children, which is the most"):
        cluster.put("third", parents=["a"])
    cluster.put("child", parents=["a"], command="another one")
    assert cluster.names() == ["a", "baby", "child"]


def test_a_run_that_is_killed_while_it_waits_is_the_cause_of_those_that_follow() -> None:
    cluster = ChronosCluster()
    cluster.put("a")
    cluster.put("b", parents=["a"], triggerRule="all_done")
    cluster.finish("a", code=1)
    cluster.give(orders.KillRuns(name="a"))
    assert [run.because_of for run in cluster.runs("b")] == ["a/0"]
