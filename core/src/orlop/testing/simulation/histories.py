"""Plays the history of a seed, and shortens what breaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from orlop.testing.simulation.plan import Plan, Shape, make_plan
from orlop.testing.simulation.simulation import Simulation, Workload
from orlop.testing.simulation.world import Broken

SHRINK_RUNS_MAX: Final = 300


@attrs.frozen
class Failure:
    """A history in which something broke, as short as it could be made. error: what was raised."""

    seed: int
    reason: str
    plan: Plan
    trace: tuple[str, ...]
    error: Exception | None = attrs.field(default=None, eq=False, repr=False)

    def __str__(self) -> str:
        operations = "\n".join(f"  {one}" for one in self.plan)
        history = "\n".join(f"  {line}" for line in self.trace)
        return f"seed {self.seed}: {self.reason}\nplan:\n{operations}\nthe end of its history:\n{history}"


def simulate(
    seed: int,
    workload: Callable[[], Workload],
    *,
    shape: Shape | None = None,
    trouble: float = 1.0,
    shrink: bool = True,
) -> str:
    """The digest of the seed's history. Raises Broken with the shortest history found that breaks in the same way."""
    return history(seed, workload, shape=shape, trouble=trouble, shrink=shrink).digest


@attrs.frozen
class History:
    """digest: of all that happened. struck: kind of fault → how often it made a difference."""

    digest: str
    struck: Mapping[str, int]


def history(
    seed: int,
    workload: Callable[[], Workload],
    *,
    shape: Shape | None = None,
    trouble: float = 1.0,
    shrink: bool = True,
) -> History:
    """As `simulate`, and what struck."""
    shape = shape or Shape()
    plan = make_plan(seed, shape, workload().operation, trouble)
    simulation = Simulation(seed, workload(), plan, shape)
    try:
        return History(simulation.run(), simulation.world.struck)
    except Exception as error:
        if not shrink:
            raise Broken(f"seed {seed}: {error}") from error
        raise Broken(str(shrunk(seed, workload, plan, shape))) from error


def shrunk(
    seed: int,
    workload: Callable[[], Workload],
    plan: Plan,
    shape: Shape,
    make: Callable[[int, Any, Plan, Shape], Simulation] = Simulation,
) -> Failure:
    """Operations are taken out for as long as something still breaks, halves first, then single ones.

    make: the simulation of a plan. Raises Broken when it does not break a second time.
    """

    def attempt(plan: Plan) -> Failure | None:
        return _try(make(seed, workload(), plan, shape))

    failure = attempt(plan)
    if failure is None:
        raise Broken(f"seed {seed} broke, and did not break again: something in it looks at more than its inputs")
    runs, size = 0, max(1, len(plan) // 2)
    while runs < SHRINK_RUNS_MAX:
        for start in range(0, len(failure.plan), size):
            shorter = failure.plan[:start] + failure.plan[start + size :]
            runs += 1
            found = attempt(shorter)
            if found is not None:
                failure = found
                break
        else:
            if size == 1:
                return failure
            size = max(1, size // 2)
    return failure


def _try(simulation: Simulation) -> Failure | None:
    try:
        simulation.run()
    except Exception as error:  # noqa: BLE001  (whatever breaks is what is looked for)
        reason = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
        return Failure(simulation.world.seed, reason, simulation.plan, tuple(simulation.world.trace), error)
    return None
