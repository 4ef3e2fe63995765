"""The rules that one app must keep, in Marathon's words.

Types and bounds of single members are checked where JSON is read (`wire`); here are the rules that need meaning or
more than one member. Each rule is a generator of problems; all of them are asked, so that one answer tells all.
Source: Marathon 1.11, AppValidation and AppDefinition.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from orlop import docker_options
from orlop.framework import Pattern, PatternError
from orlop_marathon import paths, roles
from orlop_marathon.checks import HealthCheck, HealthCheckProtocol, IpProtocol
from orlop_marathon.errors import Problem
from orlop_marathon.model import (
    UNLIMITED,
    App,
    Constraint,
    Container,
    ContainerType,
    Defaults,
    NetworkMode,
    Operator,
    PersistentVolumeType,
    Volume,
    VolumeMode,
)

#: How many instances one app may have. Marathon sets no limit; a slip of a zero must not sink the cluster.
MOST_INSTANCES: Final = 100_000
#: How long a regular expression in a constraint may be, in characters.
LONGEST_EXPRESSION: Final = 1024

_IS_VALUE: Final = re.compile(r"[a-zA-Z0-9_/.-]*")
_MESOS_HTTP: Final = (
    HealthCheckProtocol.MESOS_HTTP,
    HealthCheckProtocol.MESOS_HTTPS,
    HealthCheckProtocol.MESOS_TCP,
)
_IS_TEXT: Final = (
    "IS only supports Mesos text and float values "
    "(see http://mesos.apache.org/documentation/latest/attributes-resources/)"
)
_PORT_INDEX_TEXT: Final = (
    "Health check port indices must address an element of the ports array or container port mappings."
)

Rule = Callable[[App, Defaults], Iterable[Problem]]


def problems(app: App, defaults: Defaults) -> Iterator[Problem]:
    """Everything that is wrong with the app."""
    for rule in _RULES:
        yield from rule(app, defaults)


# --- what it is and runs ---


def _id_rules(app: App, _: Defaults) -> Iterator[Problem]:
    if app.id == paths.ROOT:
        yield Problem("/", "must not be root")
    for text in paths.violations(app.id):
        yield Problem("/id", text)
    for position, dependency in enumerate(app.dependencies):
        for text in paths.violations(dependency):
            yield Problem(f"/dependencies({position})", text)


def _command_rules(app: App, _: Defaults) -> Iterator[Problem]:
    if app.cmd is not None and not app.cmd.strip():
        yield Problem("/cmd", "must not be an empty string")
    # Marathon lets a Mesos container without an image go without a command, too, and its task then fails.
    complete = app.container is not None and app.container.docker is not None
    both, either = app.cmd is not None and bool(app.args), app.cmd is not None or bool(app.args)
    if both or not (either or complete):
        text = "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'."
        yield Problem("/", text)
    if "\0" in (app.cmd or ""):
        yield Problem("/cmd", "must not contain a NUL character")
    for position, argument in enumerate(app.args):
        if "\0" in argument:
            yield Problem(f"/args({position})", "must not contain a NUL character")
    if app.user is not None and (not app.user.strip() or "\0" in app.user):
        yield Problem("/user", "must not be an empty string")


def _size_rules(app: App, defaults: Defaults) -> Iterator[Problem]:
    if app.instances > MOST_INSTANCES:
        yield Problem("/instances", f"got {app.instances}, expected {MOST_INSTANCES} or less")
    if app.single_instance and app.instances > 1:
        yield Problem("/", "Single instance app may only have one instance")
    if app.gpus:
        if app.uses_docker:
            yield Problem("/", "GPU resources only work with the Mesos containerizer")
        yield from _feature("gpu_resources", "/", defaults)
    if app.resource_limits is not None:
        for member in ("cpus", "mem"):
            limit, request = getattr(app.resource_limits, member), getattr(app, member)
            if limit is not None and limit != UNLIMITED and limit < request:
                text = f"resource limit must be greater than or equal to requested resource ({request})"
                yield Problem(f"/resourceLimits/{member}", text)


def _feature(feature: str, path: str, defaults: Defaults) -> Iterator[Problem]:
    if feature not in defaults.features:
        yield Problem(path, f"Feature {feature} is not enabled. Enable with --enable_features {feature})")


def _secret_rules(app: App, defaults: Defaults) -> Iterator[Problem]:
    if app.secrets:
        yield from _feature("secrets", "/secrets", defaults)
    if "" in app.secrets:
        yield Problem("/secrets", "must not be empty")
    for name, value in app.env.items():
        if not name:
            yield Problem("/env", "must not be empty")
        elif "=" in name or "\0" in name:
            yield Problem("/env", "names must contain neither '=' nor a NUL character")
        if isinstance(value, str):
            if "\0" in value:
                yield Problem(f"/env/{name}", "must not contain a NUL character")
        elif value["secret"] not in app.secrets:
            yield Problem(f"/env/{name}/secret", "references an undefined secret")


def _fetch_rules(app: App, _: Defaults) -> Iterator[Problem]:
    for position, fetch in enumerate(app.fetch):
        if not _is_uri(fetch.uri):
            yield Problem(f"/fetch({position})/uri", "URI has invalid syntax.")


def _is_uri(text: str) -> bool:
    """What java.net.URI accepts, near enough: no blanks or control characters, a sound authority."""
    try:
        urlsplit(text)
    except ValueError:
        return False
    return not re.search(r'[\x00-\x20\x7f"<>\\^`{|}]|%(?![0-9a-fA-F]{2})', text)


def _role_rules(app: App, _: Defaults) -> Iterator[Problem]:
    for path, role in (("/role", app.role), *_positions("/acceptedResourceRoles", app.accepted_resource_roles)):
        if role in (".", ".."):
            yield Problem(path, f'A role name must not be "{role}".')
        if role.startswith("-"):
            yield Problem(path, "A role name must not start with a '-'.")
        if found := re.search(r"[\x00-\x20/\x7f]", role):
            yield Problem(path, f"A role name must not include a {_named_character(found[0])} character.")
    known = {"*", app.role} - {roles.NOT_SAID}
    if not set(app.accepted_resource_roles) <= known:
        text = f"acceptedResourceRoles can only contain {' and '.join(sorted(known))}"
        yield Problem("/acceptedResourceRoles", text)


def _named_character(character: str) -> str:
    named = {" ": "space", "/": "slash", "\t": "horizontal tab", "\n": "line feed", "\x7f": "backspace"}
    return f"{named.get(character, 'control')} (\\x{ord(character):02x})"


def _positions(path: str, items: Iterable[str]) -> Iterator[tuple[str, str]]:
    for position, item in enumerate(items):
        yield f"{path}({position})", item


def _strategy_rules(app: App, _: Defaults) -> Iterator[Problem]:
    upgrade = app.upgrade_strategy
    for member, value in (
        ("minimumHealthCapacity", upgrade.minimum_health_capacity),
        ("maximumOverCapacity", upgrade.maximum_over_capacity),
    ):
        if not 0 <= value <= 1:
            yield Problem(f"/upgradeStrategy/{member}", f"got {float(value)}, expected between 0.0 and 1.0")
        elif app.single_instance and value:
            yield Problem(f"/upgradeStrategy/{member}", f"got {float(value)}, expected 0.0")
    if app.residency and upgrade.maximum_over_capacity and not app.single_instance:
        over = float(upgrade.maximum_over_capacity)
        yield Problem("/upgradeStrategy/maximumOverCapacity", f"got {over}, expected 0.0")
    unreachable = app.unreachable_strategy
    if app.residency and not unreachable.disabled:
        yield Problem("/", "unreachableStrategy must be disabled for resident tasks")
    inactive, expunge = unreachable.inactive_after_seconds, unreachable.expunge_after_seconds
    if not unreachable.disabled and inactive > expunge:
        text = f"inactiveAfterSeconds ({inactive}) must be less or equal to expungeAfterSeconds, which is {expunge}"
        yield Problem("/unreachableStrategy", text)


# --- networks and ports ---


def _network_rules(app: App, _: Defaults) -> Iterator[Problem]:
    networks = app.networks
    modes = Counter(network.mode for network in networks)
    for text, broken in (
        (
            "Host networks may not have names or labels",
            any(network.mode is NetworkMode.HOST and (network.name or network.labels) for network in networks),
        ),
        (
            "Bridge networks may not have names",
            any(network.mode is NetworkMode.BRIDGE and network.name for network in networks),
        ),
        ("Duplicate networks are not allowed", _repeated(network.name for network in networks if network.name)),
        (
            "May specify a single host network, single bridge network, or else 1-to-n container networks",
            len(modes) > 1 or modes[NetworkMode.HOST] > 1 or modes[NetworkMode.BRIDGE] > 1,
        ),
        (
            "Network name must be specified when container network is selected.",
            any(network.mode is NetworkMode.CONTAINER and not network.name for network in networks),
        ),
    ):
        if broken:
            yield Problem("/networks", text)
    if app.uses_docker and modes[NetworkMode.CONTAINER] > 1:
        yield Problem("/", "may only specify a single container network when using the Docker container engine")


def _port_rules(app: App, _: Defaults) -> Iterator[Problem]:
    definitions, mappings = app.port_definitions or (), app.port_mappings
    if _repeated(definition.name for definition in definitions if definition.name):
        yield Problem("/portDefinitions", "Port names must be unique.")
    if _repeated(definition.port for definition in definitions if definition.port):
        yield Problem("/portDefinitions", "Ports must be unique.")
    if _repeated(mapping.name for mapping in mappings if mapping.name):
        yield Problem("/container/portMappings", "Port names must be unique.")
    names = {network.name for network in app.networks if network.name}
    several = sum(network.mode is NetworkMode.CONTAINER for network in app.networks) > 1
    for position, mapping in enumerate(mappings):
        path = f"/container/portMappings({position})"
        if several and mapping.host_port is not None and len(mapping.network_names) != 1:
            yield Problem(
                path,
                "networkNames must be a single item list when hostPort is specified and more than 1 container "
                "network is defined",
            )
        for at, name in enumerate(mapping.network_names):
            if name not in names:
                expected = ", ".join(sorted(names))
                yield Problem(f"{path}/networkNames({at})", f"got {name}, expected one of: {expected}")


def _repeated(items: Iterable[Any]) -> bool:
    found = list(items)
    return len(set(found)) < len(found)


# --- containers and volumes ---


def _container_rules(app: App, defaults: Defaults) -> Iterator[Problem]:
    container = app.container
    if container is None:
        return
    docker = container.docker
    if container.type is ContainerType.DOCKER and docker is None:
        yield Problem("/container/docker", "not defined")
    if container.linux_info is not None and container.type is ContainerType.DOCKER:
        yield Problem("/container/linuxInfo", "linuxInfo is not supported with Docker containerizer")
    if docker is not None:
        yield from _docker_rules(app, container, defaults)
    named = [volume.external.name for volume in container.volumes if volume.external and volume.external.name]
    if _repeated(named):
        yield Problem("/container/volumes", "Volume names must be unique")
    for position, volume in enumerate(container.volumes):
        yield from _volume_rules(app, volume, f"/container/volumes({position})", defaults)


def _docker_rules(app: App, container: Container, defaults: Defaults) -> Iterator[Problem]:
    docker = container.docker
    assert docker is not None
    if not docker.image.strip():
        yield Problem("/container/docker/image", "must not be empty")
    if docker.pull_config is not None:
        if container.type is ContainerType.DOCKER:
            text = "pullConfig is not supported with Docker containerizer"
            yield Problem("/container/docker/pullConfig", text)
        else:
            yield from _feature("secrets", "/container/docker/pullConfig", defaults)
            if docker.pull_config.secret not in app.secrets:
                text = "pullConfig.secret must refer to an existing secret"
                yield Problem("/container/docker/pullConfig", text)
    for position, parameter in enumerate(docker.parameters):
        if wrong := docker_options.problem(parameter.key, parameter.value):
            yield Problem(f"/container/docker/parameters({position})", wrong)


def _volume_rules(app: App, volume: Volume, path: str, defaults: Defaults) -> Iterator[Problem]:
    if not volume.container_path or "\0" in volume.container_path:
        yield Problem(f"{path}/containerPath", "must not be empty")
    if volume.host_path is not None and (not volume.host_path or "\0" in volume.host_path):
        yield Problem(f"{path}/hostPath", "must not be empty")
    elsewhere = volume.external is not None or volume.host_path not in (None, volume.container_path)
    if elsewhere and (app.container is None or app.container.docker is None):
        yield Problem(path, "is mounted only where there is an image: a process sees the node's files as they are")
    if volume.secret is not None:
        yield from _feature("secrets", path, defaults)
        if volume.secret not in app.secrets:
            yield Problem(path, "volume.secret must refer to an existing secret")
    if volume.external is not None:
        yield from _feature("external_volumes", path, defaults)
        if not volume.external.name:
            yield Problem(f"{path}/external/name", "must not be empty")
    if volume.persistent is not None:
        yield from _feature("persistent_volumes", path, defaults)
        yield from _persistent_rules(volume, path)


def _persistent_rules(volume: Volume, path: str) -> Iterator[Problem]:
    persistent = volume.persistent
    assert persistent is not None
    if volume.container_path in (".", ".."):
        yield Problem(f"{path}/containerPath", f'got "{volume.container_path}", expected another name')
    if "/" in volume.container_path:
        yield Problem(f"{path}/containerPath", 'value must not contain "/"')
    if volume.mode is not VolumeMode.READ_WRITE:
        yield Problem(f"{path}/mode", "got RO, expected RW")
    if persistent.size <= 0:
        yield Problem(f"{path}/persistent/size", f"got {persistent.size}, expected more than 0")
    if persistent.max_size is not None:
        if persistent.type is not PersistentVolumeType.MOUNT:
            yield Problem(f"{path}/persistent", "Only mount volumes can have maxSize")
        if persistent.max_size <= persistent.size:
            yield Problem(f"{path}/persistent", "Max size must be larger than size")
    if persistent.constraints and persistent.type is PersistentVolumeType.ROOT:
        yield Problem(f"{path}/persistent", "Constraints on root volumes are not supported")
    for position, constraint in enumerate(persistent.constraints):
        if text := _volume_constraint_problem(constraint):
            yield Problem(f"{path}/persistent/constraints({position})", text)


def _volume_constraint_problem(constraint: Constraint) -> str | None:
    if constraint.field != "path" or constraint.value is None:
        return f"Unsupported constraint {','.join(constraint.as_list())}"
    if constraint.operator not in (Operator.LIKE, Operator.UNLIKE):
        known = constraint.operator in Operator.__members__
        return "Operator must be one of LIKE, UNLIKE" if known else f"unknown constraint operator {constraint.operator}"
    wrong = _expression_problem(constraint.value)
    return f"Invalid regular expression: {wrong}" if wrong is not None else None


# --- constraints ---


def _constraint_rules(app: App, _: Defaults) -> Iterator[Problem]:
    for position, constraint in enumerate(app.constraints):
        if text := constraint_problem(constraint):
            yield Problem(f"/constraints({position})", text)


def constraint_problem(constraint: Constraint) -> str | None:
    """What is wrong with a placement constraint, None when nothing is."""
    if not constraint.field:
        return "illegal constraint specification"
    value = constraint.value
    match constraint.operator:
        case Operator.UNIQUE:
            return None if value is None else "UNIQUE does not accept a value"
        case Operator.CLUSTER:
            return None
        case Operator.GROUP_BY:
            fits = value is None or _is_integer(value)
            return None if fits else "GROUP BY must define an integer value or else no value at all"
        case Operator.MAX_PER:
            fits = value is not None and _is_integer(value)
            return None if fits else "MAX_PER requires an integer value"
        case Operator.LIKE | Operator.UNLIKE:
            if not value:
                return "LIKE and UNLIKE require a non-empty, regular expression value"
            wrong = _expression_problem(value)
            return f"is not a valid regular expression: {wrong}" if wrong is not None else None
        case Operator.IS:
            return None if _IS_VALUE.fullmatch(value or "") else _IS_TEXT
    return "operator must be one of the following UNIQUE, CLUSTER, GROUP_BY, LIKE, MAX_PER, UNLIKE or IS"


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,10}", text) is not None and abs(int(text)) < 2**31


def _expression_problem(text: str) -> str | None:
    """Why it is no regular expression, None when it is one."""
    if len(text) > LONGEST_EXPRESSION:
        return f"expected at most {LONGEST_EXPRESSION} characters, got {len(text)}"
    try:
        Pattern(text)
    except PatternError as error:
        return str(error)
    return None


# --- checks ---


def _health_rules(app: App, _: Defaults) -> Iterator[Problem]:
    indices = range(len(app.port_entries))
    for position, check in enumerate(app.health_checks):
        for text in _health_problems(app, check, indices):
            yield Problem(f"/healthChecks({position})", text)
        if check.command is not None and "\0" in check.command.value:
            yield Problem(f"/healthChecks({position})/command", "must not contain a NUL character")
    # Several command checks are tolerated, as Marathon once let them be saved.
    if sum(check.protocol in _MESOS_HTTP for check in app.health_checks if check.command is None) > 1:
        yield Problem("/", "AppDefinition can contain at most one Mesos health check")


def _health_problems(app: App, check: HealthCheck, indices: range) -> Iterator[str]:
    if check.port is not None and check.port_index is not None:
        yield "HealthCheck must specify either a port or a portIndex"
    if check.protocol is HealthCheckProtocol.COMMAND:
        if check.command is None:
            yield "HealthCheck with protocol COMMAND must specify a command"
    elif check.command is not None:
        yield f"illegal protocol {check.protocol.value} specified with command"
    elif check.port_index is not None:
        if check.port_index not in indices:
            yield _PORT_INDEX_TEXT
    elif check.port is None and len(indices) != 1:
        yield _PORT_INDEX_TEXT
    if check.ip_protocol is IpProtocol.IPV6 and not (check.protocol in _MESOS_HTTP and app.uses_docker):
        yield "IPv6 can only be used for container type DOCKER and Mesos http/https/tcp health checks"


def _check_rules(app: App, _: Defaults) -> Iterator[Problem]:
    check = app.check
    if check is None:
        return
    if app.uses_docker:
        yield Problem("/", "AppDefinition must not use 'checks' if using docker")
    if sum(kind is not None for kind in (check.http, check.tcp, check.exec)) != 1:
        yield Problem("/check", "expected exactly one of http, tcp and exec")
    indices = range(len(app.port_entries))
    for kind in (check.http, check.tcp):
        if kind is None or kind.port is not None:
            continue
        if kind.port_index not in indices if kind.port_index is not None else len(indices) != 1:
            text = "check port index must address an element of the ports array or container port mappings."
            yield Problem("/check", text)
    if check.exec is not None and (check.exec.command.shell is None) == (not check.exec.command.argv):
        yield Problem("/check/exec/command", "expected exactly one of shell and argv")


def _readiness_rules(app: App, _: Defaults) -> Iterator[Problem]:
    if len(app.readiness_checks) > 1:
        yield Problem("/readinessChecks", f"got {len(app.readiness_checks)}, expected 1 or less")
    names = {entry.name for entry in app.port_entries if entry.name}
    for position, check in enumerate(app.readiness_checks):
        path = f"/readinessChecks({position})"
        if check.port_name not in names:
            text = f"No port definition reference for portName {check.port_name}"
            yield Problem(f"{path}/portName", text)
        if check.timeout_seconds >= check.interval_seconds:
            text = f"got {check.timeout_seconds}, expected less than {check.interval_seconds}"
            yield Problem(f"{path}/timeoutSeconds", text)


_RULES: Final[tuple[Rule, ...]] = (
    _id_rules,
    _command_rules,
    _size_rules,
    _secret_rules,
    _fetch_rules,
    _role_rules,
    _strategy_rules,
    _network_rules,
    _port_rules,
    _container_rules,
    _constraint_rules,
    _health_rules,
    _check_rules,
    _readiness_rules,
)
