"""Plans: which steps lead from one set of apps to another."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import attrs
import orjson
from hypothesis import given
from hypothesis import strategies as st

from orlop_marathon.deployments import ActionKind, Deployment, PlannedAction, Step, plan
from orlop_marathon.groups import Tree
from orlop_marathon.model import App, AppRecord, GroupRecord
from orlop_marathon.root import Root, Wanted, records, restarts_under_way

OLD, NEW = "2020-01-01T00:00:00.000Z", "2021-01-01T00:00:00.000Z"


def record(path: str, version: str = OLD, config: str | None = None, **members: object) -> AppRecord:
    app = App(id=path, cmd="x", **members)  # type: ignore[arg-type]
    return AppRecord(app=app, version=version, last_scaling_at=version, last_config_change_at=config or version)


def table(*found: AppRecord) -> dict[str, AppRecord]:
    return {one.app.id: one for one in found}


def steps(
    before: dict[str, AppRecord],
    after: dict[str, AppRecord],
    groups: Iterable[GroupRecord] = (),
    restarted: Collection[str] = (),
) -> list[list[str]]:
    tree = Tree(after, {group.id: group for group in groups})
    made = plan(before, after, tree.layers, restarted)
    return [[f"{action.action} {action.app}" for action in step.actions] for step in made]


def test_nothing_to_do():
    assert steps(table(record("/a")), table(record("/a"))) == []


def test_the_order_of_steps():
    before = table(record("/gone"), record("/same"), record("/scaled"), record("/changed"))
    after = table(
        record("/same"),
        record("/scaled", NEW, OLD, instances=3),
        record("/changed", NEW),
        record("/new", NEW),
    )
    assert steps(before, after) == [
        ["StopApplication /gone"],
        ["StartApplication /new"],
        ["RestartApplication /changed", "ScaleApplication /new", "ScaleApplication /scaled"],
    ]


def test_a_changed_app_without_instances_is_scaled():
    assert steps(table(record("/a")), table(record("/a", NEW, instances=0))) == [["ScaleApplication /a"]]


def test_a_restart_is_taken_over():
    after = table(record("/a", NEW, OLD, instances=3))
    assert steps(table(record("/a")), after, restarted=["/a"]) == [["RestartApplication /a"]]


def test_layers_follow_dependencies_of_apps_and_groups():
    after = table(
        record("/web/a", dependencies=("/db",)),
        record("/web/b", dependencies=("/web/a",)),
        record("/db/x"),
        record("/alone"),
    )
    groups = [GroupRecord(id="/web", dependencies=("/db",))]
    assert [[one.partition(" ")[2] for one in step] for step in steps({}, after, groups)][1:] == [
        ["/alone", "/db/x"],
        ["/web/a"],
        ["/web/b"],
    ]


@given(edges=st.sets(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=80))
def test_no_app_comes_before_what_it_depends_on(edges: set[tuple[int, int]]) -> None:
    needs = {number: {f"/a{low}" for low, high in edges if high == number and low < number} for number in range(31)}
    after = table(*(record(f"/a{number}", dependencies=tuple(sorted(needs[number]))) for number in range(31)))
    place = {}
    for index, step in enumerate(steps({}, after)[1:]):
        for action in step:
            place[action.partition(" ")[2]] = index
    assert len(place) == 31
    for number, wanted in needs.items():
        assert all(place[need] < place[f"/a{number}"] for need in wanted)


def test_restarts_under_way():
    start, scale = (PlannedAction(action=kind, app="/n") for kind in (ActionKind.START, ActionKind.SCALE))
    restart = PlannedAction(action=ActionKind.RESTART, app="/r")
    found = Deployment(
        id="d",
        version=NEW,
        steps=(Step(actions=(start,)), Step(actions=(restart,)), Step(actions=(scale,))),
        current=1,
    )
    assert found.affected == ["/n", "/r"]
    assert restarts_under_way([found]) == {"/r"}
    later = attrs.evolve(found, current=2)
    assert restarts_under_way([later]) == set()


def versions(before: dict[str, AppRecord], *apps: App, **options: object) -> dict[str, AppRecord]:
    wanted = Wanted(apps={app.id: app for app in apps}, groups={}, scope="/", **options)  # type: ignore[arg-type]
    return records(Root(apps=before, groups={}), wanted.apps, NEW, wanted)


def test_versions_move_for_what_differs():
    old = record("/a")
    assert versions(table(old), old.app)["/a"] is old
    scaled = versions(table(old), attrs.evolve(old.app, instances=2))["/a"]
    assert (scaled.version, scaled.last_scaling_at, scaled.last_config_change_at) == (NEW, NEW, OLD)
    changed = versions(table(old), attrs.evolve(old.app, labels={"a": "b"}))["/a"]
    assert (changed.version, changed.last_scaling_at, changed.last_config_change_at) == (NEW, NEW, NEW)
    restarted = versions(table(old), old.app, restarted=frozenset({"/a"}))["/a"]
    assert (restarted.version, restarted.last_scaling_at, restarted.last_config_change_at) == (NEW, OLD, NEW)


def test_an_old_configuration_is_taken_up_again():
    old = record("/a")
    present = table(record("/a", "2020-06-01T00:00:00.000Z", labels={"x": "y"}))
    back = versions(present, old.app, remembered={"/a": old})["/a"]
    assert (back.version, back.last_config_change_at) == (NEW, OLD)
    other = versions(present, attrs.evolve(old.app, cmd="z"), remembered={"/a": old})["/a"]
    assert other.last_config_change_at == NEW


def test_a_plan_for_many_apps_stays_small():
    found = plan({}, table(*(record(f"/g/app-{number}") for number in range(1000))), lambda paths: [sorted(paths)])
    stored = orjson.dumps([[(action.action, action.app) for action in step.actions] for step in found])
    assert len(stored) < 200_000
