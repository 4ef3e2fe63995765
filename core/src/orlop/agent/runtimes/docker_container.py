"""What the docker runtime says to an engine and reads from it: pure functions from and to the Engine API's JSON.

A task's container is called `orlop-<task>` while anybody may still ask about it. When the task is forgotten its
stopped container is renamed to `orlop.ended.<seconds>.<task>.<incarnation>`, seconds since 1970 UTC: it then keeps
its output readable for a while, frees the name, and no longer shows in snapshots. The engine is the only record.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from orlop.agent.artefacts import Artefact, parse_artefacts
from orlop.agent.runtimes import docker_sandbox
from orlop.agent.runtimes.interface import InvalidPayload, Launch, Phase, Report, RuntimeContext
from orlop.docker_containers import (
    CLUSTER_LABEL,
    INCARNATION_LABEL,
    KEPT_NAMES,
    NODE_LABEL,
    OUTPUT_LABEL,
    TASK_LABEL,
)
from orlop.model.messages import Assignment
from orlop.model.tasks import Desired, Exit, Outcome

#: The engine refuses less: "Minimum memory limit allowed is 6MB".
SMALLEST_MEMORY_BYTES: Final = 6 * 2**20
#: The kernel refuses less.
FEWEST_CPU_SHARES: Final = 2
#: The current file and one old one.
LOG_FILES: Final = 2
#: An exit code of 128 + n says that signal n ended the process; Linux has signals 1 to 64.
SIGNAL_BASE: Final = 128
HIGHEST_SIGNAL: Final = 64
UNSURE_EXIT_CODE: Final = 255

#: Stopped containers of forgotten tasks, kept for their output.
KEPT_COUNT_MAX: Final = 50
KEPT_AGE_MAX_S: Final = 24 * 3600

REMOVED_BY_OTHERS: Final = Exit(outcome=Outcome.LOST, reason="its container was removed by someone else")

_VERSION: Final = re.compile(r"([0-9]{1,9}\.[0-9]{1,9})?")
_KEPT_NAME: Final = re.compile(rf"^/?{re.escape(KEPT_NAMES)}(\d+)\.")


def container_name(task: str) -> str:
    return f"orlop-{task}"


def kept_name(task: str, incarnation: int, utc_s: int) -> str:
    return f"{KEPT_NAMES}{utc_s}.{task}.{incarnation}"


def kept_since(name: str) -> int | None:
    """Since when (UTC seconds) the container of this name is only kept for its output; None when it is not."""
    found = _KEPT_NAME.match(name)
    return int(found[1]) if found else None


def surplus(kept: Iterable[tuple[int, str]], now_utc_s: int) -> list[str]:
    """The ids to remove of (kept since, id), oldest first: too old, or too many."""
    ordered = sorted(kept, reverse=True)
    return [
        container
        for position, (since, container) in reversed(list(enumerate(ordered)))
        if position >= KEPT_COUNT_MAX or now_utc_s - since > KEPT_AGE_MAX_S
    ]


@attrs.frozen
class Identity:
    """Whose container it is, by its labels."""

    task: str
    incarnation: int


def identity_of(labels: Mapping[str, str] | None, context: RuntimeContext) -> Identity | None:
    """None when it is not a container of this cluster and node."""
    labels = labels or {}
    ours = labels.get(CLUSTER_LABEL) == context.cluster_id and labels.get(NODE_LABEL) == context.node_id
    incarnation = labels.get(INCARNATION_LABEL, "")
    if not ours or TASK_LABEL not in labels or not incarnation.isdecimal():
        return None
    return Identity(labels[TASK_LABEL], int(incarnation))


@attrs.frozen(kw_only=True)
class Creation:
    """A container to create. body: of POST /containers/create. pull: "always", "missing" (when there is no such image)
    or "never".

    platform: "os/arch" of the image; empty: the engine's own. version: of the Engine API that the body is meant in;
    empty: any. prepared_only: it is not started.
    kept: its ends are not its task's (`Policies.keep_ended`).
    artefacts, sandbox: what is to be fetched before, and where to. own_network: it has addresses of its own.
    stays_ended: the engine neither restarts nor removes it when it ends.
    shares_are_cpus: see `scaled_shares`. networks: those that it joins once it is created, by name, with the settings
    of its endpoint; None: it leaves this one.
    """

    name: str
    image: str
    body: Mapping[str, Any]
    pull: str
    platform: str = ""
    version: str = ""
    prepared_only: bool = False
    kept: bool = False
    artefacts: tuple[Artefact, ...] = ()
    sandbox: Path = Path()
    own_network: bool = True
    stays_ended: bool = False
    shares_are_cpus: bool = False
    networks: Mapping[str, Mapping[str, Any] | None] = attrs.field(factory=dict)


def creation_of(launch: Launch, context: RuntimeContext) -> Creation:
    """The payload with what Orlop adds; unknown members stay as they are. Raises InvalidPayload."""
    body = dict(launch.assignment.spec.payload)
    pull = body.pop("orlop_pull", "missing")
    if pull not in ("always", "missing", "never"):
        raise InvalidPayload(f'payload.orlop_pull: expected "always", "missing" or "never", got {pull!r}')
    name = body.pop("orlop_name", container_name(launch.task))
    if not isinstance(name, str) or not name:
        raise InvalidPayload(f"payload.orlop_name: expected a container's name, got {name!r}")
    image = body.get("Image")
    if not isinstance(image, str) or not image:
        raise InvalidPayload(f"payload.Image: expected the name of an image, got {image!r}")
    exact = body.pop("orlop_exact", False)
    platform = body.pop("orlop_platform", "")
    version = body.pop("orlop_api_version", "")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise InvalidPayload(f'payload.orlop_api_version: expected a version like "1.41", got {version!r}')
    shares_are_cpus = bool(body.pop("orlop_shares_are_cpus", False))
    networks = _networks(body.pop("orlop_networks", None))
    variables = _variable_labels(launch, body.pop("orlop_labels", ()))
    artefacts = parse_artefacts("payload.orlop_artefacts", body.pop("orlop_artefacts", None))
    body["Labels"] = _mapping("payload.Labels", body.get("Labels")) | variables | _labels(launch.assignment, context)
    host = _mapping("payload.HostConfig", body.get("HostConfig"))
    if not exact:
        body["Env"] = _environment(launch, body.get("Env"))
        body["HostConfig"] = host
        _limit(host, launch.assignment)
        _publish(body, host, launch.assignment)
        _bound_output(host, context.log_bytes_max)
    sandbox = docker_sandbox.path_of(launch.directory, launch.assignment.incarnation)
    if artefacts:
        docker_sandbox.bind(host, sandbox)
        body["HostConfig"] = host
        body["Env"] = list(body.get("Env") or ())
        if not any(item.startswith(f"{docker_sandbox.VARIABLE}=") for item in body["Env"]):
            body["Env"].append(f"{docker_sandbox.VARIABLE}={docker_sandbox.SANDBOX}")
    return Creation(
        name=name,
        image=image,
        body=body,
        pull=pull,
        platform=str(platform),
        version=version,
        prepared_only=launch.assignment.desired is Desired.PREPARED,
        kept=launch.assignment.spec.policies.keep_ended,
        artefacts=artefacts,
        sandbox=sandbox,
        own_network=host.get("NetworkMode") not in ("host", "none"),
        stays_ended=_stays_ended(host),
        shares_are_cpus=shares_are_cpus,
        networks=networks,
    )


def _networks(value: object) -> dict[str, Mapping[str, Any] | None]:
    """By name; None: the container shall leave it."""
    path = "payload.orlop_networks"
    given = _mapping(path, value)
    return {name: None if one is None else _mapping(f"{path}.{name}", one) for name, one in given.items()}


def scaled_shares(body: Mapping[str, Any], engine_cpus: int) -> dict[str, Any]:
    """A create body whose `CpuShares` are cpus, as its engine shall have it: all its cpus together are 1024 shares."""
    host = _mapping("payload.HostConfig", body.get("HostConfig"))
    if (cpus := host.get("CpuShares")) and engine_cpus > 0:
        host["CpuShares"] = max(-(-cpus * 1024 // engine_cpus), FEWEST_CPU_SHARES)
    return {**body, "HostConfig": host}


def _stays_ended(host: Mapping[str, Any]) -> bool:
    policy = _mapping("payload.HostConfig.RestartPolicy", host.get("RestartPolicy")).get("Name")
    return policy in (None, "", "no") and not host.get("AutoRemove")


def _mapping(path: str, value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidPayload(f"{path}: expected an object, got {value!r}")
    return dict(value)


def _environment(launch: Launch, own: object) -> list[str]:
    if own is None:
        own = []
    if not isinstance(own, list | tuple) or not all(isinstance(item, str) for item in own):
        raise InvalidPayload(f'payload.Env: expected a list of "NAME=value", got {own!r}')
    taken = {item.partition("=")[0] for item in own}
    added = [f"{name}={value}" for name, value in launch.environment.items() if name not in taken]
    return [*added, *own]


def _variable_labels(launch: Launch, names: object) -> dict[str, str]:
    """Variables of this task alone that shall be labels too: a payload is shared by many tasks."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InvalidPayload(f"payload.orlop_labels: expected a list of names of variables, got {names!r}")
    return {name: launch.environment[name] for name in names if name in launch.environment}


def _labels(assignment: Assignment, context: RuntimeContext) -> dict[str, str]:
    ends = {} if assignment.spec.policies.keep_ended else {OUTPUT_LABEL: "kept"}
    return {
        **ends,
        CLUSTER_LABEL: context.cluster_id,
        NODE_LABEL: context.node_id,
        TASK_LABEL: assignment.task,
        INCARNATION_LABEL: str(assignment.incarnation),
    }


def _limit(host: dict[str, Any], assignment: Assignment) -> None:
    """In the Engine API, 0 is the same as not set."""
    resources = assignment.spec.resources
    if (memory := resources.get("mem")) and not host.get("Memory"):
        host["Memory"] = max(memory, SMALLEST_MEMORY_BYTES)
    if (cpus := resources.get("cpus")) and not host.get("CpuShares"):
        host["CpuShares"] = max(cpus * 1024 // 1000, FEWEST_CPU_SHARES)


def _bound_output(host: dict[str, Any], bytes_max: int) -> None:
    """Where the engine keeps it in files. The command line's client sends {"Type": ""} for the engine's default."""
    if not _mapping("payload.HostConfig.LogConfig", host.get("LogConfig")).get("Type"):
        bounds = {"max-size": str(bytes_max), "max-file": str(LOG_FILES)}
        host["LogConfig"] = {"Type": "json-file", "Config": bounds}


def _publish(body: dict[str, Any], host: dict[str, Any], assignment: Assignment) -> None:
    mode = host.get("NetworkMode") or ""
    # A network that the container does not have to itself publishes nothing; the engine may refuse to try.
    if mode in ("host", "none") or str(mode).startswith("container:") or not assignment.ports:
        return
    exposed = _mapping("payload.ExposedPorts", body.get("ExposedPorts"))
    bindings = _mapping("payload.HostConfig.PortBindings", host.get("PortBindings"))
    for request, host_port in zip(assignment.spec.ports, assignment.ports, strict=False):
        for protocol in request.protocol.split(","):
            inside = f"{request.container or host_port}/{protocol.strip()}"
            exposed.setdefault(inside, {})
            bindings[inside] = _with_host_port(bindings.get(inside), str(host_port))
    body["ExposedPorts"], host["PortBindings"] = exposed, bindings


def _with_host_port(bindings: object, host_port: str) -> list[Any]:
    """A binding that leaves the host port open gets this one."""
    present = list(bindings) if isinstance(bindings, list | tuple) else []
    open_ones = [item for item in present if isinstance(item, Mapping) and item.get("HostPort") in (None, "", "0")]
    if any(isinstance(item, Mapping) and item.get("HostPort") == host_port for item in present):
        return present
    if not open_ones:
        return [*present, {"HostPort": host_port}]
    filled = present.index(open_ones[0])
    return [*present[:filled], {**open_ones[0], "HostPort": host_port}, *present[filled + 1 :]]


def exit_of(state: Mapping[str, Any]) -> Exit:
    """From an inspected container's `State`, or the like of it."""
    code = int(state.get("ExitCode", 0))
    number = code - SIGNAL_BASE if SIGNAL_BASE < code <= SIGNAL_BASE + HIGHEST_SIGNAL else None
    reason = f"exited with code {code}" if number is None else f"ended by {_signal_name(number)}"
    if state.get("OOMKilled"):
        reason += ", out of memory"
    if state.get("Error"):
        reason += f": {one_line(state['Error'])}"
    outcome = Outcome.FINISHED if code == 0 else Outcome.FAILED
    return Exit(outcome=outcome, code=code if number is None else None, signal=number, reason=reason)


def exit_of_event(attributes: Mapping[str, str], *, out_of_memory: bool) -> Exit | None:
    """Of a `die` event; None when only an inspection can tell: the engine also says 255 when it does not know."""
    code = attributes.get("exitCode", "")
    if not code.isdecimal() or int(code) == UNSURE_EXIT_CODE:
        return None
    return exit_of({"ExitCode": int(code), "OOMKilled": out_of_memory})


def exit_of_removed(code: int, *, killed: bool) -> Exit:
    """Of a container that was gone before it could be inspected. killed: by us.

    One that was to be removed at its end has ended by itself, or by our signal; one that was killed by another
    hand has been taken away.
    """
    ended = exit_of({"ExitCode": code})
    return REMOVED_BY_OTHERS if ended.signal == signal.SIGKILL and not killed else ended


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def one_line(text: str) -> str:
    """An engine's error text on one line."""
    return " ".join(text.split())


def addresses_of(networks: Mapping[str, Mapping[str, Any] | None] | None) -> tuple[str, ...]:
    """Of `NetworkSettings.Networks`, the same in a listing and an inspection."""
    found: list[str] = []
    for network in (networks or {}).values():
        found += [address for key in ("IPAddress", "GlobalIPv6Address") if (address := (network or {}).get(key))]
    return tuple(found)


def report_of(inspected: Mapping[str, Any], identity: Identity) -> Report | None:
    """What an inspection says of a task; None when the container is just being removed."""
    state = inspected["State"]
    phase, message, ended, remains = Phase.RUNNING, "", None, False
    if state["Status"] in ("removing", "dead"):
        return None
    if state["Status"] == "created":
        phase = Phase.PREPARING
    elif state.get("Restarting"):
        message = f"{exit_of(state).reason}; the engine restarts it"
    elif not state["Running"]:
        phase, ended, remains = Phase.ENDED, exit_of(state), True
    return Report(
        task=identity.task,
        incarnation=identity.incarnation,
        phase=phase,
        exit=ended,
        external_id=inspected["Id"],
        addresses=addresses_of(inspected.get("NetworkSettings", {}).get("Networks")),
        message=message,
        remains=remains,
    )
