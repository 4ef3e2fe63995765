"""Filters: which places may take a container at all. In the order in which they are looked at by default.

What they look at has the attributes of `places.Place`. Each is a class with a name, `explain` for errors, and `check`,
which gives a plain function of a place. Where `soft`, wishes (`~`) count as demands; the scheduler tries that first,
see there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from orlop_swarm.placement.expressions import Expression
from orlop_swarm.placement.wanted import OF_CONTAINER, Wanted

Check = Callable[[Any], bool]

SLOTS_LABEL: Final = "containerslots"


class Filter(Protocol):
    name: str

    def explain(self, wanted: Wanted) -> Sequence[str]:
        """The conditions that it looks at, for errors."""

    def check(self, wanted: Wanted, soft: bool) -> Check | None:
        """None where it concerns no place."""


class Health:
    name = "health"

    def explain(self, wanted: Wanted) -> Sequence[str]:
        return ()

    def check(self, wanted: Wanted, soft: bool) -> Check | None:
        return lambda place: place.health > 0


class Port:
    """No other container of the node, running or not, has the port. What was asked for and what was given count."""

    name = "port"

    def explain(self, wanted: Wanted) -> Sequence[str]:
        if wanted.host_network:
            return [f"port {port} (Host mode)" for port in wanted.exposed]
        return [f"port {binding.port} (Bridge mode)" for binding in wanted.bindings]

    def check(self, wanted: Wanted, soft: bool) -> Check | None:
        if wanted.host_network:
            exposed = frozenset(wanted.exposed)
            return (lambda place: exposed.isdisjoint(place.held.exposed)) if exposed else None
        asked = [binding for binding in wanted.bindings if binding.port]
        if not asked:
            return None
        return lambda place: not any(place.held.takers(one) for one in asked)


def port_holders(wanted: Wanted, place: Any) -> set[str]:
    """Ids of the containers for which `Port` refuses the place."""
    if wanted.host_network:
        return {one for port in wanted.exposed for one in place.held.exposed.get(port, ())}
    return {one for binding in wanted.bindings for one in place.held.takers(binding)}


class ContainerSlots:
    """A node labelled `containerslots=N` takes N containers, running or not."""

    name = "containerslots"

    def explain(self, wanted: Wanted) -> Sequence[str]:
        return ["available container slots"]

    def check(self, wanted: Wanted, soft: bool) -> Check | None:
        return has_slots


def has_slots(place: Any) -> bool:
    """A label that is no number limits nothing."""
    slots = place.labels.get(SLOTS_LABEL)
    if slots is None:
        return True
    try:
        return place.count < int(slots)
    except ValueError:
        return True


class Dependency:
    """The node has all containers that are named in links, `--volumes-from`, and `container:NAME` of `--net`, `--pid`
    and `--ipc`."""

    name = "dependency"

    def explain(self, wanted: Wanted) -> Sequence[str]:
        found = [f"--volumes-from={one}" for one in wanted.volumes_from]
        found += [f"--link={one}" for one in wanted.links]
        modes = (("net", wanted.network), ("pid", wanted.pid), ("ipc", wanted.ipc))
        found += [f"--{option}={mode}" for option, mode in modes if mode.startswith(OF_CONTAINER)]
        return found

    def check(self, wanted: Wanted, soft: bool) -> Check | None:
        names = frozenset(wanted.dependencies)
        return (lambda place: names <= place.held.names) if names else None


class Affinity:
    """What else is on the node: containers, images, labels of containers."""

    name = "affinity"

    def explain(self, wanted: Wanted) -> Sequence[str]:
        return [with_softness(one) for one in wanted.affinities]

    def check(self, wanted: Wanted, soft: bool) -> Check | None:
        asked = counting(wanted.affinities, soft)
        if len(asked) == 1:
            (only,) = asked
            return lambda place: place.held.satisfies(only)
        return (lambda place: all(place.held.satisfies(one) for one in asked)) if asked else None


class Constraint:
    """What the node is: its name or id (`node`), its labels."""

    name = "constraint"

    def explain(self, wanted: Wanted) -> Sequence[str]:
        return [str(one) for one in wanted.constraints]

    def check(self, wanted: Wanted, soft: bool) -> Check | None:
        tests = [constraint_test(one) for one in counting(wanted.constraints, soft)]
        if len(tests) == 1:
            return tests[0]
        return (lambda place: all(test(place) for test in tests)) if tests else None


def constraint_test(constraint: Expression) -> Check:
    """A label that is missing counts as an empty one. There are many nodes, so each kind has a test of its own."""
    key, literal, equal, accepts = constraint.key, constraint.literal, constraint.equal, constraint.accepts
    if key == "node":
        if literal is not None:
            return lambda place: (place.name == literal or place.id == literal) is equal
        return lambda place: (accepts(place.name) or (place.id != place.name and accepts(place.id))) is equal
    if literal is not None:
        return lambda place: (place.labels.get(key) == literal) is equal  # it is never empty
    return lambda place: accepts(place.labels.get(key, "")) is equal


class Whitelist:
    """Names of nodes, separated by `|`. The key does not count."""

    name = "whitelist"

    def explain(self, wanted: Wanted) -> Sequence[str]:
        return [with_softness(one) for one in wanted.whitelists]

    def check(self, wanted: Wanted, soft: bool) -> Check | None:
        asked = [(frozenset(one.value.split("|")), one.equal) for one in counting(wanted.whitelists, soft)]
        return (lambda place: all((place.name in names) == equal for names, equal in asked)) if asked else None


def counting(expressions: Sequence[Expression], soft: bool) -> tuple[Expression, ...]:
    """Those that are demands."""
    return tuple(one for one in expressions if soft or not one.soft)


def with_softness(expression: Expression) -> str:
    return f"{expression} (soft={'true' if expression.soft else 'false'})"


FILTERS: Final[dict[str, Filter]] = {
    one.name: one for one in (Health(), Port(), ContainerSlots(), Dependency(), Affinity(), Constraint(), Whitelist())
}


def named(names: Sequence[str]) -> list[Filter]:
    """The filters of these names, in this order. Raises ValueError."""
    if unknown := [name for name in names if name not in FILTERS]:
        raise ValueError(f"filter not supported: {unknown[0]!r}; known: {', '.join(FILTERS)}")
    return [FILTERS[name] for name in names]
