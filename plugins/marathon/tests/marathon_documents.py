"""Documents of apps and groups as clients send them, for tests."""

from __future__ import annotations

from typing import Any

import pytest

from orlop_marathon import parsing, roles
from orlop_marathon.errors import MarathonError
from orlop_marathon.model import App, AppRecord

VERSION = "2021-07-27T20:40:33.123Z"
DOCKER = {"image": "i"}
BRIDGED = {"id": "/x", "container": {"docker": {"image": "i"}}, "networks": [{"mode": "container/bridge"}]}
RICH: list[dict[str, Any]] = [
    {"id": "/x", "cmd": "sleep"},
    {**BRIDGED, "healthChecks": [{}, {"protocol": "COMMAND", "command": {"value": "true"}}]},
    {**BRIDGED, "container": {"docker": DOCKER, "portMappings": []}},
    {"id": "/x", "args": ["a"], "portDefinitions": [], "constraints": [["b", "CLUSTER"], ["a", "LIKE", "r.*"]]},
    {"id": "/x", "container": {"docker": {**DOCKER, "network": "USER"}}, "ipAddress": {"networkName": "n"}},
    {"id": "/x", "cmd": "a", "uris": ["x.tgz"], "ports": [80, 81], "dependencies": ["../b", "/a"]},
    {
        "id": "/x",
        "cmd": "a",
        "container": {
            "type": "MESOS",
            "volumes": [
                {
                    "containerPath": "d",
                    "persistent": {"size": 10, "type": "mount", "constraints": [["path", "LIKE", "a"]]},
                },
                {"containerPath": "/e", "hostPath": "/f", "mode": "ro"},
                {
                    "containerPath": "/g",
                    "external": {"name": "n", "provider": "dvdi", "options": {"dvdi/driver": "rexray"}},
                },
                {"containerPath": "/h", "secret": "s"},
            ],
            "linuxInfo": {"seccomp": {"unconfined": True}, "ipcInfo": {"mode": "PRIVATE", "shmSize": 1}},
        },
        "secrets": {"s": {"source": "/p"}},
        "env": {"A": {"secret": "s"}, "B": "c"},
    },
    {"id": "/x", "cmd": "a", "readinessChecks": [{"portName": "default"}], "unreachableStrategy": "disabled"},
    {"id": "/x", "cmd": "a", "taskKillGracePeriodSeconds": 2.5, "acceptedResourceRoles": ["*"], "tty": False},
]


def record(app: App) -> AppRecord:
    return AppRecord(app=app, version=VERSION, last_scaling_at=VERSION, last_config_change_at=VERSION)


def whole(document: Any, **options: Any) -> App:
    """The app as it is once it is deployed, with a role."""
    app = parsing.parse_app(document, **options)
    return roles.filled_in({app.id: app}, {}, "*")[app.id]


def faults(document: Any, parse: Any = parsing.parse_app) -> tuple[int, str, dict[str, list[str]]]:
    """Status, message and path → texts of what a document is refused with."""
    with pytest.raises(MarathonError) as caught:
        parse(document)
    details = {detail["path"]: detail["errors"] for detail in caught.value.body["details"]}
    return caught.value.status, caught.value.message, details
