"""Events of several engines as one stream.

Each engine's part is asked for twice: what has been up to now, which ends by itself and is sorted over all engines, and
what comes from now on. When an engine goes and comes back, it is asked again from its last event on, and events that
were told already are left out.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
import orjson

from orlop.docker_containers import LABELS
from orlop_swarm.engines.interface import EngineNode

Event = dict[str, Any]

#: As engines read them: seconds, and up to nine digits of a second.
_TIMESTAMP: Final = re.compile(r"([0-9]{1,11})(?:\.([0-9]{1,9}))?")
SECOND_NS: Final = 1_000_000_000
OVERLAP_NS: Final = SECOND_NS
#: More than an engine keeps to tell again (256).
EVENTS_REMEMBERED: Final = 1_024
#: What one request to the pool does on all nodes: types, and what is done to things of them.
DONE_EVERYWHERE: Final = {
    "network": frozenset(("create", "destroy")),
    "image": frozenset(("tag", "untag", "delete", "pull", "load")),
}
#: So far apart may be, by the nodes' clocks, what they do of one request.
TOGETHER_NS: Final = 30 * SECOND_NS


def nanoseconds(timestamp: str) -> int | None:
    """Of `sec` or `sec.nanos`. None for anything else: engines say themselves what is wrong with it."""
    match = _TIMESTAMP.fullmatch(timestamp)
    if match is None:
        return None
    seconds, fraction = match.groups()
    return int(seconds) * SECOND_NS + int((fraction or "").ljust(9, "0"))


def timestamp(moment_ns: int) -> str:
    """`sec.nanos`."""
    return f"{moment_ns // SECOND_NS}.{moment_ns % SECOND_NS:09d}"


def moment(event: Event) -> int:
    """Nanoseconds of Unix time, by its engine's clock."""
    return int(event.get("timeNano") or int(event.get("time") or 0) * SECOND_NS)


def in_time(parts: Mapping[str, Iterable[Event]]) -> list[tuple[str, Event]]:
    """What several nodes' engines have told, in the order of time, with the node. Of equal moments each engine's own
    order holds, and the nodes' names decide."""
    told = [(node, event) for node in sorted(parts) for event in parts[node]]
    return sorted(told, key=lambda pair: moment(pair[1]))


def of_node(event: Event, node: EngineNode) -> Event:
    """The event as clients see it: it says where it was, and not what the pool keeps for itself."""
    actor = event.get("Actor") or {}
    attributes = {name: value for name, value in (actor.get("Attributes") or {}).items() if not name.startswith(LABELS)}
    attributes.update({"node.name": node.name, "node.id": node.id, "node.ip": node.address, "node.addr": node.address})
    legacy = {"Name": node.name, "Id": node.id, "Addr": node.address, "Ip": node.address}
    return {**event, "Actor": {**actor, "Attributes": attributes}, "node": legacy}


@attrs.define
class _Done:
    """told: how often clients were told of it. by: how often each node (id) has done it. latest: nanoseconds."""

    latest: int
    told: int = 0
    by: Counter[str] = attrs.field(factory=Counter)


class Once:
    """What all nodes do because of one request is told once: of the node that does it first."""

    def __init__(self) -> None:
        self._done: OrderedDict[tuple[str, ...], _Done] = OrderedDict()

    def is_new(self, node: str, event: Event) -> bool:
        """Has nothing been told yet that it would say again? Remembers it. node: its id."""
        key = _done_everywhere(event)
        if key is None:
            return True
        at = moment(event)
        done = self._done.pop(key, None)
        if done is None or abs(at - done.latest) > TOGETHER_NS:
            done = _Done(at)
        self._done[key] = done
        if len(self._done) > EVENTS_REMEMBERED:
            self._done.popitem(last=False)
        done.latest = max(done.latest, at)
        done.by[node] += 1
        if done.by[node] <= done.told:
            return False
        done.told += 1
        return True


def _done_everywhere(event: Event) -> tuple[str, ...] | None:
    """What is done, in the words that all nodes have for it; None: it is done on one node alone. A network's copies
    have one name, and ids of their own."""
    kind, action = str(event.get("Type", "")), str(event.get("Action", ""))
    if action not in DONE_EVERYWHERE.get(kind, ()):
        return None
    actor = event.get("Actor") or {}
    name = str((actor.get("Attributes") or {}).get("name", ""))
    return kind, action, name, "" if kind == "network" else str(actor.get("ID", ""))


class Followed:
    """One engine's stream, over as many connections as it takes. began: nanoseconds, when it was first asked for.

    Two events of one engine may come in the other order than their times, so what was told is remembered one by one.
    """

    def __init__(self, began: int) -> None:
        self._began = began
        self._latest = began
        self._told: dict[bytes, None] = {}

    def since(self) -> int:
        """From where on to ask when the connection is made anew, nanoseconds: a little before the last event."""
        return max(self._began, self._latest - OVERLAP_NS)

    def is_new(self, event: Event) -> bool:
        """Has it not been told before? Remembers it."""
        key = orjson.dumps(event, option=orjson.OPT_SORT_KEYS)
        if key in self._told:
            return False
        self._told[key] = None
        if len(self._told) > EVENTS_REMEMBERED:
            del self._told[next(iter(self._told))]
        self._latest = max(self._latest, moment(event))
        return True
