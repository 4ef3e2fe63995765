"""`info`, `version` and `system df` of the pool in the shape of one engine's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from orlop_swarm.merging import copies, images
from orlop_swarm.merging.answers import Answer, Document, good, in_order, without_our_labels
from orlop_swarm.merging.containers import is_kept_row

SUMS: Final = (
    "Containers",
    "ContainersRunning",
    "ContainersPaused",
    "ContainersStopped",
    "NCPU",
    "MemTotal",
    "NFd",
    "NGoroutines",
)
#: What a container may ask for only where every engine can do it.
ABILITIES: Final = (
    "MemoryLimit",
    "SwapLimit",
    "KernelMemory",
    "KernelMemoryTCP",
    "CpuCfsPeriod",
    "CpuCfsQuota",
    "CPUShares",
    "CPUSet",
    "PidsLimit",
    "OomKillDisable",
    "IPv4Forwarding",
    "BridgeNfIptables",
    "BridgeNfIp6tables",
    "LiveRestoreEnabled",
    "ExperimentalBuild",
)
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@attrs.frozen(kw_only=True)
class Member:
    """What the pool knows of a node beside its engine's answers.

    unavailable: why its engine cannot be used; empty when it can. cpus in thousandths, mem in bytes: what is reserved
    of how much; a total of 0 is not known, then the engine's own counts. seen: when it was last heard of, RFC 3339.
    """

    id: str
    name: str
    address: str = ""
    unavailable: str = ""
    attributes: Mapping[str, str] = attrs.field(factory=dict)
    reserved_cpus: int = 0
    reserved_mem: int = 0
    cpus: int = 0
    mem: int = 0
    seen: str = ""


@attrs.frozen(kw_only=True)
class About:
    """The pool itself. primary: the address of the server that leads, which is the one that answers."""

    id: str
    name: str
    version: str
    strategy: str = "spread"
    filters: Sequence[str] = ()
    primary: str = ""


def without_kept(answers: Iterable[Answer], kept: Iterable[Answer]) -> list[Answer]:
    """Answers of `GET /info`, without the containers that are only kept for their output: these have ended.

    kept: the engines' lists of them.
    """
    counts = {part.node_id: sum(map(is_kept_row, part.content)) for part in good(kept)}
    return [_fewer(answer, counts.get(answer.node_id, 0)) if answer.good else answer for answer in answers]


def _fewer(answer: Answer, ended: int) -> Answer:
    members = ("Containers", "ContainersStopped")
    less = {member: max(0, (answer.content.get(member) or 0) - ended) for member in members}
    return attrs.evolve(answer, content={**answer.content, **less})


def info(answers: Iterable[Answer], members: Sequence[Member], about: About) -> Document:
    """`GET /info`. How many images there are is for the caller to count: many are on several nodes."""
    replies = good(answers)
    told = [answer.content for answer in replies]
    first: Document = told[0] if told else {}
    merged: Document = {**first, "ID": about.id, "Name": about.name, "Labels": []}
    merged.update({member: sum(one.get(member) or 0 for one in told) for member in SUMS})
    merged.update({member: all(one.get(member) for one in told) for member in ABILITIES if member in first})
    merged["ServerVersion"] = _lowest(one.get("ServerVersion", "") for one in told)
    for member in (
        "Driver",
        "OperatingSystem",
        "KernelVersion",
        "Architecture",
        "OSType",
        "OSVersion",
        "DockerRootDir",
    ):
        if member in first:
            merged[member] = _agreed(one.get(member, "") for one in told)
    if len({str(one.get("DriverStatus")) for one in told}) > 1:
        merged["DriverStatus"] = []
    if told:
        merged["Plugins"] = _common_plugins([one.get("Plugins") or {} for one in told])
        merged["Runtimes"] = _in_all([one.get("Runtimes") or {} for one in told])
        merged["SecurityOptions"] = [
            option
            for option in first.get("SecurityOptions") or ()
            if all(option in (one.get("SecurityOptions") or ()) for one in told)
        ]
    merged["SystemStatus"] = _status(replies, members, about)
    merged["Warnings"] = _warnings(in_order(answers), members)
    return merged


def _agreed(values: Iterable[str]) -> str:
    """One value, or each of them once."""
    return ", ".join(dict.fromkeys(value for value in values if value))


def _lowest(versions: Iterable[str]) -> str:
    return min(filter(None, versions), key=_numbers, default="")


def _numbers(version: str) -> list[int]:
    return [int(digits) for part in version.split(".") if (digits := "".join(filter(str.isdigit, part[:9])))]


def _in_all(tables: Sequence[Mapping[str, Any]]) -> Document:
    return {name: value for name, value in tables[0].items() if all(name in table for table in tables)}


def _common_plugins(tables: Sequence[Mapping[str, Any]]) -> Document:
    merged: Document = {}
    for kind, names in tables[0].items():
        merged[kind] = names and [name for name in names if all(name in (table.get(kind) or ()) for table in tables)]
    return merged


def _warnings(answers: Sequence[Answer], members: Sequence[Member]) -> list[str] | None:
    """Of the engines, each once and with its node unless all say it, and of those that are away."""
    replies = [answer for answer in answers if answer.good]
    said: dict[str, list[str]] = {}
    for answer in replies:
        for warning in answer.content.get("Warnings") or ():
            said.setdefault(warning, []).append(answer.node)
    lines = [
        warning if len(nodes) == len(replies) else f"{warning} (on {', '.join(nodes)})"
        for warning, nodes in said.items()
    ]
    silent = {answer.node: str(answer.content) for answer in answers if not answer.good}
    silent.update({member.name: member.unavailable for member in members if member.unavailable})
    lines += [f"WARNING: Node {node} is not available: {silent[node]}" for node in sorted(silent)]
    return lines or None


def _status(replies: Sequence[Answer], members: Sequence[Member], about: About) -> list[list[str]]:
    """The rows of classic Swarm's `docker info`, which programs look for by their text."""
    rows = [["Role", "primary"]]
    if about.primary:
        rows.append(["Primary", about.primary])
    rows += [["Strategy", about.strategy], ["Filters", ", ".join(about.filters)], ["Nodes", str(len(members))]]
    engines = {answer.node_id: answer.content for answer in replies}
    for member in sorted(members, key=lambda one: (_natural(one.name), one.id)):
        rows += _rows_of(member, engines.get(member.id))
    return rows


def _natural(name: str) -> list[tuple[int, int, str]]:
    """`node-2` before `node-10`."""
    pieces: list[str] = []
    for character in name:
        if pieces and pieces[-1][-1].isdigit() == character.isdigit():
            pieces[-1] += character
        else:
            pieces.append(character)
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces]


def _rows_of(member: Member, engine: Mapping[str, Any] | None) -> list[list[str]]:
    told = engine or {}
    total = told.get("Containers", 0)
    parts = [
        f"{told.get(f'Containers{state}', 0)} {state}" for state in ("Running", "Paused", "Stopped")
    ]  # fmt: skip
    cpus = member.cpus or 1000 * told.get("NCPU", 0)
    mem = member.mem or told.get("MemTotal", 0)
    rows = [
        [f" {member.name or '(unknown)'}", member.address],
        ["ID", f"{told.get('ID') or member.id}"],
        ["Status", "Healthy" if engine is not None and not member.unavailable else "Unhealthy"],
        ["Containers", f"{total} ({', '.join(parts)})" if engine is not None else str(total)],
        ["Reserved CPUs", f"{cpus_text(member.reserved_cpus)} / {cpus_text(cpus)}"],
        ["Reserved Memory", f"{bytes_text(member.reserved_mem)} / {bytes_text(mem)}"],
        ["Labels", ", ".join(f"{name}={value}" for name, value in sorted(labels_of(told, member.attributes).items()))],
    ]
    if member.unavailable:
        rows.append(["Error", member.unavailable])
    if seen := member.seen or told.get("SystemTime", ""):
        rows.append(["UpdatedAt", f"{seen[:19]}Z"])
    rows.append(["ServerVersion", told.get("ServerVersion", "")])
    return [rows[0], *([f"  └ {name}", value] for name, value in rows[1:])]


def labels_of(info: Mapping[str, Any], attributes: Mapping[str, str]) -> dict[str, str]:
    """Of a node: the engine's own labels, those that classic Swarm makes of its `info`, the operator's attributes; the
    later ones win."""
    labels = dict(label.partition("=")[::2] for label in info.get("Labels") or ())
    made = {
        "storagedriver": info.get("Driver", ""),
        "kernelversion": info.get("KernelVersion", ""),
        "operatingsystem": info.get("OperatingSystem", ""),
        "ostype": info.get("OSType", ""),
    }
    return {**labels, **{name: value for name, value in made.items() if value}, **attributes}


def cpus_text(thousandths: int) -> str:
    """Cpus, whole where they are."""
    return f"{thousandths / 1000:g}"


def bytes_text(count: int) -> str:
    """Binary units, four significant digits: `24.72 GiB`."""
    number, unit = float(count), 0
    while number >= 1024 and unit < len(UNITS) - 1:
        number /= 1024
        unit += 1
    return f"{number:.4g} {UNITS[unit]}"


def version(answers: Iterable[Answer], about: About, minimum: str, maximum: str) -> Document:
    """`GET /version`: the oldest engine's, with the versions of the API that all of them speak.

    minimum, maximum: of the API.
    """
    told = [answer.content for answer in good(answers)]
    oldest: Document = min(told, key=lambda one: _numbers(one.get("Version", "")), default={})
    components = [dict(one) for one in oldest.get("Components") or ()]
    for component in components:
        if component.get("Name") == "Engine":
            spoken = {"ApiVersion": maximum, "MinAPIVersion": minimum}
            component["Details"] = {**(component.get("Details") or {}), **spoken}
    components.append({"Name": "Orlop", "Version": about.version, "Details": {"Nodes": str(len(told))}})
    return {**oldest, "Components": components, "ApiVersion": maximum, "MinAPIVersion": minimum}


def disk_usage(answers: Iterable[Answer]) -> Document:
    """`GET /system/df`. An image that is on two nodes takes the room twice, and is listed once.

    What is only kept for its output takes its room, but is no container any more.
    """
    replies = [_used(answer) for answer in good(answers)]
    if not replies:
        return {}
    merged: Document = dict(replies[0].content)
    for member in ("LayersSize", "BuilderSize"):
        if member in merged:
            merged[member] = sum(answer.content.get(member) or 0 for answer in replies)
    parts = {member: [_part(answer, member) for answer in replies] for member in ("Images", "Volumes", "Containers")}
    merged["Images"] = images.listed(parts["Images"])
    merged["Volumes"] = [copies.volume(one) for one in copies.grouped(parts["Volumes"], copies.of_volume)]
    containers = [without_our_labels(one) for answer in parts["Containers"] for one in answer.content]
    merged["Containers"] = sorted(containers, key=lambda one: (-one.get("Created", 0), one["Id"]))
    cache = [answer.content.get("BuildCache") for answer in replies]
    merged["BuildCache"] = _joined(cache)
    return merged


def _used(answer: Answer) -> Answer:
    rows = answer.content.get("Containers") or ()
    kept = Counter(row.get("ImageID") for row in rows if is_kept_row(row))
    if not kept:
        return answer
    used = {
        "Containers": [row for row in rows if not is_kept_row(row)],
        "Images": [_less_used(image, kept[image["Id"]]) for image in answer.content.get("Images") or ()],
    }
    return attrs.evolve(answer, content={**answer.content, **used})


def _less_used(image: Document, by: int) -> Document:
    count = image.get("Containers", -1)
    return {**image, "Containers": count - by} if by and count >= by else image


def _part(answer: Answer, member: str) -> Answer:
    return attrs.evolve(answer, content=answer.content.get(member) or [])


def _joined(lists: Sequence[list[Document] | None]) -> list[Document] | None:
    if all(one is None for one in lists):
        return None
    return [item for one in lists for item in one or ()]


def plugins(answers: Iterable[Answer]) -> list[Document]:
    """`GET /plugins`: each name once; enabled when it is everywhere where it is installed."""
    merged: dict[str, Document] = {}
    for answer in good(answers):
        for plugin in answer.content or ():
            known = merged.setdefault(plugin["Name"], plugin)
            merged[plugin["Name"]] = {**known, "Enabled": bool(known.get("Enabled") and plugin.get("Enabled"))}
    return [merged[name] for name in sorted(merged)]
