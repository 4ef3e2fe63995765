"""Placement as hooks of the kernel: the same expressions for tasks of every framework and runtime.

The kernel's own filters stay in force, so health, resources and the ports of specs are looked at by them. What is left
of classic Swarm's filters looks at the tasks of a node as its containers, and at what its engine holds beside them, as
far as agents have told of that. Wishes (`~`) do not refuse: a node that satisfies all of them outweighs all others,
which comes to the same as classic Swarm's two passes. A strategy weighs less than wishes and more than everything else:
the kernel's scorers decide among equals only.

All nodes are looked at for each task, so each look must cost little. A candidate is another object after each change of
its node, and the same one without: what was made of it is kept with it, here in `Facts`, which is a memory of pure
functions and no state.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import attrs

from orlop.framework import Candidate, NodeFilter, NodeScorer, PlacementView, Request, Spec, Task
from orlop_swarm.placement import filters, strategies, wanted
from orlop_swarm.placement.expressions import Expression, ExpressionError
from orlop_swarm.placement.index import Index, Texts
from orlop_swarm.placement.places import HEALTHY, Container, Held, overcommitted
from orlop_swarm.placement.strategies import Arrivals, Needs
from orlop_swarm.placement.wanted import Binding, Wanted
from orlop_swarm.settings import Config

FRAMEWORK: Final = "swarm"
#: One container more or less counts for about 10; the kernel's own scorers give 3 together.
STRATEGY_WEIGHT: Final = float(2**31)
WISHES_WEIGHT: Final = float(2**33)
#: Containers of a node beyond these do not decide among nodes of equal weight.
COUNTED_MAX: Final = 2**20
FULLEST: Final = 200
NODES_REMEMBERED: Final = 100_000
#: What the kernel's own filters do.
KERNEL_FILTERS: Final = frozenset({"health"})
LOOKING_INSIDE: Final = frozenset({"port", "dependency", "affinity"})

Check = Callable[[Candidate], str | None]
Score = Callable[[Candidate], float]


class NodePlace:
    """A node of the kernel as a place (`placement.places.Place`). held: made when a filter needs it."""

    __slots__ = (
        "before",
        "candidate",
        "count",
        "cpus",
        "health",
        "held",
        "id",
        "labels",
        "mem",
        "name",
        "texts",
        "used_cpus",
        "used_mem",
    )

    def __init__(self, candidate: Candidate, labels: Mapping[str, str], overcommit: float) -> None:
        info = candidate.node.info
        total, free = info.resources.units, candidate.free.units
        self.candidate = candidate
        self.id = info.id
        self.name = info.name
        self.labels = labels
        self.health = HEALTHY  # the others are out before
        self.count = len(candidate.tasks) + (len(candidate.facts.containers) if candidate.facts is not None else 0)
        cpus, mem = total.get("cpus", 0), total.get("mem", 0)
        self.cpus = overcommitted(cpus, overcommit, strategies.THOUSANDTHS) if overcommit else cpus
        self.mem = overcommitted(mem, overcommit) if overcommit else mem
        self.used_cpus = cpus - free.get("cpus", 0)
        self.used_mem = mem - free.get("mem", 0)
        self.held: Held | None = None
        #: What it held when that was last needed.
        self.before: tuple[Candidate, Held] | None = None
        #: What constraints may be about; made when the index needs it.
        self.texts: Texts | None = None


class Facts:
    """What was made of nodes, specs and asks, for as long as they are the same."""

    def __init__(self, settings: Config) -> None:
        self._overcommit = settings.overcommit
        self._last_counts = settings.repeated_constraints == "last"
        #: The latest of each node, by its id.
        self.places: dict[str, NodePlace] = {}
        #: By spec's id, for as long as there is the spec.
        self._specs: dict[str, tuple[weakref.ref[Spec], Wanted]] = {}
        self._image_names: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {}
        self._by_labels = Index(self._labels_of)
        self._by_contents = Index(self._contents_of)

    def among(
        self, view: PlacementView, constraints: Iterable[Expression], inside: Iterable[tuple[str, str]] = ()
    ) -> Collection[str] | None:
        """A few nodes, beside which no other one can satisfy all of these; None where nothing tells.

        inside: containers, images or their labels that the node has to have.
        """
        told: list[Collection[str] | None] = [
            self._by_labels.fewest(view, _plain_texts(constraints)),
            self._by_contents.fewest(view, inside),
        ]
        told += [
            self._by_labels.matching(view, one)
            for one in constraints
            if one.equal and one.literal is None and not one.accepts("")  # as a missing label is taken
        ]
        return min((found for found in told if found is not None), key=len, default=None)

    def _labels_of(self, node_id: str, view: PlacementView) -> Texts:
        place = self.place(view.candidate(node_id))
        if place.texts is None:
            labels = {key: frozenset((value,)) for key, value in place.labels.items()}
            place.texts = {**labels, "node": frozenset((place.id, place.name))}
        return place.texts

    def _contents_of(self, node_id: str, view: PlacementView) -> Texts:
        held = self.place_with_held(view.candidate(node_id), view).held
        assert held is not None, "it was made right now"
        return held.texts

    def place(self, candidate: Candidate) -> NodePlace:
        """Without what it holds, unless that is known."""
        node_id = candidate.node.info.id
        known = self.places.get(node_id)
        if known is not None and known.candidate is candidate:
            return known
        if known is not None and _is_same_machine(known.candidate, candidate):
            place = NodePlace(candidate, known.labels, self._overcommit)
            place.texts = known.texts
        else:
            place = NodePlace(candidate, labels_of(candidate), self._overcommit)
        if known is not None and known.held is not None:
            if _holds_the_same(known.candidate, candidate):
                place.held = known.held
            else:
                place.before = known.candidate, known.held
        elif known is not None:
            place.before = known.before
        if len(self.places) >= NODES_REMEMBERED:
            self.places.clear()
        self.places[node_id] = place
        return place

    def place_with_held(self, candidate: Candidate, view: PlacementView) -> NodePlace:
        """With what is there: tasks, foreign containers, images."""
        place = self.place(candidate)
        if place.held is None:
            place.held = self._grown(place, view) or self._made(candidate, view)
            place.before = None
        return place

    def _grown(self, place: NodePlace, view: PlacementView) -> Held | None:
        """What was there before, and the tasks that were put there since; None where that is not all."""
        if place.before is None:
            return None
        (before, held), after = place.before, place.candidate
        more = len(after.tasks) - len(before.tasks)
        if more <= 0 or not _has_the_same_facts(before, after):
            return None
        new = [task for sequence, task in after.tasks.items() if sequence not in before.tasks]
        return held.with_more(self._container(view.task(task), view) for task in new) if len(new) == more else None

    def _made(self, candidate: Candidate, view: PlacementView) -> Held:
        tasks = (self._container(view.task(task), view) for task in candidate.tasks.values())
        if candidate.facts is None:
            return Held(tasks)
        foreign = (container_of(one) for one in candidate.facts.containers.values())
        return Held((*tasks, *foreign), self._images(candidate.node.info.id, candidate.facts.images))

    def _images(self, node_id: str, images: Mapping[str, Any]) -> tuple[str, ...]:
        """Their ids and tags. Images change seldom, and there may be many."""
        known = self._image_names.get(node_id)
        if known is None or known[0] is not images:
            if len(self._image_names) >= NODES_REMEMBERED:
                self._image_names.clear()
            names = tuple(name for image in images.values() for name in (image.id, *image.tags))
            known = self._image_names[node_id] = images, names
        return known[1]

    def wanted(self, request: Request) -> Wanted:
        """What the ask says of its place. Raises ExpressionError."""
        return self._read(request.spec_id, request.spec)

    def demands(self, request: Request) -> Wanted | None:
        """The same without wishes. None where nothing is said, or nothing that can be read: `ExpressionsFilter`."""
        try:
            said = self.wanted(request)
        except ExpressionError:
            return None
        return None if said is _NOTHING else _without_wishes(said)

    def _read(self, spec_id: str, spec: Spec) -> Wanted:
        known = self._specs.get(spec_id)
        if known is not None:
            return known[1]
        said = _read_payload(spec.runtime, spec.payload, self._last_counts)
        self._specs[spec_id] = (weakref.ref(spec, lambda _: self._specs.pop(spec_id, None)), said)
        return said

    def _container(self, task: Task, view: PlacementView) -> Container:
        spec = view.spec(task)
        try:
            said = self._read(task.spec, spec)
        except ExpressionError:  # it runs, whatever it said
            said = _NOTHING
        owner = {"orlop.framework": task.framework, "orlop.group": task.group, "orlop.key": task.key}
        return Container(
            id=task.id,
            names=(task.name,),
            images=(said.image,) if said.image else (),
            labels={**said.labels, **task.labels, **owner},
            bindings=(*said.bindings, *_on_all_addresses(task.ports)),
            host_network=said.host_network,
            exposed=said.exposed,
        )


_NOTHING: Final = Wanted()


def _on_all_addresses(ports: Iterable[int]) -> tuple[Binding, ...]:
    return tuple(Binding(ip="", port=str(port)) for port in ports)


def _with_ports(demands: Wanted, spec: Spec) -> Wanted:
    """With those that the kernel is asked for by their numbers: a container may publish them that asked an engine."""
    fixed = _on_all_addresses(port.number for port in spec.ports if port.number is not None)
    return attrs.evolve(demands, bindings=(*demands.bindings, *fixed)) if fixed else demands


def _plain_texts(expressions: Iterable[Expression]) -> Iterator[tuple[str, str]]:
    """What has to be there by the expressions that name one text."""
    return ((one.key, one.literal) for one in expressions if one.equal and one.literal is not None)


def _is_same_machine(one: Candidate, other: Candidate) -> bool:
    return one.node.info is other.node.info and _part_of_facts(one, "engine") is _part_of_facts(other, "engine")


def _holds_the_same(one: Candidate, other: Candidate) -> bool:
    """Tasks, containers and images. What has not changed is the same object."""
    return one.tasks is other.tasks and _has_the_same_facts(one, other)


def _has_the_same_facts(one: Candidate, other: Candidate) -> bool:
    return one.facts is other.facts or all(
        _part_of_facts(one, part) is _part_of_facts(other, part) for part in ("containers", "images")
    )


def _part_of_facts(candidate: Candidate, name: str) -> Any:
    return getattr(candidate.facts, name) if candidate.facts is not None else None


def labels_of(candidate: Candidate) -> dict[str, str]:
    """What constraints are compared with: built-in ones before the agent's attributes, and these before the engine's
    labels."""
    info = candidate.node.info
    if candidate.facts is None:
        return {**info.attributes, "ostype": info.os}
    engine = candidate.facts.engine
    built_in = {
        "storagedriver": engine.storage_driver,
        "kernelversion": engine.kernel_version,
        "operatingsystem": engine.operating_system,
        "ostype": engine.os_type or info.os,
    }
    return {**engine.labels, **info.attributes, **built_in}


def container_of(one: Any) -> Container:
    """A container that is no task, as the filters see it."""
    return Container(
        id=one.id,
        names=one.names,
        images=(one.image,) if one.image else (),
        labels=one.labels,
        bindings=tuple(Binding(ip=port.address, port=str(port.number)) for port in one.host_ports),
    )


def _read_payload(runtime: str, payload: Mapping[str, Any], last_counts: bool) -> Wanted:
    if runtime == "docker":
        return wanted.read(payload, last_counts=last_counts)
    environment = payload.get("environment")
    if not isinstance(environment, Mapping):
        return _NOTHING
    said = wanted.read_environment(environment, last_counts=last_counts)
    return _NOTHING if said == _NOTHING else said


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
            demands = _with_ports(demands or _NOTHING, request.spec)
        test = self._filter.check(demands, soft=False) if demands is not None else None
        if demands is None or test is None:
            return None
        reason = _reason(self._filter, demands)
        places, place_with_held = self._facts.places, self._facts.place_with_held

        def check(candidate: Candidate) -> str | None:
            place = places.get(candidate.node.info.id)
            if place is None or place.candidate is not candidate or place.held is None:
                place = place_with_held(candidate, view)
            return None if test(place) else reason

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
                return tuple(_plain_texts(demands.affinities))
        return ()


def _reason(one: filters.Filter, demands: Wanted) -> str:
    return " ".join(one.explain(demands))


def _without_wishes(said: Wanted) -> Wanted:
    if not any(one.soft for one in (*said.constraints, *said.affinities, *said.whitelists)):
        return said
    return attrs.evolve(
        said,
        constraints=filters.counting(said.constraints, soft=False),
        affinities=filters.counting(said.affinities, soft=False),
        whitelists=filters.counting(said.whitelists, soft=False),
    )


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
        has_to_have = tuple(_plain_texts(wishes.affinities)) if "affinity" in looked_at else ()
        if has_to_have or any(_plain_texts(constraints)):
            score.among = lambda view: facts.among(view, constraints, has_to_have)  # type: ignore[attr-defined]
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
    return chosen


def node_scorers(settings: Config) -> list[NodeScorer]:
    facts = facts_of(settings)
    return [WishesScorer(facts, settings.filters), StrategyScorer(facts, settings)]
