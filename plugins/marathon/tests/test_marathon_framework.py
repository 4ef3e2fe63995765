"""Apps and deployments on the real kernel with simulated nodes."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.framework import Changed, Outcome, Refused, Task
from orlop.testing.harness import Cluster
from orlop_marathon import orders, parsing, reconciling, root
from orlop_marathon.errors import MarathonError
from orlop_marathon.framework import Marathon
from orlop_marathon.settings import Config

NAME = Marathon.name


class World:
    """A cluster with one Marathon; orders in JSON, as routes would give them."""

    def __init__(self, *, nodes: int = 3, settings: Config | None = None) -> None:
        self.settings = settings or Config()
        # The harness asks again only after its nodes have reacted, which is another moment: see `again` instead.
        self.cluster = Cluster(Marathon(self.settings), check_idempotence=False)
        for number in range(nodes):
            self.cluster.add_node(f"n{number}", cpus=64, mem="64GiB")
        self.cluster.settle()

    def give(self, order: Any) -> Any:
        try:
            return self.cluster.command(NAME, order)
        except Refused as refused:
            raise refused.reason from None

    def create(self, **document: Any) -> Any:
        app = {"cmd": "sleep 1", "cpus": 0.1, "mem": 16, **document}
        return self.give(orders.CreateApp(app=parsing.parse_app(app)))

    def update(self, path: str, *, force: bool = False, **document: Any) -> Any:
        update = parsing.parse_app_update(document)
        return self.give(orders.UpdateApps(updates=((path, update),), force=force))

    def put_group(self, document: dict[str, Any], *, force: bool = False, **options: Any) -> Any:
        update = parsing.parse_group_update(document)
        return self.give(orders.ChangeGroup(update=update, force=force, **options))

    def settle(self) -> None:
        self.cluster.settle()
        self.again()

    def again(self) -> None:
        """At rest, a Marathon that knows nothing but the view wants nothing new."""
        fresh = Marathon(self.settings)
        actions = list(fresh.handle(self.cluster.view(NAME), Changed(everything=True, nodes=True)))
        kinds = {type(action).__name__ for action in actions}
        assert kinds <= {"WakeAt"}, actions

    def hold(self) -> None:
        """From now on nodes neither start nor stop anything by themselves."""
        for node in self.cluster.nodes.values():
            node.starts = lambda _: False
            node.stops = lambda _: False

    def move(self, task: Task) -> None:
        """What a held node owes: the task gets running, or is gone."""
        if task.stopping:
            self.cluster.report_stopped(task)
        else:
            self.cluster.report_running(task)
        self.cluster.settle()

    def movable(self, path: str | None = None) -> list[Task]:
        return [task for task in self.live(path) if task.placement is not None and (task.stopping or not task.running)]

    def live(self, path: str | None = None) -> list[Task]:
        return [task for task in self.cluster.live(NAME) if path in (None, task.group)]

    def running(self, path: str | None = None) -> list[Task]:
        return [task for task in self.live(path) if task.running and not task.stopping]

    def objects(self, kind: str) -> dict[str, Any]:
        return dict(self.cluster.view(NAME).objects(kind))

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.cluster.published if event["eventType"] == kind]

    @property
    def deployments(self) -> dict[str, Any]:
        return self.objects(root.DEPLOYMENT)


@pytest.fixture
def world() -> World:
    return World()


CHECKED = {"healthChecks": [{"protocol": "HTTP", "portIndex": 0, "maxConsecutiveFailures": 3}]}


def actions_of(deployment: Any) -> list[list[tuple[str, str]]]:
    return [[(str(action.action), action.app) for action in step.actions] for step in deployment.steps]


# --- create, scale, delete ---


def test_a_new_app_runs(world):
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


def test_a_deployment_waits_for_health(world):
    world.create(id="/a", instances=2, **CHECKED)
    world.settle()
    first, second = world.running("/a")
    world.cluster.set_health(first, alive=True)
    world.settle()
    assert world.deployments
    world.cluster.set_health(second, alive=True)
    world.settle()
    assert not world.deployments


def test_scaling_up_and_down(world):
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


def test_oldest_first(world):
    world.create(id="/a", instances=1, killSelection="OLDEST_FIRST")
    world.settle()
    (oldest,) = world.running("/a")
    world.cluster.advance(1)
    world.update("/a", instances=2)
    world.settle()
    world.update("/a", instances=1)
    world.settle()
    assert oldest.key not in {task.key for task in world.live("/a")}


def test_scaling_down_what_waits_for_room(world):
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


def test_delete_ends_everything_and_forgets(world):
    world.create(id="/a", instances=3)
    world.settle()
    result = world.give(orders.DeleteApp(path="/a"))
    assert actions_of(world.deployments[result.deployment]) == [[("StopApplication", "/a")]]
    assert "/a" not in world.objects(root.APP)
    world.settle()
    assert not world.live("/a")
    for kind in (root.APP, root.VERSION, root.HISTORY, root.DEPLOYMENT, root.ORIGINAL, root.BACKOFF, root.FAILURE):
        assert not world.objects(kind), kind


def test_delete_takes_over_from_a_running_deployment(world):
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


def test_nothing_changes_when_the_same_is_put_again(world):
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


def test_a_failed_task_is_started_again_with_backoff(world):
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


def test_the_default_delays_are_marathons(world):
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


def test_killed_tasks_do_not_count_as_failures(world):
    world.create(id="/a", backoffSeconds=100)
    world.settle()
    (task,) = world.running("/a")
    world.give(orders.KillTasks(names=(task.name,)))
    world.settle()
    (again,) = world.running("/a")
    assert again.key == task.key
    assert again.name.endswith("._app.2")
    assert not world.objects(root.BACKOFF)


def test_many_failures_count_once_each(world):
    world.create(id="/a", instances=3, backoffSeconds=10, backoffFactor=2)
    world.settle()
    for task in world.running("/a"):
        world.cluster.end_task(task, code=1)
    world.settle()
    assert world.objects(root.BACKOFF)["/a"].delay_ms == 40_000
    world.cluster.install(Marathon())
    world.settle()
    assert world.objects(root.BACKOFF)["/a"].delay_ms == 40_000


def test_a_new_configuration_starts_afresh(world):
    world.create(id="/a", backoffSeconds=100)
    world.settle()
    world.cluster.end_task(world.running("/a")[0], code=1)
    world.settle()
    assert not world.running("/a")
    world.update("/a", cmd="sleep 2", force=True)
    world.settle()
    assert len(world.running("/a")) == 1
    assert not world.objects(root.BACKOFF)


def test_resetting_the_delay(world):
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
def test_health_kills_with_the_failure_after_the_last_allowed_one(world, most, failures, killed):
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


def test_a_lost_node(world):
    world.create(id="/a", instances=6)
    world.settle()
    lost = world.running("/a")[0].node
    world.cluster.lose_node(lost, gone=False)
    world.settle()
    assert sum(not task.unreachable for task in world.running("/a")) == 6, "replaced at once by default"
    world.cluster._hello(world.cluster.nodes[lost])
    world.settle()
    assert len(world.live("/a")) == 6


def test_waiting_for_an_unreachable_node(world):
    world.create(id="/a", instances=3, unreachableStrategy={"inactiveAfterSeconds": 60, "expungeAfterSeconds": 600})
    world.settle()
    lost = world.running("/a")[0].node
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


def test_wipe_gives_a_new_instance(world):
    world.create(id="/a")
    world.settle()
    (task,) = world.running("/a")
    world.give(orders.KillTasks(names=(task.name,), wipe=True))
    world.settle()
    (again,) = world.running("/a")
    assert again.key != task.key
    assert again.name.endswith("._app.1")


def test_kill_and_scale_kills_exactly_those(world):
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


def test_killing_what_is_not_placed(world):
    world.create(id="/a", cpus=1000)
    world.settle()
    (task,) = world.live("/a")
    world.give(orders.KillTasks(names=(task.name,)))
    world.settle()
    (again,) = world.live("/a")
    assert again.key == task.key
    assert again.id != task.id


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
def test_a_rolling_restart_keeps_its_bounds(world, n, minimum, over, least, most):
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
def test_a_crash_in_the_middle_changes_nothing_of_the_end(at):
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


def test_restart_gives_a_new_configuration_version(world):
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


def test_any_change_but_the_number_restarts(world):
    world.create(id="/a")
    world.settle()
    result = world.update("/a", labels={"x": "y"})
    assert actions_of(world.deployments[result.deployment]) == [[("RestartApplication", "/a")]]


def test_an_unhealthy_new_version_never_replaces_the_old_one(world):
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


def test_a_running_deployment_locks_its_apps_only(world):
    world.hold()
    first = world.create(id="/a")
    with pytest.raises(MarathonError) as locked:
        world.update("/a", instances=2)
    assert locked.value.status == 409
    assert locked.value.body["deployments"] == [{"id": first.deployment}]
    second = world.create(id="/b")
    assert set(world.deployments) == {first.deployment, second.deployment}


def test_force_takes_over(world):
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


def test_force_takes_over_what_was_changed_and_scaled_to_nothing(world):
    world.create(id="/a", instances=2)
    world.create(id="/first")
    world.settle()
    world.hold()
    # The app waits for another one's restart, so that its own instances have not been stopped yet.
    apps = [
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


def test_taking_a_deployment_back(world):
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


def test_taking_back_what_was_created_or_removed(world):
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


def test_just_cancelling(world):
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


# --- groups ---


def member(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "cmd": "sleep 1", "cpus": 0.1, "mem": 16, **more}


def test_a_group_starts_in_the_order_of_dependencies(world):
    world.hold()
    group = {
        "id": "/shop",
        "groups": [
            {"id": "db", "apps": [member("pg")]},
            {"id": "web", "dependencies": ["/shop/db"], "apps": [member("front"), member("back", instances=2)]},
        ],
    }
    result = world.put_group(group)
    steps = actions_of(world.deployments[result.deployment])
    assert [sorted(app for _, app in step) for step in steps] == [
        ["/shop/db/pg", "/shop/web/back", "/shop/web/front"],
        ["/shop/db/pg"],
        ["/shop/web/back", "/shop/web/front"],
    ]
    world.settle()
    assert {task.group for task in world.live()} == {"/shop/db/pg"}
    world.move(world.movable()[0])
    world.settle()
    assert len(world.live()) == 4
    while tasks := world.movable():
        world.move(tasks[0])
    world.settle()
    assert not world.deployments


def test_apps_that_wait_for_their_step_are_kept_as_they_were(world):
    world.put_group({"id": "/g", "apps": [member("a"), member("b", dependencies=["/g/a"])]})
    world.settle()
    old = world.running("/g/b")[0]
    world.hold()
    changed = {"cmd": "sleep 2"}
    world.put_group({"id": "/g", "apps": [member("a") | changed, member("b", dependencies=["/g/a"]) | changed]})
    world.cluster.end_task(old, code=1)
    world.cluster.settle()
    (again,) = world.live("/g/b")
    assert again.labels["version"] == old.labels["version"], "not the new configuration before its step"
    world.cluster.restart(Marathon())
    world.cluster.settle()
    assert [task.id for task in world.live("/g/b")] == [again.id]
    world.cluster.advance(5)
    while tasks := world.movable():
        world.move(tasks[0])
    world.settle()
    version = world.objects(root.APP)["/g/b"].version
    assert [task.labels["version"] for task in world.running()] == [version] * 2
    assert not world.deployments


def test_a_group_update_removes_what_it_does_not_name(world):
    world.put_group({"id": "/g", "apps": [member("a"), member("b")]})
    world.settle()
    result = world.put_group({"id": "/g", "apps": [member("b"), member("c")]})
    assert actions_of(world.deployments[result.deployment]) == [
        [("StopApplication", "/g/a")],
        [("StartApplication", "/g/c")],
        [("ScaleApplication", "/g/c")],
    ]
    world.settle()
    assert sorted(task.group for task in world.running()) == ["/g/b", "/g/c"]


def test_scaling_a_group(world):
    world.put_group({"id": "/g", "apps": [member("a", instances=3), member("b")]})
    world.settle()
    world.put_group({"id": "/g", "scaleBy": 1.5})
    world.settle()
    assert len(world.running("/g/a")) == 5
    assert len(world.running("/g/b")) == 2


def test_a_dry_run_changes_nothing(world):
    result = world.put_group({"id": "/g", "apps": [member("a")]}, dry_run=True)
    assert [[action.app for action in step.actions] for step in result.steps] == [["/g/a"], ["/g/a"]]
    assert not world.objects(root.APP)
    assert not world.deployments


def test_a_group_returns_to_a_version(world):
    world.put_group({"id": "/g", "apps": [member("a"), member("b")]})
    world.settle()
    version = world.objects(root.APP)["/g/a"].version
    world.put_group({"id": "/g", "apps": [member("a", instances=2) | {"cmd": "sleep 2"}, member("b")]})
    world.settle()
    world.put_group({"id": "/g", "version": version})
    world.settle()
    app = world.objects(root.APP)["/g/a"].app
    assert (app.cmd, app.instances) == ("sleep 1", 1)
    with pytest.raises(MarathonError) as unknown:
        world.put_group({"id": "/g", "version": "2001-01-01T00:00:00.000Z"})
    assert unknown.value.status == 404


def test_deleting_the_root_removes_everything(world):
    world.put_group({"id": "/g", "apps": [member("a"), member("b")]})
    world.create(id="/c")
    world.settle()
    world.give(orders.DeleteGroup(path="/"))
    world.settle()
    assert not world.live()
    assert not world.objects(root.APP)


def test_groups_outlive_their_apps(world):
    world.create(id="/g/h/a")
    world.settle()
    world.give(orders.DeleteApp(path="/g/h/a"))
    world.settle()
    assert set(world.objects(root.GROUP)) == {"/", "/g", "/g/h"}


def test_refused_orders_change_nothing(world):
    world.create(id="/g/a")
    world.settle()
    before = world.cluster.documents.copy()
    cyclic = [member("x", dependencies=["/g/y"]), member("y", dependencies=["/g/x"])]
    for order in (
        lambda: world.create(id="/g/a"),
        lambda: world.put_group({"id": "/g", "apps": cyclic}),
        lambda: world.create(id="/g"),
        lambda: world.give(orders.DeleteApp(path="/nothing")),
        lambda: world.give(orders.RestartApp(path="/nothing")),
        lambda: world.give(orders.DeleteGroup(path="/nothing")),
        lambda: world.give(orders.EnforceRole(path="/g/h", enforce=True)),
        lambda: world.update("/g/a", args=["a"]),
        lambda: world.give(orders.KillTasks(names=("x",), scale=True, wipe=True)),
    ):
        with pytest.raises(MarathonError) as refused:
            order()
        assert 400 <= refused.value.status < 500
    assert {key for key in world.cluster.documents if "marathon" in key and "/objects" in key} == {
        key for key in before if "marathon" in key and "/objects" in key
    }


def test_work_is_proportional_to_what_changed():
    """With many apps, a task's news makes the handler look at its own app alone."""
    world = World(nodes=1)
    world.put_group({"id": "/g", "apps": [member(f"a{number}") for number in range(50)]})
    world.settle()
    looked: list[str] = []
    original = reconciling.survey

    def counting(view, path, record, doomed):
        looked.append(path)
        return original(view, path, record, doomed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconciling, "survey", counting)
        world.cluster.end_task(world.running("/g/a7")[0], code=1)
        world.cluster.settle()
    assert set(looked) == {"/g/a7"}


def test_lost_outcomes_are_remembered(world):
    world.create(id="/a")
    world.settle()
    (task,) = world.running("/a")
    world.cluster.lose_node(task.node)
    world.settle()
    assert world.objects(root.FAILURE)["/a"].state == "TASK_LOST"
    (again,) = world.running("/a")
    assert again.node != task.node
    assert task.status.exit is None or task.status.exit.outcome is Outcome.LOST


# --- any history ---

PATHS = ("/a", "/g/b", "/g/c")
OCCASIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["put", "scale", "delete", "restart", "kill", "wipe", "fail", "move", "crash", "cancel", "wait"]
        ),
        st.sampled_from(PATHS),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=25,
)


def happen(world: World, what: str, path: str, number: int, flag: bool) -> None:
    tasks = world.live(path)
    if what == "put":
        world.update(path, force=flag, cmd=f"sleep {number}", cpus=0.1, mem=16, instances=number)
    elif what == "scale":
        world.update(path, force=flag, instances=number)
    elif what == "delete":
        world.give(orders.DeleteApp(path=path, force=flag))
    elif what == "restart":
        world.give(orders.RestartApp(path=path, force=flag))
    elif what in ("kill", "wipe") and tasks:
        names = tuple(task.name for task in tasks[:number])
        scale = what == "kill" and flag
        world.give(orders.KillTasks(names=names, scale=scale, wipe=what == "wipe"))
    elif what == "fail":
        for task in [task for task in tasks if task.placement is not None][:number]:
            world.cluster.end_task(task, code=1)
    elif what == "move":
        for task in world.movable(path)[: number + 1]:
            world.move(task)
    elif what == "crash":
        world.cluster.restart(Marathon())
    elif what == "cancel" and world.deployments:
        world.give(orders.CancelDeployment(id=min(world.deployments), force=flag))
    elif what == "wait":
        world.cluster.advance(number)


@settings(max_examples=60, deadline=None)
@given(history=OCCASIONS)
def test_whatever_happens_ends_as_wanted(history):
    world = World()
    world.hold()
    for what, path, number, flag in history:
        with suppress(MarathonError):
            happen(world, what, path, number, flag)
        world.settle()
    for _ in range(500):
        tasks = world.movable()
        if not tasks and all(task.placement is not None for task in world.live()):
            break
        for task in tasks:
            world.move(task)
        world.cluster.advance(1)
    world.settle()
    assert not world.deployments
    assert not world.objects(root.ORIGINAL)
    apps = world.objects(root.APP)
    for path in PATHS:
        assert len(world.running(path)) == len(world.live(path))
        assert len(world.live(path)) == (apps[path].app.instances if path in apps else 0)
    kept = {
        root.version_id(path, one) for path, history in world.objects(root.HISTORY).items() for one in history.versions
    }
    assert set(world.objects(root.VERSION)) == kept
    assert world.objects(root.HISTORY).keys() == apps.keys()
    assert world.objects(root.BACKOFF).keys() <= apps.keys()
    assert world.objects(root.FAILURE).keys() <= apps.keys()


def test_apps_of_a_group_that_enforces_its_role_have_it(world):
    def role(path: str) -> str:
        return world.objects(root.APP)[path].app.role

    world.put_group({"id": "/g", "apps": [member("old")]})
    world.settle()
    world.give(orders.EnforceRole(path="/g", enforce=True))
    world.create(id="/g/new")
    world.update("/g/put", cmd="sleep 1")
    world.put_group({"id": "/g", "groups": [{"id": "inner", "apps": [member("deep")]}]})
    world.update("/g/old", instances=2)
    world.settle()
    assert [role(path) for path in ("/g/old", "/g/new", "/g/put", "/g/inner/deep")] == ["*", "g", "g", "g"]
    with pytest.raises(MarathonError) as refused:
        world.create(id="/g/other", role="*")
    assert refused.value.body["details"] == [{"path": "/role", "errors": ["got *, expected one of: g"]}]
    world.update("/g/old", role="g", force=True)
    assert role("/g/old") == "g"
    world.put_group({"id": "/h", "enforceRole": True, "apps": [member("a")]})
    assert role("/h/a") == "h"


def test_tasks_are_told_whether_their_group_enforces_its_role(world):
    def said() -> list[str]:
        view = world.cluster.view(NAME)
        specs = [view.spec(task) for task in sorted(world.live(), key=lambda task: task.sequence)]
        return [spec.payload["environment"]["MARATHON_APP_ENFORCE_GROUP_ROLE"] for spec in specs]

    world.put_group({"id": "/g", "apps": [member("a")]})
    world.create(id="/alone")
    world.settle()
    assert said() == ["FALSE", "FALSE"]
    world.give(orders.EnforceRole(path="/g", enforce=True))
    world.update("/g/a", instances=2)
    world.settle()
    assert said() == ["FALSE", "FALSE", "TRUE"]


# --- the event bus ---


def kinds_since(world: World, said: int) -> list[tuple[str, str]]:
    """Types of the events since then that are about apps, with the app."""
    events = world.cluster.published[said:]
    return [(event["eventType"], event["appId"]) for event in events if "health_check" in event["eventType"]] + [
        (event["eventType"], event["appId"]) for event in events if event["eventType"] == "app_terminated_event"
    ]


def test_health_checks_come_and_go_with_configurations(world):
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


def test_each_failure_that_counts_is_told(world):
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


def test_an_app_has_terminated_when_its_tasks_have(world):
    world.create(id="/a")
    world.settle()
    world.hold()
    world.give(orders.DeleteApp(path="/a"))
    world.settle()
    assert not world.events("app_terminated_event")
    (task,) = world.live("/a")
    world.move(task)
    assert [event["appId"] for event in world.events("app_terminated_event")] == ["/a"]


def test_the_client_of_pypi_knows_every_event(world):
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
