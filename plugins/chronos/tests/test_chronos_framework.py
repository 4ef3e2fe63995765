"""What the framework does, in virtual time: due times, retries, orders. Runs that meet, and what is
kept of those that are over, have rooms of their own."""

from __future__ import annotations

import itertools

import pytest
from chronos_cluster import ChronosCluster, refused

from orlop.framework import Action, Changed, Outcome, TaskState, View
from orlop.kernel.events import AgentStatuses
from orlop.model.tasks import Status
from orlop_chronos import instants, orders
from orlop_chronos.desk import WORK_MAX, WORK_OF_A_CHANGE
from orlop_chronos.documents import Cause
from orlop_chronos.due_runs import AT_ONCE
from orlop_chronos.framework import Chronos

# --- by time ---


def test_a_job_runs_as_often_as_it_should_and_is_then_disabled() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R3//PT10S")
    for _ in range(3):
        cluster.finish("a")
        cluster.advance(10)
    cluster.advance(100)
    assert cluster.states("a") == ["succeeded"] * 3
    assert [later - sooner for sooner, later in itertools.pairwise(run.nominal_ms for run in cluster.runs("a"))] == [
        10_000, 10_000,
    ]  # fmt: skip
    shown = cluster.show("a")
    assert shown["disabled"]
    assert shown["successCount"] == 3
    assert shown["schedule"].startswith("R0/")


def test_a_job_whose_last_run_failed_stays_enabled_and_does_nothing() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R1//PT10S", retries=0)
    cluster.finish("a", code=3)
    cluster.advance(100)
    assert cluster.states("a") == ["failed"]
    assert not cluster.show("a")["disabled"]
    assert cluster.runs("a")[0].attempts[0].code == 3


def test_r0_never_runs() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R0//PT10S")
    cluster.advance(1000)
    assert cluster.runs("a") == []
    assert cluster.show("a")["schedule"] == "R0//PT10S"


def test_a_start_in_the_future() -> None:
    cluster = ChronosCluster()
    start = instants.format_instant(instants.wall_at(cluster.now_ms + 5_500, instants.UTC))
    cluster.put("a", schedule=f"R1/{start}/P1D")
    cluster.advance(5)
    assert cluster.running() == []
    cluster.advance(1)
    assert [task.name for task in cluster.running()] == [f"ct:{cluster.runs('a')[0].nominal_ms}:0:a:"]
    assert cluster.runs("a")[0].created_ms == cluster.runs("a")[0].nominal_ms


def test_a_disabled_job_does_not_run_until_it_is_enabled() -> None:
    cluster = ChronosCluster()
    cluster.put("a", disabled=True)
    cluster.advance(10_000)
    assert cluster.runs("a") == []
    cluster.give(orders.SetDisabled(name="a", disabled=False))
    assert len(cluster.running("a")) == 1


def test_an_unchanged_schedule_keeps_its_place_when_a_job_is_defined_again() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R5//PT1H")
    cluster.finish("a")
    cluster.put("a", schedule="R5//PT1H", command="other")
    assert cluster.running() == []
    assert cluster.progress("a").left == 4
    assert cluster.show("a")["successCount"] == 0, "counters that are not sent are reset"
    cluster.put("a", schedule="R5//PT2H", successCount=7)
    assert len(cluster.running("a")) == 1
    assert cluster.show("a")["successCount"] == 7


def test_a_run_by_hand_of_a_job_that_is_disabled_is_tried_again_as_any_other() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R1//PT1H", retries=1, retryDelay=0)
    cluster.finish("a")
    assert cluster.show("a")["disabled"], "it has run as often as it should"
    cluster.give(orders.StartJob(name="a"))
    cluster.finish("a", code=1)
    cluster.finish("a")
    assert cluster.states("a") == ["succeeded", "succeeded"]


def test_what_waits_is_given_up_when_its_job_is_disabled() -> None:
    cluster = ChronosCluster()
    cluster.put("queued", schedule="R//PT10S")
    cluster.put("failed", schedule="R1//PT1H", retries=2, retryDelay=30)
    cluster.advance(10)
    cluster.finish("failed", code=1)
    for name in ("queued", "failed"):
        cluster.give(orders.SetDisabled(name=name, disabled=True))
    cluster.finish("queued")
    cluster.advance(60)
    assert cluster.running() == []
    assert cluster.states("queued") == ["succeeded", "skipped"]
    assert cluster.runs("queued")[1].reason == "its job was disabled"
    assert cluster.states("failed") == ["failed"]
    assert cluster.runs("failed")[0].reason == "exit code 1; not tried again, its job was disabled"


def test_a_disabled_job_may_be_run_by_hand() -> None:
    cluster = ChronosCluster()
    cluster.put("a", disabled=True)
    cluster.give(orders.StartJob(name="a"))
    cluster.give(orders.StartJob(name="a"))
    cluster.finish("a")
    assert cluster.states("a") == ["succeeded", "active"]


# --- missed ---


def missed(catch_up: str, **document: object) -> ChronosCluster:
    """A job that was paused for five and a half of its periods, and ran once before."""
    cluster = ChronosCluster()
    cluster.put("a", schedule="R10//PT1H", catchUp=catch_up, **document)
    cluster.finish("a")
    cluster.give(orders.Pause(paused=True))
    cluster.advance(5.5 * 3600)
    assert cluster.running() == []
    cluster.give(orders.Pause(paused=False))
    return cluster


def test_one_run_stands_for_all_that_were_missed() -> None:
    cluster = missed("one")
    assert cluster.states("a") == ["succeeded", "skipped", "active"]
    skipped, late = cluster.runs("a")[1:]
    assert skipped.count == 4
    assert "stands for all" in skipped.reason
    assert late.cause is Cause.CATCH_UP
    assert late.nominal_ms == cluster.runs("a")[0].nominal_ms + 5 * 3_600_000
    assert cluster.progress("a").left == 8, "a late run uses up one, whatever it stands for"
    cluster.finish("a")
    cluster.advance(1800)
    assert cluster.runs("a")[-1].cause is Cause.TIME


def test_missed_runs_are_not_made_up_for() -> None:
    cluster = missed("none")
    assert cluster.states("a") == ["succeeded", "skipped"]
    assert cluster.runs("a")[1].count == 5
    cluster.advance(1800)
    assert len(cluster.running("a")) == 1


def test_all_missed_runs_one_after_the_other() -> None:
    cluster = missed("all")
    for _ in range(5):
        cluster.finish("a")
    assert cluster.running() == []
    assert cluster.states("a") == ["succeeded"] * 6
    nominal = [run.nominal_ms for run in cluster.runs("a")]
    assert [later - sooner for sooner, later in itertools.pairwise(nominal)] == [3_600_000] * 5


def test_all_missed_runs_within_a_window() -> None:
    cluster = missed("all", catchUpWindow="PT2H")
    assert cluster.states("a") == ["succeeded", "skipped", "active", "queued"]
    assert cluster.runs("a")[1].count == 3


def test_epsilon_is_how_late_a_run_may_be() -> None:
    assert missed("one", epsilon="PT40M").states("a") == ["succeeded", "skipped", "active"]
    late = missed("one", epsilon="PT20M")
    assert late.states("a") == ["succeeded", "skipped"]
    assert late.runs("a")[1].count == 5
    assert late.progress("a").left == 4, "with epsilon, passed over is used up (Chronos 2)"


def test_what_is_in_time_and_replaced_by_a_later_run_is_not_called_too_late() -> None:
    cluster = missed("one", epsilon="PT2H")
    assert cluster.states("a") == ["succeeded", "skipped", "skipped", "active"]
    late, replaced = cluster.runs("a")[1:3]
    assert (late.count, late.reason) == (3, "missed, and too late to be made up for (PT2H)")
    assert (replaced.count, replaced.reason) == (1, "missed, and one later run stands for all")
    assert replaced.nominal_ms == late.nominal_ms + 3 * 3_600_000
    assert cluster.progress("a").left == 4, "with epsilon each due time is used up"


def test_with_epsilon_so_many_due_times_are_so_many_whatever_stands_for_them() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R3/2023-11-13T00:00:00Z/PT1H", epsilon="P9D", overlap="allow")
    last, skipped = cluster.runs("a")[::-1]
    assert (skipped.count, skipped.reason) == (2, "missed, and one later run stands for all")
    assert last.nominal_ms - skipped.nominal_ms == 2 * 3_600_000
    assert cluster.progress("a").left == 0


def test_no_more_is_due_than_the_schedule_says() -> None:
    """However long the outage was: four runs are left, and five due times have passed."""
    cluster = ChronosCluster()
    cluster.put("all", schedule="R4//PT1H", catchUp="all")
    cluster.put("late", schedule="R4//PT1H", epsilon="PT20M")
    for name in ("all", "late"):
        cluster.finish(name)
    cluster.give(orders.Pause(paused=True))
    cluster.advance(5.2 * 3600)
    cluster.give(orders.Pause(paused=False))
    assert cluster.states("all") == ["succeeded", "active", "queued", "queued"]
    assert cluster.states("late") == ["succeeded", "skipped"]
    assert cluster.runs("late")[1].count == 3
    for name in ("all", "late"):
        assert cluster.progress(name).left == 0


def test_of_a_finite_job_no_more_is_missed_than_was_due() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R4//PT1H", catchUp="all", overlap="allow")
    cluster.give(orders.Pause(paused=True))
    cluster.advance(10.5 * 3600)
    cluster.give(orders.Pause(paused=False))
    assert cluster.states("a") == ["active"] * 4, "nothing was passed over"
    assert cluster.progress("a").left == 0


def test_epsilon_leaves_a_finite_job_no_more_than_was_due() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R4//PT1H", epsilon="PT8H")
    cluster.give(orders.Pause(paused=True))
    cluster.advance(10.5 * 3600)
    cluster.give(orders.Pause(paused=False))
    first, passed_over, last = cluster.runs("a")
    assert passed_over.count == 2
    assert last.nominal_ms - first.nominal_ms == 3 * 3_600_000, "the last of the four"
    assert cluster.progress("a").left == 0


def test_a_billion_missed_runs_do_not_hold_anything_up() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R/1970-01-02T00:00:00Z/PT1S", catchUp="all", concurrent=False)
    assert len(cluster.running("a")) == 1
    assert len(cluster.progress("a").open_runs) <= cluster.settings.most_catch_up_runs


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much each call of the handler has changed or asked for, from here on."""
    found: list[int] = []
    handle = Chronos.handle

    def noted(self: Chronos, view: View, changed: Changed) -> list[Action]:
        actions = list(handle(self, view, changed))
        found.append(len(actions))
        return actions

    monkeypatch.setattr(Chronos, "handle", noted)
    return found


#: What one call does at most, and what the last job that it attends may add.
SIZE_MAX = WORK_MAX // WORK_OF_A_CHANGE + 4 * AT_ONCE


@pytest.mark.parametrize("overlap", ["queue", "allow"])
def test_what_is_due_after_hours_without_a_server_is_done_in_pieces(sizes: list[int], overlap: str) -> None:
    cluster = ChronosCluster()
    cluster.give(orders.Pause(paused=True))
    for number in range(6):
        cluster.put(f"j{number}", schedule="R//PT1M", catchUp="all", overlap=overlap)
    minutes = 300
    cluster.advance(60 * minutes)
    sizes.clear()
    cluster.give(orders.Pause(paused=False))
    assert max(sizes) <= SIZE_MAX
    assert len(sizes) > 2
    for number in range(6):
        nominal = [run.nominal_ms for run in cluster.runs(f"j{number}")]
        assert len(nominal) == minutes + 1
        assert {later - sooner for sooner, later in itertools.pairwise(nominal)} == {60_000}
    sizes.clear()
    cluster.advance(59)
    assert not any(cluster.runs(f"j{number}")[minutes + 1 :] for number in range(6))


def test_many_jobs_that_are_due_at_once_are_started_in_pieces(
    sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orlop_chronos.framework.ATTENDED_MAX", 7)
    cluster = ChronosCluster()
    cluster.give(orders.Pause(paused=True))
    names = [f"j{number}" for number in range(30)]
    for name in names:
        cluster.put(name, schedule="R1//PT1H")
    cluster.put("child", parents=names)
    sizes.clear()
    cluster.give(orders.Pause(paused=False))
    assert len(sizes) > 30 // 7
    assert len(cluster.running()) == 30
    for name in names:
        cluster.finish(name)
    assert len(cluster.running("child")) == 1


def test_children_that_are_due_at_once_are_started_in_pieces(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop_chronos.desk.WORK_MAX", 10 * WORK_OF_A_CHANGE)
    cluster = ChronosCluster()
    cluster.put("parent", schedule="R1//PT1H")
    children = [f"child{number}" for number in range(20)]
    for name in children:
        cluster.put(name, parents=["parent"])
    sizes.clear()
    cluster.finish("parent")
    assert len(sizes) > 2
    assert [len(cluster.running(name)) for name in children] == [1] * len(children)


def test_crontab_lines() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="*/10 * * * *")
    assert cluster.running() == []
    cluster.give(orders.Pause(paused=True))
    cluster.advance(3600)
    cluster.give(orders.Pause(paused=False))
    skipped, late = cluster.runs("a")
    assert (skipped.count, late.state) == (5, "active")
    assert late.nominal_ms % 600_000 == 0


def test_excluded_days_are_left_out() -> None:
    cluster = ChronosCluster()
    every_day = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
    today = instants.wall_at(cluster.now_ms, instants.UTC)
    tomorrow = every_day[(today.weekday() + 1) % 7]
    cluster.put("a", schedule="R//P1D", exclude=[tomorrow])
    cluster.finish("a")
    cluster.advance(86_400)
    assert cluster.running() == []
    cluster.advance(86_400)
    assert len(cluster.running("a")) == 1
    assert [run.count for run in cluster.runs("a")] == [1, 1]


@pytest.mark.parametrize("schedule", ["R//PT12H", "5 0,12 * * *"])
def test_excluded_days_are_not_missed(schedule: str) -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule=schedule, exclude=["SAT", "SUN"])
    cluster.give(orders.Pause(paused=True))
    cluster.advance(14 * 86_400 - 60)
    cluster.give(orders.Pause(paused=False))
    due = sum(run.count for run in cluster.runs("a"))
    assert due == 2 * 10, "two a day, on ten of fourteen days"


def test_jitter_is_the_same_for_the_same_due_time() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT1H", jitter=600)
    first = cluster.runs("a")
    cluster.advance(600)
    (run,) = cluster.runs("a")
    assert not first or first == [run]
    assert 0 <= run.created_ms - run.nominal_ms <= 600_000
    assert run.cause is Cause.TIME


@pytest.mark.parametrize("jitter", [4, 10, 3600])
def test_jitter_that_is_longer_than_the_period_loses_no_run(jitter: int) -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT2S", jitter=jitter, overlap="allow")
    for _ in range(200):
        cluster.advance(0.1)
    runs = cluster.runs("a")
    assert {run.state.value for run in runs} == {"active"}
    assert all(0 <= run.created_ms - run.nominal_ms <= 2_100 for run in runs)
    assert [run.nominal_ms for run in runs] == list(range(runs[0].nominal_ms, runs[-1].nominal_ms + 1, 2_000))
    assert len(runs) >= 9


@pytest.mark.parametrize("limit", [{"epsilon": "PT0S"}, {"epsilon": "P"}, {"catchUpWindow": "PT0S"}])
def test_what_is_made_at_once_is_never_too_late(limit: dict[str, str]) -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R//PT10S", overlap="allow", **limit)
    for late_s in (0.3, 1.0, 1.5):
        cluster.give(orders.Pause(paused=True))
        cluster.advance(10 - cluster.now_ms % 10_000 / 1000 + cluster.runs("a")[0].nominal_ms % 10_000 / 1000 + late_s)
        cluster.give(orders.Pause(paused=False))
    assert cluster.states("a") == ["active"] * 3 + ["skipped"]
    assert "too late" in cluster.runs("a")[-1].reason


# --- by hand ---


def test_a_job_without_runs_of_its_own_is_disabled_once_however_often_it_is_run_by_hand() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R0//P1D", owner="ops@example.org")
    for _ in range(3):
        cluster.give(orders.StartJob(name="a"))
        cluster.finish("a")
    assert cluster.show("a")["disabled"]
    assert len([entry for entry in cluster.cluster.log if entry.type.endswith("job.disabled")]) == 1


def test_a_manual_run_uses_up_nothing_and_keeps_its_arguments_through_retries() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R3/2999-01-01T00:00:00Z/P1D", command="echo", retryDelay=5)
    assert cluster.give(orders.StartJob(name="a", arguments="x; y")) == 0
    cluster.finish("a", code=1)
    cluster.advance(5)
    (task,) = cluster.running("a")
    assert task.name.endswith(":1:a:x y")
    assert cluster.cluster.state.spec_of(task).payload["command"] == "echo x y"
    assert cluster.progress("a").left == 3


# --- retries ---


def test_a_failed_run_is_tried_again_after_a_while() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R1//P1D", retries=2)
    for _ in range(2):
        cluster.finish("a", code=1)
        assert cluster.states("a") == ["waiting"]
        cluster.advance(59)
        assert cluster.running() == []
        cluster.advance(1)
    cluster.finish("a", code=1)
    (run,) = cluster.runs("a")
    assert (run.state, len(run.attempts)) == ("failed", 3)
    assert cluster.show("a")["errorCount"] == 1, "once per run, not per attempt"


def test_the_delay_grows() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R1//P1D", retries=3, retryDelay=10, retryBackoff=3, maxRetryDelay=50)
    asked = []
    for _ in range(4):
        asked.append(cluster.now_ms)
        cluster.finish("a", code=1)
        cluster.advance(90)
    times = [attempt.asked_ms for attempt in cluster.runs("a")[0].attempts]
    assert [later - sooner for sooner, later in zip(asked, times[1:], strict=False)] == [10_000, 30_000, 50_000]


def test_no_retries_after_a_failure_as_chronos_has_it() -> None:
    for setting, state in ((False, "waiting"), (True, "failed")):
        cluster = ChronosCluster(retry_only_after_success=setting)
        cluster.put("a", schedule="R//P1D", retries=1, lastError="2014-01-01T00:00:00.000Z")
        cluster.finish("a", code=1)
        assert cluster.states("a") == [state]


def test_a_run_that_takes_too_long_has_failed() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R1//P1D", retries=0, maxCompletionTime=30)
    cluster.advance(29)
    assert cluster.states("a") == ["active"]
    cluster.advance(2)
    (run,) = cluster.runs("a")
    assert run.state == "failed"
    assert "longer than 30 s" in run.reason
    assert cluster.show("a")["errorCount"] == 1


def test_killed_counts_as_nothing() -> None:
    cluster = ChronosCluster()
    cluster.put("a")
    cluster.put("b", parents=["a"])
    cluster.give(orders.KillRuns(name="a"))
    assert cluster.states("a") == ["killed"]
    shown = cluster.show("a")
    assert (shown["successCount"], shown["errorCount"]) == (0, 0)
    assert cluster.runs("b") == []


def test_a_job_that_fails_too_often_is_disabled() -> None:
    cluster = ChronosCluster(disable_after_failures=2)
    cluster.put("a", schedule="R//PT10S", retries=0)
    for _ in range(2):
        cluster.finish("a", code=1)
        cluster.advance(10)
    assert cluster.states("a") == ["failed", "failed"]
    assert cluster.show("a")["disabled"]


def test_a_job_that_was_disabled_while_it_ran_stays_so_when_it_fails() -> None:
    """Chronos enabled it again."""
    cluster = ChronosCluster(disable_after_failures=5)
    cluster.put("a", retries=0)
    cluster.give(orders.SetDisabled(name="a", disabled=True))
    cluster.finish("a", code=1)
    assert cluster.show("a")["disabled"]


@pytest.mark.parametrize(("policy", "state"), [("at-most-once", "failed"), ("at-least-once", "waiting")])
def test_the_loss_of_a_node(policy: str, state: str) -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R1//P1D", nodeLoss=policy)
    (task,) = cluster.running()
    cluster.cluster.end_task(task, outcome=Outcome.LOST, reason="its node is gone")
    cluster.cluster.settle()
    assert cluster.states("a") == [state]


# --- orders ---


@pytest.mark.parametrize(
    "order",
    [
        orders.DeleteJob(name="z"), orders.StartJob(name="z"), orders.KillRuns(name="z"),
        orders.SetDisabled(name="z", disabled=True), orders.Backfill(name="z", from_ms=0, until_ms=1),
    ],
)  # fmt: skip
def test_orders_for_a_job_that_does_not_exist(order: orders.Order) -> None:
    assert refused(ChronosCluster(), order) == "Job 'z' not found"


# --- the task's id ---


def due_task(*, by_hand: bool) -> str:
    """The id of the task of an hourly job's second due time; by_hand: it was run by hand before that."""
    cluster = ChronosCluster()
    cluster.put("a", schedule="R/2023-11-14T00:00:00Z/PT1H", retries=1, retryDelay=0)
    for task in cluster.running("a"):
        cluster.cluster.end_task(task)
    if by_hand:
        cluster.give(orders.StartJob(name="a"))
        cluster.finish("a")
    cluster.advance(3600)
    (task,) = cluster.running("a")
    return task.id


def test_the_id_of_a_due_task_follows_from_job_nominal_time_and_attempt_alone() -> None:
    """So a cluster that was restored from a backup, and has forgotten a run by hand, makes the same one."""
    assert due_task(by_hand=False) == due_task(by_hand=True)


def test_each_attempt_and_each_run_by_hand_has_an_id_of_its_own() -> None:
    cluster = ChronosCluster()
    cluster.put("a", schedule="R1//PT1H", retries=1, retryDelay=0)
    cluster.finish("a", code=1)
    cluster.finish("a", code=1)
    for _ in range(2):
        cluster.give(orders.StartJob(name="a"))
        cluster.finish("a")
    ids = [attempt.task for run in cluster.runs("a") for attempt in run.attempts]
    assert len(set(ids)) == len(ids) == 4


def test_a_run_that_a_node_has_since_before_a_restored_backup_is_not_started_twice() -> None:
    cluster, restored = ChronosCluster(), ChronosCluster()
    for one in (cluster, restored):
        one.put("a", schedule="R1/2023-11-15T00:00:00Z/PT1H", retries=2, retryDelay=0, nodeLoss="at-most-once")
    cluster.advance(86_400)
    (known,) = cluster.running("a")
    status = Status(task=known.id, state=TaskState.RUNNING, incarnation=1, sequence=1, at_utc_ms=restored.now_ms)
    restored.cluster.step(AgentStatuses(session="session-n0", node="n0", statuses=(status,)))
    restored.advance(86_400)
    (run,) = restored.runs("a")
    assert (run.state.value, restored.running()) == ("failed", [])
    assert "node n0 runs it since before the state was restored" in run.reason
