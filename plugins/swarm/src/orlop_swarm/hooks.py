"""Placement as hooks of the kernel: the same expressions for tasks of every framework and runtime.

The kernel's own filters stay in force, so health, resources and the ports of specs are looked at by them. What is left
of classic Swarm's filters looks at the tasks of a node as its containers, and at what its engine holds beside them, as
far as agents have told of that. Wishes (`~`) do not refuse: a node that satisfies all of them outweighs all others,
which comes to the same as classic Swarm's two passes. A strategy weighs less than wishes and more than everything else:
the kernel's scorers decide among equals only.

A stopped container holds its ports against others that wait for a place, as it may be started meanwhile. What is placed
now or never goes there if there is no other node: one engine lets containers have the same port that do not run at the
same time, and `docker-compose` makes the new one while the old one is still there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import attrs

from orlop.framework import Candidate, Constraint, NodeFilter, NodeScorer, PlacementView, Request, Spec
from orlop_swarm.asking import HELD, SHARES
from orlop_swarm.candidates import NOTHING, Facts, NodePlace, is_idle, on_all_addresses, plain_texts
from orlop_swarm.placement import filters, strategies
from orlop_swarm.placement.expressions import ExpressionError
from orlop_swarm.placement.places import familiar
from orlop_swarm.placement.strategies import Arrivals, Needs
from orlop_swarm.placement.wanted import Wanted
from orlop_swarm.settings import Config

FRAMEWORK: Final = "swarm"
#: One container more or less counts for about 10; the kernel's own scorers give 3 together.
STRATEGY_WEIGHT: Final = float(2**31)
PORTS_WEIGHT: Final = float(2**32)
WISHES_WEIGHT: Final = float(2**33)
#: Containers of a node beyond these do not decide among nodes of equal weight.
COUNTED_MAX: Final = 2**20
FULLEST: Final = 200
#: What the kernel's own filters do.
KERNEL_FILTERS: Final = frozenset({"health"})
LOOKING_INSIDE: Final = frozenset({"port", "dependency", "affinity"})

#: An image's id, or what it begins with.
_ID: Final = re.compile(r"[0-9a-f]{12,64}")

Check = Callable[[Candidate], str | None]
Score = Callable[[Candidate], float]


def _with_ports(demands: Wanted, spec: Spec) -> Wanted:
    """With those that the kernel is asked for by their numbers: a container may publish them that asked an engine."""
    fixed = on_all_addresses(port.number for port in spec.ports if port.number is not None)
    return attrs.evolve(demands, bindings=(*demands.bindings, *fixed)) if fixed else demands


class ExpressionsFilter:
    """Refuses asks with expressions that cannot be read, or with a strategy that there is not, and says where."""

    name = "expressions"

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        try:
            said = self._facts.wanted(request).strategy
            if not said or strategies.strategy(said):
                return None
        except ExpressionError as error:
            reason = str(error)
        except ValueError as error:
            reason = f"{error}: {said}"
        return lambda _: reason


class SwarmFilter:
    """One of classic Swarm's filters that look at the node alone. Wishes do not count here."""

    def __init__(self, one: filters.Filter, facts: Facts) -> None:
        self.name = one.name
        self._filter = one
        self._facts = facts
        self._check = lru_cache(1_000)(self._make_check)

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        demands = self._facts.demands(request)
        if demands is None:
            return None
        return self._check(demands.constraints, demands.whitelists)

    def _make_check(self, constraints: tuple[Any, ...], whitelists: tuple[Any, ...]) -> Check | None:
        """The same check for the same demands, so that asks which differ elsewhere share a ranking of the nodes."""
        demands = Wanted(constraints=constraints, whitelists=whitelists)
        test = self._filter.check(demands, soft=False)
        if test is None:
            return None
        reason = _reason(self._filter, demands)
        place, among = self._facts.place, self._facts.among

        def check(candidate: Candidate) -> str | None:
            return None if test(place(candidate)) else reason

        if self.name == "constraint" and any(one.equal for one in constraints):
            check.among = lambda view: among(view, constraints)  # type: ignore[attr-defined]
        return check


class SlotsFilter:
    """Containers per node. It concerns every ask, so it looks at nodes that say nothing about it no further."""

    name = filters.ContainerSlots.name

    def __init__(self, facts: Facts) -> None:
        def check(candidate: Candidate) -> str | None:
            known = candidate.facts
            if filters.SLOTS_LABEL not in candidate.node.info.attributes and (
                known is None or filters.SLOTS_LABEL not in known.engine.labels
            ):
                return None
            return None if filters.has_slots(facts.place(candidate)) else "available container slots"

        self._check = check

    def prepare(self, request: Request, view: PlacementView) -> Check:
        return self._check


class ContainersFilter:
    """One of classic Swarm's filters that look at the containers of a node. Wishes do not count here."""

    def __init__(self, one: filters.Filter, facts: Facts) -> None:
        self.name = one.name
        self._filter = one
        self._facts = facts

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        if self.name == "dependency" and request.framework == FRAMEWORK and request.wait_ms == 0:
            return None  # the Docker API has found what it depends on, which may be called by its engine's ids, too
        demands = self._facts.demands(request)
        if self.name == "port" and request.spec.ports:
            demands = _with_ports(demands or NOTHING, request.spec)
        test = self._filter.check(demands, soft=False) if demands is not None else None
        if demands is None or test is None:
            return None
        reason = _reason(self._filter, demands)
        places, place_with_held = self._facts.places, self._facts.place_with_held

        lenient = self.name == "port" and request.wait_ms == 0

        def check(candidate: Candidate) -> str | None:
            place = places.get(candidate.node.info.id)
            if place is None or place.candidate is not candidate or place.held is None:
                place = place_with_held(candidate, view)
            if test(place) or (lenient and _only_idle(demands, place, candidate, view)):
                return None
            return reason

        check.follows = bool(demands.dependencies) or any(one.equal for one in demands.affinities)  # type: ignore[attr-defined]
        if inside := self._has_to_have(demands):
            check.among = lambda view: self._facts.among(view, (), inside)  # type: ignore[attr-defined]
        return check

    def _has_to_have(self, demands: Wanted) -> tuple[tuple[str, str], ...]:
        """What a node that the check lets pass has, as far as it is known by name."""
        match self.name:
            case "dependency":
                return tuple(("container", name) for name in demands.dependencies)
            case "affinity":
                return tuple(plain_texts(demands.affinities))
        return ()


class VolumesFilter:
    """Where the first container is placed that mounts a volume which no engine has yet, there the volume will be."""

    name = "volumes"
    operators = frozenset({SHARES})

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        names = [one.value for one in request.spec.constraints if one.operator == SHARES]
        if not names:
            return None
        with_volume = self._facts.with_volume

        def check(candidate: Candidate) -> str | None:
            for name in names:
                nodes = with_volume(view, name)
                if nodes and candidate.node.id not in nodes:
                    on = ", ".join(sorted(view.node(node).info.name for node in nodes))
                    return f"volume {name} is on {on}"
            return None

        check.placed = lambda _: None  # type: ignore[attr-defined]  # each task may decide it for the next one
        return check


class ImageFilter:
    """Where an image is that no registry has. The Docker API has just asked all engines for it when a container is
    created; when one is placed anew, nodes' facts tell, and what the API knew then only where there are none."""

    name = "image"
    operators = frozenset({HELD})

    def prepare(self, request: Request, view: PlacementView) -> Check | None:
        held = next((one for one in request.spec.constraints if one.operator == HELD), None)
        return _image_check(held, request.wait_ms == 0) if held is not None else None


@lru_cache(1_000)
def _image_check(held: Constraint, is_new: bool) -> Check:
    image, names = held.field, frozenset(json.loads(held.value))
    tag, identifier = familiar(image), image.removeprefix("sha256:")
    is_id = _ID.fullmatch(identifier) is not None
    reason = f"image {image} is not there"

    def check(candidate: Candidate) -> str | None:
        if is_new or candidate.facts is None:
            return None if candidate.node.info.name in names else reason
        for one in candidate.facts.images.values():
            if tag in one.tags or (is_id and one.id.removeprefix("sha256:").startswith(identifier)):
                return None
        return reason

    return check


def _only_idle(demands: Wanted, place: NodePlace, candidate: Candidate, view: PlacementView) -> bool:
    """Does nothing that runs hold the ports?"""
    return all(is_idle(one, candidate, view) for one in filters.port_holders(demands, place))


def _reason(one: filters.Filter, demands: Wanted) -> str:
    return " ".join(one.explain(demands))


class WishesScorer:
    """Nodes that satisfy all wishes (`~`), over all others."""

    name = "wishes"
    weight = WISHES_WEIGHT

    def __init__(self, facts: Facts, names: Sequence[str]) -> None:
        self._facts = facts
        self._filters = [one for one in filters.named(names) if one.name in ("affinity", "constraint", "whitelist")]

    def prepare(self, request: Request, view: PlacementView) -> Score | None:
        said = self._facts.wanted(request)
        wishes = Wanted(
            constraints=tuple(one for one in said.constraints if one.soft),
            affinities=tuple(one for one in said.affinities if one.soft),
            whitelists=tuple(one for one in said.whitelists if one.soft),
        )
        tests = [test for one in self._filters if (test := one.check(wishes, soft=True)) is not None]
        if not tests:
            return None
        facts, inside = self._facts, bool(wishes.affinities)

        def score(candidate: Candidate) -> float:
            place = facts.place_with_held(candidate, view) if inside else facts.place(candidate)
            return 1.0 if all(test(place) for test in tests) else 0.0

        score.exact = True  # type: ignore[attr-defined]
        looked_at = {one.name for one in self._filters}
        constraints = wishes.constraints if "constraint" in looked_at else ()
        has_to_have = tuple(plain_texts(wishes.affinities)) if "affinity" in looked_at else ()
        if has_to_have or any(plain_texts(constraints)):
            score.among = lambda view: facts.among(view, constraints, has_to_have)  # type: ignore[attr-defined]
        return score


class PortsScorer:
    """Nodes where no stopped container has the ports either, over others. See the module."""

    name = "ports"
    weight = PORTS_WEIGHT

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def prepare(self, request: Request, view: PlacementView) -> Score | None:
        if request.wait_ms != 0:
            return None
        demands = self._facts.demands(request)
        test = filters.FILTERS["port"].check(demands, soft=False) if demands is not None else None
        if test is None:
            return None
        facts = self._facts

        def score(candidate: Candidate) -> float:
            return 1.0 if test(facts.place_with_held(candidate, view)) else 0.0

        score.exact = True  # type: ignore[attr-defined]
        return score


class StrategyScorer:
    """spread, binpack or random: of asks that name one, and the usual one of Swarm's own."""

    name = "strategy"
    weight = STRATEGY_WEIGHT

    def __init__(self, facts: Facts, settings: Config) -> None:
        self._facts = facts
        self._usual = settings.strategy
        self._by_fullness = lru_cache(1_000)(self._make_by_fullness)

    def prepare(self, request: Request, view: PlacementView) -> Score | None:
        name = self._facts.wanted(request).strategy or (self._usual if request.framework == FRAMEWORK else "")
        if not name:
            return None
        name = strategies.strategy(name)
        if name == "random":
            return _by_chance(request)
        units = request.spec.resources.units
        return self._by_fullness(name, Needs(units.get("cpus", 0), units.get("mem", 0)))

    def _make_by_fullness(self, name: str, needs: Needs) -> Score:
        """One and the same for equal needs, so that the kernel remembers what it said of each node."""
        place_of = self._facts.place

        def score(candidate: Candidate) -> float:
            return part(name, place_of(candidate), needs)

        score.exact = True  # type: ignore[attr-defined]
        score.by_size = True  # type: ignore[attr-defined]
        return score


def part(name: str, place: Any, needs: Needs) -> float:
    """A place's weight and then its containers, from 0 to 1: the larger, the better."""
    full = strategies.fullness(place, needs)
    rank = (FULLEST if full is None else full) * COUNTED_MAX + min(place.count, COUNTED_MAX - 1)
    most = (FULLEST + 1) * COUNTED_MAX
    return rank / most if name == "binpack" else 1 - rank / most


def _by_chance(request: Request) -> Score:
    arrivals = Arrivals("\0".join((request.framework, request.group, request.spec_id, request.key)))

    def score(candidate: Candidate) -> float:
        return 1 / (1 + arrivals.due(candidate.node.info.id))

    score.placed = lambda candidate: arrivals.arrived(candidate.node.info.id)  # type: ignore[attr-defined]
    return score


@lru_cache(4)
def facts_of(settings: Config) -> Facts:
    """One for all filters and scorers of the same settings."""
    return Facts(settings)


def node_filters(settings: Config) -> list[NodeFilter]:
    """In the order of the settings."""
    facts = facts_of(settings)
    chosen: list[NodeFilter] = [ExpressionsFilter(facts)]
    for one in filters.named(settings.filters):
        if one.name == SlotsFilter.name:
            chosen.append(SlotsFilter(facts))
        elif one.name not in KERNEL_FILTERS:
            chosen.append((ContainersFilter if one.name in LOOKING_INSIDE else SwarmFilter)(one, facts))
    return [*chosen, VolumesFilter(facts), ImageFilter()]


def node_scorers(settings: Config) -> list[NodeScorer]:
    facts = facts_of(settings)
    ports = [PortsScorer(facts)] if filters.Port.name in settings.filters else []
    return [WishesScorer(facts, settings.filters), *ports, StrategyScorer(facts, settings)]
