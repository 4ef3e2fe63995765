"""Which nodes have which volumes, as their engines last said: of a node that is away nobody else can tell.

A volume that is on such a node must not be made anew, empty, on another one. All engines are asked now and then, and
what is seen on the way is noted. Nothing is stored: a server that has begun to lead while a node is away knows of its
volumes only by the containers that mount them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from orlop_swarm.engines.answers import told
from orlop_swarm.engines.interface import Engine, EngineNode, EngineUnavailable, Pool
from orlop_swarm.placement.wanted import LOCAL_DRIVER

#: How old may be what an engine has said.
BELIEVED_S: Final = 30.0


def away_among(nodes: Iterable[EngineNode], silent: Mapping[str, str]) -> dict[str, EngineNode]:
    """Those that cannot be used, by their ids. silent: names of those that were asked in vain, and why: of a node that
    was lost a moment ago the kernel does not know yet."""
    known = [attrs.evolve(one, unavailable=one.unavailable or silent.get(one.name, "")) for one in nodes]
    return {one.id: one for one in known if one.unavailable}


def where(name: str, node: EngineNode) -> str:
    """For who asks for a volume whose node is away."""
    return f"volume {name} is on node {node.name}, which is not available: {node.unavailable}"


class VolumePlaces:
    """Names of volumes by the ids of their nodes. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._names: dict[str, set[str]] = {}
        #: When engines were asked for all of theirs.
        self._asked: dict[str, float] = {}
        #: How many have been noted, and of what an engine has not told since: node → name → its number.
        self._notes = 0
        self._noted: dict[str, dict[str, int]] = {}

    def noted(self, node: str, name: str) -> None:
        """The node has this one, among others."""
        self._notes += 1
        self._noted.setdefault(node, {})[name] = self._notes
        self._names.setdefault(node, set()).add(name)

    def _told(self, node: str, names: Iterable[str], notes: int) -> None:
        """The node has these, and what was noted after its engine was asked, and no others. notes: as it was asked."""
        later = {name: number for name, number in self._noted.pop(node, {}).items() if number > notes}
        if later:
            self._noted[node] = later
        self._names[node] = {*names, *later}

    def nodes(self, name: str) -> list[str]:
        """Ids of those that had it when they were last heard of."""
        return [node for node, names in self._names.items() if name in names]

    def one_of(self, name: str, nodes: Mapping[str, EngineNode]) -> EngineNode | None:
        """The first of these nodes, by their ids, that has it."""
        return next((nodes[node] for node in self.nodes(name) if node in nodes), None)

    async def look(self, pool: Pool) -> None:
        """Asks those that have come, and those that were not asked for a while. Raises NotAvailable."""
        known = {node.id for node in pool.nodes()}
        for gone in self._names.keys() - known:
            del self._names[gone]
            self._noted.pop(gone, None)
        usable = {engine.node.id: engine for engine in pool.engines()}
        self._asked = {node: at for node, at in self._asked.items() if node in usable}
        before = self._clock() - BELIEVED_S
        due = [engine for node, engine in usable.items() if self._asked.get(node, before) <= before]
        await asyncio.gather(*map(self._ask, due))

    async def _ask(self, engine: Engine) -> None:
        at, notes = self._clock(), self._notes
        try:
            status, content = await told(engine, "/volumes")
        except EngineUnavailable:
            return
        if status == 200:
            self._asked[engine.node.id] = at
            volumes = content.get("Volumes") or ()
            names = (one["Name"] for one in volumes if one.get("Driver") == LOCAL_DRIVER)
            self._told(engine.node.id, names, notes)
