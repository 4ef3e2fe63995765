"""`inspect` of a container whose engine cannot be asked, made of what the kernel knows. Pure.

Its state is that in which it was last seen, with the reason why nobody can tell more as its error: a list says `Host
Down`. What only an engine knows (the image's id, addresses, mounts, the process) is empty.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final

from orlop_swarm.merging.containers import Remembered

#: As engines write a moment that has not come.
NEVER: Final = "0001-01-01T00:00:00Z"
#: What engines have in a `Config` of what was not asked for.
_CONFIGURATION: Final[Mapping[str, Any]] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": [],
    "Cmd": None,
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
}
#: Members of a create request that are not the container's `Config`.
_NOT_CONFIGURATION: Final = frozenset({"HostConfig", "NetworkingConfig"})
#: What the names of members begin with that are Orlop's own.
_OWN: Final = "orlop_"


def inspection(one: Remembered, why: str) -> dict[str, Any]:
    """In the shape of an engine's. why: its engine cannot be asked."""
    body = {name: value for name, value in one.body.items() if not name.startswith(_OWN)}
    path, *arguments = [*_words(body.get("Entrypoint")), *_words(body.get("Cmd"))] or [""]
    return {
        "Id": one.id,
        "Created": moment(1000 * one.created),
        "Path": path,
        "Args": arguments,
        "State": _state(one, why),
        "Image": one.image_id or None,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": "",
        "Name": f"/{one.name}",
        "RestartCount": 0,
        "Driver": "",
        "Platform": "",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": dict(body.get("HostConfig") or {}),
        "GraphDriver": {"Data": None, "Name": ""},
        "Mounts": [],
        "Config": {
            **_CONFIGURATION,
            **{name: value for name, value in body.items() if name not in _NOT_CONFIGURATION},
            "Image": one.image,
            "Labels": dict(one.labels),
        },
        "NetworkSettings": {
            "Ports": {},
            "Networks": dict((body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}),
        },
    }


def _state(one: Remembered, why: str) -> dict[str, Any]:
    runs, ended = one.state == "running", one.state == "exited"
    return {
        "Status": one.state,
        "Running": runs,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Dead": False,
        "Pid": 0,
        "ExitCode": one.exit_code,
        "Error": f"Host Down: {why}",
        "StartedAt": moment(one.since_ms) if runs else NEVER,
        "FinishedAt": moment(one.since_ms) if ended else NEVER,
    }


def moment(utc_ms: int) -> str:
    """RFC 3339, as engines write it. utc_ms: 0 for never."""
    if not utc_ms:
        return NEVER
    second, rest = divmod(utc_ms, 1000)
    whole = datetime.datetime.fromtimestamp(second, datetime.UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{rest:03}Z"


def _words(value: Any) -> list[str]:
    if value is None or isinstance(value, Mapping):
        return []
    return [value] if isinstance(value, str) else [str(word) for word in value]
