"""Every rule of an app and of the tree, with the path and the text that clients know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orlop_marathon import app_rules, paths, roles
from orlop_marathon.errors import MarathonError
from orlop_marathon.model import App, Defaults, GroupRecord
from orlop_marathon.parsing import parse_app
from orlop_marathon.validation import validate_app, validate_role, validate_root, validate_update

EVERYTHING = Defaults(
    features=frozenset({"gpu_resources", "external_volumes", "secrets", "persistent_volumes"}), network_name="net"
)
#: A backtracking engine does not come back from it.
HANGING = "(?:" * 6 + "v?" + "){9}" * 6 + "x"
JAVAS = "(RE2 has no look-around, back-references or possessive quantifiers)"
BRIDGE = [{"mode": "container/bridge"}]
NEITHER = "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'."
INDEX = "Health check port indices must address an element of the ports array or container port mappings."
IS_TEXT = "IS only supports Mesos text and float values (see "
OPERATORS = "operator must be one of the following UNIQUE, CLUSTER, GROUP_BY, LIKE, MAX_PER, UNLIKE or IS"


def docker(**members: Any) -> dict[str, Any]:
    return {"container": {"type": "DOCKER", "docker": {"image": "i", **members}}}


def volumes(*volumes: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"container": {"type": "MESOS", "volumes": list(volumes)}, **members}


def persistent(**members: Any) -> dict[str, Any]:
    return {"containerPath": "data", "persistent": {"size": 1, **members}}


def app_of(members: dict[str, Any]) -> App:
    base = {} if "cmd" in members or "args" in members else {"cmd": "sleep"}
    return parse_app({"id": "/x", **base, **members}, defaults=EVERYTHING)


def refused(validate: Callable[..., None], *arguments: Any) -> dict[str, list[str]]:
    """path → texts of what is refused; empty when nothing is."""
    error: MarathonError | None = None
    try:
        validate(*arguments)
    except MarathonError as raised:
        error = raised
    if error is None:
        return {}
    assert (error.status, error.message) == (422, "Object is not valid")
    return {detail["path"]: detail["errors"] for detail in error.body["details"]}


def problems(app: App, defaults: Defaults = EVERYTHING) -> dict[str, list[str]]:
    return refused(validate_app, app, defaults)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"cmd": None, "args": ["a"]},
        {"cmd": None, **docker()},
        {"cmd": None, "container": {"type": "MESOS", "docker": {"image": "i"}}},
        {"networks": BRIDGE, **docker()},
        {"networks": [{"name": "a"}, {"name": "b"}]},
        {"constraints": [["a", "UNIQUE"], ["a", "cluster", "b"], ["a", "GROUP_BY"], ["a", "GROUP_BY", "3"]]},
        {"constraints": [["a", "LIKE", "a.*"], ["a", "UNLIKE", "b"], ["a", "MAX_PER", "2"], ["a", "IS", "1.5"]]},
        {"executor": "//cmd"},
        {"executor": "/opt/executor"},
        volumes(persistent(type="mount", size=1, maxSize=2)),
        volumes({"containerPath": "/a", "hostPath": "/a"}),
        {"container": {"docker": {"image": "i"}, "volumes": [{"containerPath": "/a", "hostPath": "/b"}]}},
        {"healthChecks": [{"protocol": "COMMAND", "command": {"value": "a"}}] * 2},
        {"portDefinitions": [], "healthChecks": [{"port": 80}]},
        {"readinessChecks": [{"portName": "default"}]},
        {"resourceLimits": {"cpus": "unlimited", "mem": 128}},
        {"labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"}},
        {"fetch": [{"uri": "http://user@host:80/a%20b?c=d#e"}]},
        {"secrets": {"s": {"source": "/p"}}, "env": {"A": {"secret": "s"}}},
        {"gpus": 1},
        docker(parameters=[{"key": "label", "value": "a=b"}, {"key": "memory-swap", "value": "-1"}]),
    ],
    ids=range(22),
)
def test_sound_apps_are_accepted(members: dict[str, Any]):
    assert problems(app_of(members)) == {}


@pytest.mark.parametrize(
    ("members", "path", "text"),
    [
        # what it runs
        ({"cmd": None}, "/", NEITHER),
        ({"cmd": "a", "args": ["b"]}, "/", NEITHER),
        ({"cmd": "a", "args": ["b"], **docker()}, "/", NEITHER),
        ({"cmd": None, "container": {"type": "MESOS"}}, "/", NEITHER),
        ({"cmd": "  "}, "/cmd", "must not be an empty string"),
        ({"cmd": "a\0b"}, "/cmd", "must not contain a NUL character"),
        ({"args": ["a", "\0"]}, "/args(1)", "must not contain a NUL character"),
        ({"env": {"A": "\0"}}, "/env/A", "must not contain a NUL character"),
        ({"env": {"": "a"}}, "/env", "must not be empty"),
        ({"env": {"A=B": "a"}}, "/env", "names must contain neither"),
        ({"user": ""}, "/user", "must not be an empty string"),
        ({"fetch": [{"uri": "a b"}]}, "/fetch(0)/uri", "URI has invalid syntax."),
        ({"uris": ["http://[::1"]}, "/fetch(0)/uri", "URI has invalid syntax."),
        # sizes
        ({"instances": 100_001}, "/instances", "got 100001, expected 100000 or less"),
        (
            {"instances": 2, "labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"}},
            "/",
            "Single instance app may only have one instance",
        ),
        ({"gpus": 1, **docker()}, "/", "GPU resources only work with the Mesos containerizer"),
        (
            {"cpus": 2, "resourceLimits": {"cpus": 1}},
            "/resourceLimits/cpus",
            "resource limit must be greater than or equal to requested resource (2.0)",
        ),
        # secrets
        ({"env": {"A": {"secret": "s"}}}, "/env/A/secret", "references an undefined secret"),
        ({"secrets": {"": {"source": "a"}}}, "/secrets", "must not be empty"),
        # roles
        ({"role": "a b"}, "/role", "A role name must not include a space (\\x20) character."),
        ({"role": "a/b"}, "/role", "A role name must not include a slash (\\x2f) character."),
        ({"role": "-a"}, "/role", "A role name must not start with a '-'."),
        ({"role": ".."}, "/role", 'A role name must not be "..".'),
        ({"acceptedResourceRoles": ["b"]}, "/acceptedResourceRoles", "acceptedResourceRoles can only contain *"),
        # strategies
        (
            {"upgradeStrategy": {"minimumHealthCapacity": 2}},
            "/upgradeStrategy/minimumHealthCapacity",
            "got 2.0, expected between 0.0 and 1.0",
        ),
        (
            {"upgradeStrategy": {"maximumOverCapacity": -0.5}},
            "/upgradeStrategy/maximumOverCapacity",
            "got -0.5, expected between 0.0 and 1.0",
        ),
        (
            {
                "labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"},
                "upgradeStrategy": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0},
            },
            "/upgradeStrategy/minimumHealthCapacity",
            "got 0.5, expected 0.0",
        ),
        (
            volumes(persistent(), upgradeStrategy={"maximumOverCapacity": 1}),
            "/upgradeStrategy/maximumOverCapacity",
            "got 1.0, expected 0.0",
        ),
        (
            {"unreachableStrategy": {"inactiveAfterSeconds": 2, "expungeAfterSeconds": 1}},
            "/unreachableStrategy",
            "inactiveAfterSeconds (2) must be less or equal to expungeAfterSeconds, which is 1",
        ),
        (
            volumes(persistent(), unreachableStrategy={"inactiveAfterSeconds": 0}),
            "/",
            "unreachableStrategy must be disabled for resident tasks",
        ),
        # networks and ports
        ({"networks": [{"mode": "host", "name": "a"}]}, "/networks", "Host networks may not have names or labels"),
        ({"networks": [{**BRIDGE[0], "name": "a"}]}, "/networks", "Bridge networks may not have names"),
        ({"networks": [{"name": "a"}, {"name": "a"}]}, "/networks", "Duplicate networks are not allowed"),
        (
            {"networks": [*BRIDGE, {"name": "a"}]},
            "/networks",
            "May specify a single host network, single bridge network, or else 1-to-n container networks",
        ),
        (
            {"networks": [{"name": "a"}, {"name": "b"}], **docker()},
            "/",
            "may only specify a single container network when using the Docker container engine",
        ),
        ({"portDefinitions": [{"name": "a"}, {"name": "a"}]}, "/portDefinitions", "Port names must be unique."),
        ({"portDefinitions": [{"port": 80}, {"port": 80}]}, "/portDefinitions", "Ports must be unique."),
        (
            {"networks": BRIDGE, "container": {"type": "MESOS", "portMappings": [{"name": "a"}, {"name": "a"}]}},
            "/container/portMappings",
            "Port names must be unique.",
        ),
        (
            {
                "networks": [{"name": "a"}, {"name": "b"}],
                "container": {"type": "MESOS", "portMappings": [{"hostPort": 0}]},
            },
            "/container/portMappings(0)",
            "networkNames must be a single item list when hostPort is specified and more than 1 container network",
        ),
        (
            {"networks": [{"name": "a"}], "container": {"type": "MESOS", "portMappings": [{"networkNames": ["b"]}]}},
            "/container/portMappings(0)/networkNames(0)",
            "got b, expected one of: a",
        ),
        # containers
        ({"container": {"type": "DOCKER"}}, "/container/docker", "not defined"),
        (docker(image=" "), "/container/docker/image", "must not be empty"),
        (
            docker(pullConfig={"secret": "s"}),
            "/container/docker/pullConfig",
            "pullConfig is not supported with Docker containerizer",
        ),
        (
            {"container": {"type": "MESOS", "docker": {"image": "i", "pullConfig": {"secret": "s"}}}},
            "/container/docker/pullConfig",
            "pullConfig.secret must refer to an existing secret",
        ),
        (docker(parameters=[{"key": "frob", "value": ""}]), "/container/docker/parameters(0)", "'frob' is not a"),
        (docker(parameters=[{"key": "memory", "value": "x"}]), "/container/docker/parameters(0)", "'memory': expected"),
        (
            {"container": {"docker": {"image": "i"}, "linuxInfo": {}}},
            "/container/linuxInfo",
            "linuxInfo is not supported with Docker containerizer",
        ),
        # volumes
        (volumes({"containerPath": "", "hostPath": "/a"}), "/container/volumes(0)/containerPath", "must not be empty"),
        (volumes({"containerPath": "a", "hostPath": ""}), "/container/volumes(0)/hostPath", "must not be empty"),
        (
            volumes({"containerPath": "/a", "hostPath": "/b"}),
            "/container/volumes(0)",
            "is mounted only where there is an",
        ),
        (
            volumes({"containerPath": "/a", "external": {"provider": "dvdi", "name": "n"}}),
            "/container/volumes(0)",
            "is mounted only where there is an image: a process sees the node's files as they are",
        ),
        (
            volumes({"containerPath": "a", "secret": "s"}),
            "/container/volumes(0)",
            "volume.secret must refer to an existing secret",
        ),
        (
            volumes(*[{"containerPath": "a", "external": {"provider": "dvdi", "name": "n"}}] * 2),
            "/container/volumes",
            "Volume names must be unique",
        ),
        (
            volumes({"containerPath": "a", "external": {"provider": "dvdi"}}),
            "/container/volumes(0)/external/name",
            "must not be empty",
        ),
        (
            volumes({**persistent(), "containerPath": "/a"}),
            "/container/volumes(0)/containerPath",
            'value must not contain "/"',
        ),
        (volumes({**persistent(), "containerPath": ".."}), "/container/volumes(0)/containerPath", 'got "..", expected'),
        (volumes({**persistent(), "mode": "RO"}), "/container/volumes(0)/mode", "got RO, expected RW"),
        (volumes(persistent(size=0)), "/container/volumes(0)/persistent/size", "got 0, expected more than 0"),
        (
            volumes(persistent(maxSize=2)),
            "/container/volumes(0)/persistent",
            "Only mount volumes can have maxSize",
        ),
        (
            volumes(persistent(type="mount", size=2, maxSize=1)),
            "/container/volumes(0)/persistent",
            "Max size must be larger than size",
        ),
        (
            volumes(persistent(constraints=[["path", "LIKE", "a"]])),
            "/container/volumes(0)/persistent",
            "Constraints on root volumes are not supported",
        ),
        *(
            (
                volumes(persistent(type="path", constraints=[constraint])),
                "/container/volumes(0)/persistent/constraints(0)",
                text,
            )
            for constraint, text in (
                (["path", "UNIQUE", "a"], "Operator must be one of LIKE, UNLIKE"),
                (["path", "FROB", "a"], "unknown constraint operator FROB"),
                (["other", "LIKE", "a"], "Unsupported constraint other,LIKE,a"),
                (["path", "LIKE", "("], "Invalid regular expression: missing ): ("),
            )
        ),
        # constraints
        *(
            ({"constraints": [constraint]}, "/constraints(0)", text)
            for constraint, text in (
                (["a", "UNIQUE", "b"], "UNIQUE does not accept a value"),
                (["a", "GROUP_BY", "b"], "GROUP BY must define an integer value or else no value at all"),
                (["a", "MAX_PER"], "MAX_PER requires an integer value"),
                (["a", "MAX_PER", "b"], "MAX_PER requires an integer value"),
                (["a", "LIKE"], "LIKE and UNLIKE require a non-empty, regular expression value"),
                (["a", "UNLIKE", ""], "LIKE and UNLIKE require a non-empty, regular expression value"),
                (["a", "LIKE", "("], "is not a valid regular expression: missing ): ("),
                (["a", "UNLIKE", HANGING], "is not a valid regular expression: invalid repetition size: {9}"),
                (
                    ["a", "LIKE", "a{99999999999}"],
                    "is not a valid regular expression: expected at most 1000 repetitions, got 99999999999",
                ),
                (
                    ["a", "LIKE", "(?=a)"],
                    f"is not a valid regular expression: invalid perl operator: (?= {JAVAS}",
                ),
                (["a", "IS", "[1-2]"], IS_TEXT),
                (["a", "IN", "b"], OPERATORS),
                (["", "UNIQUE"], "illegal constraint specification"),
            )
        ),
        # checks
        ({"healthChecks": [{"portIndex": 1}]}, "/healthChecks(0)", INDEX),
        ({"portDefinitions": [], "healthChecks": [{"protocol": "MESOS_TCP"}]}, "/healthChecks(0)", INDEX),
        (
            {"healthChecks": [{"port": 80, "portIndex": 0}]},
            "/healthChecks(0)",
            "HealthCheck must specify either a port or a portIndex",
        ),
        ({"healthChecks": [{"protocol": "COMMAND"}]}, "/healthChecks(0)", "HealthCheck with protocol COMMAND must"),
        (
            {"healthChecks": [{"protocol": "TCP", "command": {"value": "true"}}]},
            "/healthChecks(0)",
            "illegal protocol TCP specified with command",
        ),
        (
            {"healthChecks": [{"protocol": "COMMAND", "command": {"value": "\0"}}]},
            "/healthChecks(0)/command",
            "must not contain a NUL character",
        ),
        (
            {"healthChecks": [{"ipProtocol": "IPv6"}]},
            "/healthChecks(0)",
            "IPv6 can only be used for container type DOCKER and Mesos http/https/tcp health checks",
        ),
        (
            {"healthChecks": [{"protocol": "MESOS_HTTP"}, {"protocol": "MESOS_TCP"}]},
            "/",
            "AppDefinition can contain at most one Mesos health check",
        ),
        ({"check": {"tcp": {}}, **docker()}, "/", "AppDefinition must not use 'checks' if using docker"),
        ({"check": {}}, "/check", "expected exactly one of http, tcp and exec"),
        (
            {"check": {"http": {"portIndex": 3}}},
            "/check",
            "check port index must address an element of the ports array or container port mappings.",
        ),
        ({"check": {"exec": {"command": {}}}}, "/check/exec/command", "expected exactly one of shell and argv"),
        (
            {"readinessChecks": [{"portName": "x"}]},
            "/readinessChecks(0)/portName",
            "No port definition reference for portName x",
        ),
        (
            {"readinessChecks": [{"portName": "default", "timeoutSeconds": 30}]},
            "/readinessChecks(0)/timeoutSeconds",
            "got 30, expected less than 30",
        ),
        ({"readinessChecks": [{"portName": "default"}] * 2}, "/readinessChecks", "got 2, expected 1 or less"),
    ],
)
def test_broken_rules_are_named(members: dict[str, Any], path: str, text: str):
    found = problems(app_of(members))
    assert any(one.startswith(text) for one in found.get(path, ())), found


def test_container_networks_need_a_name():
    app = parse_app({"id": "x", "cmd": "a", "networks": [{"mode": "container"}]})
    text = "Network name must be specified when container network is selected."
    assert problems(app) == {"/networks": [text]}


@pytest.mark.parametrize(
    ("members", "feature"),
    [
        ({"gpus": 1}, "gpu_resources"),
        ({"secrets": {"a": {"source": "b"}}}, "secrets"),
        (
            {
                "container": {
                    "docker": {"image": "i"},
                    "volumes": [{"containerPath": "a", "external": {"provider": "dvdi", "name": "n"}}],
                }
            },
            "external_volumes",
        ),
        (volumes(persistent()), "persistent_volumes"),
    ],
)
def test_features_that_are_off_are_named(members: dict[str, Any], feature: str):
    (texts,) = problems(app_of(members), Defaults(features=frozenset())).values()
    assert texts == [f"Feature {feature} is not enabled. Enable with --enable_features {feature})"]


def test_all_broken_rules_are_told_at_once_and_one_entry_per_path():
    found = problems(
        app_of({"cmd": " ", "instances": 2, "labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"}, **docker(image=" ")})
    )
    assert set(found) == {"/cmd", "/", "/container/docker/image"}


def test_expressions_are_bounded():
    constraint = app_of({"constraints": [["a", "LIKE", "a" * (app_rules.LONGEST_EXPRESSION + 1)]]})
    text = "is not a valid regular expression: expected at most 1024 characters, got 1025"
    assert problems(constraint) == {"/constraints(0)": [text]}


# --- the tree ---


def tree(*documents: dict[str, Any], groups: dict[str, GroupRecord] | None = None) -> dict[str, list[str]]:
    apps = {app.id: app for app in (parse_app({"cmd": "a", **document}) for document in documents)}
    return refused(validate_root, apps, groups or {})


def test_a_sound_tree_is_accepted():
    assert tree({"id": "/a/b", "dependencies": ["/c"]}, {"id": "/c"}, groups={"/a": GroupRecord(id="/a")}) == {}


def test_cycles_are_found_through_groups():
    cyclic = "Dependency graph has cyclic dependencies."
    assert tree({"id": "/a", "dependencies": ["/b"]}, {"id": "/b", "dependencies": ["/a"]}) == {"/": [cyclic]}
    assert tree({"id": "/a", "dependencies": ["/a"]}) == {"/": [cyclic]}
    groups = {"/g": GroupRecord(id="/g", dependencies=("/h",))}
    assert tree({"id": "/g/a"}, {"id": "/h/b", "dependencies": ["/g"]}, groups=groups) == {"/": [cyclic]}
    assert tree({"id": "/g/a"}, {"id": "/h/b"}, groups=groups) == {}


@pytest.mark.parametrize("groups", [{}, {"/a": GroupRecord(id="/a")}])
def test_apps_and_groups_do_not_share_ids(groups: dict[str, GroupRecord]):
    other = {"id": "/other"} if groups else {"id": "/a/b"}
    assert tree({"id": "/a"}, other, groups=groups) == {
        "/a": ["Groups and Applications may not have the same identifier."]
    }


def test_roles_are_the_default_one_or_the_top_level_groups():
    def wrong(path: str, role: str, *, enforced: bool = False, before: str | None = None) -> list[str]:
        groups = {"/g": GroupRecord(id="/g", enforce_role=enforced)}
        old = parse_app({"id": path, "cmd": "a", "role": before}) if before else None
        app = parse_app({"id": path, "cmd": "a", "role": role})
        return refused(validate_role, app, roles.allowed(path, groups, "*", old)).get("/role", [])

    assert wrong("/g/a", "g") == wrong("/g/h/a", "*") == []
    assert wrong("/g/a", "h") == ["got h, expected one of: *, g"]
    assert wrong("/a", "a") == ["got a, expected one of: *"]
    assert wrong("/g/a", "*", enforced=True) == ["got *, expected one of: g"]
    assert wrong("/g/a", "*", enforced=True, before="*") == wrong("/g/a", "g", enforced=True, before="*") == []


def test_only_top_level_groups_enforce_roles():
    groups = {"/g/h": GroupRecord(id="/g/h", enforce_role=True)}
    text = "enforceRole can only be set for top-level groups, and /g/h is not top-level"
    assert tree(groups=groups) == {"/g/h/enforceRole": [text]}


# --- updates of what keeps data ---


def resident(**members: Any) -> App:
    return app_of(volumes(persistent(), **members))


def update_problems(old: App | None, new: App) -> dict[str, list[str]]:
    return refused(validate_update, old, new)


def test_apps_that_keep_data_keep_their_shape():
    assert update_problems(None, resident()) == {}
    assert update_problems(resident(), resident(instances=3)) == {}
    assert update_problems(app_of({}), app_of({"cpus": 3})) == {}
    moved = app_of(volumes({**persistent(), "containerPath": "other"}))
    assert update_problems(resident(), moved) == {"/": ["Persistent volumes can not be changed!"]}
    (texts,) = update_problems(resident(), resident(mem=256)).values()
    assert texts[0].startswith("Services with persistent volumes configured may not change resource requirements.")
    assert set(update_problems(resident(), resident(cpus=2, requirePorts=True))) == {"/cpus", "/requirePorts"}
    ports = resident(portDefinitions=[{"port": 80}], requirePorts=True)
    (texts,) = update_problems(ports, resident(portDefinitions=[{"port": 81}], requirePorts=True)).values()
    assert texts[0].startswith("Services with persistent volumes configured may not change host ports.")


# --- paths ---


@pytest.mark.parametrize(
    ("given", "base", "path"),
    [
        ("a", "/", "/a"),
        ("/a//b/", "/x", "/a/b"),
        ("../b", "/a/c", "/a/b"),
        ("./b", "/a", "/a/b"),
        ("../../..", "/a", "/"),
        ("", "/a", "/a"),
    ],
)
def test_paths_are_resolved(given: str, base: str, path: str):
    assert paths.resolve(given, base) == path


@pytest.mark.parametrize("good", ["a", "/a/b", "../a", "a.b-c.d", "a--b", "0", "/tasks/a"])
def test_good_ids(good: str):
    assert paths.violations(good) == []


@pytest.mark.parametrize(
    "bad", ["A", "a_b", "-a", "a-", "a..b", ".a", "a b", "ä", "a/restart", "versions", "a/..", "x" * 1025]
)
def test_bad_ids(bad: str):
    assert paths.violations(bad)


def test_hostile_ids_are_judged_at_once():
    assert paths.violations("a-" * 500 + "!")
    assert paths.violations("a" * 1000 + "!")


def test_places_in_the_tree():
    assert list(paths.parents("/a/b/c")) == ["/a/b", "/a", "/"]
    assert list(paths.parents("/")) == []
    assert paths.is_below("/a/b", "/a")
    assert paths.is_below("/a", "/")
    assert not paths.is_below("/ab", "/a")
    assert not paths.is_below("/a", "/a")
    assert not paths.is_below("/", "/")
    assert paths.top_level("/a/b/c") == "/a"
