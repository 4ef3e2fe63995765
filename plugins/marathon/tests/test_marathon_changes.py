"""Changes of running apps: restarts, and deployments that lock, are forced, cancelled and taken back."""

from __future__ import annotations

from typing import Any

import pytest
from marathon_world import CHECKED, World, actions_of

from orlop_marathon import orders, root
from orlop_marathon.errors import MarathonError
from orlop_marathon.framework import Marathon
from orlop_marathon.settings import Config

# --- restarts ---


def roll(world: World, path: str, least: int, most: int) -> None:
    """Plays a held restart to its end, one report at a time; bounds hold after each."""
    for _ in range(200):
        world.again()
        healthy = len(world.running(path))
        assert healthy >= least
        assert len(world.live(path)) <= most
        tasks = world.movable(path)
        if not tasks:
            return
        world.move(tasks[0])
    raise AssertionError("the restart does not end")


@pytest.mark.parametrize(
    ("n", "minimum", "over", "least", "most"),
    [(4, 1, 1, 4, 8), (4, 1, 0, 4, 5), (4, 0.5, 0, 2, 4), (4, 0, 0, 0, 4), (10, 0.8, 0.2, 8, 12), (1, 1, 0, 1, 2)],
)
def test_a_rolling_restart_keeps_its_bounds(
    world: World, n: int, minimum: float, over: float, least: int, most: int
) -> None:
    strategy = {"minimumHealthCapacity": minimum, "maximumOverCapacity": over}
    world.create(id="/a", instances=n, upgradeStrategy=strategy)
    world.settle()
    world.hold()
    result = world.update("/a", cmd="sleep 2")
    assert actions_of(world.deployments[result.deployment]) == [[("RestartApplication", "/a")]]
    roll(world, "/a", least, most)
    world.settle()
    version = world.objects(root.APP)["/a"].last_config_change_at
    assert [task.labels["version"] for task in world.running("/a")] == [version] * n
    assert not world.deployments


@pytest.mark.parametrize("at", range(9))
def test_a_crash_in_the_middle_changes_nothing_of_the_end(at: int) -> None:
    """A new Marathon on the same store takes the deployment up wherever it was."""
    world = World()
    world.create(id="/a", instances=3, upgradeStrategy={"minimumHealthCapacity": 1, "maximumOverCapacity": 0})
    world.settle()
    world.hold()
    world.update("/a", cmd="sleep 2", instances=4)
    for _ in range(at):
        if tasks := world.movable("/a"):
            world.move(tasks[0])
    world.cluster.restart(Marathon())
    world.cluster.settle()
    roll(world, "/a", 3, 5)
    world.settle()
    version = world.objects(root.APP)["/a"].version
    assert [task.labels["version"] for task in world.running("/a")] == [version] * 4
    assert not world.deployments


def test_restart_gives_a_new_configuration_version(world: World) -> None:
    world.create(id="/a", instances=2)
    world.settle()
    before = world.objects(root.APP)["/a"]
    old = {task.id for task in world.live()}
    world.give(orders.RestartApp(path="/a"))
    world.settle()
    after = world.objects(root.APP)["/a"]
    assert after.last_scaling_at == before.last_scaling_at
    assert after.last_config_change_at == after.version > before.version
    assert not old & {task.id for task in world.live()}
    assert len(world.running("/a")) == 2


def test_any_change_but_the_number_restarts(world: World) -> None:
    world.create(id="/a")
    world.settle()
    result = world.update("/a", labels={"x": "y"})
    assert actions_of(world.deployments[result.deployment]) == [[("RestartApplication", "/a")]]


def test_an_unhealthy_new_version_never_replaces_the_old_one(world: World) -> None:
    world.create(id="/a", instances=2, **CHECKED)
    world.settle()
    for task in world.running("/a"):
        world.cluster.set_health(task, alive=True)
    world.settle()
    old = {task.id for task in world.running("/a")}
    world.update("/a", cmd="sleep 2")
    for _ in range(3):
        world.settle()
        for task in world.running("/a"):
            if task.id not in old:
                world.cluster.set_health(task, alive=False, failures=4)
        world.cluster.settle()
    assert old <= {task.id for task in world.running("/a")}
    assert world.deployments


def test_versions_are_kept_up_to_a_number_and_can_be_returned_to():
    world = World(settings=Config(max_versions=3))
    world.create(id="/a")
    world.settle()
    versions = [world.objects(root.APP)["/a"].version]
    for number in range(4):
        world.update("/a", cmd=f"sleep {number}")
        world.settle()
        versions.append(world.objects(root.APP)["/a"].version)
    assert world.objects(root.HISTORY)["/a"].versions == tuple(versions[-3:])
    assert sorted(world.objects(root.VERSION)) == [f"/a@{version}" for version in versions[-3:]]
    world.update("/a", version=versions[-2])
    world.settle()
    record = world.objects(root.APP)["/a"]
    assert record.app.cmd == "sleep 2"
    assert record.version > versions[-1]
    with pytest.raises(MarathonError) as unknown:
        world.update("/a", version=versions[0])
    assert unknown.value.body == {"message": "App '/a' does not exist"}


# --- locks, cancelling, taking back ---


def test_a_running_deployment_locks_its_apps_only(world: World) -> None:
    world.hold()
    first = world.create(id="/a")
    with pytest.raises(MarathonError) as locked:
        world.update("/a", instances=2)
    assert locked.value.status == 409
    assert locked.value.body["deployments"] == [{"id": first.deployment}]
    second = world.create(id="/b")
    assert set(world.deployments) == {first.deployment, second.deployment}


def test_force_takes_over(world: World) -> None:
    world.create(id="/a", instances=2)
    world.settle()
    world.hold()
    first = world.update("/a", cmd="sleep 2")
    second = world.update("/a", instances=3, force=True)
    assert list(world.deployments) == [second.deployment]
    assert [event["id"] for event in world.events("deployment_failed")] == [first.deployment]
    while tasks := world.movable():
        world.move(tasks[0])
    world.settle()
    assert not world.deployments
    version = world.objects(root.APP)["/a"].last_config_change_at
    assert [task.labels["version"] for task in world.running("/a")] == [version] * 3, "the restart was taken over"


def test_force_takes_over_what_was_changed_and_scaled_to_nothing(world: World) -> None:
    world.create(id="/a", instances=2)
    world.create(id="/first")
    world.settle()
    world.hold()
    # The app waits for another one's restart, so that its own instances have not been stopped yet.
    apps: list[dict[str, Any]] = [
        {"id": "/first", "cmd": "sleep 2"},
        {"id": "/a", "cmd": "sleep 2", "instances": 0, "dependencies": ["/first"]},
    ]
    world.put_group({"id": "/", "apps": [{"cpus": 0.1, "mem": 16, **app} for app in apps]})
    world.update("/a", instances=3, force=True)
    while tasks := world.movable():
        world.move(tasks[0])
    world.settle()
    assert not world.deployments
    version = world.objects(root.APP)["/a"].last_config_change_at
    assert [task.labels["version"] for task in world.running("/a")] == [version] * 3


def test_too_many_deployments():
    world = World(settings=Config(max_running_deployments=1))
    world.hold()
    world.create(id="/a")
    with pytest.raises(MarathonError) as many:
        world.create(id="/b")
    assert many.value.status == 403
    assert "/b" not in world.objects(root.APP)


def test_what_takes_the_place_of_deployments_is_not_one_too_many():
    world = World(settings=Config(max_running_deployments=2))
    world.hold()
    world.create(id="/g/a")
    world.create(id="/g/b")
    world.update("/g/a", cmd="sleep 2", force=True)
    world.give(orders.DeleteApp(path="/g/b", force=True))
    assert len(world.deployments) == 2
    assert len(world.put_group({"id": "/g", "apps": []}, dry_run=True).steps) == 1
    world.put_group({"id": "/h"})
    world.give(orders.DeleteGroup(path="/g", force=True))
    assert len(world.deployments) == 2


def test_taking_a_deployment_back(world: World) -> None:
    world.create(id="/a", instances=2)
    world.settle()
    old = {task.id for task in world.running("/a")}
    record = world.objects(root.APP)["/a"]
    world.hold()
    result = world.update("/a", cmd="false", instances=4)
    world.create(id="/b")
    back = world.give(orders.CancelDeployment(id=result.deployment))
    assert back.deployment != result.deployment
    assert result.deployment not in world.deployments
    while tasks := world.movable():
        world.move(tasks[0])
    world.settle()
    after = world.objects(root.APP)["/a"]
    assert after.app == record.app
    assert {task.id for task in world.running("/a")} == old, "what still ran goes on"
    assert "/b" in world.objects(root.APP), "later changes of others stay"
    assert not world.deployments
    assert not world.objects(root.ORIGINAL)


def test_taking_back_what_was_created_or_removed(world: World) -> None:
    world.hold()
    created = world.create(id="/g/a")
    world.give(orders.CancelDeployment(id=created.deployment))
    while tasks := world.movable():
        world.move(tasks[0])
    world.settle()
    assert not world.objects(root.APP)
    assert set(world.objects(root.GROUP)) == {"/"}
    world.create(id="/g/a")
    while tasks := world.movable():
        world.move(tasks[0])
    removed = world.give(orders.DeleteApp(path="/g/a"))
    world.cluster.settle()
    world.give(orders.CancelDeployment(id=removed.deployment))
    while tasks := world.movable():
        world.move(tasks[0])
    world.settle()
    assert len(world.running("/g/a")) == 1
    assert not world.deployments


def test_just_cancelling(world: World) -> None:
    world.create(id="/a", instances=2)
    world.settle()
    world.hold()
    result = world.update("/a", instances=3)
    reply = world.give(orders.CancelDeployment(id=result.deployment, force=True))
    assert reply.deployment is None
    assert not world.deployments
    assert world.objects(root.APP)["/a"].app.instances == 3
    with pytest.raises(MarathonError) as unknown:
        world.give(orders.CancelDeployment(id=result.deployment))
    assert unknown.value.body == {"message": f"DeploymentPlan {result.deployment} does not exist"}
