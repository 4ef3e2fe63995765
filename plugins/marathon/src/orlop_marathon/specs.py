"""From an app to the spec of its tasks: what Orlop's runtimes run, and what the kernel must find for it.

An app with an image runs under the `docker` runtime, whichever containerizer it names; one without under `process`.
What all tasks of a version share stands in the payload's environment, beneath the app's own `env`; what a placement
decides (host, ports) is added by the kernel, and a variable of the payload wins over it. That is Marathon's
precedence: task context, then ports and host, then `env`.

Not done: secrets, persistent volumes, `check`, `executor`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

from orlop import docker_options
from orlop.framework import (
    SANDBOX,
    Constraint,
    PartitionPolicy,
    Policies,
    PortRequest,
    Probe,
    ProbeKind,
    Resources,
    Spec,
)
from orlop_marathon import environment
from orlop_marathon.checks import HealthCheck, HealthCheckProtocol, IpProtocol
from orlop_marathon.model import (
    UNLIMITED,
    App,
    AppRecord,
    Container,
    ExternalVolumeProvider,
    Fetch,
    IpcMode,
    NetworkMode,
    Operator,
    PortDefinition,
    PortMapping,
    Volume,
    VolumeMode,
)
from orlop_marathon.model import Constraint as AppConstraint

#: More than any machine has, for memory without limit: none at all would become the limit of the resources. In bytes.
BOUNDLESS: Final = 2**60
#: The variable, and the label of containers, that hold Marathon's task id.
TASK_ID: Final = "MESOS_TASK_ID"
#: Marathon waits this long before the first probe, at most.
LONGEST_FIRST_DELAY_S: Final = 5

_KINDS: Final = {
    HealthCheckProtocol.HTTP: ProbeKind.HTTP,
    HealthCheckProtocol.HTTPS: ProbeKind.HTTPS,
    HealthCheckProtocol.TCP: ProbeKind.TCP,
    HealthCheckProtocol.COMMAND: ProbeKind.COMMAND,
    HealthCheckProtocol.MESOS_HTTP: ProbeKind.HTTP,
    HealthCheckProtocol.MESOS_HTTPS: ProbeKind.HTTPS,
    HealthCheckProtocol.MESOS_TCP: ProbeKind.TCP,
}
_RUN_BY_MARATHON: Final = frozenset({HealthCheckProtocol.HTTP, HealthCheckProtocol.HTTPS, HealthCheckProtocol.TCP})
_DECIMAL: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def build_spec(record: AppRecord, *, env_vars_prefix: str = "", enforce_group_role: bool | None = None) -> Spec:
    """The spec of the app's tasks. The app is a valid one."""
    app = record.app
    variables = environment.application(record, enforce_group_role)
    variables |= environment.container_ports(app, env_vars_prefix)
    image = app.container.docker if app.container is not None else None
    if image is not None:
        variables["MESOS_SANDBOX"] = SANDBOX
    variables |= environment.own(app)
    return Spec(
        runtime="process" if image is None else "docker",
        payload=_process(app, variables) if image is None else _docker(app, variables),
        resources=_resources(app),
        ports=_ports(app, env_vars_prefix),
        constraints=tuple(_constraint(one) for one in app.constraints),
        probes=tuple(_probe(app, check) for check in app.health_checks),
        policies=_policies(app),
        all_ports_variable=f"{env_vars_prefix}PORTS",
        host_variable=f"{env_vars_prefix}HOST",
    )


def _policies(app: App) -> Policies:
    """The kernel's word on a lost node is the last one: it must not come before the app's own strategy is through."""
    strategy = app.unreachable_strategy
    partition = PartitionPolicy()
    if strategy.disabled:
        partition = PartitionPolicy(keep=True)
    elif strategy.expunge_after_seconds:
        partition = PartitionPolicy(replace_after_ms=strategy.expunge_after_seconds * 1000)
    grace_s = app.task_kill_grace_period_seconds
    if grace_s is None:
        return Policies(partition=partition)
    return Policies(kill_grace_ms=_milliseconds(grace_s), partition=partition)


def task_environment(name: str) -> dict[str, str]:
    """Variables of one task alone. name: Marathon's task id."""
    return {TASK_ID: name}


def _milliseconds(seconds: float) -> int:
    return int((Decimal(str(seconds)) * 1000).to_integral_value(ROUND_CEILING))


def _resources(app: App) -> Resources:
    quantities: dict[str, Any] = {"cpus": Decimal(str(app.cpus)), "gpus": app.gpus}
    for name, mebibytes in (("mem", app.mem), ("disk", app.disk)):
        if mebibytes:
            quantities[name] = f"{Decimal(str(mebibytes)):f}MiB"
    return Resources(**quantities)


# --- ports ---


def _ports(app: App, prefix: str) -> tuple[PortRequest, ...]:
    return tuple(
        _port_request(app, entry, environment.port_names(app, position, prefix))
        for position, entry in enumerate(app.port_entries)
        if environment.has_host_port(entry)
    )


def _port_request(app: App, entry: PortDefinition | PortMapping, names: tuple[str, ...]) -> PortRequest:
    if isinstance(entry, PortDefinition):
        number, container = (entry.port or None) if app.require_ports else None, None
    else:
        number, container = entry.host_port or None, entry.container_port
    return PortRequest(
        number=number,
        container=container,
        protocol=entry.protocol.value,
        name=entry.name or "",
        environment=names,
    )


# --- health ---


def _probe(app: App, check: HealthCheck) -> Probe:
    """Checks are probed by the agent; what kills, and when, stays the framework's decision."""
    interval_s = max(1, check.interval_seconds)
    own = check.protocol in _RUN_BY_MARATHON
    return Probe(
        kind=_KINDS[check.protocol],
        **_probed_port(app, check),
        path=check.path or "/",
        command=check.command.value if check.command is not None else "",
        interval_ms=interval_s * 1000,
        timeout_ms=max(1, check.timeout_seconds) * 1000,
        grace_ms=check.grace_period_seconds * 1000,
        # At least 1: without a delay the agent would choose one.
        delay_ms=max(1, (min(interval_s, LONGEST_FIRST_DELAY_S) if own else check.delay_seconds) * 1000),
        # The failure that kills is the one after `maxConsecutiveFailures` (Marathon 1.11).
        report_after=check.max_consecutive_failures + 1,
        ignore_1xx=bool(check.ignore_http1xx),
    )


def _probed_port(app: App, check: HealthCheck) -> dict[str, Any]:
    """Members of a probe: where to connect to.

    Marathon's own checks went to the node, except for ports that only the container has; those that Mesos ran were
    run in the container's network (Marathon 1.11, `PortAssignment`, `MesosHealthCheckWithPorts`). What the node
    publishes is reached through the node here, whoever ran the check.
    """
    if check.protocol is HealthCheckProtocol.COMMAND:
        return {}
    inside = has_own_network(app)
    ipv6 = inside and check.ip_protocol is IpProtocol.IPV6
    if check.port is not None:
        bridged = all(network.mode is NetworkMode.BRIDGE for network in app.networks)
        own = inside and not (bridged and check.protocol in _RUN_BY_MARATHON)
        return {"port": check.port, "own_address": own, "ipv6": ipv6}
    index = check.port_index or 0
    alone = environment.inner_ports(app)
    if index in alone:
        return {"port": alone[index], "own_address": inside, "ipv6": ipv6}
    if ipv6 and (port := app.port_mappings[index].container_port):
        return {"port": port, "own_address": True, "ipv6": True}
    return {"port_index": sum(environment.has_host_port(one) for one in app.port_entries[:index])}


def has_own_network(app: App) -> bool:
    """Does each of its tasks have an address of its own? What runs as a process shares the node's, whatever it says."""
    return not app.host_networking and app.container is not None and app.container.docker is not None


# --- constraints ---


def _constraint(constraint: AppConstraint) -> Constraint:
    """As the kernel and `constraints` know it: `@zone` is the attribute `zone`, no value is an empty one."""
    field = constraint.field.removeprefix("@") if constraint.field.startswith("@") else constraint.field
    value = constraint.value or ""
    if constraint.operator == Operator.IS and _DECIMAL.fullmatch(value):
        return Constraint(field=field, operator=Operator.LIKE.value, value=_same_number(value))
    return Constraint(field=field, operator=constraint.operator, value=value)


def _same_number(text: str) -> str:
    """An expression for all ways to write a number: Marathon compares numbers as numbers."""
    whole, _, fraction = text.partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    fraction = fraction.rstrip("0")
    rest = rf"\.{fraction}0*" if fraction else r"(\.0*)?"
    return f"{sign}0*{digits.lstrip('0') or '0'}{rest}"


# --- payloads ---


def _process(app: App, variables: dict[str, str]) -> dict[str, Any]:
    payload: dict[str, Any] = {"command": app.cmd} if app.cmd is not None else {"arguments": list(app.args)}
    payload["environment"] = variables
    if app.user:
        payload["user"] = app.user
    if app.fetch:
        payload["artefacts"] = [_artefact(fetch) for fetch in app.fetch]
    return payload


def _artefact(fetch: Fetch) -> dict[str, Any]:
    return {
        "uri": fetch.uri,
        "output_file": fetch.dest_path or "",
        "extract": fetch.extract,
        "executable": fetch.executable,
        "cache": fetch.cache,
    }


def _docker(app: App, variables: dict[str, str]) -> dict[str, Any]:
    """A create body of the Engine API. The runtime adds port bindings, and the limits of the resources."""
    container = app.container
    assert container is not None
    assert container.docker is not None
    docker = container.docker
    body: dict[str, Any] = {
        "Image": docker.image,
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "Labels": {"MARATHON_APP_ID": app.id},
        "Volumes": {SANDBOX: {}},
        "HostConfig": {"NetworkMode": _network_mode(app)},
        "orlop_labels": [TASK_ID],
    }
    if app.cmd is not None:
        body |= {"Entrypoint": ["/bin/sh"], "Cmd": ["-c", app.cmd]}
    elif app.args:
        body["Cmd"] = list(app.args)
    if app.user:
        body["User"] = app.user
    if app.tty:
        body["Tty"] = True
    if docker.privileged:
        body["HostConfig"]["Privileged"] = True
    if docker.force_pull_image:
        body["orlop_pull"] = "always"
    if app.fetch:
        body["orlop_artefacts"] = [_artefact(fetch) for fetch in app.fetch]
    _mount(body["HostConfig"], container.volumes)
    _limit(body["HostConfig"], app)
    _linux(body["HostConfig"], container)
    docker_options.apply(body, ((one.key, one.value) for one in docker.parameters))
    return body


def _network_mode(app: App) -> str:
    network = app.networks[0]
    match network.mode:
        case NetworkMode.HOST:
            return "host"
        case NetworkMode.BRIDGE:
            return "bridge"
    return network.name or "bridge"


def _mount(host: dict[str, Any], volumes: Iterable[Volume]) -> None:
    binds = []
    for volume in volumes:
        inside = volume.container_path
        if not inside.startswith("/"):
            inside = f"{SANDBOX}/{inside}"
        mode = "ro" if volume.mode is VolumeMode.READ_ONLY else "rw"
        if volume.host_path is not None:
            binds.append(f"{volume.host_path}:{inside}:{mode}")
        elif volume.external is not None and volume.external.name:
            binds.append(f"{volume.external.name}:{inside}:{mode}")
            driver = volume.external.options.get("dvdi/driver")
            if volume.external.provider is ExternalVolumeProvider.DVDI and isinstance(driver, str):
                host["VolumeDriver"] = driver
    if binds:
        host["Binds"] = binds


def _limit(host: dict[str, Any], app: App) -> None:
    limits = app.resource_limits
    if limits is not None and limits.mem == UNLIMITED:
        host |= {"Memory": BOUNDLESS, "MemorySwap": -1}
    elif limits is not None and limits.mem is not None:
        host["Memory"] = int(Decimal(str(limits.mem)) * 2**20)
    if limits is not None and limits.cpus not in (None, UNLIMITED):
        host["NanoCpus"] = int(Decimal(str(limits.cpus)) * 10**9)
    if app.gpus:
        host["DeviceRequests"] = [{"Driver": "", "Count": app.gpus, "Capabilities": [["gpu"]]}]


def _linux(host: dict[str, Any], container: Container) -> None:
    info = container.linux_info
    if info is None:
        return
    if info.seccomp is not None and info.seccomp.unconfined:
        host["SecurityOpt"] = ["seccomp=unconfined"]
    if info.ipc_info is not None:
        host["IpcMode"] = "private" if info.ipc_info.mode is IpcMode.PRIVATE else "host"
        if info.ipc_info.shm_size:
            host["ShmSize"] = info.ipc_info.shm_size * 2**20
