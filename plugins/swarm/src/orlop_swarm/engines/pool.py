"""All engines of the pool: those of the cluster's nodes, through their agents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from orlop.framework import Node, NodeState
from orlop_swarm.engines.client import EngineClient
from orlop_swarm.engines.interface import Dial, EngineNode, EngineUnavailable

RUNTIME = "docker"


def engine_node(node: Node) -> EngineNode | None:
    """None when the node is not meant to have an engine."""
    info = node.info
    if RUNTIME in info.runtimes:
        why = "" if node.state is NodeState.READY else f"the node is {node.state.value}"
    elif RUNTIME in info.unavailable:
        why = info.unavailable[RUNTIME]
    else:
        return None
    return EngineNode(id=node.id, name=info.name, address=info.address, attributes=info.attributes, unavailable=why)


class EnginePool:
    """See `Pool`. nodes: of the newest durable state; raises NotAvailable. dial: to a node, by its id and name."""

    def __init__(self, nodes: Callable[[], Sequence[Node]], dial: Callable[[str, str], Dial]) -> None:
        self._nodes = nodes
        self._dial = dial
        self._seen: Sequence[Node] = ()
        self._engine_nodes: Sequence[EngineNode] = ()
        self._clients: dict[str, EngineClient] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def nodes(self) -> Sequence[EngineNode]:
        """See `Pool`."""
        seen = self._nodes()
        if seen is not self._seen:
            found = [one for node in seen if (one := engine_node(node)) is not None]
            self._engine_nodes = sorted(found, key=lambda one: (one.name, one.id))
            self._seen = seen
            for node_id in self._clients.keys() - {one.id for one in found}:
                self._close(self._clients.pop(node_id))
        return self._engine_nodes

    def _close(self, client: EngineClient) -> None:
        closing = asyncio.get_running_loop().create_task(client.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def engine(self, node_id: str) -> EngineClient:
        """See `Pool`."""
        node = next((one for one in self.nodes() if one.id == node_id), None)
        if node is None:
            raise EngineUnavailable(node_id, "there is no such node with an engine")
        if node.unavailable:
            raise EngineUnavailable(node.name, node.unavailable)
        return self._client(node)

    def engines(self) -> Sequence[EngineClient]:
        """See `Pool`."""
        return [self._client(node) for node in self.nodes() if not node.unavailable]

    def _client(self, node: EngineNode) -> EngineClient:
        known = self._clients.get(node.id)
        if known is None:
            known = self._clients[node.id] = EngineClient(node, self._dial(node.id, node.name))
        known.node = node
        return known
