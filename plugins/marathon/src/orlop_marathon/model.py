"""What a Marathon app is: the canonical form, as values.

Every legacy form is gone by the time an `App` exists (see `parsing`), so that equal apps are equal values
and nothing else needs to know the history of Marathon's API. The attributes carry the names of the JSON
members in snake case. Collections that are sets by nature (constraints, dependencies, roles) are kept sorted.

`App`, `AppRecord` and `GroupRecord` are also the stored form, so they are made of plain types only. What a
member may hold is said by the metadata of its attribute (see `members`).
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from orlop_marathon.checks import Check, HealthCheck, ReadinessCheck
from orlop_marathon.members import (
    LARGEST_INTEGER,
    LONGEST_DURATION_S,
    LONGEST_NAME,
    MAX_LENGTH,
    MAXIMUM,
    MIN_LENGTH,
    MINIMUM,
    PATH,
    PATTERN,
    PORT_NAME,
    amount,
    count,
    omitted,
    port_name,
    port_number,
    seconds,
)

#: `resourceLimits` members that are "unlimited".
UNLIMITED: Final = -1.0

SINGLE_INSTANCE_LABEL: Final = "MARATHON_SINGLE_INSTANCE_APP"

# As PORT_NAME: they cannot be slow on hostile input.
_NETWORK_NAME: Final = re.compile(r"[a-z0-9]+([-_]+[a-z0-9]+)*")
_EXECUTOR: Final = re.compile(r"//cmd|(/?[^/]+(/[^/]+)*)?")


class NetworkMode(enum.StrEnum):
    HOST = "host"
    CONTAINER = "container"
    BRIDGE = "container/bridge"


class ContainerType(enum.StrEnum):
    DOCKER = "DOCKER"
    MESOS = "MESOS"


class PortProtocol(enum.StrEnum):
    TCP = "tcp"
    UDP = "udp"
    BOTH = "udp,tcp"


class VolumeMode(enum.StrEnum):
    READ_ONLY = "RO"
    READ_WRITE = "RW"


class PersistentVolumeType(enum.StrEnum):
    ROOT = "root"
    PATH = "path"
    MOUNT = "mount"


class ExternalVolumeProvider(enum.StrEnum):
    DVDI = "dvdi"
    CSI = "csi"


class KillSelection(enum.StrEnum):
    YOUNGEST_FIRST = "YOUNGEST_FIRST"
    OLDEST_FIRST = "OLDEST_FIRST"


class TaskLostBehavior(enum.StrEnum):
    WAIT_FOREVER = "WAIT_FOREVER"
    RELAUNCH_AFTER_TIMEOUT = "RELAUNCH_AFTER_TIMEOUT"


class IpcMode(enum.StrEnum):
    PRIVATE = "PRIVATE"
    SHARE_PARENT = "SHARE_PARENT"


class Operator(enum.StrEnum):
    UNIQUE = "UNIQUE"
    CLUSTER = "CLUSTER"
    GROUP_BY = "GROUP_BY"
    LIKE = "LIKE"
    UNLIKE = "UNLIKE"
    MAX_PER = "MAX_PER"
    IS = "IS"


@attrs.frozen(kw_only=True)
class Constraint:
    """One element of `constraints`: `[field, operator]` or `[field, operator, value]`.

    operator: upper-case; one of `Operator` once the app is validated.
    """

    field: str
    operator: str
    value: str | None = None

    def as_list(self) -> list[str]:
        """The JSON form."""
        return [self.field, self.operator] if self.value is None else [self.field, self.operator, self.value]


@attrs.frozen(kw_only=True)
class Network:
    mode: NetworkMode = NetworkMode.CONTAINER
    name: str | None = attrs.field(default=None, metadata={PATTERN: _NETWORK_NAME, MAX_LENGTH: LONGEST_NAME})
    labels: Mapping[str, str] = omitted(factory=dict)


@attrs.frozen(kw_only=True)
class PortDefinition:
    """A host port of an app with host networking. port: the service port; 0 asks for a free one."""

    port: int = port_number(0)
    protocol: PortProtocol = PortProtocol.TCP
    name: str | None = port_name()
    labels: Mapping[str, str] = omitted(factory=dict)


@attrs.frozen(kw_only=True)
class PortMapping:
    """A container's port. host_port: None is no host port at all, 0 any free one."""

    container_port: int = port_number(0)
    host_port: int | None = port_number(None)
    service_port: int = port_number(0)
    protocol: PortProtocol = PortProtocol.TCP
    name: str | None = port_name()
    labels: Mapping[str, str] = attrs.field(factory=dict)
    network_names: tuple[str, ...] = omitted((), **{PATTERN: PORT_NAME, MAX_LENGTH: LONGEST_NAME})


@attrs.frozen(kw_only=True)
class DockerParameter:
    """One more flag of `docker run`, without its dashes."""

    key: str = attrs.field(metadata={MIN_LENGTH: 1})
    value: str


@attrs.frozen(kw_only=True)
class PullConfig:
    secret: str


@attrs.frozen(kw_only=True)
class DockerContainer:
    image: str = attrs.field(metadata={MIN_LENGTH: 1, MAX_LENGTH: 1024})
    force_pull_image: bool = False
    privileged: bool = False
    parameters: tuple[DockerParameter, ...] = ()
    pull_config: PullConfig | None = None


@attrs.frozen(kw_only=True)
class PersistentVolume:
    """size, max_size: MiB."""

    type: PersistentVolumeType = PersistentVolumeType.ROOT
    size: int = attrs.field(metadata={MAXIMUM: 2**40})
    max_size: int | None = attrs.field(default=None, metadata={MAXIMUM: 2**40})
    profile_name: str | None = None
    constraints: tuple[Constraint, ...] = omitted(())


@attrs.frozen(kw_only=True)
class ExternalVolume:
    """size: GiB, as the provider takes it. options: whatever it knows; for CSI with nested objects."""

    provider: ExternalVolumeProvider
    name: str | None = None
    size: int | None = attrs.field(default=None, metadata={MINIMUM: 0, MAXIMUM: LARGEST_INTEGER})
    shared: bool | None = None
    options: Mapping[str, Any] = omitted(factory=dict)


@attrs.frozen(kw_only=True)
class Volume:
    """A volume of one of four kinds: exactly one of host_path, persistent, external and secret is set.

    mode: None for a secret, which has none.
    """

    container_path: str
    mode: VolumeMode | None = None
    host_path: str | None = None
    persistent: PersistentVolume | None = None
    external: ExternalVolume | None = None
    secret: str | None = None


@attrs.frozen(kw_only=True)
class Seccomp:
    profile_name: str | None = None
    unconfined: bool | None = None


@attrs.frozen(kw_only=True)
class IpcInfo:
    """shm_size: MiB."""

    mode: IpcMode
    shm_size: int | None = count(None)


@attrs.frozen(kw_only=True)
class LinuxInfo:
    seccomp: Seccomp | None = None
    ipc_info: IpcInfo | None = None


@attrs.frozen(kw_only=True)
class Container:
    """port_mappings: None with host networking."""

    type: ContainerType = ContainerType.DOCKER
    docker: DockerContainer | None = None
    volumes: tuple[Volume, ...] = ()
    port_mappings: tuple[PortMapping, ...] | None = None
    linux_info: LinuxInfo | None = None


@attrs.frozen(kw_only=True)
class Fetch:
    """A file to bring into the sandbox before the start."""

    uri: str = attrs.field(metadata={MIN_LENGTH: 1, MAX_LENGTH: 1024})
    extract: bool = True
    executable: bool = False
    cache: bool = False
    dest_path: str | None = None


@attrs.frozen(kw_only=True)
class Secret:
    source: str = attrs.field(metadata={MIN_LENGTH: 1})


@attrs.frozen(kw_only=True)
class ResourceLimits:
    """cpus, mem (MiB): a number, `UNLIMITED`, or None for no limit above the request."""

    cpus: float | None = None
    mem: float | None = None


@attrs.frozen(kw_only=True)
class ExecutorResources:
    cpus: float = amount(0.1)
    mem: float = amount(32.0)
    disk: float = amount(10.0)


@attrs.frozen(kw_only=True)
class UnreachableStrategy:
    """What happens to instances on a lost node. disabled: wait for it for ever."""

    disabled: bool = False
    inactive_after_seconds: int = seconds(0)
    expunge_after_seconds: int = seconds(0)


@attrs.frozen(kw_only=True)
class UpgradeStrategy:
    """Shares of the instances, 0 to 1: how many must stay healthy, how many more than wanted there may be."""

    minimum_health_capacity: float = 1.0
    maximum_over_capacity: float = 1.0


@attrs.frozen(kw_only=True)
class Residency:
    relaunch_escalation_timeout_seconds: int = seconds(3600)
    task_lost_behavior: TaskLostBehavior = TaskLostBehavior.WAIT_FOREVER


@attrs.frozen(kw_only=True)
class App:
    """One app definition, canonical. Sizes in MiB, durations in seconds, as in the API.

    id: absolute. role: whom its resources are accounted to (see `roles`). env: texts, or `{"secret": name}`.
    port_definitions: None without host networking; `container.port_mappings`: None with it.
    task_kill_grace_period_seconds: None leaves it to the node.
    """

    id: str = attrs.field(metadata=PATH)
    cmd: str | None = attrs.field(default=None, metadata={MIN_LENGTH: 1})
    args: tuple[str, ...] = omitted(())
    user: str | None = None
    env: Mapping[str, Any] = omitted(factory=dict)
    secrets: Mapping[str, Secret] = omitted(factory=dict)
    instances: int = count(1)
    cpus: float = amount(1.0, minimum=0.001)
    mem: float = amount(128.0)
    disk: float = amount(0.0)
    gpus: int = count(0)
    resource_limits: ResourceLimits | None = None
    executor: str = attrs.field(default="", metadata={PATTERN: _EXECUTOR})
    executor_resources: ExecutorResources | None = None
    fetch: tuple[Fetch, ...] = omitted(())
    constraints: tuple[Constraint, ...] = omitted(())
    accepted_resource_roles: tuple[str, ...] = omitted(())
    role: str = attrs.field(default="*", metadata={MIN_LENGTH: 1})
    dependencies: tuple[str, ...] = omitted((), **PATH)
    labels: Mapping[str, str] = attrs.field(factory=dict)
    backoff_seconds: float = seconds(1.0)
    backoff_factor: float = amount(1.15, minimum=1)
    max_launch_delay_seconds: float = seconds(300.0)
    task_kill_grace_period_seconds: float | None = attrs.field(
        default=None, metadata={MINIMUM: 0, MAXIMUM: LONGEST_DURATION_S}
    )
    kill_selection: KillSelection = KillSelection.YOUNGEST_FIRST
    unreachable_strategy: UnreachableStrategy = UnreachableStrategy()
    upgrade_strategy: UpgradeStrategy = UpgradeStrategy()
    require_ports: bool = False
    tty: bool | None = None
    residency: Residency | None = None
    networks: tuple[Network, ...] = (Network(mode=NetworkMode.HOST),)
    port_definitions: tuple[PortDefinition, ...] | None = None
    container: Container | None = None
    health_checks: tuple[HealthCheck, ...] = omitted(())
    check: Check | None = None
    readiness_checks: tuple[ReadinessCheck, ...] = omitted(())

    @functools.cached_property
    def host_networking(self) -> bool:
        """Do its tasks share the node's network?"""
        return all(network.mode is NetworkMode.HOST for network in self.networks)

    @property
    def port_mappings(self) -> tuple[PortMapping, ...]:
        return (self.container.port_mappings or ()) if self.container else ()

    @property
    def port_entries(self) -> tuple[PortDefinition | PortMapping, ...]:
        """What port indices count: definitions with host networking, mappings without."""
        return (self.port_definitions or ()) if self.host_networking else self.port_mappings

    @functools.cached_property
    def service_ports(self) -> tuple[int, ...]:
        """One per port entry; 0 where none is assigned yet."""
        if self.host_networking:
            return tuple(definition.port for definition in self.port_definitions or ())
        return tuple(mapping.service_port for mapping in self.port_mappings)

    @property
    def uses_docker(self) -> bool:
        """Is it of container type DOCKER?"""
        return self.container is not None and self.container.type is ContainerType.DOCKER

    @property
    def resident(self) -> bool:
        """Does it keep data on its nodes?"""
        return any(volume.persistent for volume in self.volumes)

    @property
    def volumes(self) -> tuple[Volume, ...]:
        return self.container.volumes if self.container else ()

    @property
    def single_instance(self) -> bool:
        """Must it never run twice at a time, not even during an upgrade?"""
        return self.labels.get(SINGLE_INSTANCE_LABEL) == "true"


@attrs.frozen(kw_only=True)
class AppRecord:
    """The stored object `app`, and under `<id>@<version>` the object `version`.

    version, last_scaling_at, last_config_change_at: UTC times, as in `2021-07-27T20:40:33.123Z`. Only a new
    `last_config_change_at` restarts tasks (Marathon 1.11).
    """

    app: App
    version: str
    last_scaling_at: str
    last_config_change_at: str


@attrs.frozen(kw_only=True)
class GroupRecord:
    """The stored object `group`: an explicitly made one. The parents of apps exist without.

    id, dependencies: absolute paths. enforce_role: None while nobody said.
    """

    id: str
    dependencies: tuple[str, ...] = ()
    version: str = ""
    enforce_role: bool | None = None


@attrs.frozen(kw_only=True)
class Defaults:
    """What the server's settings say about apps.

    network_name: of container networks that have none. bridge_name: the network name of a legacy `ipAddress` that
    means a bridge. accepted_resource_roles: of apps that name none.
    features: those that are on, of `gpu_resources`, `external_volumes`, `secrets` and `persistent_volumes`. The last
    two are off: nothing resolves secrets yet, and nothing brings a task back to its data.
    """

    network_name: str = ""
    bridge_name: str = "mesos-bridge"
    accepted_resource_roles: tuple[str, ...] = ()
    features: frozenset[str] = frozenset({"gpu_resources", "external_volumes"})
