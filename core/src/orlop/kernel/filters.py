"""The kernel's own filters and scorers, in the order in which an explanation names them.

They are registered through the same hooks as a plugin's; nothing in the matcher knows their names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Final

from orlop.kernel.placement import Candidate, Check, NodeFilter, NodeScorer, PlacementView, Score
from orlop.model.asks import Request
from orlop.model.nodes import Node, NodeState
from orlop.model.tasks import Constraint

#: Constraint operators that the kernel's own filter decides; others are left to plugins' filters.
KERNEL_OPERATORS: Final = frozenset({"IS", "LIKE", "UNLIKE"})


class HealthFilter:
    """Only nodes that are ready and not being drained."""

    name = "health"

    def prepare(self, request: Request, view: PlacementView) -> Check:
        def check(candidate: Candidate) -> str | None:
            if candidate.node.state is not NodeState.READY:
                return f"node is {candidate.node.state.value}"
            return "node is drained" if candidate.node.drained else None

        return check


class RuntimeFilter:
    """Only nodes that have the runtime."""

    name = "runtime"

    def prepare(self, request: Request, view: PlacementView) -> Check:
        wanted = request.spec.runtime
        absent, away = f"no {wanted} runtime", f"its {wanted} runtime cannot be used now"

        def check(candidate: Candidate) -> str | None:
            info = candidate.node.info
            if wanted in info.runtimes:
                return None
            return away if wanted in info.unavailable else absent

        return check


class AttributesFilter:
    """Constraints on attributes: IS (equal), LIKE and UNLIKE (regular expression over the whole value).

    A node without the attribute satisfies UNLIKE only (Marathon 1.11).
    """

    name = "attributes"
    operators = KERNEL_OPERATORS

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        tests = [(one, _test(one)) for one in request.spec.constraints if one.operator in KERNEL_OPERATORS]
        if not tests:
            return None

        def check(candidate: Candidate) -> str | None:
            for constraint, test in tests:
                if not test(attribute(candidate.node, constraint.field)):
                    return f"{constraint.field} {constraint.operator} {constraint.value}"
            return None

        return check


def attribute(node: Node, field: str) -> str | None:
    """An attribute's text, or a built-in one: `hostname` (also `@hostname`), `os`, `arch`."""
    match field:
        case "hostname" | "@hostname":
            return node.info.name
        case "os":
            return node.info.os
        case "arch":
            return node.info.arch
    return node.info.attributes.get(field)


def _test(constraint: Constraint) -> Callable[[str | None], bool]:
    if constraint.operator == "IS":
        return lambda found: found == constraint.value
    matches = re.compile(constraint.value).fullmatch
    if constraint.operator == "LIKE":
        return lambda found: found is not None and matches(found) is not None
    return lambda found: found is None or matches(found) is None


class OperatorsFilter:
    """Refuses every node for a constraint whose operator no filter decides: better unplaced than misplaced."""

    name = "operators"

    def __init__(self, known: frozenset[str]) -> None:
        self._known = known

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        unknown = [one.operator for one in request.spec.constraints if one.operator not in self._known]
        if not unknown:
            return None
        reason = f"no filter knows {unknown[0]}"
        return lambda _: reason


class ResourcesFilter:
    """Only nodes on which every asked quantity is free."""

    name = "resources"

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        needs = tuple(request.spec.resources.items())
        if not needs:
            return None

        def check(candidate: Candidate) -> str | None:
            free = candidate.free.units
            for name, amount in needs:
                if free.get(name, 0) < amount:
                    return f"not enough {name}"
            return None

        return check


class PortsFilter:
    """Only nodes with the asked ports free: the fixed ones, and enough others."""

    name = "ports"

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        ports = request.spec.ports
        if not ports:
            return None
        fixed = tuple(port.number for port in ports if port.number is not None)
        count = len(ports)

        def check(candidate: Candidate) -> str | None:
            free = candidate.free_ports
            for number in fixed:
                if number not in free:
                    return f"port {number} is {'taken' if number in candidate.node.info.ports else 'not offered'}"
            return None if len(free) >= count else "not enough ports"

        return check


class SpreadScorer:
    """Prefers nodes with fewer tasks of the same group: losing one node should cost a service little."""

    name = "spread"
    weight = 2.0

    def prepare(self, request: Request, view: PlacementView) -> Score | None:
        if not request.group:
            return None
        counts = Counter(task.node for task in view.group(request.framework, request.group) if task.node)

        def score(candidate: Candidate) -> float:
            return 1.0 / (1 + counts[candidate.node.id])

        def placed(candidate: Candidate) -> None:
            counts[candidate.node.id] += 1

        score.placed = placed  # type: ignore[attr-defined]
        return score


class LeastUsedScorer:
    """Prefers nodes with more of everything left."""

    name = "least-used"
    weight = 1.0

    def prepare(self, request: Request, view: PlacementView) -> Score:
        def score(candidate: Candidate) -> float:
            total, free = candidate.node.info.resources.units, candidate.free.units
            cpus, mem = total.get("cpus"), total.get("mem")
            left = 1.0
            if cpus:
                left = free.get("cpus", 0) / cpus
            if mem:
                left = min(left, free.get("mem", 0) / mem)
            return left

        return score


def kernel_filters() -> tuple[NodeFilter, ...]:
    """In the order of checking: the cheap and telling ones first."""
    return (HealthFilter(), RuntimeFilter(), AttributesFilter(), ResourcesFilter(), PortsFilter())


def kernel_scorers() -> tuple[NodeScorer, ...]:
    return (SpreadScorer(), LeastUsedScorer())
