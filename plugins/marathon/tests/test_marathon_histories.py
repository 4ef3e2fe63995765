"""Any history of orders and misfortunes ends as it was wanted."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st
from marathon_world import World

from orlop_marathon import orders, root
from orlop_marathon.errors import MarathonError
from orlop_marathon.framework import Marathon

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
def test_whatever_happens_ends_as_wanted(history: list[tuple[str, str, int, bool]]) -> None:
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
