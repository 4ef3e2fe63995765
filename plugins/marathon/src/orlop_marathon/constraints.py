"""Placement constraints that count: UNIQUE, CLUSTER, GROUP_BY and MAX_PER.

IS, LIKE and UNLIKE look at one node alone; the kernel's own filter knows them. These look at where the other tasks of
the same group (an app's instances) are, so they keep a count per value of the constraint's field, which grows with
each task that is placed.

What counts as placed: live tasks that have a node. Tasks of another configuration of the app do not count: they are
about to be replaced, and would block their own replacements (Marathon 1.11, MARATHON-8771).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from orlop.framework import Candidate, Constraint, Node, PlacementView, Request, Task
from orlop_marathon.model import Operator
from orlop_marathon.reconciling import VERSION_LABEL

COUNTING: Final = frozenset({Operator.UNIQUE, Operator.CLUSTER, Operator.GROUP_BY, Operator.MAX_PER})

Check = Callable[[Candidate], str | None]


class MarathonConstraints:
    """A node filter for the counting operators, of any framework's asks."""

    name = "constraints"
    operators = COUNTING

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        wanted = [one for one in request.spec.constraints if one.operator in COUNTING]
        if not wanted:
            return None
        nodes = list(_nodes_of(request, view))
        rules = [_Rule(one, nodes, view) for one in wanted]

        def check(candidate: Candidate) -> str | None:
            return next((rule.text for rule in rules if not rule.allows(candidate.node)), None)

        def placed(candidate: Candidate) -> None:
            for rule in rules:
                rule.count(candidate.node)

        check.placed = placed  # type: ignore[attr-defined]
        return check


def value_of(node: Node, field: str) -> str | None:
    """The value of a constraint's field; None when the node has none."""
    if field in ("hostname", "@hostname"):
        return node.info.name
    return node.info.attributes.get(field.removeprefix("@"))


def _nodes_of(request: Request, view: PlacementView) -> Iterator[Node]:
    """The nodes of the tasks that count, in the order of the group."""
    configuration = request.labels.get(VERSION_LABEL)
    for task in view.group(request.framework, request.group) if request.group else ():
        if task.node is not None and _counts(task, configuration):
            try:
                yield view.node(task.node)
            except KeyError:  # it is gone, and so is what it constrained
                continue


def _counts(task: Task, configuration: str | None) -> bool:
    return task.live and (configuration is None or task.labels.get(VERSION_LABEL) == configuration)


class _Rule:
    """One constraint and where the tasks are so far."""

    def __init__(self, constraint: Constraint, nodes: Iterable[Node], view: PlacementView) -> None:
        self.text = " ".join(part for part in (constraint.field, constraint.operator, constraint.value) if part)
        self._field = constraint.field
        self._counts: Counter[str] = Counter()
        self._first: str | None = None
        self._allows = self._test(constraint, view)
        for node in nodes:
            self.count(node)

    def allows(self, node: Node) -> bool:
        value = value_of(node, self._field)
        return value is not None and self._allows(value)

    def count(self, node: Node) -> None:
        value = value_of(node, self._field)
        if value is not None:
            self._counts[value] += 1
            self._first = self._first if self._first is not None else value

    def _test(self, constraint: Constraint, view: PlacementView) -> Callable[[str], bool]:
        counts, value = self._counts, constraint.value
        match constraint.operator:
            case Operator.UNIQUE:
                return lambda found: not counts[found]
            case Operator.MAX_PER:
                most = int(value)
                return lambda found: counts[found] < most
            case Operator.CLUSTER if value:
                return lambda found: found == value
            case Operator.CLUSTER:
                return lambda found: self._first in (None, found)
        return self._evenly(int(value) if value else _groups_known(view, self._field))

    def _evenly(self, groups: int) -> Callable[[str], bool]:
        """Spread over at least this many values: a value not used yet, or one of the least used.

        Older Marathon's meaning, and that of its documentation; 1.11 itself fails without a value.
        """
        counts = self._counts

        def allows(found: str) -> bool:
            if not counts[found]:
                return True
            used = [count for count in counts.values() if count]
            return len(used) >= groups and counts[found] == min(used)

        return allows


def _groups_known(view: PlacementView, field: str) -> int:
    return len({value for node in view.nodes() if node.schedulable and (value := value_of(node, field)) is not None})
