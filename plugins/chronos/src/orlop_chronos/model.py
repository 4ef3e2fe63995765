"""Jobs, as clients define them: the superset of both dialects' fields, and Orlop's own additions.

Field names are the JSON's in snake case. Defaults that a setting decides (cpus, mem, disk, epsilon) are filled in when
a definition is read, so that a stored one does not change when a setting does.
"""

from __future__ import annotations

import enum
from typing import Any, Final

import attrs

#: Metadata of a field: its name in JSON, where that is not the camel case of the field's.
JSON_NAME: Final = "json"
#: Metadata of a field that Chronos does not know: it is shown only where it says something else than its default.
ADDED: Final = "added"


def _added(default: Any) -> Any:
    return attrs.field(default=default, metadata={ADDED: True})


def _named(name: str, default: Any) -> Any:
    return attrs.field(default=default, metadata={JSON_NAME: name})


class ContainerType(enum.StrEnum):
    DOCKER = "DOCKER"
    MESOS = "MESOS"


class NetworkMode(enum.StrEnum):
    BRIDGE = "BRIDGE"
    HOST = "HOST"
    USER = "USER"


class VolumeMode(enum.StrEnum):
    RO = "RO"
    RW = "RW"


class CatchUp(enum.StrEnum):
    """What becomes of runs that were missed. ONE: the latest of them is run, late (Chronos 3)."""

    NONE = "none"
    ONE = "one"
    ALL = "all"


class Overlap(enum.StrEnum):
    """What becomes of a run that is due while an earlier one goes on.

    FORBID: it is skipped (Chronos 2). QUEUE: it waits, one at most (Chronos 3). ALLOW: both run. REPLACE: the earlier
    one is stopped first.
    """

    FORBID = "forbid"
    QUEUE = "queue"
    ALLOW = "allow"
    REPLACE = "replace"


class NodeLoss(enum.StrEnum):
    """What becomes of a run whose node is lost. AT_MOST_ONCE: it has failed, and is not tried again."""

    AT_MOST_ONCE = "at-most-once"
    AT_LEAST_ONCE = "at-least-once"


class TriggerRule(enum.StrEnum):
    """When a job with parents is due: after all (or one) of them have succeeded, failed, or just ended since its last
    start."""

    ALL_SUCCESS = "all_success"
    ALL_DONE = "all_done"
    ALL_FAILED = "all_failed"
    ONE_SUCCESS = "one_success"
    ONE_FAILED = "one_failed"


@attrs.frozen(kw_only=True)
class Variable:
    name: str
    value: str = ""


@attrs.frozen(kw_only=True)
class Parameter:
    key: str
    value: str = ""


@attrs.frozen(kw_only=True)
class Fetch:
    uri: str
    output_file: str = _named("output_file", "")
    executable: bool = False
    cache: bool = False
    extract: bool = True


@attrs.frozen(kw_only=True)
class ExternalVolume:
    name: str = ""
    provider: str = ""
    options: tuple[Parameter, ...] = ()


@attrs.frozen(kw_only=True)
class Volume:
    container_path: str
    host_path: str | None = None
    mode: VolumeMode | None = None
    external: ExternalVolume | None = None


@attrs.frozen(kw_only=True)
class PortMapping:
    host_port: int = 0
    container_port: int = 0
    protocol: str | None = None


@attrs.frozen(kw_only=True)
class NetworkInfo:
    name: str = ""
    protocol: str | None = None
    labels: tuple[Parameter, ...] = ()
    port_mappings: tuple[PortMapping, ...] = ()


@attrs.frozen(kw_only=True)
class Container:
    """`type` decides nothing here: an image runs under the docker runtime."""

    image: str
    type: ContainerType = ContainerType.DOCKER
    network: NetworkMode = NetworkMode.HOST
    network_name: str | None = None
    network_infos: tuple[NetworkInfo, ...] = ()
    volumes: tuple[Volume, ...] = ()
    force_pull_image: bool = False
    parameters: tuple[Parameter, ...] = ()


@attrs.frozen(kw_only=True)
class Job:
    """A definition. Counters and last results, which Chronos keeps in the same object, are `Counters`.

    schedule: empty for a job with parents. cpus: of processors; mem, disk: MiB. epsilon: how late a run may be,
    a period; empty: as late as it gets. max_completion_time: seconds, 0 for none.
    retries: further attempts of a run. retry_delay: seconds before the first of them, multiplied by `retry_backoff`
    for each further one, up to `max_retry_delay`. catch_up_window: a period; missed runs older than that are not made
    up for. jitter: seconds by which a run is put off at most, the same for the same run. exclude: days without runs,
    `2026-12-25` or `SAT`. alert_after: a period; nothing has succeeded for so long is told to the owners.
    concurrent: Chronos' word for the overlap policies `allow` and `queue`.
    """

    name: str
    command: str = ""
    shell: bool = True
    epsilon: str = ""
    executor: str = ""
    executor_flags: str = ""
    task_info_data: str = ""
    retries: int = 2
    owner: str = ""
    owner_name: str = ""
    description: str = ""
    asynchronous: bool = _named("async", False)
    cpus: float = 0.1
    disk: float = 256.0
    mem: float = 128.0
    disabled: bool = False
    soft_error: bool = False
    data_processing_job_type: bool = False
    fetch: tuple[Fetch, ...] = ()
    uris: tuple[str, ...] = ()
    environment_variables: tuple[Variable, ...] = ()
    arguments: tuple[str, ...] = ()
    high_priority: bool = False
    run_as_user: str = ""
    concurrent: bool = False
    max_completion_time: int = 0
    container: Container | None = None
    constraints: tuple[tuple[str, ...], ...] = ()
    parents: tuple[str, ...] = ()
    schedule: str = ""
    schedule_time_zone: str = ""

    catch_up: CatchUp = _added(CatchUp.ONE)
    catch_up_window: str = _added("")
    overlap: Overlap | None = _added(None)
    node_loss: NodeLoss = _added(NodeLoss.AT_MOST_ONCE)
    trigger_rule: TriggerRule = _added(TriggerRule.ALL_SUCCESS)
    retry_delay: float = _added(60.0)
    retry_backoff: float = _added(1.0)
    max_retry_delay: float = _added(3600.0)
    jitter: float = _added(0.0)
    exclude: tuple[str, ...] = _added(())
    alert_after: str = _added("")

    @property
    def overlap_policy(self) -> Overlap:
        """What `overlap` says, or else `concurrent`."""
        if self.overlap is not None:
            return self.overlap
        return Overlap.ALLOW if self.concurrent else Overlap.QUEUE


@attrs.frozen(kw_only=True)
class Counters:
    """What a job's runs have come to. last_success, last_error: UTC milliseconds, None for never.

    Clients may write them with a definition; one that says nothing of them sets them to nothing (Chronos).
    """

    success_count: int = 0
    error_count: int = 0
    errors_since_last_success: int = 0
    last_success: int | None = None
    last_error: int | None = None
