"""What filters and scorers see, for the kernel's own and for plugins' alike.

`prepare` runs once per group of identical asks; what it returns is a plain callable, because it is called for every
node. A filter's callable returns the reason to refuse a node, or None. A scorer's returns a number from 0 to 1.
What either says depends on the candidate alone, so that it is asked again only about a node on which something was
placed meanwhile. `prepare` may give the very same callable for different groups; where all filters and scorers do so,
the groups share one ranking of the nodes.

A callable may carry an attribute `placed`, a function of a candidate: it is called after one more task of the group
was put on that node. A filter that has it is asked again about every node for each task (it counts, so nodes must
not be sampled or remembered).

A check whose answer may become better by a task that is put on the node (it wants a certain neighbour) carries an
attribute `follows`, true: what waits for it is tried again where a task was placed, not only where room was made.

A score may carry an attribute `exact`, true: the best of all nodes is wanted then, where otherwise a sample of a large
cluster is looked at. For these searches there are two more, which say nothing new and save looks at nodes:

- `by_size`, true, of a check or a score: it looks at nothing but `node.info.resources`, `free`, `foreign_use`, and how
  many tasks and foreign containers there are. Nodes that are equal in these are asked once;
- `among`, of a check or a score: a function of the view that gives the ids of the nodes which the check may let pass,
  or of which the score may be more than 0, as all is when it is called; None where it does not know. A check refuses
  all others for one and the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from orlop.kernel.state import Candidate, Change
from orlop.model.asks import Request
from orlop.model.nodes import Node
from orlop.model.tasks import Spec, Task


class Moment(Protocol):
    """What a view looks at: a state, or a draft of the next one."""

    @property
    def node_order(self) -> tuple[str, ...]: ...

    @property
    def changes(self) -> Sequence[Change]: ...

    def candidate(self, node_id: str) -> Candidate: ...

    def recorded_task(self, task_id: str) -> Task: ...

    def spec(self, spec_id: str) -> Spec: ...

    def group_tasks(self, framework: str, group: str) -> Iterator[Task]: ...

    def group_size(self, framework: str, group: str) -> int: ...

    def holding(self, framework: str, group: str) -> Callable[[str], int]: ...


def changed_since(changes: Sequence[Change], mark: object) -> list[str] | None:
    """The nodes whose candidates have changed since the change `mark`; None where that is not known."""
    found: dict[str, None] = {}
    for change in reversed(changes):
        if change is mark:
            return list(found)
        found[change.node_id] = None
    return None


class PlacementView:
    """The moment of placement, for `prepare` and for what it returns; not to be kept beyond.

    Where a check or a score looks at tasks, these are the candidate's, which is another one after each change.
    """

    __slots__ = ("_moment",)

    def __init__(self, moment: Moment) -> None:
        self._moment = moment

    def group(self, framework: str, group: str) -> Iterator[Task]:
        """Live tasks of a group (an app's instances), placed or not, in a fixed order."""
        return (task for task in self._moment.group_tasks(framework, group) if task.live)

    def group_size(self, framework: str, group: str) -> int:
        """How many tasks `group` gives, counted by keys: ended ones whose record is kept count too."""
        return self._moment.group_size(framework, group)

    def holding(self, framework: str, group: str) -> Callable[[str], int]:
        """Node's id → how many of the group's tasks hold resources there, kept true while tasks are placed.

        Costs nothing, while `group` goes through all tasks.
        """
        return self._moment.holding(framework, group)

    def task(self, task_id: str) -> Task:
        """A recorded task of any framework, such as those of a candidate (`Candidate.tasks`). Raises KeyError."""
        return self._moment.recorded_task(task_id)

    def spec(self, task: Task) -> Spec:
        """The task's spec."""
        return self._moment.spec(task.spec)

    def changed(self, mark: object = None) -> tuple[object, list[str] | None]:
        """A mark of this moment, and the nodes that have changed since the moment of an earlier mark; None where that
        is not known, and all may have. For indexes that are kept beyond the moment."""
        changes = self._moment.changes
        return changes[-1] if changes else None, changed_since(changes, mark)

    @property
    def node_ids(self) -> Sequence[str]:
        """All nodes, in a fixed order."""
        return self._moment.node_order

    def candidate(self, node_id: str) -> Candidate:
        """A node as a place for tasks. Raises KeyError."""
        return self._moment.candidate(node_id)

    def node(self, node_id: str) -> Node:
        """A node by its id. Raises KeyError."""
        return self._moment.candidate(node_id).node

    def nodes(self) -> Iterator[Node]:
        """All nodes, in a fixed order."""
        return (self._moment.candidate(node_id).node for node_id in self._moment.node_order)


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
