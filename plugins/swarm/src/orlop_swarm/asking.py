"""From a create request of the Engine API to what the kernel is asked for. Pure.

The request goes to the engine as it came, but for what is said about its place: expressions in the environment are
taken out of it and kept as labels, as classic Swarm did, so that the container can be placed anew by them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from orlop.docker_containers import cpus_limit
from orlop.framework import Ask, Constraint, Desired, PartitionPolicy, Policies, Resources, Spec
from orlop_swarm.orders import Change, Create
from orlop_swarm.placement import wanted
from orlop_swarm.placement.expressions import Expression, ExpressionError
from orlop_swarm.placement.wanted import KINDS, LABEL_PREFIX
from orlop_swarm.settings import Config

ID_LABEL: Final = LABEL_PREFIX + "id"
ROLE_LABEL: Final = LABEL_PREFIX + "role"
#: The operator of the constraints that say where the containers are that this one depends on, and its network.
BESIDE: Final = "IS"
#: That of the constraints that name volumes which no engine had: see `hooks.VolumesFilter`.
SHARES: Final = "SHARES"
#: That of the constraint that names an image which no registry has: see `hooks.ImageFilter`.
HELD: Final = "HELD"
USUAL_STOP_S: Final = 10
#: The member of a payload for the networks that a container has come to, or has left, since it was created.
NETWORKS: Final = "orlop_networks"


class InvalidRequest(Exception):
    """The request cannot be carried out as it is; the text is for its sender."""


def moves(body: Mapping[str, Any]) -> bool:
    """Is the container made again elsewhere when its node fails? Raises InvalidRequest."""
    try:
        return wanted.read_said(body).reschedule
    except ExpressionError as error:
        raise InvalidRequest(str(error)) from error


def ask_of(order: Create, key: str, name: str, settings: Config) -> Ask:
    """Raises InvalidRequest."""
    body = with_labels(order.body, key, settings, order.keys)
    host = _object("HostConfig", body.get("HostConfig"))
    payload = {**body, "orlop_name": name, "orlop_exact": True, "orlop_pull": "missing" if order.pull else "never"}
    if order.platform:
        payload["orlop_platform"] = order.platform
    if order.version:
        payload["orlop_api_version"] = order.version
    if settings.cpu_units == "shares":
        payload["orlop_shares_are_cpus"] = True
    labels = _object("Labels", body.get("Labels"))
    where = (*_among(order.nodes), *_beside(order.beside), *_beside(order.home))
    return Ask(
        key,
        Spec(runtime="docker", payload=payload, resources=resources_of(host, settings)),
        constraints=(*where, *_sharing(order.volumes), *_held(str(body.get("Image")), order.having)),
        policies=_policies(body, moves(body)),
        role=str(labels.get(ROLE_LABEL) or settings.role),
        name=name,
        wait_ms=0,
        desired=Desired.PREPARED,
    )


def with_labels(
    body: Mapping[str, Any], key: str, settings: Config, keys: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What is said about the place as labels, and no more in the environment. Raises InvalidRequest.

    key: becomes the label of classic Swarm's id, where the container may outlive its engine. keys: see `Create`.
    """
    environment = body.get("Env") or []
    if not isinstance(environment, list) or not all(isinstance(one, str) for one in environment):
        raise InvalidRequest('Env: expected a list of "NAME=value"')
    labels = _object("Labels", body.get("Labels"))
    try:
        said = wanted.read_said(body, last_counts=settings.repeated_constraints == "last")
        affinities = tuple(_by_key(one, keys or {}) for one in said.affinities)
    except ExpressionError as error:
        raise InvalidRequest(str(error)) from error
    rewritten = "affinities" if affinities != said.affinities else ""
    said = attrs.evolve(said, affinities=affinities)
    for kind, (prefix, label) in KINDS.items():
        if kind == rewritten or any(one.startswith(prefix) for one in environment):
            labels[label] = json.dumps(wanted.texts(said, kind))
    if moves(body):
        labels.setdefault(ID_LABEL, key)
    changed = {**body, "Env": wanted.without_expressions(environment)} if environment else dict(body)
    return {**changed, "Labels": labels} if labels else changed


def _by_key(affinity: Expression, keys: Mapping[str, str]) -> Expression:
    """By what the kernel calls the container, whose engine's id is another one once it has moved."""
    key = keys.get(affinity.literal or "") if affinity.key == "container" else None
    if key is None:
        return affinity
    return affinity.of("orlop.key", key)


def resources_of(host: Mapping[str, Any], settings: Config) -> Resources:
    """What counts as taken on its node: as the engine limits it. Raises InvalidRequest."""
    mem = _number("HostConfig.Memory", host.get("Memory"))
    if settings.cpu_units == "shares":
        cpus = 1000 * _number("HostConfig.CpuShares", host.get("CpuShares"))
    else:
        limits = (_number(f"HostConfig.{name}", host.get(name)) for name in ("NanoCpus", "CpuQuota", "CpuPeriod"))
        cpus = cpus_limit(*limits)
    return Resources.of({name: amount for name, amount in (("cpus", cpus), ("mem", max(mem, 0))) if amount})


def _policies(body: Mapping[str, Any], may_move: bool) -> Policies:
    stop_s = body.get("StopTimeout")
    return Policies(
        kill_grace_ms=1000 * (stop_s if isinstance(stop_s, int) and stop_s >= 0 else USUAL_STOP_S),
        keep_ended=True,
        stop_signal=str(body.get("StopSignal") or "SIGTERM"),
        partition=PartitionPolicy(keep=not may_move),
    )


def _among(nodes: Sequence[str]) -> tuple[Constraint, ...]:
    if not nodes:
        return ()
    return (Constraint(field="hostname", operator="LIKE", value="|".join(re.escape(one) for one in nodes)),)


def _beside(node: str) -> tuple[Constraint, ...]:
    return (Constraint(field="hostname", operator=BESIDE, value=node),) if node else ()


def _sharing(volumes: Sequence[str]) -> tuple[Constraint, ...]:
    return tuple(Constraint(field="volume", operator=SHARES, value=one) for one in volumes)


def _held(image: str, nodes: Sequence[str]) -> tuple[Constraint, ...]:
    """nodes: names of those that have it now. Others may have it when it is placed anew."""
    return (Constraint(field=image, operator=HELD, value=json.dumps(sorted(nodes))),) if nodes else ()


def again(spec: Spec, key: str, name: str, role: str, *, runs: bool, not_before_utc_ms: int = 0) -> Ask:
    """The same container on another node, which it waits for. What it depends on may have moved, too: from now on the
    filter `dependency` finds that. Of its network there are copies on other nodes."""
    constraints = tuple(one for one in spec.constraints if one.operator != BESIDE)
    payload = {**spec.payload, "orlop_name": name, "orlop_pull": "missing"}
    return Ask(
        key,
        attrs.evolve(spec, payload=payload, constraints=constraints),
        role=role,
        name=name,
        not_before_utc_ms=not_before_utc_ms,
        desired=Desired.RUNNING if runs else Desired.PREPARED,
    )


def changed(spec: Spec, order: Change, settings: Config) -> Spec:
    """The same container as its engine has changed it. Raises InvalidRequest."""
    payload = dict(spec.payload)
    host = _object("HostConfig", payload.get("HostConfig"))
    host |= {member: value for member, value in order.update.items() if _says_something(member, value)}
    payload["HostConfig"] = host
    networks = _object(NETWORKS, payload.get(NETWORKS))
    for name, settings_of_endpoint in order.networks.items():
        if settings_of_endpoint is None and networks.get(name) is not None and not _is_of_creation(name, payload):
            del networks[name]  # it has come and gone
        else:
            networks[name] = settings_of_endpoint
    if networks:
        payload[NETWORKS] = networks
    return attrs.evolve(spec, payload=payload, resources=resources_of(host, settings))


def _says_something(member: str, value: Any) -> bool:
    """Of a request to update, in which engines take what is empty, or zero, for what shall stay as it is."""
    if member == "RestartPolicy":
        return isinstance(value, Mapping) and bool(value.get("Name"))
    return value is not None if member == "PidsLimit" else bool(value)


def _is_of_creation(network: str, payload: Mapping[str, Any]) -> bool:
    """Is the container made in this network?"""
    return network in wanted.named_networks(payload) or (network == "bridge" and wanted.is_in_bridge(payload))


def _object(path: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{path}: expected an object")
    return dict(value)


def _number(path: str, value: Any) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{path}: expected a whole number")
    return value
