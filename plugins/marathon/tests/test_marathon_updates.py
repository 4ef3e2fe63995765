"""Reading updates of apps, and groups."""

from __future__ import annotations

import json
from typing import Any

import pytest
from marathon_documents import RICH, VERSION, faults, record, whole

from orlop.model.documents import from_bytes, to_bytes
from orlop_marathon import parsing, roles
from orlop_marathon.errors import MarathonError
from orlop_marathon.model import App, AppRecord, Defaults, GroupRecord
from orlop_marathon.rendering import app_json, counts

# --- updates ---


def merged(app: App, **members: Any) -> App:
    return parsing.merge(app, parsing.parse_app_update(members))


def test_a_merge_replaces_given_members_whole():
    app = parsing.parse_app({"id": "x", "cmd": "a", "env": {"A": "1", "B": "2"}, "labels": {"a": "1"}, "instances": 4})
    new = merged(app, env={"C": "3"}, cmd="b")
    assert (new.env, new.cmd) == ({"C": "3"}, "b")
    assert (new.labels, new.instances) == ({"a": "1"}, 4)


def test_null_cannot_unset_anything():
    app = parsing.parse_app({"id": "x", "cmd": "a", "user": "u"})
    assert merged(app, user=None, cmd=None) == app


def test_limits_and_executor_resources_are_always_those_of_the_update():
    app = parsing.parse_app(
        {"id": "x", "cmd": "a", "resourceLimits": {"cpus": "unlimited"}, "executorResources": {"cpus": 1}}
    )
    new = merged(app, instances=2)
    assert (new.resource_limits, new.executor_resources) == (None, None)


def test_args_can_be_emptied_but_cmd_beside_args_stays():
    app = parsing.parse_app({"id": "x", "args": ["a"]})
    assert merged(app, cmd="b").args == ("a",)
    assert merged(app, cmd="b", args=[]).args == ()


def test_a_whole_update_resets_what_it_does_not_give():
    app = parsing.parse_app({"id": "x", "cmd": "a", "instances": 4, "labels": {"a": "b"}})
    new = parsing.merge(app, parsing.parse_app_update({"args": ["b"]}), partial=False)
    assert new == parsing.parse_app({"id": "x", "args": ["b"]})


def test_an_update_can_create():
    update = parsing.parse_app_update({"cmd": "a", "id": "/ignored"})
    assert parsing.merge(None, update, id="/g/x") == parsing.parse_app({"id": "/g/x", "cmd": "a"})


def test_the_path_wins_over_the_id_in_the_body():
    app = parsing.parse_app({"id": "x", "cmd": "a"})
    assert merged(app, id="/other").id == "/x"


def test_changing_the_network_drops_ports_of_the_old_kind():
    host = parsing.parse_app({"id": "x", "cmd": "a", "portDefinitions": [{"port": 80}]})
    bridge = merged(host, networks=[{"mode": "container/bridge"}])
    assert bridge.port_definitions is None
    assert len(bridge.port_mappings) == 1
    back = merged(bridge, networks=[{"mode": "host"}])
    assert back.port_mappings == ()
    assert back.port_definitions == (parsing.DEFAULT_PORT_DEFINITION,)


def test_a_version_stands_alone():
    assert parsing.parse_app_update({"id": "/x", "version": "2021-07-27T22:40:33.123+02:00"}).version == VERSION
    _, _, details = faults({"version": VERSION, "cmd": "a"}, parsing.parse_app_update)
    assert details == {"/": ["The 'version' field may only be combined with the 'id' field."]}
    with pytest.raises(MarathonError) as caught:
        parsing.parse_app_update({"version": "yesterday"})
    text = "Invalid timestamp provided 'yesterday'. Expecting ISO-8601 datetime string."
    assert (caught.value.status, caught.value.body) == (422, {"message": text})


def test_arrays_of_updates_need_ids():
    assert [update.id for update in parsing.parse_app_updates([{"id": "/a"}, {"id": "b"}])] == ["/a", "b"]
    _, _, details = faults([{"id": "/a"}, {}, {"id": "/c", "cpus": "x"}], parsing.parse_app_updates)
    assert details == {"(1)/id": ["error.path.missing"], "(2)/cpus": ["error.expected.jsnumber"]}


@pytest.mark.parametrize("document", RICH, ids=range(len(RICH)))
def test_a_reply_put_back_changes_nothing(document: dict[str, Any]):
    app = whole(document, defaults=Defaults(network_name="n"))
    reply = app_json(record(app), counts=counts([]), deployments=["d"], tasks=[{"id": "t"}])
    reply = json.loads(json.dumps(reply)) | {"lastTaskFailure": None, "ports": None, "uris": None, "ipAddress": None}
    del reply["version"]  # with it, it would ask for a rollback
    assert parsing.unknown_members(reply) == []
    for partial in (True, False):
        assert parsing.merge(app, parsing.parse_app_update(reply), partial) == app
    assert parsing.parse_app(reply) == app


@pytest.mark.parametrize("document", RICH, ids=range(len(RICH)))
def test_records_survive_being_stored(document: dict[str, Any]):
    stored = record(parsing.parse_app(document))
    assert from_bytes(to_bytes(stored), AppRecord, "the app") == stored


def test_unknown_members_are_found():
    document = {
        "id": "x",
        "comand": "a",
        "container": {"docker": {"netwrk": 1, "network": "HOST"}},
        "healthChecks": [{}, {"prt": 1}],
        "env": {"anything": "goes"},
        "tasksRunning": 1,
    }
    assert parsing.unknown_members(document) == ["/comand", "/container/docker/netwrk", "/healthChecks(1)/prt"]
    group = {"id": "/g", "apps": [document], "groups": [{"id": "h", "aps": []}]}
    found = parsing.unknown_members(group)
    assert found[0] == "/apps(0)/comand"
    assert found[-1] == "/groups(0)/aps"


# --- groups ---


def test_groups_are_read_in_full():
    update = parsing.parse_group_update(
        {
            "id": "shop",
            "apps": [{"id": "web", "cmd": "a", "dependencies": ["../db"]}],
            "groups": [
                {"id": "/shop/inner", "dependencies": ["../web"], "apps": [{"id": "/shop/inner/a", "cmd": "b"}]}
            ],
        }
    )
    assert update.id == "/shop"
    assert update.apps is not None
    assert update.groups is not None
    assert update.apps[0].id == "/shop/web"
    assert update.apps[0].dependencies == ("/db",)
    (inner,) = update.groups
    assert (inner.id, inner.dependencies) == ("/shop/inner", ("/shop/web",))
    assert inner.apps is not None
    assert inner.apps[0].id == "/shop/inner/a"


def test_a_group_without_id_is_the_one_of_its_path():
    assert parsing.parse_group_update({"scaleBy": 2.0}, base="/g").scale_by == 2.0
    assert parsing.parse_group_update({"scaleBy": 2.0}, base="/g").id == "/g"


@pytest.mark.parametrize(
    ("document", "path", "text"),
    [
        ({"id": "/g", "scaleBy": 2, "apps": []}, "/scaleBy", "not allowed in conjunction with other properties."),
        ({"id": "/g", "version": VERSION, "apps": []}, "/version", "not allowed in conjunction with other properties."),
        ({"id": "/g", "scaleBy": 0}, "/scaleBy", "error.min"),
        ({"id": "/G"}, "/id", "error.pattern"),
        ({"id": "/g", "dependencies": ["/a b"]}, "/dependencies(0)", "error.pattern"),
        ({"id": "/g", "apps": [{"id": "/other/a", "cmd": "x"}]}, "/apps(0)/id", "Identifier is not child of '/g'"),
        ({"id": "/g", "apps": [{"cmd": "x"}]}, "/apps(0)/id", "error.path.missing"),
        ({"id": "/g", "apps": [None]}, "/apps(0)", "error.expected.jsobject"),
        ({"id": "/g", "apps": [{"id": "a", "cpus": "x"}]}, "/apps(0)/cpus", "error.expected.jsnumber"),
        ({"id": "/g", "groups": [{"apps": []}]}, "/groups(0)/id", "error.path.missing"),
        ({"id": "/g", "groups": [{"id": "/h"}]}, "/groups(0)/id", "Identifier is not child of '/g'"),
        (
            {"id": "/g", "groups": [{"id": "h", "enforceRole": True}]},
            "/groups(0)/enforceRole",
            "enforceRole can only be set for top-level groups, and /g/h is not top-level",
        ),
        (
            {"id": "/g", "apps": [{"id": "a", "networks": [{"mode": "container/bridge"}], "portDefinitions": [{}]}]},
            "/apps(0)",
            "portDefinitions are only allowed with host-networking",
        ),
    ],
)
def test_faults_in_groups_are_named_with_their_path(document: Any, path: str, text: str):
    _, _, details = faults(document, parsing.parse_group_update)
    assert details == {path: [text]}


def test_groups_are_not_nested_without_end():
    document: dict[str, Any] = {"id": "a"}
    for _ in range(400):
        document = {"id": "a", "groups": [document]}
    _, message, details = faults(document, parsing.parse_group_update)
    assert message == "Object is not valid"
    (texts,) = details.values()
    assert "nested at most" in texts[0]


def test_an_app_gets_its_role_when_it_is_deployed():
    app = parsing.parse_app({"id": "/g/a", "cmd": "x"})
    enforcing = {"/g": GroupRecord(id="/g", enforce_role=True)}
    assert app.role == roles.NOT_SAID
    assert roles.filled_in({"/g/a": app}, {}, "main")["/g/a"].role == "main"
    assert roles.filled_in({"/g/a": app}, enforcing, "main")["/g/a"].role == "g"
    assert roles.filled_in({"/a": app}, enforcing, "main")["/a"].role == "main"
    said = parsing.parse_app({"id": "/g/a", "cmd": "x", "role": "own"})
    assert roles.filled_in({"/g/a": said}, enforcing, "main") == {"/g/a": said}
