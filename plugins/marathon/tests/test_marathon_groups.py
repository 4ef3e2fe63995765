"""The tree, updates of groups, service ports."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_marathon.errors import MarathonError
from orlop_marathon.groups import DependencyCycle, Tree, apply_group_update, records, without_group
from orlop_marathon.model import App, GroupRecord
from orlop_marathon.parsing import parse_app, parse_group_update
from orlop_marathon.service_ports import assign


def apps_of(*documents: dict[str, Any] | str) -> dict[str, App]:
    made = [parse_app({"cmd": "a", **({"id": one} if isinstance(one, str) else one)}) for one in documents]
    return {app.id: app for app in made}


def tree_of(*documents: dict[str, Any] | str, groups: tuple[GroupRecord, ...] = ()) -> Tree:
    return Tree(records(apps_of(*documents)), {group.id: group for group in groups})


# --- the tree ---


def test_groups_exist_as_parents_and_as_records():
    tree = tree_of("/a/b/c", "/a/d", "/e", groups=(GroupRecord(id="/f/g", version="v"),))
    assert tree.groups_in("/") == ("/a", "/f")
    assert tree.groups_in("/a") == ("/a/b",)
    assert tree.apps_in("/") == ("/e",)
    assert tree.apps_in("/a/b") == ("/a/b/c",)
    assert list(tree.groups_below("/")) == ["/a", "/a/b", "/f", "/f/g"]
    assert list(tree.apps_below("/a")) == ["/a/d", "/a/b/c"]
    assert tree.group("/f/g").version == "v"
    assert tree.group("/a").version == "1970-01-01T00:00:00.000Z"
    assert "/" in tree
    assert "/e" not in tree
    with pytest.raises(MarathonError) as caught:
        tree.require("/nowhere")
    assert (caught.value.status, caught.value.message) == (404, "Group '/nowhere' does not exist")


def test_an_empty_tree_has_a_root():
    tree = tree_of()
    assert "/" in tree
    assert tree.groups_in("/") == tree.apps_in("/") == ()


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.sets(PATHS, max_size=8), st.sets(PATHS, max_size=4))
def test_everything_is_found_from_the_root_once(apps: set[str], groups: set[str]):
    tree = tree_of(*sorted(apps), groups=tuple(GroupRecord(id=one) for one in sorted(groups)))
    assert sorted(tree.apps_below("/")) == sorted(apps)
    below = list(tree.groups_below("/"))
    assert len(below) == len(set(below))
    assert groups <= set(below)
    assert all(group in tree for group in below)


def test_dependencies_of_groups_hold_for_all_apps_below():
    tree = tree_of(
        {"id": "/front/web/a", "dependencies": ["/nowhere"]},
        "/db/one",
        "/db/deep/two",
        "/cache",
        groups=(GroupRecord(id="/front", dependencies=("/db", "/cache")),),
    )
    assert tree.dependencies("/front/web/a") == {"/db/one", "/db/deep/two", "/cache"}
    assert tree.dependencies("/cache") == frozenset()


def test_layers_follow_dependencies_through_what_is_not_affected():
    tree = tree_of({"id": "/a", "dependencies": ["/b"]}, {"id": "/b", "dependencies": ["/c"]}, "/c", "/d", {"id": "/e"})
    assert tree.layers(["/a", "/b", "/c", "/d"]) == [("/c", "/d"), ("/b",), ("/a",)]
    assert tree.layers(["/a", "/c"]) == [("/c",), ("/a",)]
    assert tree.layers([]) == []


def test_cycles_are_named():
    tree = tree_of({"id": "/a", "dependencies": ["/b"]}, {"id": "/b", "dependencies": ["/a"]})
    with pytest.raises(DependencyCycle) as caught:
        tree.layers(["/a"])
    assert set(caught.value.path) == {"/a", "/b"}


# --- updates ---


def updated(
    apps: dict[str, App], document: dict[str, Any], *groups: GroupRecord
) -> tuple[set[str], dict[str, GroupRecord]]:
    new_apps, new_groups = apply_group_update(apps, {one.id: one for one in groups}, parse_group_update(document))
    return set(new_apps), new_groups


def test_given_apps_replace_those_directly_in_the_group():
    before = apps_of("/g/a", "/g/b", "/g/h/c", "/other")
    assert updated(before, {"id": "/g", "apps": [{"id": "a", "cmd": "x"}]})[0] == {"/g/a", "/g/h/c", "/other"}
    assert updated(before, {"id": "/g", "apps": []})[0] == {"/g/h/c", "/other"}
    assert updated(before, {"id": "/g", "dependencies": ["/other"]})[0] == set(before)


def test_given_groups_replace_those_directly_below():
    before = apps_of("/g/a", "/g/h/c", "/g/h/d", "/g/i/deep/e")
    record = GroupRecord(id="/g/i/deep")
    apps, groups = updated(before, {"id": "/g", "groups": [{"id": "h", "apps": [{"id": "c", "cmd": "x"}]}]}, record)
    assert apps == {"/g/a", "/g/h/c"}
    assert set(groups) == {"/g", "/g/h"}
    assert updated(before, {"id": "/g", "groups": []})[0] == {"/g/a"}


def test_a_kept_group_keeps_what_is_not_said():
    old = GroupRecord(id="/g", dependencies=("/x",), enforce_role=True, version="v")
    _, groups = updated(apps_of("/g/a"), {"id": "/g", "apps": []}, old)
    assert groups["/g"] == old
    _, groups = updated(apps_of("/g/a"), {"id": "/g", "dependencies": [], "enforceRole": False}, old)
    assert (groups["/g"].dependencies, groups["/g"].enforce_role) == ((), False)


def test_new_groups_come_with_their_apps():
    apps, groups = updated({}, {"id": "/g", "apps": [{"id": "a", "cmd": "x"}], "groups": [{"id": "h"}]})
    assert apps == {"/g/a"}
    assert set(groups) == {"/g", "/g/h"}


def test_what_is_given_twice_is_refused():
    with pytest.raises(MarathonError, match="/apps: /g/a is given twice"):
        updated({}, {"id": "/g", "apps": [{"id": "a", "cmd": "x"}] * 2})
    with pytest.raises(MarathonError, match="/groups: /g/h is given twice"):
        updated(
            {}, {"id": "/g", "groups": [{"id": "h", "apps": [{"id": "a", "cmd": "x"}]}, {"id": "/g/h", "apps": []}]}
        )


def test_scaling_rounds_up_and_stays_below_the_group():
    before = apps_of({"id": "/g/a", "instances": 3}, {"id": "/g/h/b", "instances": 1}, {"id": "/x", "instances": 3})
    new, _ = apply_group_update(before, {}, parse_group_update({"id": "/g", "scaleBy": 1.5}))
    assert {path: app.instances for path, app in new.items()} == {"/g/a": 5, "/g/h/b": 2, "/x": 3}
    with pytest.raises(MarathonError, match="does not exist"):
        apply_group_update(before, {}, parse_group_update({"id": "/nowhere", "scaleBy": 1.5}))
    with pytest.raises(MarathonError, match="more than"):
        apply_group_update(before, {}, parse_group_update({"id": "/g", "scaleBy": 1e300}))


def test_removing_a_group_removes_all_below():
    apps, groups = without_group(apps_of("/g/a", "/g/h/b", "/gg"), {"/g": GroupRecord(id="/g")}, "/g")
    assert (set(apps), groups) == ({"/gg"}, {})
    apps, groups = without_group(apps_of("/g/a"), {"/": GroupRecord(id="/"), "/g": GroupRecord(id="/g")}, "/")
    assert (apps, groups) == ({}, {})


# --- service ports ---


def test_ports_are_assigned_reused_and_unique():
    apps = apps_of({"id": "/a", "ports": [0, 10001, 0]}, {"id": "/b", "ports": [0]}, {"id": "/c", "ports": [80]})
    first = assign(apps, {})
    assert first["/a"].service_ports == (10000, 10001, 10002)
    assert first["/b"].service_ports == (10003,)
    assert first["/c"] is apps["/c"]
    again = assign(apps_of("/new", {"id": "/a", "ports": [0, 0]}, {"id": "/b", "ports": [0]}), first)
    assert again["/a"].service_ports == (10000, 10001)
    assert again["/b"].service_ports == (10003,)
    assert again["/new"].service_ports == (10002,)


def test_mappings_get_service_ports():
    mapped = {
        "id": "/a",
        "networks": [{"mode": "container/bridge"}],
        "container": {"type": "MESOS", "portMappings": [{}, {}]},
    }
    assert assign(apps_of(mapped), {})["/a"].service_ports == (10000, 10001)


def test_an_exhausted_range_is_an_error():
    with pytest.raises(MarathonError) as caught:
        assign(apps_of({"id": "/a", "ports": [0, 0]}), {}, 10, 10)
    assert caught.value.body == {"message": "All ports in the range [10-10] are already in use"}


PORTS = st.dictionaries(
    PATHS,
    st.lists(st.just(0) | st.integers(10000, 10010), max_size=4, unique_by=lambda port: port or object()),
    max_size=5,
)


@given(PORTS, PORTS)
def test_assigned_ports_are_unique_and_stay(before: dict[str, list[int]], after: dict[str, list[int]]):
    old = assign(apps_of(*({"id": path, "ports": ports} for path, ports in before.items())), {})
    wanted = apps_of(*({"id": path, "ports": ports} for path, ports in after.items()))
    new = assign(wanted, old)
    fixed = [port for app in wanted.values() for port in app.service_ports if port]
    chosen = [
        port
        for path, app in new.items()
        for port, asked in zip(app.service_ports, wanted[path].service_ports, strict=True)
        if not asked
    ]
    assert 0 not in chosen
    assert len(set(chosen)) == len(chosen)
    assert not set(chosen) & set(fixed)
    assert assign(wanted, new) == new
