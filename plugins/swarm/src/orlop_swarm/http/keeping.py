"""Networks on nodes that were away when these were created, and on nodes that join: they get their copies.

A container that has to move may be placed on any node, and an engine without its network refuses it. So whenever the
engine of a node can be used again, it is given a copy of each network that was created through the pool and that its
home has. What was not lacking a look ago may just be under way from its client, and is left alone until the next look.
Only the leader does so: other servers have not heard of the nodes' agents.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Final
from urllib.parse import quote

from aiohttp import hdrs

from orlop_swarm.engines.answers import told
from orlop_swarm.engines.interface import Engine, EngineUnavailable, Pool
from orlop_swarm.http.networks import copy_of
from orlop_swarm.merging import copies
from orlop_swarm.merging.answers import Answer
from orlop_swarm.merging.copies import HOME_LABEL, NETWORK_LABEL, Copy, Shown

_LOG: Final = logging.getLogger(__name__)


class NetworkKeeper:
    """heard: ids of the nodes whose agents have found this server; raises NotAvailable."""

    def __init__(self, pool: Pool, heard: Callable[[], Set[str]]) -> None:
        self._pool = pool
        self._heard = heard
        #: Ids of the nodes that have what they need, as long as they can be used.
        self._served: set[str] = set()
        #: Of nodes that are to be served, what they lacked at the last look: (node's id, network's label).
        self._lacked: frozenset[tuple[str, str]] = frozenset()

    async def look(self) -> None:
        """Serves the nodes that have come since the last look. Raises NotAvailable."""
        heard = self._heard()
        usable = [engine for engine in self._pool.engines() if engine.node.id in heard]
        self._served &= {engine.node.id for engine in usable}
        new = [engine for engine in usable if engine.node.id not in self._served]
        if not new:
            return
        listed = [one for one in await asyncio.gather(*map(_networks, usable)) if one is not None]
        answered = {answer.node_id for answer in listed}
        homes = {engine.node.id: engine for engine in usable}
        kept = [one for one in copies.grouped(listed, copies.of_network) if _is_at_home(one)]
        before, lacked = self._lacked, set[tuple[str, str]]()
        for engine in (one for one in new if one.node.id in answered):
            lacking = {copies.of_network(one.first)[1]: one for one in kept if one.on(engine.node.id) is None}
            lacks = {(engine.node.id, label) for label in lacking}
            lacked |= lacks
            if lacks <= before and await _serve(engine, lacking.values(), homes):
                self._served.add(engine.node.id)
        self._lacked = frozenset(lacked)


async def _networks(engine: Engine) -> Answer | None:
    """None: it has gone away."""
    try:
        status, content = await told(engine, "/networks")
    except EngineUnavailable:
        return None
    return Answer(node=engine.node.name, node_id=engine.node.id, content=content) if status == 200 else None


def _is_at_home(one: Shown) -> bool:
    """Was it created through the pool, for all nodes, and is it still there?"""
    first = one.copies[0]
    labels = first.document.get("Labels") or {}
    return NETWORK_LABEL in labels and labels.get(HOME_LABEL) == first.node


async def _serve(engine: Engine, lacking: Iterable[Shown], homes: Mapping[str, Engine]) -> bool:
    """Has it copies of all now? homes: by the nodes' ids."""
    try:
        for one in lacking:
            await _copy(engine, one.copies[0], homes[one.copies[0].node_id])
    except EngineUnavailable:
        return False
    return True


async def _copy(engine: Engine, first: Copy, home: Engine) -> None:
    """What has been removed meanwhile is removed again. Raises EngineUnavailable."""
    status, made = await told(engine, "/networks/create", method=hdrs.METH_POST, body=copy_of(first.document))
    name, node = first.document["Name"], engine.node.name
    if status != 201:
        _LOG.warning("network %s is not copied to node %s: %s", name, node, (made or {}).get("message", status))
        return
    _LOG.info("network %s is copied to node %s", name, node)
    status, _ = await told(home, _path(first.document["Id"]))
    if status == 404:
        await told(engine, _path(made["Id"]), method=hdrs.METH_DELETE)


def _path(network: str) -> str:
    return f"/networks/{quote(network, safe='')}"
