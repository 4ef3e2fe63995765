"""A mixed workload: services that shall always run, and jobs that shall run to their end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from orlop.framework import (
    Action,
    Ask,
    Delete,
    Framework,
    Kill,
    Outcome,
    PartitionPolicy,
    Policies,
    Process,
    Put,
    Refused,
    Reply,
    Resources,
    View,
)
from orlop.kernel.state import State, StoredObject
from orlop.testing.simulation.plan import Operation
from orlop.testing.simulation.world import Broken

#: One service for each kind of partition policy; the times fit the simulated servers' detection.
POLICIES: Final[Mapping[str, PartitionPolicy]] = {
    "api": PartitionPolicy(),
    "web": PartitionPolicy(replace_after_ms=14_000, stop_after_ms=4_000),
    "db": PartitionPolicy(keep=True),
    "mail": PartitionPolicy(replace_after_ms=20_000),
    "cache": PartitionPolicy(replace_after_ms=0, stop_after_ms=2_000),
}
SERVICES: Final = tuple(POLICIES)
NEEDS: Final = Resources(cpus=0.5, mem="128MiB")


@attrs.frozen
class Service:
    copies: int
    release: int


class Services(Framework):
    """Keeps so many copies of each service running; a new release replaces them one by one."""

    name = "services"
    documents = {"service": Service}  # noqa: RUF012

    def command(self, view: View, command: Any) -> Iterator[Action]:
        name, copies, release = command
        if copies:
            yield Put("service", name, Service(copies, release))
        else:
            yield Delete("service", name)
        yield Reply("done")

    def reconcile(self, view: View) -> Iterator[Action]:
        services = view.objects("service")
        wanted = {f"{name}/{number}": (name, one) for name, one in services.items() for number in range(one.copies)}
        for key, (name, service) in wanted.items():
            if key not in view.live:
                run = Process(f"serve {name} {service.release}")
                labels = {"release": str(service.release)}
                policies = Policies(partition=POLICIES[name])
                yield Ask(key, run=run, needs=NEEDS, group=name, labels=labels, policies=policies)
        for key, task in view.live.items():
            if task.stopping:
                continue
            if key not in wanted:
                yield Kill(key, "not wanted")
            elif task.labels["release"] != str(wanted[key][1].release):
                yield Kill(key, "an old release")


@attrs.frozen
class Job:
    done: bool = False


class Jobs(Framework):
    """Runs each job until it has succeeded once."""

    name = "jobs"
    documents = {"job": Job}  # noqa: RUF012

    def command(self, view: View, command: Any) -> Iterator[Action]:
        if command in view.objects("job"):
            raise Refused("there is such a job")
        yield Put("job", command, Job())
        yield Reply("done")

    def reconcile(self, view: View) -> Iterator[Action]:
        for name, job in view.objects("job").items():
            task = view.tasks.get(name)
            if job.done or name in view.live:
                continue
            if task is not None and task.status.exit is not None and task.status.exit.outcome is Outcome.FINISHED:
                yield Put("job", name, Job(done=True))
            else:
                run = attrs.evolve(Process(f"work {name}"), payload={"command": name, "run_ms": 1_500})
                yield Ask(name, run=run, needs=NEEDS)


class MixedWorkload:
    """Clients that change services and add jobs. Each service has one client, which waits for no answer."""

    frameworks: Mapping[str, Callable[[], Framework]] = {"services": Services, "jobs": Jobs}

    def __init__(self) -> None:
        self._possible: dict[str, list[tuple[int, int]]] = {name: [(0, 0)] for name in SERVICES}
        self._jobs: set[str] = set()
        self._numbers = 0

    def operation(self, chance: random.Random) -> Operation:
        """A new release or size of a service, a job, or an operator's kill."""
        self._numbers += 1
        kind = chance.random()
        if kind < 0.5:
            copies = chance.choice((0, 1, 2, 3, 5))
            return Operation(0, "command", ("services", (chance.choice(SERVICES), copies, self._numbers)))
        if kind < 0.85:
            return Operation(0, "command", ("jobs", f"job{self._numbers}"))
        return Operation(0, "kill_task", (chance.randrange(1_000),))

    def answered(self, framework: str, value: Any, answer: Any, error: Exception | None) -> None:
        """Done: it counts. Nothing was changed: it does not. Otherwise both are possible."""
        certain = error is None
        if error is not None and "outcome is not known" not in str(error):
            return
        if framework == "jobs":
            if certain:
                self._jobs.add(value)
            return
        name, copies, release = value
        self._possible[name] = [*([] if certain else self._possible[name]), (copies, release if copies else 0)]

    def unanswered(self, framework: str, value: Any) -> None:
        self.answered(framework, value, None, RuntimeError("the outcome is not known"))

    def check(self, state: State, running: Iterable[tuple[str, str]]) -> None:
        """Exactly what was asked for runs; every job that was answered is done."""
        services: Mapping[str, StoredObject] = state.framework("services").objects.get("service") or {}
        expected: Counter[tuple[str, str]] = Counter()
        for name in SERVICES:
            stored = services.get(name)
            found = (stored.value.copies, stored.value.release) if stored is not None else (0, 0)
            if found not in self._possible[name]:
                raise Broken(f"service {name} is {found}, and was answered to be {self._possible[name]}")
            expected.update(("services", f"{name}/{number}") for number in range(found[0]))
        jobs: Mapping[str, StoredObject] = state.framework("jobs").objects.get("job") or {}
        lost = sorted(name for name in self._jobs if name not in jobs)
        unfinished = sorted(name for name, stored in jobs.items() if not stored.value.done)
        if lost or unfinished:
            raise Broken(f"jobs lost: {', '.join(lost) or 'none'}; not done: {', '.join(unfinished) or 'none'}")
        found_running = Counter(running)
        if found_running != expected:
            missing, extra = expected - found_running, found_running - expected
            raise Broken(f"running are too few of {dict(missing)} and too many of {dict(extra)}")
