"""What an engine's JSON says of facts: pure functions, from the Engine API's objects to `orlop.model.facts`.

Bounded: a node with very many images or foreign containers tells of the first ones in the order of their ids, but of
those containers first that take something of the node. Labels that are too long are left out. All facts of a node
together fit into one message of its session.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import orjson

from orlop.docker_containers import CLUSTER_LABEL, TASK_LABEL, cpus_limit
from orlop.model.documents import to_plain
from orlop.model.facts import EngineFacts, ForeignContainer, HostPort, Image, NodeFacts

IMAGES_MAX: Final = 2000
CONTAINERS_MAX: Final = 2000
#: Of all images together, and of all containers together, as JSON.
BYTES_MAX: Final = 4 * 2**20
#: Of one container's or engine's labels together, names and values, in characters.
LABELS_CHARACTERS_MAX: Final = 8192

_T = TypeVar("_T", Image, ForeignContainer)

_ALL_ADDRESSES: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104
_NAMELESS: Final = frozenset({"<none>:<none>", "<none>@<none>"})


def bounded(engine: EngineFacts, images: Iterable[Image], containers: Iterable[ForeignContainer]) -> NodeFacts:
    """As many of them as are told of, see the module."""
    known = sorted(images, key=lambda image: image.id)[:IMAGES_MAX]
    foreign = sorted(containers, key=lambda one: (not (one.live or one.host_ports), one.id))
    return NodeFacts(
        engine=engine,
        images={image.id: image for image in _fitting(known)},
        containers={one.id: one for one in _fitting(foreign[:CONTAINERS_MAX])},
    )


def _fitting(values: Iterable[_T]) -> Iterator[_T]:
    """The first ones, as long as there is room for them."""
    room = BYTES_MAX
    for value in values:
        room -= len(orjson.dumps(to_plain(value)))
        if room < 0:
            return
        yield value


def engine_of(info: Mapping[str, Any]) -> EngineFacts:
    """From `/info`. A label without `=` has an empty value."""
    labels = (label.partition("=") for label in info.get("Labels") or ())
    return EngineFacts(
        version=info.get("ServerVersion") or "",
        storage_driver=info.get("Driver") or "",
        kernel_version=info.get("KernelVersion") or "",
        operating_system=info.get("OperatingSystem") or "",
        os_type=info.get("OSType") or "",
        labels=_bounded({name: value for name, _, value in labels}),
    )


def image_of(item: Mapping[str, Any]) -> Image:
    """From an item of `/images/json`, or an inspection: both have these members."""
    return Image(
        id=item["Id"],
        tags=tuple(sorted(set(item.get("RepoTags") or ()) - _NAMELESS)),
        digests=tuple(sorted(set(item.get("RepoDigests") or ()) - _NAMELESS)),
    )


def is_task(labels: Mapping[str, str], cluster: str) -> bool:
    """Is a container with these labels a task of this cluster?"""
    return labels.get(CLUSTER_LABEL) == cluster and TASK_LABEL in labels


def foreign_of(inspected: Mapping[str, Any], cluster: str) -> ForeignContainer | None:
    """From an inspection of a container; None for a task of this cluster."""
    settings = inspected.get("Config") or {}
    labels = settings.get("Labels") or {}
    if is_task(labels, cluster):
        return None
    host = inspected.get("HostConfig") or {}
    name = (inspected.get("Name") or "").removeprefix("/")
    return ForeignContainer(
        id=inspected["Id"],
        names=(name,) if name else (),
        image=settings.get("Image") or "",
        labels=_bounded(labels),
        state=(inspected.get("State") or {}).get("Status") or "",
        memory_bytes=max(host.get("Memory") or 0, 0),
        cpus_thousandths=cpus_limit(*(host.get(name) or 0 for name in ("NanoCpus", "CpuQuota", "CpuPeriod"))),
        host_ports=_host_ports(
            host.get("PortBindings") or {}, (inspected.get("NetworkSettings") or {}).get("Ports") or {}
        ),
    )


def _host_ports(*bindings: Mapping[str, Any]) -> tuple[HostPort, ...]:
    """Of what was asked for and what is published. A range or an empty port asked for is known once it is published."""
    found = {
        HostPort(
            number=int(binding["HostPort"]),
            protocol=port.partition("/")[2] or "tcp",
            address="" if (address := binding.get("HostIp") or "") in _ALL_ADDRESSES else address,
        )
        for ports in bindings
        for port, bound in ports.items()
        for binding in bound or ()
        if (binding.get("HostPort") or "").isdecimal() and int(binding["HostPort"]) > 0
    }
    return tuple(sorted(found))


def _bounded(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels in the order of their names, without those for which there is no room."""
    room, kept = LABELS_CHARACTERS_MAX, {}
    for name, value in sorted(labels.items()):
        if len(name) + len(value) <= room:
            room -= len(name) + len(value)
            kept[name] = value
    return kept
