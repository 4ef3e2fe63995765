"""What the event bus tells of apps, tasks and health."""

from __future__ import annotations

from marathon_world import CHECKED, World

from orlop_marathon import orders, reconciling, root


def kinds_since(world: World, said: int) -> list[tuple[str, str]]:
    """Types of the events since then that are about apps, with the app."""
    events = world.cluster.published[said:]
    return [(event["eventType"], event["appId"]) for event in events if "health_check" in event["eventType"]] + [
        (event["eventType"], event["appId"]) for event in events if event["eventType"] == "app_terminated_event"
    ]


def test_health_checks_come_and_go_with_configurations(world: World) -> None:
    added, removed = ("add_health_check_event", "/a"), ("remove_health_check_event", "/a")
    world.create(id="/a", **CHECKED)
    world.settle()
    (event,) = world.events("add_health_check_event")
    assert event["version"] == world.objects(root.APP)["/a"].version
    assert event["healthCheck"]["maxConsecutiveFailures"] == 3
    healthy(world)
    said = len(world.cluster.published)
    world.update("/a", instances=2)
    world.settle()
    healthy(world)
    assert kinds_since(world, said) == []
    said = len(world.cluster.published)
    world.update("/a", cmd="sleep 2")
    world.settle()
    while world.deployments:
        healthy(world)
    assert kinds_since(world, said) == [added, removed]
    said = len(world.cluster.published)
    world.give(orders.DeleteApp(path="/a"))
    world.settle()
    assert kinds_since(world, said) == [removed, ("app_terminated_event", "/a")]


def healthy(world: World) -> None:
    for task in world.running():
        world.cluster.set_health(task, alive=True)
    world.settle()


def test_each_failure_that_counts_is_told(world: World) -> None:
    world.create(id="/a", **CHECKED)
    world.settle()
    (task,) = world.running("/a")
    for failures in (1, 2, 2, 3):
        world.cluster.set_health(task, alive=False, failures=failures)
        world.settle()
    told = world.events("failed_health_check_event")
    assert [(event["appId"], event["taskId"]) for event in told] == [("/a", reconciling.instance_id(task.key))] * 3
    assert told[0]["healthCheck"]["protocol"] == "HTTP"
    healthy(world)
    world.cluster.set_health(task, alive=False)
    world.settle()
    assert len(world.events("failed_health_check_event")) == 4


def test_health_is_not_told_again_when_the_state_changes(world: World) -> None:
    world.create(id="/a", instances=2, **CHECKED)
    world.settle()
    one, other = world.running("/a")
    world.cluster.set_health(one, alive=True)
    world.cluster.set_health(other, alive=False, failures=2)
    world.settle()
    world.hold()
    said = len(world.cluster.published)
    world.give(orders.KillTasks(names=(one.name, other.name)))
    world.cluster.settle()
    told = [event["eventType"] for event in world.cluster.published[said:]]
    assert told == ["status_update_event", "instance_changed_event"] * 2


def test_an_app_has_terminated_when_its_tasks_have(world: World) -> None:
    world.create(id="/a")
    world.settle()
    world.hold()
    world.give(orders.DeleteApp(path="/a"))
    world.settle()
    assert not world.events("app_terminated_event")
    (task,) = world.live("/a")
    world.move(task)
    assert [event["appId"] for event in world.events("app_terminated_event")] == ["/a"]


def test_the_client_of_pypi_knows_every_event(world: World) -> None:
    from marathon.models.events import EventFactory

    world.create(id="/a", **CHECKED)
    world.settle()
    (task,) = world.running("/a")
    for failures in range(1, 5):
        world.cluster.set_health(task, alive=False, failures=failures)
        world.settle()
    healthy(world)
    world.update("/a", force=True, cmd="sleep 2")
    world.settle()
    healthy(world)
    world.give(orders.DeleteApp(path="/a"))
    world.settle()
    factory = EventFactory()
    seen = {event["eventType"] for event in world.cluster.published if factory.process(event)}
    assert seen >= {
        "add_health_check_event", "remove_health_check_event", "failed_health_check_event", "app_terminated_event",
        "unhealthy_instance_kill_event", "health_status_changed_event", "instance_changed_event",
        "deployment_info", "deployment_step_success", "deployment_success", "group_change_success",
    }  # fmt: skip
