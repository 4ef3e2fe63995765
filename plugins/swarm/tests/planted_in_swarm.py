"""Swarm with a fault, or the kernel below it: the checks of simulated pools must find it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from pool_of_containers import CPUS

from orlop.agent.task_record import TaskRecord
from orlop.framework import Spec
from orlop_swarm import asking, framework


def what_is_removed_is_made_again(patch: pytest.MonkeyPatch) -> None:
    """Whoever removes a container that moves gets it back."""
    patch.setattr(framework, "why_it_moves", lambda task: "it is gone" if task.status.exit is not None else "")


def whether_it_ran_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What moves is made, and waits for somebody to start it."""
    again = asking.again
    patch.setattr(asking, "again", lambda *arguments, **members: again(*arguments, **{**members, "runs": False}))


def updates_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What moves is made as it was first."""
    again = asking.again

    def as_it_was(spec: Spec, *arguments: Any, **members: Any) -> Any:
        host = {**spec.payload["HostConfig"], "NanoCpus": CPUS}
        return again(attrs.evolve(spec, payload={**spec.payload, "HostConfig": host}), *arguments, **members)

    patch.setattr(asking, "again", as_it_was)


def names_stay_taken(patch: pytest.MonkeyPatch) -> None:
    """Of containers that are gone, or have another one."""
    patch.setattr(framework, "_release", lambda *_: ())


def a_drain_is_a_removal(patch: pytest.MonkeyPatch) -> None:
    """What a drain has stopped does not move."""
    patch.setattr(framework, "stopped_by_drain", lambda _: False)


def a_container_ends_with_its_run(patch: pytest.MonkeyPatch) -> None:
    """Agents take the end of a run for that of the task."""
    patch.setattr(TaskRecord, "kept", property(lambda _: False))


def names_are_given_twice(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether one is another container's."""

    def careless(*_: Any) -> None:
        return None

    patch.setattr(framework.Swarm, "_refuse_taken", staticmethod(careless))
