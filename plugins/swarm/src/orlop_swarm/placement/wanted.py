"""What a container asks of its place: read once from its environment, its labels and its host settings.

    -e constraint:EXPR   -e affinity:EXPR   -e whitelist:EXPR   -e reschedule:POLICY
    label com.docker.swarm.constraints, .affinities, .whitelists, .reschedule-policies: a JSON list of such texts

Labels come first, then the environment. So that whoever has no labels (a process) may say the same, a variable of a
label's name counts as that label. `com.docker.swarm.strategy` names a strategy; classic Swarm did not know it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import attrs

from orlop_swarm.placement.expressions import Expression, ExpressionError, parse

LABEL_PREFIX: Final = "com.docker.swarm."
STRATEGY_LABEL: Final = LABEL_PREFIX + "strategy"
POLICIES: Final = ("off", "on-node-failure")
#: kind → its prefix in the environment and its label.
KINDS: Final = {
    "constraints": ("constraint:", LABEL_PREFIX + "constraints"),
    "affinities": ("affinity:", LABEL_PREFIX + "affinities"),
    "whitelists": ("whitelist:", LABEL_PREFIX + "whitelists"),
    "policies": ("reschedule:", LABEL_PREFIX + "reschedule-policies"),
}
READINGS_REMEMBERED: Final = 2_000
#: Networks that every engine has of its own.
BUILT_IN: Final = frozenset(("", "default", "bridge", "host", "none", "nat"))
#: Modes of what a container shares with another one, of this name or id.
OF_CONTAINER: Final = "container:"
#: The driver of volumes that engines have themselves.
LOCAL_DRIVER: Final = "local"
#: A container's, as its engine gave it.
_WHOLE_ID: Final = re.compile(r"[0-9a-f]{64}")
_STARTS: Final = (LABEL_PREFIX, *(prefix for prefix, _ in KINDS.values()))


@attrs.frozen(kw_only=True)
class Binding:
    """A port of the node that is wanted or taken. ip: empty for all interfaces. port: as a text, as Docker has it."""

    ip: str
    port: str

    def conflicts(self, other: Binding) -> bool:
        """Do both want the same port of the same interface? The protocol does not count (classic Swarm)."""
        if not self.port or self.port != other.port:
            return False
        return self.ip == other.ip or self.everywhere or other.everywhere

    @property
    def everywhere(self) -> bool:
        return self.ip in ("", "0.0.0.0", "::")  # noqa: S104  (compared, not listened on)


@attrs.frozen(kw_only=True)
class Wanted:
    """See the module.

    policies: when it is placed anew. strategy: empty for the usual one. image, labels: its own.
    volumes_from, links: as given. network, pid, ipc: their modes. exposed: "80/tcp". bindings: ports of the node.
    volumes: names of those of the engine's own driver.
    """

    constraints: tuple[Expression, ...] = ()
    affinities: tuple[Expression, ...] = ()
    whitelists: tuple[Expression, ...] = ()
    policies: tuple[str, ...] = ()
    strategy: str = ""
    image: str = ""
    labels: Mapping[str, str] = attrs.field(factory=dict)
    volumes_from: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    network: str = ""
    pid: str = ""
    ipc: str = ""
    exposed: tuple[str, ...] = ()
    bindings: tuple[Binding, ...] = ()
    volumes: tuple[str, ...] = ()

    @property
    def host_network(self) -> bool:
        return self.network == "host"

    @property
    def has_ports(self) -> bool:
        """Does it take ports of its node, while it runs?"""
        return bool(self.exposed) if self.host_network else any(one.port for one in self.bindings)

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Names of the containers that must be on the same node."""
        beside = [one.partition(":")[0] for one in (*self.volumes_from, *self.links)]
        modes = (self.network, self.pid, self.ipc)
        beside += [one.removeprefix(OF_CONTAINER) for one in modes if one.startswith(OF_CONTAINER)]
        return tuple(dict.fromkeys(beside))

    @property
    def whole_ids(self) -> tuple[str, ...]:
        """What affinities to containers call by a whole id."""
        named = (one.literal or "" for one in self.affinities if one.key == "container")
        return tuple(dict.fromkeys(filter(_WHOLE_ID.fullmatch, named)))

    @property
    def reschedule(self) -> bool:
        """Is it placed anew when its node fails? Raises ExpressionError for what is no policy."""
        if len(self.policies) > 1:
            raise ExpressionError("too many reschedule policies")
        for policy in self.policies:
            if policy not in POLICIES:
                raise ExpressionError(f"invalid reschedule policy: {policy}")
        return self.policies == ("on-node-failure",)


def read(body: Mapping[str, Any], *, last_counts: bool = False) -> Wanted:
    """Of a create request of the Engine API.

    last_counts: of several constraints with the same key in the environment only the last one does (classic Swarm).
    Raises ExpressionError, with the path of what is wrong.
    """
    host = _mapping(body.get("HostConfig"))
    return attrs.evolve(
        read_said(body, last_counts=last_counts),
        image=str(body.get("Image") or ""),
        labels={str(key): str(value) for key, value in _mapping(body.get("Labels")).items()},
        volumes_from=tuple(map(str, host.get("VolumesFrom") or ())),
        links=tuple(map(str, host.get("Links") or ())),
        network=str(host.get("NetworkMode") or ""),
        pid=str(host.get("PidMode") or ""),
        ipc=str(host.get("IpcMode") or ""),
        exposed=tuple(sorted(map(str, _mapping(body.get("ExposedPorts"))))),
        bindings=_bindings(host.get("PortBindings")),
        volumes=tuple(named_volumes(body, of_engine=True)),
    )


def read_said(body: Mapping[str, Any], *, last_counts: bool = False) -> Wanted:
    """The part of `read` that is said in the environment and in labels, and no more. Raises as it does."""
    said = [(f"Env[{position}]", str(entry)) for position, entry in enumerate(body.get("Env") or ())]
    said += [(f'Labels["{name}"]', f"{name}={value}") for name, value in _mapping(body.get("Labels")).items()]
    return _read_all(said, last_counts)


def named_volumes(body: Mapping[str, Any], *, of_engine: bool = False) -> list[str]:
    """Names of the volumes that a create request mounts. of_engine: only those that say no other driver."""
    host = _mapping(body.get("HostConfig"))
    found = []
    if not of_engine or (host.get("VolumeDriver") or LOCAL_DRIVER) == LOCAL_DRIVER:
        for bind in host.get("Binds") or ():
            source = str(bind).partition(":")[0]
            if ":" in str(bind) and source and not source.startswith(("/", ".", "~")):
                found.append(source)
    mounts = [one for one in host.get("Mounts") or () if isinstance(one, Mapping) and one.get("Type") == "volume"]
    if of_engine:
        mounts = [one for one in mounts if _driver(one) == LOCAL_DRIVER]
    found += [str(one["Source"]) for one in mounts if one.get("Source")]
    return list(dict.fromkeys(found))


def named_networks(body: Mapping[str, Any]) -> list[str]:
    """Names (or ids) of the networks of a create request that somebody has made."""
    host, wanted_networks = body.get("HostConfig"), body.get("NetworkingConfig")
    mode = str(host.get("NetworkMode") or "") if isinstance(host, Mapping) else ""
    endpoints = wanted_networks.get("EndpointsConfig") if isinstance(wanted_networks, Mapping) else None
    names = [mode, *(endpoints if isinstance(endpoints, Mapping) else ())]
    return list(dict.fromkeys(one for one in names if one not in BUILT_IN and not one.startswith("container:")))


def is_in_bridge(body: Mapping[str, Any]) -> bool:
    """Is the container made in the network that engines take where nothing is said?"""
    return _mapping(body.get("HostConfig")).get("NetworkMode") in (None, "", "default", "bridge")


def _driver(mount: Mapping[str, Any]) -> str:
    return str(_mapping(_mapping(mount.get("VolumeOptions")).get("DriverConfig")).get("Name") or LOCAL_DRIVER)


def read_environment(environment: Mapping[str, Any], *, last_counts: bool = False) -> Wanted:
    """Of a process: `{"constraint:node": "=n1"}` is `-e constraint:node==n1`. Raises ExpressionError."""
    return _read_all(
        [(f'environment["{name}"]', f"{name}={value}") for name, value in environment.items()], last_counts
    )


def texts(given: Wanted, kind: str) -> list[str]:
    """What was said of one of `KINDS`, as it may be said again in its label."""
    return [str(one) if isinstance(one, str) else one.text for one in getattr(given, kind)]


def without_expressions(environment: Iterable[str]) -> list[str]:
    """The environment that the container gets: what is said here is not for it."""
    prefixes = tuple(prefix for prefix, _ in KINDS.values())
    return [one for one in environment if not one.startswith(prefixes)]


def _read_all(said: Iterable[tuple[str, str]], last_counts: bool) -> Wanted:
    """said: each variable and label with its path; labels after variables, so that they win."""
    return _read_texts(tuple(one for one in said if one[1].startswith(_STARTS)), last_counts)


@lru_cache(READINGS_REMEMBERED)
def _read_texts(said: tuple[tuple[str, str], ...], last_counts: bool) -> Wanted:
    named = {}
    for path, entry in said:
        name, _, value = entry.partition("=")
        if name.startswith(LABEL_PREFIX):
            named[name] = path, value
    texts: dict[str, list[tuple[str, str]]] = {}
    for kind, (prefix, label) in KINDS.items():
        from_labels = _listed(*named[label]) if label in named else []
        from_environment = [(path, entry.removeprefix(prefix)) for path, entry in said if entry.startswith(prefix)]
        if last_counts and kind == "constraints":
            from_environment = list({parse(text, path).key: (path, text) for path, text in from_environment}.values())
        texts[kind] = from_labels + from_environment
    return Wanted(
        constraints=_expressions(texts["constraints"]),
        affinities=_expressions(texts["affinities"]),
        whitelists=_expressions(texts["whitelists"]),
        policies=tuple(text.removesuffix("=") for _, text in texts["policies"]),
        strategy=named.get(STRATEGY_LABEL, ("", ""))[1],
    )


def _expressions(texts: Sequence[tuple[str, str]]) -> tuple[Expression, ...]:
    return tuple(parse(text, path) for path, text in texts)


def _listed(path: str, text: str) -> list[tuple[str, str]]:
    """A JSON list of texts, each with its path."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ExpressionError("expected a JSON list of texts", path) from None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ExpressionError("expected a JSON list of texts", path)
    return [(f"{path}[{position}]", one) for position, one in enumerate(found)]


def _bindings(given: Any) -> tuple[Binding, ...]:
    found = [
        Binding(ip=str(one.get("HostIp") or ""), port=str(one.get("HostPort") or ""))
        for ports in _mapping(given).values()
        for one in ports or ()
        if isinstance(one, Mapping)
    ]
    return tuple(sorted(found, key=lambda one: (one.port.zfill(5), one.ip)))


def _mapping(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {}
