"""Requests' bodies as an engine reads them.

Engines are not as strict about JSON as the pool's own reader is: they take members whatever the case of their names,
look at nothing after the first value, and replace what is no character. They are stricter about types. What they would
not take is for one of them to refuse, in its own words: it gets the body as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import orjson
from aiohttp import hdrs, web

from orlop_swarm.http import relaying
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.services import SERVICES
from orlop_swarm.merging.answers import Document

#: What an engine reads a value as: a type, `[shape]` for a list, `(shape,)` for an object with any members, `{"Member":
#: shape}` for one with these beside others that the pool does not look at. None: anything. Nothing (`null`) fits all.
Shape = Any

_TEXTS: Final = (str,)
_ADDRESS_SPACE: Final = {"Subnet": str, "IPRange": str, "Gateway": str, "AuxiliaryAddresses": _TEXTS}
NETWORK: Final[Shape] = {
    "Name": str,
    "CheckDuplicate": bool,
    "Driver": str,
    "Scope": str,
    "EnableIPv6": bool,
    "Internal": bool,
    "Attachable": bool,
    "Ingress": bool,
    "ConfigOnly": bool,
    "ConfigFrom": {"Network": str},
    "IPAM": {"Driver": str, "Options": _TEXTS, "Config": [_ADDRESS_SPACE]},
    "Options": _TEXTS,
    "Labels": _TEXTS,
}
CONNECTION: Final[Shape] = {"Container": str, "EndpointConfig": (None,), "Force": bool}
VOLUME: Final[Shape] = {"Name": str, "Driver": str, "DriverOpts": _TEXTS, "Labels": _TEXTS}
_RESTART: Final = {"Name": str, "MaximumRetryCount": int}
_HOST: Final = {
    "Binds": [str],
    "Links": [str],
    "VolumesFrom": [str],
    "NetworkMode": str,
    "PidMode": str,
    "IpcMode": str,
    "AutoRemove": bool,
    "Memory": int,
    "NanoCpus": int,
    "CpuShares": int,
    "CpuQuota": int,
    "CpuPeriod": int,
    "PortBindings": ([{"HostIp": str, "HostPort": str}],),
    "PublishAllPorts": bool,
    "Mounts": [{"Type": str, "Source": str, "Target": str}],
    "LogConfig": {"Type": str, "Config": _TEXTS},
    "RestartPolicy": _RESTART,
}
UPDATE: Final[Shape] = {
    "Memory": int,
    "MemorySwap": int,
    "MemoryReservation": int,
    "KernelMemory": int,
    "NanoCpus": int,
    "CpuShares": int,
    "CpuPeriod": int,
    "CpuQuota": int,
    "CpuRealtimePeriod": int,
    "CpuRealtimeRuntime": int,
    "CpusetCpus": str,
    "CpusetMems": str,
    "BlkioWeight": int,
    "PidsLimit": int,
    "RestartPolicy": _RESTART,
}
#: Of a container's configuration, what the pool looks at.
_CONFIGURED: Final = {
    "Image": str,
    "Cmd": None,
    "Entrypoint": None,
    "Env": [str],
    "Labels": _TEXTS,
    "Hostname": str,
    "Domainname": str,
    "User": str,
    "WorkingDir": str,
    "ExposedPorts": ((None,),),
    "Volumes": ((None,),),
    "StopSignal": str,
    "StopTimeout": int,
    "Tty": bool,
    "OpenStdin": bool,
}
CONTAINER: Final[Shape] = {
    **_CONFIGURED,
    "HostConfig": _HOST,
    "NetworkingConfig": {"EndpointsConfig": ((None,),)},
}

_NO_CHARACTER: Final = re.compile("[\ud800-\udfff]")
_SPACE: Final = " \t\r\n"
_INT64: Final = range(-(2**63), 2**63)


class Misfit(ValueError):
    """It is no JSON, or not of the shape."""


async def read(request: web.Request, shape: Shape) -> Document | None:
    """The object in it, with the members' names as the shape has them. None when an engine would not take it.

    Raises Problem (400, 413): it cannot be read at all.
    """
    body = await relaying.small_body(request)
    if request.content_type != "application/json" and (body or hdrs.CONTENT_TYPE in request.headers):
        return None
    try:
        value = shaped(decoded(body), shape)
    except Misfit:
        return None
    return value if isinstance(value, dict) else None if value is not None else {}


async def refused_by_one(request: web.Request, path: str, query: str = "") -> web.StreamResponse:
    """In an engine's own words, if there is one. Raises Problem (400)."""
    for engine in request.app[SERVICES].pool.engines():
        return await relaying.relay(request, engine, path, query=query)
    raise Problem(400, "the body is not what is expected")


def is_configured(body: Mapping[str, Any]) -> bool:
    """Does a create request say anything of the container itself?"""
    return any(name not in ("HostConfig", "NetworkingConfig") for name in body)


def decoded(body: bytes) -> Any:
    """The first value in it. Raises Misfit."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        text = body.decode(errors="replace").lstrip(_SPACE)
        value, _ = json.JSONDecoder(parse_constant=_refuse).raw_decode(text)
    except (ValueError, RecursionError):
        raise Misfit from None
    return _with_characters(value)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _with_characters(value: Any) -> Any:
    match value:
        case str():
            return _NO_CHARACTER.sub("\ufffd", value)
        case list():
            return [_with_characters(one) for one in value]
        case dict():
            return {_with_characters(name): _with_characters(one) for name, one in value.items()}
    return value


def shaped(value: Any, shape: Shape) -> Any:
    """The value with the shape's names for its members. Raises Misfit."""
    if shape is None or value is None:
        return value
    match shape:
        case type():
            fits = isinstance(value, shape) and isinstance(value, bool) is (shape is bool)
            if not fits or (shape is int and value not in _INT64):
                raise Misfit
            return value
        case [one] if isinstance(shape, list):
            return [_part(item, one) for item in _of(value, list)]
        case (one,):
            return {name: _part(item, one) for name, item in _of(value, dict).items()}
    named = {name.lower(): name for name in shape}
    found: Document = {}
    for name, item in _of(value, dict).items():
        known = name if name in shape else named.get(name.lower())
        found[known or name] = shaped(item, shape[known]) if known is not None else item
    return found


def _part(value: Any, shape: Shape) -> Any:
    """Nothing is an empty one, in lists and among members of any name."""
    if value is None and shape is not None:
        return shape() if isinstance(shape, type) else type(shape)() if not isinstance(shape, tuple) else {}
    return shaped(value, shape)


def _of(value: Any, kind: type) -> Any:
    """Raises Misfit."""
    if not isinstance(value, kind):
        raise Misfit
    return value
