"""One list of containers out of the engines' lists. The newest come first.

Engines list the second in which a container was created. Where that does not tell which of two engines' containers
is newer, the exact moments do, if all those of that second are known; else those of the node that comes first by name
are first. Each engine's own order is kept. `before` and `since` name a place in that order.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from orlop_swarm.engines.interface import EngineNode
from orlop_swarm.merging.answers import visible
from orlop_swarm.merging.containers import Remembered, shown_ports
from orlop_swarm.merging.filters import Filters, found_in

Row = dict[str, Any]


@attrs.frozen(kw_only=True)
class Listed:
    """One engine's rows, in its order. address: what replaces "all addresses" of published ports; empty: nothing."""

    node: EngineNode
    rows: Sequence[Row]
    address: str = ""


@attrs.frozen(kw_only=True)
class Boundary:
    """A container's place among all. moment: Unix time in nanoseconds. node: the id of its node, name: the node's."""

    moment: int
    node: str
    name: str

    @classmethod
    def at(cls, node: EngineNode, created: str) -> Boundary:
        """created: as an engine's `inspect` writes it."""
        return cls(moment=nanoseconds(created), node=node.id, name=node.name)

    @property
    def second(self) -> int:
        return self.moment // 10**9


def nanoseconds(moment: str) -> int:
    """RFC 3339, as engines write it, to Unix time. Raises ValueError."""
    whole, _, fraction = moment.removesuffix("Z").partition(".")
    second = datetime.datetime.fromisoformat(f"{whole}+00:00")
    return int(second.timestamp()) * 10**9 + int(fraction.ljust(9, "0")[:9] or 0)


def doubtful(lists: Iterable[Listed], limit: int, boundaries: Iterable[Boundary | None]) -> list[tuple[Listed, str]]:
    """The containers (ids) whose seconds do not tell their order, the newest first.

    limit: so many are shown; 0: all.
    """
    rows = sorted(((row["Created"], listed, row["Id"]) for listed in lists for row in listed.rows), key=lambda r: -r[0])
    if limit:
        last = rows[:limit][-1][0] if rows else 0
        rows = [row for row in rows if row[0] >= last]
    nodes: dict[int, set[str]] = {}
    for second, listed, _ in rows:
        nodes.setdefault(second, set()).add(listed.node.id)
    for boundary in boundaries:
        if boundary is not None and boundary.second in nodes:
            nodes[boundary.second].add(boundary.node)
    return [(listed, container) for second, listed, container in rows if len(nodes[second]) > 1]


def listing(
    lists: Iterable[Listed],
    lost: Iterable[tuple[EngineNode, Row]] = (),
    *,
    names: str = "plain",
    limit: int = 0,
    before: Boundary | None = None,
    since: Boundary | None = None,
    moments: Mapping[str, int] | None = None,
) -> list[Row]:
    """lost: rows of nodes that cannot be asked. names: "plain", or "node" for `/node/name`. limit: 0 for all.

    moments: by id, when containers were created: Unix time in nanoseconds.
    """
    known = moments or {}
    everything = [(listed.node, row, listed.address) for listed in lists for row in listed.rows]
    everything += [(node, row, "") for node, row in lost]
    vague = {row["Created"] for _, row, _ in everything if row["Id"] not in known}

    def place(node: EngineNode, row: Row) -> tuple[int, int, str]:
        second: int = row["Created"]
        return (-second, 0 if second in vague else -known[row["Id"]], node.name)

    def is_shown(node: EngineNode, row: Row) -> bool:
        return _is_before(node, row, before, known) and _is_since(node, row, since, known)

    placed = sorted((one for one in everything if is_shown(*one[:2])), key=lambda one: place(*one[:2]))
    chosen = placed[:limit] if limit else placed
    return [shown_row(row, node.name if names == "node" else "", address) for node, row, address in chosen]


def _is_before(node: EngineNode, row: Row, boundary: Boundary | None, moments: Mapping[str, int]) -> bool:
    """An engine knows best what is before and after a container of its own."""
    if boundary is None or boundary.node == node.id:
        return True
    if row["Created"] != boundary.second or row["Id"] not in moments:
        return (row["Created"], boundary.name) < (boundary.second, node.name)
    return moments[row["Id"]] < boundary.moment


def _is_since(node: EngineNode, row: Row, boundary: Boundary | None, moments: Mapping[str, int]) -> bool:
    return boundary is None or boundary.node == node.id or not _is_before(node, row, boundary, moments)


def shown_row(row: Row, node: str, address: str) -> Row:
    """node: to be put in front of the names; empty: they stay. address: as of `Listed`."""
    shown = dict(row)
    shown["Labels"] = visible(row.get("Labels"))
    if node:
        shown["Names"] = [f"/{node}{name}" for name in row.get("Names") or ()]
    if address and row.get("Ports"):
        shown["Ports"] = shown_ports(row["Ports"], address)
    return shown


def lost_rows(
    known: Iterable[Remembered], nodes: Mapping[str, EngineNode], filters: Filters
) -> list[tuple[EngineNode, Row]]:
    """Containers of nodes that cannot be asked, as far as the filters can be judged without their engines."""
    found = []
    for one in known:
        node = nodes.get(one.node) or EngineNode(id=one.node, name=one.node, address="")
        if filters.chooses(node.name, node.id) and passes(one, filters):
            found.append((node, lost_row(one)))
    return found


#: By filter, what a container has to show for one of its values; others cannot be told without the engine.
_JUDGED = {
    "id": lambda one, value: one.id.startswith(value) or found_in(value, one.id),
    "name": lambda one, value: found_in(value, one.name) or found_in(value, f"/{one.name}"),
    "status": lambda one, value: one.state == value,
    "ancestor": lambda one, value: value in (one.image, one.image_id) or one.image == f"{value}:latest",
}


def passes(one: Remembered, filters: Filters) -> bool:
    for name, values in filters.values.items():
        if name in ("node", "before", "since"):
            continue
        if name == "label":
            if not all(_has_label(one.labels, value) for value in values):
                return False
        elif name not in _JUDGED or not any(_JUDGED[name](one, value) for value in values):
            return False
    return True


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def lost_row(one: Remembered) -> Row:
    return {
        "Id": one.id,
        "Names": [f"/{one.name}"],
        "Image": one.image,
        "ImageID": one.image_id,
        "Command": one.command,
        "Created": one.created,
        "Ports": [],
        "Labels": dict(one.labels),
        "State": one.state,
        "Status": "Host Down",
        "HostConfig": {},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
    }
