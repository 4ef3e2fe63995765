"""From a job to the spec of its tasks, and what each of them is told in its environment (Chronos 3.0)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit

from orlop import docker_options
from orlop.framework import SANDBOX, Constraint, Resources, Spec, Task, View
from orlop_chronos import instants
from orlop_chronos.documents import Run
from orlop_chronos.instants import wall_at
from orlop_chronos.model import Container, Job, NetworkMode, Volume, VolumeMode
from orlop_chronos.settings import Config

JOB_LABEL: Final = "job"
RUN_LABEL: Final = "run"
#: A command that begins so is a program to fetch (Chronos).
_URIS: Final = ("http:", "https:", "ftp:")
_OPERATORS: Final = {"EQUALS": "IS", "LIKE": "LIKE", "UNLIKE": "UNLIKE"}
_TASK_ID: Final = "MESOS_TASK_ID"
#: Of a task's name, as the kernel takes it.
LONGEST_TASK_NAME_BYTES: Final = 4_096
#: Of what each task is told; a job's own variables add to it and change nothing of it (Chronos).
_BUILT_IN: Final = frozenset(
    {
        _TASK_ID, _TASK_ID.lower(), "CHRONOS_JOB_OWNER", "CHRONOS_JOB_NAME", "HOST", "CHRONOS_RESOURCE_MEM",
        "CHRONOS_RESOURCE_CPU", "CHRONOS_RESOURCE_DISK", "CHRONOS_JOB_RUN_TIME", "CHRONOS_JOB_RUN_ATTEMPT",
        "CHRONOS_RUN_ID", "CHRONOS_RUN_CAUSE", "CHRONOS_NOMINAL_TIME",
    }
)  # fmt: skip


def spec_of(job: Job, arguments: str | None, settings: Config) -> Spec:
    """arguments: of one run, in place of the job's."""
    payload = _process(job, arguments, settings) if job.container is None else _docker(job, job.container, arguments)
    return Spec(
        runtime="process" if job.container is None else "docker",
        payload=payload,
        resources=_resources(job),
        constraints=tuple(_constraints(job)),
        host_variable="HOST",
    )


def _constraints(job: Job) -> Iterator[Constraint]:
    """With Chronos a node has to have the attribute whose value must be unlike something; with Marathon it has not."""
    for field, operator, value in job.constraints:
        if operator == "UNLIKE":
            yield Constraint(field=field, operator="LIKE", value=".*")
        yield Constraint(field=field, operator=_OPERATORS[operator], value=value)


def task_name(job: Job, run: Run, attempt: int) -> str:
    """Chronos' id of a task: `ct:<nominal time>:<attempt>:<job>:<arguments>`. Of very long arguments, the beginning."""
    name = f"ct:{run.nominal_ms}:{attempt}:{job.name}:{_arguments(job, run.arguments)}"
    return name.encode()[:LONGEST_TASK_NAME_BYTES].decode(errors="ignore")


def run_environment(job: Job, run: Run, attempt: int, name: str) -> dict[str, str]:
    """Variables of one task alone."""
    return {
        _TASK_ID: name,
        _TASK_ID.lower(): name,
        "CHRONOS_JOB_OWNER": job.owner,
        "CHRONOS_JOB_NAME": job.name,
        "CHRONOS_RESOURCE_MEM": repr(float(job.mem)),
        "CHRONOS_RESOURCE_CPU": repr(float(job.cpus)),
        "CHRONOS_RESOURCE_DISK": repr(float(job.disk)),
        "CHRONOS_JOB_RUN_TIME": str(run.nominal_ms),
        "CHRONOS_JOB_RUN_ATTEMPT": str(attempt),
        "CHRONOS_RUN_ID": run.id,
        "CHRONOS_RUN_CAUSE": run.cause.value,
        "CHRONOS_NOMINAL_TIME": instants.format_instant(wall_at(run.nominal_ms, instants.UTC)),
    }


def node_name(view: View, task: Task) -> str:
    """The name of the task's node; its id when the node is gone; empty before it is placed."""
    node = view.node(task.node)
    return node.info.name if node is not None else task.node or ""


def _arguments(job: Job, arguments: str | None) -> str:
    """As one text. Semicolons are left out (Chronos, against injection)."""
    text = arguments if arguments is not None and arguments.strip() else " ".join(job.arguments)
    return text.replace(";", "")


def _fetched(job: Job) -> tuple[str, str] | None:
    """The URI with which the command begins, and the name of the program that it is; None for other commands."""
    if not job.command.startswith(_URIS):
        return None
    uri = job.command.split(maxsplit=1)[0]
    try:
        name = urlsplit(uri).path.rpartition("/")[2]
    except ValueError:
        return None
    return (uri, name) if name else None


def _program(job: Job, folder: str) -> list[str]:
    """The command. folder: where it lies if it was fetched; then also the words after its URI."""
    fetched = _fetched(job)
    return [f"{folder}/{fetched[1]}", *job.command.split()[1:]] if fetched is not None else [job.command]


def _command(job: Job, arguments: str | None, folder: str) -> str:
    """What a shell runs: the arguments come after the command (Chronos)."""
    program, *rest = _program(job, folder)
    if _fetched(job) is not None:
        program = " ".join((shlex.quote(program), *rest))
    return f"{program} {_arguments(job, arguments)}".strip()


def _artefacts(job: Job) -> list[dict[str, Any]]:
    wanted: list[dict[str, Any]] = [
        {
            "uri": fetch.uri,
            "output_file": fetch.output_file,
            "extract": fetch.extract,
            "executable": fetch.executable,
            "cache": fetch.cache,
        }
        for fetch in job.fetch
    ]
    wanted += [{"uri": uri} for uri in job.uris]
    if (fetched := _fetched(job)) is not None:
        wanted.append({"uri": fetched[0], "executable": True})
    return wanted


def _argv(job: Job, arguments: str | None, folder: str) -> list[str]:
    """What is executed without a shell. Arguments of one run are words."""
    words = list(job.arguments) if arguments is None or not arguments.strip() else arguments.split()
    return [*_program(job, folder), *words] if job.command else words


def _process(job: Job, arguments: str | None, settings: Config) -> Mapping[str, Any]:
    payload: dict[str, Any] = {"environment": _variables(job)}
    if job.shell:
        payload["command"] = _command(job, arguments, ".")
    else:
        payload["arguments"] = _argv(job, arguments, ".")
    if artefacts := _artefacts(job):
        payload["artefacts"] = artefacts
    if user := job.run_as_user or settings.user:
        payload["user"] = user
    return payload


def _variables(job: Job) -> dict[str, str]:
    return {one.name: one.value for one in job.environment_variables if one.name not in _BUILT_IN}


def _docker(job: Job, container: Container, arguments: str | None) -> Mapping[str, Any]:
    variables = {"MESOS_SANDBOX": SANDBOX, **_variables(job)}
    body: dict[str, Any] = {
        "Image": container.image,
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "Volumes": {SANDBOX: {}},
        "HostConfig": {"NetworkMode": _network(container)},
        "orlop_pull": "always" if container.force_pull_image else "missing",
        "orlop_labels": [_TASK_ID],
    }
    if job.shell and job.command:
        body["Entrypoint"], body["Cmd"] = ["/bin/sh", "-c"], [_command(job, arguments, SANDBOX)]
    elif words := _argv(job, arguments, SANDBOX):
        body["Cmd"] = words
    if artefacts := _artefacts(job):
        body["orlop_artefacts"] = artefacts
    if job.run_as_user:
        body["User"] = job.run_as_user
    _mount(body["HostConfig"], container.volumes)
    docker_options.apply(body, ((one.key, one.value) for one in container.parameters))
    return body


def _network(container: Container) -> str:
    if container.network is NetworkMode.USER:
        names = [info.name for info in container.network_infos if info.name]
        return container.network_name or (names[0] if names else "bridge")
    return container.network.value.lower()


def _mount(host: dict[str, Any], volumes: Iterable[Volume]) -> None:
    """Into a create body's HostConfig. An external volume is one of the engine's, by the driver that provides it."""
    binds, mounts = [], []
    for volume in volumes:
        if volume.external is None or volume.host_path:
            binds.append(_bind(volume.host_path, volume.container_path, volume.mode))
            continue
        mount: dict[str, Any] = {"Type": "volume", "Source": volume.external.name, "Target": volume.container_path}
        if volume.mode is VolumeMode.RO:
            mount["ReadOnly"] = True
        if volume.external.provider:
            options = {one.key: one.value for one in volume.external.options}
            mount["VolumeOptions"] = {"DriverConfig": {"Name": volume.external.provider, "Options": options}}
        mounts.append(mount)
    if binds:
        host["Binds"] = binds
    if mounts:
        host["Mounts"] = mounts


def _bind(host: str | None, inside: str, mode: VolumeMode | None) -> str:
    suffix = f":{mode.value.lower()}" if mode is not None else ""
    return f"{host}:{inside}{suffix}" if host else inside


def _resources(job: Job) -> Resources:
    quantities: dict[str, Any] = {"cpus": Decimal(str(job.cpus))}
    for name, mebibytes in (("mem", job.mem), ("disk", job.disk)):
        if mebibytes:
            quantities[name] = f"{Decimal(str(mebibytes)):f}MiB"
    return Resources(**quantities)
