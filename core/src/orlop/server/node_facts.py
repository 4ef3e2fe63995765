"""What agents have told of their nodes' engines. Pure; the server's shell and the simulated one ask it.

The kernel is told all facts of a node each time, which costs nothing more than the change, for what has not changed is
shared. So what is forgotten together with a refused transaction is made good by telling it again, whatever came later.
"""

from __future__ import annotations

from orlop.kernel.events import NodeFactsChanged
from orlop.model.facts import FactsChange, NodeFacts, applied


class ToldFacts:
    """By nodes. Memory only, as the kernel's."""

    def __init__(self) -> None:
        self._facts: dict[str, NodeFacts] = {}
        self._refused: set[str] = set()

    def begin(self, node: str, change: FactsChange | None) -> NodeFacts | None:
        """It begins anew, with what its hello says of them: all that is known then, None for nothing."""
        self._facts.pop(node, None)
        self._refused.discard(node)
        return known.facts if change is not None and (known := self.told(node, change)) is not None else None

    def told(self, node: str, change: FactsChange) -> NodeFactsChanged | None:
        """For the kernel. None for a change of what was never told."""
        known = self._facts.get(node)
        if known is None and not change.full:
            return None
        facts = self._facts[node] = applied(known or NodeFacts(), change)
        return NodeFactsChanged(node=node, facts=facts)

    def forget(self, node: str) -> None:
        """There is no such node any more."""
        self._facts.pop(node, None)
        self._refused.discard(node)

    def refused(self, node: str) -> None:
        """What the kernel was told of it last has been forgotten."""
        self._refused.add(node)

    def again(self) -> list[NodeFactsChanged]:
        """What is to be told again, in the order of nodes."""
        nodes, self._refused = sorted(self._refused & self._facts.keys()), set()
        return [NodeFactsChanged(node=node, facts=self._facts[node]) for node in nodes]
