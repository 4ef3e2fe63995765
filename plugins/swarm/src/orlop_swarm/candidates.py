"""The kernel's candidates as classic Swarm's places, and what was made of them, kept for as long as it is true.

All nodes are looked at for each task, so each look must cost little. A candidate is another object after each change of
its node, and the same one without: what was made of it is kept with it, here in `Facts`, which is a memory of pure
functions and no state.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from orlop.framework import Candidate, Desired, PlacementView, Request, Spec, Task, TaskState
from orlop_swarm.placement import filters, strategies, wanted
from orlop_swarm.placement.expressions import Expression, ExpressionError
from orlop_swarm.placement.index import Index, Texts
from orlop_swarm.placement.places import HEALTHY, VOLUMES, Container, Held, overcommitted
from orlop_swarm.placement.wanted import Binding, Wanted
from orlop_swarm.settings import Config

NODES_REMEMBERED: Final = 100_000


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
            self._by_labels.fewest(view, plain_texts(constraints)),
            self._by_contents.fewest(view, inside),
        ]
        told += [
            self._by_labels.matching(view, one)
            for one in constraints
            if one.equal and one.literal is None and not one.accepts("")  # as a missing label is taken
        ]
        return min((found for found in told if found is not None), key=len, default=None)

    def with_volume(self, view: PlacementView, name: str) -> Collection[str]:
        """The nodes with tasks that mount it."""
        return self._by_contents.fewest(view, ((VOLUMES, name),)) or ()

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
        return None if said is NOTHING else without_wishes(said)

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
            said = NOTHING
        return container_of_task(task, said)


NOTHING: Final = Wanted()


def is_idle(container: str, candidate: Candidate, view: PlacementView) -> bool:
    """Is it there and does not run, nor is on its way to? container: the id of a task, or of a foreign container.

    It is nothing to be remembered with the node: tasks start and stop, and their candidate is the same all the while.
    """
    try:
        task = view.task(container)
    except KeyError:
        foreign = candidate.facts.containers.get(container) if candidate.facts is not None else None
        return foreign is not None and not foreign.live
    to_start = task.desired is Desired.RUNNING and task.status.incarnation == 1
    return task.state is TaskState.PREPARED and not to_start


def on_all_addresses(ports: Iterable[int]) -> tuple[Binding, ...]:
    return tuple(Binding(ip="", port=str(port)) for port in ports)


def plain_texts(expressions: Iterable[Expression]) -> Iterator[tuple[str, str]]:
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


def container_of_task(task: Task, said: Wanted) -> Container:
    """A task, as the filters see it. said: in its spec."""
    owner = {"orlop.framework": task.framework, "orlop.group": task.group, "orlop.key": task.key}
    return Container(
        id=task.id,
        names=(task.name,),
        images=(said.image,) if said.image else (),
        labels={**said.labels, **task.labels, **owner},
        bindings=(*said.bindings, *on_all_addresses(task.ports)),
        host_network=said.host_network,
        exposed=said.exposed,
        volumes=said.volumes,
    )


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
        return NOTHING
    said = wanted.read_environment(environment, last_counts=last_counts)
    return NOTHING if said == NOTHING else said


def without_wishes(said: Wanted) -> Wanted:
    if not any(one.soft for one in (*said.constraints, *said.affinities, *said.whitelists)):
        return said
    return attrs.evolve(
        said,
        constraints=filters.counting(said.constraints, soft=False),
        affinities=filters.counting(said.affinities, soft=False),
        whitelists=filters.counting(said.whitelists, soft=False),
    )
