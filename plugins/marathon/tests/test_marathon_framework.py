"""Apps on the real kernel with simulated nodes: their life, their failures, their ends."""

from __future__ import annotations

import itertools

import attrs
import pytest
from marathon_world import CHECKED, NAME, World, actions_of

from orlop_marathon import orders, parsing, reconciling, root
from orlop_marathon.errors import MarathonError
from orlop_marathon.framework import Marathon

# --- create, scale, delete ---


def test_a_new_app_runs(world: World) -> None:
    result = world.create(id="/a", instances=3)
    assert actions_of(world.deployments[result.deployment]) == [
        [("StartApplication", "/a")],
        [("ScaleApplication", "/a")],
    ]
    world.settle()
    tasks = world.running("/a")
    assert len(tasks) == 3
    assert not world.deployments
    assert not world.objects(root.ORIGINAL)
    version = world.objects(root.APP)["/a"].version
    for task in tasks:
        assert task.name.startswith("a.instance-")
        assert task.name.endswith("._app.1")
        assert task.labels == {"app": "/a", "version": version, "n": "1"}
    assert [event["eventType"] for event in world.cluster.published if event["eventType"].startswith("deployment")] == [
        "deployment_info",
        "deployment_step_success",
        "deployment_info",
        "deployment_step_success",
        "deployment_success",
    ]


def test_a_deployment_waits_for_health(world: World) -> None:
    world.create(id="/a", instances=2, **CHECKED)
    world.settle()
    first, second = world.running("/a")
    world.cluster.set_health(first, alive=True)
    world.settle()
    assert world.deployments
    world.cluster.set_health(second, alive=True)
    world.settle()
    assert not world.deployments


def test_scaling_up_and_down(world: World) -> None:
    world.create(id="/a", instances=2)
    world.settle()
    before = {task.key for task in world.live("/a")}
    world.update("/a", instances=5)
    world.settle()
    assert before < {task.key for task in world.running("/a")}
    assert len(world.running("/a")) == 5
    world.cluster.advance(5)
    world.update("/a", instances=2)
    world.settle()
    assert {task.key for task in world.running("/a")} == before, "the youngest go first"
    record = world.objects(root.APP)["/a"]
    assert record.last_config_change_at < record.last_scaling_at == record.version
    assert not world.deployments


def test_oldest_first(world: World) -> None:
    world.create(id="/a", instances=1, killSelection="OLDEST_FIRST")
    world.settle()
    (oldest,) = world.running("/a")
    world.cluster.advance(1)
    world.update("/a", instances=2)
    world.settle()
    world.update("/a", instances=1)
    world.settle()
    assert oldest.key not in {task.key for task in world.live("/a")}


def test_scaling_down_what_waits_for_room(world: World) -> None:
    world.create(id="/a", instances=4, cpus=50)
    world.settle()
    assert len(world.running("/a")) == 3
    assert world.deployments
    world.update("/a", instances=3, force=True)
    world.settle()
    assert len(world.live("/a")) == 3
    assert not world.deployments


def test_scaling_down_evens_out_groups():
    world = World(nodes=0)
    for name, zone in (("n1", "x"), ("n2", "x"), ("n3", "y")):
        world.cluster.add_node(name, cpus=1, mem="1GiB", zone=zone)
    world.create(id="/a", instances=3, cpus=1, mem=16, killSelection="OLDEST_FIRST")
    world.settle()
    tasks = world.running("/a")
    record = world.objects(root.APP)["/a"]
    view = world.cluster.view(NAME)
    evening = parsing.parse_app({"id": "/a", "cmd": "x", "constraints": [["zone", "GROUP_BY", "2"]]})
    grouped = attrs.evolve(record, app=evening)
    (victim,) = reconciling.select(view, grouped, tasks, 1)
    assert victim.node in ("n1", "n2"), "the fuller zone loses one"


def test_delete_ends_everything_and_forgets(world: World) -> None:
    world.create(id="/a", instances=3)
    world.settle()
    result = world.give(orders.DeleteApp(path="/a"))
    assert actions_of(world.deployments[result.deployment]) == [[("StopApplication", "/a")]]
    assert "/a" not in world.objects(root.APP)
    world.settle()
    assert not world.live("/a")
    for kind in (root.APP, root.VERSION, root.HISTORY, root.DEPLOYMENT, root.ORIGINAL, root.BACKOFF, root.FAILURE):
        assert not world.objects(kind), kind


def test_delete_takes_over_from_a_running_deployment(world: World) -> None:
    world.hold()
    world.create(id="/a", instances=2)
    world.settle()
    world.give(orders.DeleteApp(path="/a"))
    assert len(world.events("deployment_failed")) == 1
    assert len(world.deployments) == 1
    while tasks := world.movable():
        world.move(tasks[0])
    world.settle()
    assert not world.live("/a")
    assert not world.deployments


def test_nothing_changes_when_the_same_is_put_again(world: World) -> None:
    world.create(id="/a", instances=2)
    world.settle()
    before = world.objects(root.APP)["/a"]
    tasks = {task.id for task in world.live()}
    result = world.update("/a", cmd="sleep 1", instances=2)
    assert result.deployment
    assert result.version
    world.settle()
    assert world.objects(root.APP)["/a"] == before
    assert {task.id for task in world.live()} == tasks
    assert not world.deployments


# --- failure and health ---


def test_a_failed_task_is_started_again_with_backoff(world: World) -> None:
    world.create(id="/a", backoffSeconds=10, backoffFactor=2, maxLaunchDelaySeconds=35)
    world.settle()
    (task,) = world.running("/a")
    waits = []
    for number in itertools.count(2):
        world.cluster.end_task(task, code=1)
        world.settle()
        (pending,) = world.live("/a")
        assert pending.key == task.key
        assert pending.name.endswith(f"._app.{number}")
        assert pending.state == "pending"
        waits.append((pending.not_before_utc_ms - world.cluster.now.utc_ms) / 1000)
        world.cluster.advance(waits[-1])
        (task,) = world.running("/a")
        if number == 6:
            break
    assert waits == [10, 20, 35, 35, 35]
    failure = world.objects(root.FAILURE)["/a"]
    assert failure.state == "TASK_FAILED"
    assert failure.task_id.endswith("._app.5")
    # Running for longer than the longest delay makes the next failure the first.
    world.cluster.advance(36)
    world.cluster.end_task(task, code=0)
    world.settle()
    (pending,) = world.live("/a")
    assert pending.not_before_utc_ms - world.cluster.now.utc_ms == 10_000
    assert world.objects(root.FAILURE)["/a"] == failure, "a task that finished did not fail"


def test_the_default_delays_are_marathons(world: World) -> None:
    world.create(id="/a")
    world.settle()
    waits = []
    for _ in range(43):
        (task,) = world.running("/a")
        world.cluster.end_task(task, code=1)
        world.settle()
        (pending,) = world.live("/a")
        waits.append(pending.not_before_utc_ms - world.cluster.now.utc_ms)
        world.cluster.advance(waits[-1] / 1000)
    assert waits[:5] == [1000, 1150, 1322, 1521, 1749]
    assert waits[40] < 300_000
    assert waits[41] == waits[42] == 300_000


def test_killed_tasks_do_not_count_as_failures(world: World) -> None:
    world.create(id="/a", backoffSeconds=100)
    world.settle()
    (task,) = world.running("/a")
    world.give(orders.KillTasks(names=(task.name,)))
    world.settle()
    (again,) = world.running("/a")
    assert again.key == task.key
    assert again.name.endswith("._app.2")
    assert not world.objects(root.BACKOFF)


def test_many_failures_count_once_each(world: World) -> None:
    world.create(id="/a", instances=3, backoffSeconds=10, backoffFactor=2)
    world.settle()
    for task in world.running("/a"):
        world.cluster.end_task(task, code=1)
    world.settle()
    assert world.objects(root.BACKOFF)["/a"].delay_ms == 40_000
    world.cluster.install(Marathon())
    world.settle()
    assert world.objects(root.BACKOFF)["/a"].delay_ms == 40_000


def test_a_new_configuration_starts_afresh(world: World) -> None:
    world.create(id="/a", backoffSeconds=100)
    world.settle()
    world.cluster.end_task(world.running("/a")[0], code=1)
    world.settle()
    assert not world.running("/a")
    world.update("/a", cmd="sleep 2", force=True)
    world.settle()
    assert len(world.running("/a")) == 1
    assert not world.objects(root.BACKOFF)


def test_resetting_the_delay(world: World) -> None:
    world.create(id="/a", backoffSeconds=100)
    world.settle()
    with pytest.raises(MarathonError) as nothing_waits:
        world.give(orders.ResetDelay(path="/a"))
    assert nothing_waits.value.status == 404
    world.cluster.end_task(world.running("/a")[0], code=1)
    world.settle()
    world.give(orders.ResetDelay(path="/a"))
    world.settle()
    assert len(world.running("/a")) == 1


@pytest.mark.parametrize(("most", "failures", "killed"), [(3, 3, False), (3, 4, True), (0, 99, False)])
def test_health_kills_with_the_failure_after_the_last_allowed_one(
    world: World, most: int, failures: int, killed: bool
) -> None:
    world.create(id="/a", healthChecks=[{"protocol": "HTTP", "maxConsecutiveFailures": most}], backoffSeconds=100)
    world.settle()
    (task,) = world.running("/a")
    world.cluster.set_health(task, alive=True)
    world.settle()
    world.cluster.set_health(task, alive=False, failures=failures)
    world.settle()
    (after,) = world.running("/a")
    assert (after.id != task.id) is killed
    assert len(world.events("unhealthy_instance_kill_event")) == int(killed)
    if killed:
        failure = world.objects(root.FAILURE)["/a"]
        assert failure.state == "TASK_KILLED"
        assert failure.message == "Task was killed since health check failed. Reason: simulated"
        assert not world.objects(root.BACKOFF), "killed ones do not count"


def test_a_lost_node(world: World) -> None:
    world.create(id="/a", instances=6)
    world.settle()
    lost = world.running("/a")[0].node
    assert lost is not None
    world.cluster.lose_node(lost, gone=False)
    world.settle()
    assert sum(not task.unreachable for task in world.running("/a")) == 6, "replaced at once by default"
    world.cluster._hello(world.cluster.nodes[lost])
    world.settle()
    assert len(world.live("/a")) == 6


def test_waiting_for_an_unreachable_node(world: World) -> None:
    world.create(id="/a", instances=3, unreachableStrategy={"inactiveAfterSeconds": 60, "expungeAfterSeconds": 600})
    world.settle()
    lost = world.running("/a")[0].node
    assert lost is not None
    on_it = [task for task in world.running("/a") if task.node == lost]
    world.cluster.lose_node(lost, gone=False)
    world.settle()
    world.cluster.advance(59)
    assert len(world.live("/a")) == 3
    world.cluster.advance(2)
    assert len(world.live("/a")) == 3 + len(on_it)
    world.cluster._hello(world.cluster.nodes[lost])
    world.settle()
    assert len(world.live("/a")) == 3, "the surplus is killed when it returns"


# --- killing on request ---


def test_wipe_gives_a_new_instance(world: World) -> None:
    world.create(id="/a")
    world.settle()
    (task,) = world.running("/a")
    world.give(orders.KillTasks(names=(task.name,), wipe=True))
    world.settle()
    (again,) = world.running("/a")
    assert again.key != task.key
    assert again.name.endswith("._app.1")


def test_kill_and_scale_kills_exactly_those(world: World) -> None:
    world.create(id="/a", instances=4)
    world.settle()
    victims = world.running("/a")[:2]
    result = world.give(orders.KillTasks(names=tuple(task.name for task in victims), scale=True))
    assert result.deployment
    world.settle()
    assert world.objects(root.APP)["/a"].app.instances == 2
    left = {task.key for task in world.running("/a")}
    assert len(left) == 2
    assert not left & {task.key for task in victims}


def test_a_kill_that_scales_and_is_sent_again_scales_once(world: World) -> None:
    world.create(id="/a", instances=3)
    world.settle()
    world.hold()
    victim = world.running("/a")[0]
    for _ in range(3):
        world.give(orders.KillTasks(names=(victim.name,), scale=True, force=True))
        world.cluster.settle()
    assert world.objects(root.APP)["/a"].app.instances == 2
    assert len(world.running("/a")) == 2


def test_what_was_to_be_started_again_is_scaled_away_once(world: World) -> None:
    world.create(id="/a", instances=3)
    world.settle()
    world.hold()
    victim = world.running("/a")[0]
    world.give(orders.KillTasks(names=(victim.name,)))
    for _ in range(2):
        world.give(orders.KillTasks(names=(victim.name,), scale=True, force=True))
        world.cluster.settle()
    assert world.objects(root.APP)["/a"].app.instances == 2
    world.move(world.movable("/a")[0])
    assert len(world.live("/a")) == 2


def test_killing_what_is_not_placed(world: World) -> None:
    world.create(id="/a", cpus=1000)
    world.settle()
    (task,) = world.live("/a")
    world.give(orders.KillTasks(names=(task.name,)))
    world.settle()
    (again,) = world.live("/a")
    assert again.key == task.key
    assert again.id != task.id
