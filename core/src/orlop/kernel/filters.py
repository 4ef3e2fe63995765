"""The kernel's own filters and scorers, in the order in which an explanation names them.

They are registered through the same hooks as a plugin's; nothing in the matcher knows their names. What they decide
depends on a few parts of the spec, so checks are remembered by these: asks that differ elsewhere get the very same
check, and with it the same ranking of the nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from orlop.kernel.placement import Candidate, Check, NodeFilter, NodeScorer, PlacementView, Score
from orlop.model.asks import Request
from orlop.model.nodes import NodeInfo, NodeState
from orlop.model.patterns import Pattern, PatternError
from orlop.model.resources import Resources
from orlop.model.tasks import Constraint

#: Constraint operators that the kernel's own filter decides; others are left to plugins' filters.
KERNEL_OPERATORS: Final = frozenset({"IS", "LIKE", "UNLIKE"})
CHECKS_REMEMBERED: Final = 1_000


class HealthFilter:
    """Only nodes that are ready, not being drained, and whose agent has not been stopped.

    And whose agent has said hello to this server: what is stored does not tell what others run there.
    """

    name = "health"

    def prepare(self, request: Request, view: PlacementView) -> Check:
        return _unhealthy


def _unhealthy(candidate: Candidate) -> str | None:
    node = candidate.node
    if node.state is not NodeState.READY:
        return f"node is {node.state.value}"
    if node.away:
        return "its agent was stopped"
    if not candidate.heard:
        return "its agent has not found this server yet"
    return "node is drained" if node.drained else None


class RuntimeFilter:
    """Only nodes that have the runtime."""

    name = "runtime"

    def prepare(self, request: Request, view: PlacementView) -> Check:
        return _runtime_check(request.spec.runtime)


@lru_cache(CHECKS_REMEMBERED)
def _runtime_check(wanted: str) -> Check:
    absent, away = f"no {wanted} runtime", f"its {wanted} runtime cannot be used now"

    def check(candidate: Candidate) -> str | None:
        info = candidate.node.info
        if wanted in info.runtimes:
            return None
        return away if wanted in info.unavailable else absent

    return check


class AttributesFilter:
    """Constraints on attributes: IS (equal), LIKE and UNLIKE (regular expression over the whole value).

    A node without the attribute satisfies UNLIKE only (Marathon 1.11). An expression that cannot be read refuses every
    node, with UNLIKE too: better unplaced than misplaced.
    """

    name = "attributes"
    operators = KERNEL_OPERATORS

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        constraints = request.spec.constraints
        return _attributes_check(constraints) if constraints else None


@lru_cache(CHECKS_REMEMBERED)
def _attributes_check(constraints: tuple[Constraint, ...]) -> Check | None:
    tests = [(_reader(one.field), *_test(one)) for one in constraints if one.operator in KERNEL_OPERATORS]
    if not tests:
        return None

    def check(candidate: Candidate) -> str | None:
        for read, test, reason in tests:
            if not test(read(candidate.node.info)):
                return reason
        return None

    return check


def _reader(field: str) -> Callable[[NodeInfo], str | None]:
    """Reads an attribute, or a built-in one: `hostname` (also `@hostname`), `os`, `arch`."""
    match field:
        case "hostname" | "@hostname":
            return lambda info: info.name
        case "os":
            return lambda info: info.os
        case "arch":
            return lambda info: info.arch
    return lambda info: info.attributes.get(field)


def _test(constraint: Constraint) -> tuple[Callable[[str | None], bool], str]:
    """(Does an attribute's value fit? Why a node is refused if it does not)"""
    said = f"{constraint.field} {constraint.operator} {constraint.value}"
    if constraint.operator == "IS":
        return lambda found: found == constraint.value, said
    try:
        matches = Pattern(constraint.value).matches
    except PatternError as error:
        # It was stored by a version that read another language.
        return lambda _: False, f"{said}: not a regular expression: {error}"
    if constraint.operator == "LIKE":
        return lambda found: found is not None and matches(found), said
    return lambda found: found is None or not matches(found), said


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
        needs = request.spec.resources
        return _resources_check(needs) if needs else None


@lru_cache(CHECKS_REMEMBERED)
def _resources_check(resources: Resources) -> Check:
    needs = tuple(resources.items())

    def check(candidate: Candidate) -> str | None:
        free = candidate.free.units
        for name, amount in needs:
            if name not in free or free[name] < amount:
                foreign = candidate.foreign_use.get(name)
                beside = foreign and free.get(name, 0) + foreign >= amount
                return f"not enough {name} beside foreign containers" if beside else f"not enough {name}"
        return None

    check.by_size = True  # type: ignore[attr-defined]
    return check


class PortsFilter:
    """Only nodes with the asked ports free: the fixed ones, and enough others."""

    name = "ports"

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        ports = request.spec.ports
        return _ports_check(tuple(port.number for port in ports)) if ports else None


@lru_cache(CHECKS_REMEMBERED)
def _ports_check(numbers: tuple[int | None, ...]) -> Check:
    fixed = tuple(number for number in numbers if number is not None)
    count = len(numbers)

    def check(candidate: Candidate) -> str | None:
        free = candidate.free_ports
        for number in fixed:
            if number not in free:
                return f"port {number} is {_why_not(candidate, number)}"
        return None if len(free) >= count else "not enough ports"

    return check


def _why_not(candidate: Candidate, port: int) -> str:
    if port in candidate.unheld_ports:
        return "taken by a foreign container"
    return "taken" if port in candidate.node.info.ports else "not offered"


class SpreadScorer:
    """Prefers nodes with fewer tasks of the same group: losing one node should cost a service little."""

    name = "spread"
    weight = 2.0

    def prepare(self, request: Request, view: PlacementView) -> Score | None:
        if not request.group or view.group_size(request.framework, request.group) == 1:
            return None
        holding = view.holding(request.framework, request.group)
        return lambda candidate: 1.0 / (1 + holding(candidate.node.info.id))


class LeastUsedScorer:
    """Prefers nodes with more of everything left."""

    name = "least-used"
    weight = 1.0

    def prepare(self, request: Request, view: PlacementView) -> Score:
        return _part_left


def _part_left(candidate: Candidate) -> float:
    """Of cpus or mem, whichever there is less of."""
    total, free = candidate.node.info.resources.units, candidate.free.units
    left = 1.0
    if "cpus" in total:
        left = free.get("cpus", 0) / total["cpus"]
    if "mem" in total:
        mem = free.get("mem", 0) / total["mem"]
        if mem < left:
            left = mem
    return left


_part_left.by_size = True  # type: ignore[attr-defined]


def kernel_filters() -> tuple[NodeFilter, ...]:
    """In the order of checking: the cheap and telling ones first."""
    return (HealthFilter(), RuntimeFilter(), AttributesFilter(), ResourcesFilter(), PortsFilter())


def kernel_scorers() -> tuple[NodeScorer, ...]:
    return (SpreadScorer(), LeastUsedScorer())
