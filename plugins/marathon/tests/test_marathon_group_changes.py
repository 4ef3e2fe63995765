"""Groups of apps on the real kernel: their order, their versions, their roles."""

from __future__ import annotations

from typing import Any

import pytest
from marathon_world import NAME, World, actions_of, member

from orlop.framework import Outcome, View
from orlop_marathon import orders, reconciling, root
from orlop_marathon.errors import MarathonError
from orlop_marathon.framework import Marathon


def test_a_group_starts_in_the_order_of_dependencies(world: World) -> None:
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


def test_apps_that_wait_for_their_step_are_kept_as_they_were(world: World) -> None:
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


def test_a_group_update_removes_what_it_does_not_name(world: World) -> None:
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


def test_scaling_a_group(world: World) -> None:
    world.put_group({"id": "/g", "apps": [member("a", instances=3), member("b")]})
    world.settle()
    world.put_group({"id": "/g", "scaleBy": 1.5})
    world.settle()
    assert len(world.running("/g/a")) == 5
    assert len(world.running("/g/b")) == 2


def test_a_dry_run_changes_nothing(world: World) -> None:
    result = world.put_group({"id": "/g", "apps": [member("a")]}, dry_run=True)
    assert [[action.app for action in step.actions] for step in result.steps] == [["/g/a"], ["/g/a"]]
    assert not world.objects(root.APP)
    assert not world.deployments


def test_a_group_returns_to_a_version(world: World) -> None:
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


def test_deleting_the_root_removes_everything(world: World) -> None:
    world.put_group({"id": "/g", "apps": [member("a"), member("b")]})
    world.create(id="/c")
    world.settle()
    world.give(orders.DeleteGroup(path="/"))
    world.settle()
    assert not world.live()
    assert not world.objects(root.APP)


def test_groups_outlive_their_apps(world: World) -> None:
    world.create(id="/g/h/a")
    world.settle()
    world.give(orders.DeleteApp(path="/g/h/a"))
    world.settle()
    assert set(world.objects(root.GROUP)) == {"/", "/g", "/g/h"}


def test_refused_orders_change_nothing(world: World) -> None:
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

    def counting(view: View, path: str, *rest: Any) -> Any:
        looked.append(path)
        return original(view, path, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconciling, "survey", counting)
        world.cluster.end_task(world.running("/g/a7")[0], code=1)
        world.cluster.settle()
    assert set(looked) == {"/g/a7"}


def test_lost_outcomes_are_remembered(world: World) -> None:
    world.create(id="/a")
    world.settle()
    (task,) = world.running("/a")
    assert task.node is not None
    world.cluster.lose_node(task.node)
    world.settle()
    assert world.objects(root.FAILURE)["/a"].state == "TASK_LOST"
    (again,) = world.running("/a")
    assert again.node != task.node
    assert task.status.exit is None or task.status.exit.outcome is Outcome.LOST


def test_apps_of_a_group_that_enforces_its_role_have_it(world: World) -> None:
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


def test_tasks_are_told_whether_their_group_enforces_its_role(world: World) -> None:
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
