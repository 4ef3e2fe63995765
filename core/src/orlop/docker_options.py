"""Flags of `docker run`, mapped onto the Engine API's create body. For adapters whose clients write such flags.

The systems that Orlop replaces handed them to the Docker command line. Here is no command line, so each flag that is
known is translated as that command line would; an unknown one is refused when a job or app is posted, rather than when
its task starts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

_SIZE_UNITS: Final = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE: Final = re.compile(r"\s*(-?[0-9]{1,20}(?:\.[0-9]{1,20})?)\s*(?:([bkmgtBKMGT])(?:i?[bB])?)?\s*")
_LARGEST: Final = 2**63 - 1

Apply = Callable[[dict[str, Any], str], None]


def apply(body: dict[str, Any], options: Iterable[tuple[str, str]]) -> None:
    """Adds options (flag, value) to a create body, in place. Raises ValueError with a text that names the flag."""
    for flag, value in options:
        _apply(body, flag, value)


def problem(flag: str, value: str) -> str | None:
    """What is wrong with an option; None when it is understood."""
    try:
        _apply({}, flag, value)
    except ValueError as error:
        return str(error)
    return None


def _apply(body: dict[str, Any], flag: str, value: str) -> None:
    name = flag.lstrip("-")
    if name not in _FLAGS:
        raise ValueError(f"'{flag}' is not a parameter that Orlop can hand to Docker")
    try:
        _FLAGS[name](body, value)
    except ValueError as error:
        raise ValueError(f"'{flag}': {error}") from None


# --- how values are written ---


def size(text: str) -> int:
    """Bytes of `64m`, `1.5g`, `1024`. Raises ValueError."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a size such as 64m, got {text[:40]!r}")
    amount = int(Decimal(found[1]) * _SIZE_UNITS[(found[2] or "b").lower()])
    if abs(amount) > _LARGEST:
        raise ValueError(f"expected a smaller size, got {text[:40]!r}")
    return amount


def _boolean(text: str) -> bool:
    if text.lower() not in ("", "true", "false", "1", "0"):
        raise ValueError(f"expected true or false, got {text!r}")
    return text.lower() not in ("false", "0")


def _integer(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"expected an integer, got {text[:40]!r}") from None
    if abs(number) > _LARGEST:
        raise ValueError(f"expected a smaller integer, got {text[:40]!r}")
    return number


def _pair(text: str, separator: str = "=") -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not name or not found:
        raise ValueError(f"expected name{separator}value, got {text!r}")
    return name, value


# --- where they go ---


def _host(body: dict[str, Any]) -> dict[str, Any]:
    host: dict[str, Any] = body.setdefault("HostConfig", {})
    return host


def _top(member: str, read: Callable[[str], Any] = str) -> Apply:
    def put(body: dict[str, Any], value: str) -> None:
        body[member] = read(value)

    return put


def _in_host(member: str, read: Callable[[str], Any] = str) -> Apply:
    def put(body: dict[str, Any], value: str) -> None:
        _host(body)[member] = read(value)

    return put


def _append(member: str, read: Callable[[str], Any] = str) -> Apply:
    def put(body: dict[str, Any], value: str) -> None:
        _host(body).setdefault(member, []).append(read(value))

    return put


def _put_entry(member: str, separator: str = "=") -> Apply:
    def put(body: dict[str, Any], value: str) -> None:
        name, entry = _pair(value, separator)
        _host(body).setdefault(member, {})[name] = entry

    return put


def _label(body: dict[str, Any], value: str) -> None:
    name, _, text = value.partition("=")
    body.setdefault("Labels", {})[name] = text


def _env(body: dict[str, Any], value: str) -> None:
    _pair(value)
    body.setdefault("Env", []).append(value)


def _ulimit(value: str) -> dict[str, Any]:
    name, limits = _pair(value)
    soft, _, hard = limits.partition(":")
    return {"Name": name, "Soft": _integer(soft), "Hard": _integer(hard or soft)}


def _device(value: str) -> dict[str, str]:
    parts = value.split(":")
    if not parts[0] or len(parts) > 3:
        raise ValueError(f"expected a device such as /dev/fuse, got {value!r}")
    inside = parts[1] if len(parts) > 1 and parts[1] else parts[0]
    return {"PathOnHost": parts[0], "PathInContainer": inside, "CgroupPermissions": (parts[2:] or ["rwm"])[0]}


def _tmpfs(body: dict[str, Any], value: str) -> None:
    path, _, options = value.partition(":")
    _host(body).setdefault("Tmpfs", {})[path] = options


def _log_driver(body: dict[str, Any], value: str) -> None:
    _host(body).setdefault("LogConfig", {})["Type"] = value


def _log_option(body: dict[str, Any], value: str) -> None:
    name, option = _pair(value)
    _host(body).setdefault("LogConfig", {}).setdefault("Config", {})[name] = option


def _restart(_: dict[str, Any], value: str) -> None:
    if value != "no":
        raise ValueError("Orlop restarts tasks itself")


def _volume(body: dict[str, Any], value: str) -> None:
    if ":" in value:
        _host(body).setdefault("Binds", []).append(value)
    else:
        body.setdefault("Volumes", {})[value] = {}


def _entrypoint(value: str) -> list[str]:
    return shlex.split(value)


def _security(value: str) -> str:
    return value.replace("=", ":", 1) if value.startswith("label=") else value


def _cpus(value: str) -> int:
    try:
        number = Decimal(value)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or not 0 <= number <= 10**6:
        raise ValueError(f"expected a number of processors, got {value[:40]!r}")
    return int(number * 10**9)


_FLAGS: Final[Mapping[str, Apply]] = {
    "add-host": _append("ExtraHosts"),
    "blkio-weight": _in_host("BlkioWeight", _integer),
    "cap-add": _append("CapAdd"),
    "cap-drop": _append("CapDrop"),
    "cgroup-parent": _in_host("CgroupParent"),
    "cpu-period": _in_host("CpuPeriod", _integer),
    "cpu-quota": _in_host("CpuQuota", _integer),
    "cpu-shares": _in_host("CpuShares", _integer),
    "cpus": _in_host("NanoCpus", _cpus),
    "cpuset-cpus": _in_host("CpusetCpus"),
    "cpuset-mems": _in_host("CpusetMems"),
    "device": _append("Devices", _device),
    "dns": _append("Dns"),
    "dns-opt": _append("DnsOptions"),
    "dns-search": _append("DnsSearch"),
    "domainname": _top("Domainname"),
    "e": _env,
    "entrypoint": _top("Entrypoint", _entrypoint),
    "env": _env,
    "group-add": _append("GroupAdd"),
    "h": _top("Hostname"),
    "hostname": _top("Hostname"),
    "init": _in_host("Init", _boolean),
    "interactive": _top("OpenStdin", _boolean),
    "ipc": _in_host("IpcMode"),
    "kernel-memory": _in_host("KernelMemory", size),
    "l": _label,
    "label": _label,
    "link": _append("Links"),
    "log-driver": _log_driver,
    "log-opt": _log_option,
    "mac-address": _top("MacAddress"),
    "m": _in_host("Memory", size),
    "memory": _in_host("Memory", size),
    "memory-reservation": _in_host("MemoryReservation", size),
    "memory-swap": _in_host("MemorySwap", size),
    "memory-swappiness": _in_host("MemorySwappiness", _integer),
    "net": _in_host("NetworkMode"),
    "network": _in_host("NetworkMode"),
    "oom-kill-disable": _in_host("OomKillDisable", _boolean),
    "oom-score-adj": _in_host("OomScoreAdj", _integer),
    "pid": _in_host("PidMode"),
    "pids-limit": _in_host("PidsLimit", _integer),
    "privileged": _in_host("Privileged", _boolean),
    "read-only": _in_host("ReadonlyRootfs", _boolean),
    "restart": _restart,
    "rm": lambda body, value: None,
    "runtime": _in_host("Runtime"),
    "security-opt": _append("SecurityOpt", _security),
    "shm-size": _in_host("ShmSize", size),
    "stop-signal": _top("StopSignal"),
    "stop-timeout": _top("StopTimeout", _integer),
    "storage-opt": _put_entry("StorageOpt"),
    "sysctl": _put_entry("Sysctls"),
    "tmpfs": _tmpfs,
    "tty": _top("Tty", _boolean),
    "u": _top("User"),
    "ulimit": _append("Ulimits", _ulimit),
    "user": _top("User"),
    "userns": _in_host("UsernsMode"),
    "uts": _in_host("UTSMode"),
    "v": _volume,
    "volume": _volume,
    "volume-driver": _in_host("VolumeDriver"),
    "volumes-from": _append("VolumesFrom"),
    "w": _top("WorkingDir"),
    "workdir": _top("WorkingDir"),
}
