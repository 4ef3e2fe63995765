"""What filters and scorers see, for the kernel's own and for plugins' alike.

`prepare` runs once per group of identical asks; what it returns is a plain callable, because it is called for every
node. A filter's callable returns the reason to refuse a node, or None. A scorer's returns a number from 0 to 1.

A callable may carry an attribute `placed`, a function of a candidate: it is called after one more task of the group
was put on that node. A filter that has it is asked again about every node for each task (it counts, so nodes must
not be sampled or remembered).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from orlop.kernel.state import Candidate, State
from orlop.model.asks import Request
from orlop.model.nodes import Node
from orlop.model.tasks import Task


class PlacementView:
    """The moment of placement, for `prepare`."""

    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state = state

    def group(self, framework: str, group: str) -> Iterator[Task]:
        """Live tasks of a group (an app's instances), placed or not, in a fixed order."""
        owner = self._state.framework(framework)
        for key in sorted(owner.groups.get(group, ())):
            task = self._state.tasks[owner.latest[key]]
            if task.live:
                yield task

    def node(self, node_id: str) -> Node:
        """A node by its id. Raises KeyError."""
        return self._state.candidates[node_id].node

    def nodes(self) -> Iterator[Node]:
        """All nodes, in a fixed order."""
        return self._state.nodes()


__all__ = ["Candidate", "Check", "NodeFilter", "NodeScorer", "PlacementView", "Score"]

Check = Callable[[Candidate], str | None]
Score = Callable[[Candidate], float]


class NodeFilter(Protocol):
    """Rules out nodes. One that raises refuses.

    A filter that decides operators of constraints names them in an attribute `operators`, a frozenset of texts;
    constraints with an operator that no filter names match no node.
    """

    name: str

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        """The check for asks like this one; None when it does not concern them."""


class NodeScorer(Protocol):
    """Ranks nodes; scores are multiplied by `weight` and summed. One that raises counts as zero."""

    name: str
    weight: float

    def prepare(self, request: Request, view: PlacementView) -> Score | None:
        """The score for asks like this one; None when it has no preference."""
