"""One list of containers out of the engines' lists. The newest come first.

Of containers of the same second those of the node that comes first by name are first, each engine's own order is
kept. `before` and `since` name a place in that order. Rows are changed as little as can be.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from orlop_swarm.engines.interface import EngineNode
from orlop_swarm.merging.containers import Remembered, own_labels, shown_ports
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
    """A container's place among all. created: Unix time in seconds. node: the id of its node, name: the node's."""

    created: int
    node: str
    name: str

    @classmethod
    def at(cls, node: EngineNode, created: str) -> Boundary:
        """created: as an engine's `inspect` writes it."""
        moment = datetime.datetime.fromisoformat(created)
        return cls(created=int(moment.timestamp()), node=node.id, name=node.name)

    @property
    def place(self) -> tuple[int, str]:
        return (-self.created, self.name)


def listing(
    lists: Iterable[Listed],
    lost: Iterable[tuple[EngineNode, Row]] = (),
    *,
    names: str = "plain",
    limit: int = 0,
    before: Boundary | None = None,
    since: Boundary | None = None,
) -> list[Row]:
    """lost: rows of nodes that cannot be asked. names: "plain", or "node" for `/node/name`. limit: 0 for all."""
    placed: list[tuple[tuple[int, str], Row]] = []
    for listed in lists:
        node = listed.node
        for row in listed.rows:
            place = (-row["Created"], node.name)
            if _is_between(place, node, before, since):
                placed.append((place, shown_row(row, node.name if names == "node" else "", listed.address)))
    for node, row in lost:
        place = (-row["Created"], node.name)
        if _is_between(place, node, before, since):
            placed.append((place, shown_row(row, node.name if names == "node" else "", "")))
    placed.sort(key=lambda one: one[0])
    rows = [row for _, row in placed]
    return rows[:limit] if limit else rows


def _is_between(place: tuple[int, str], node: EngineNode, before: Boundary | None, since: Boundary | None) -> bool:
    """An engine knows best what is before and after a container of its own."""
    after = before is None or before.node == node.id or place > before.place
    return after and (since is None or since.node == node.id or place < since.place)


def shown_row(row: Row, node: str, address: str) -> Row:
    """node: to be put in front of the names; empty: they stay. address: as of `Listed`."""
    shown = dict(row)
    shown["Labels"] = own_labels(row.get("Labels"))
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
