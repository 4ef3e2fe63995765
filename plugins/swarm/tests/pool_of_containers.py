"""A minute of a pool's life on three simulated servers and five nodes while everything breaks, and what must hold.

Clients create, start, stop, rename, update and remove containers; operators kill some, and empty nodes. What is looked
at: a name has one container at any moment; what moves runs elsewhere if it ran; what was updated stays so, wherever it
moves; and after all is healed each container is on one node, once, none that was made is missing without a reason, and
none is there that a client has removed.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final

import attrs

from orlop.framework import Action, Desired, Framework, Outcome, Refused, Task, TaskState, View, stopped_by_drain
from orlop.testing.scenario import Scenario, SimulatedCluster
from orlop_swarm.asking import ID_LABEL
from orlop_swarm.documents import CONTAINER, NAME, Container
from orlop_swarm.framework import Swarm
from orlop_swarm.orders import Change, Create, Rename, Reserve, Reserved

NAMES: Final = ("db", "web", "mail", "cache", "queue")
KEYS: Final = tuple(f"container-{number}" for number in range(12))
MOVING: Final = frozenset(KEYS[:8])
#: In billionths of a processor: what each is made with, and what it may be updated to.
CPUS: Final = 200_000_000
OTHER_CPUS: Final = (50_000_000, 100_000_000, 150_000_000)
TOUCHES: Final = ("start", "start", "start", "stop", "remove")


@attrs.frozen
class Renamed:
    """The engine has answered: the container has the name that was reserved, or, if not `done`, the one it had."""

    key: str
    name: str
    done: bool


class Pool(Swarm):
    """Swarm, with clients that rename only what has a name reserved and update only what is there, as the routes do."""

    def command(self, view: View, command: Any) -> Iterable[Action]:
        if isinstance(command, Change) and command.key not in view.live:
            raise Refused("it is not there")
        if not isinstance(command, Renamed):
            return super().command(view, command)
        known = view.objects(CONTAINER).get(command.key)
        if known is None or known.reserved != command.name:
            return ()
        return super().command(view, Rename(key=command.key, name=command.name if command.done else known.name))


class Containers(Scenario):
    """See the module."""

    runtime: ClassVar[str] = "docker"

    def __init__(self) -> None:
        self.happened: Counter[str] = Counter()
        self._answered: set[str] = set()
        self._made: set[str] = set()
        self._gone: dict[str, str] = {}
        self._removed: set[str] = set()
        self._last: dict[str, Task] = {}
        self._updated: dict[str, int] = {}
        self._perhaps_updated: dict[str, set[int]] = defaultdict(set)
        self._ran: dict[str, bool] = {}
        self._started_late: set[str] = set()

    def frameworks(self) -> Iterable[Framework]:
        return [Pool()]

    def commands(self, chance: random.Random) -> Iterator[tuple[float, str, Any]]:
        for key in KEYS:
            body: dict[str, Any] = {
                "Image": "busybox",
                "Labels": {ID_LABEL: key},
                "HostConfig": {"NanoCpus": CPUS},
                "Env": ["reschedule:on-node-failure"] if key in MOVING else [],
            }
            at_s = chance.uniform(0, 40)
            yield at_s, "swarm", Create(body=body, name=chance.choice((*NAMES, "")))
            for _ in range(chance.choice((0, 0, 1, 2))):
                name, begun_s = chance.choice(NAMES), chance.uniform(at_s, 55)
                yield begun_s, "swarm", Reserve(key=key, name=name)
                yield begun_s + chance.uniform(0.1, 4), "swarm", Renamed(key, name, chance.random() < 0.7)
            for _ in range(chance.choice((0, 1, 2))):
                yield chance.uniform(at_s, 58), "swarm", Change(key=key, update={"NanoCpus": chance.choice(OTHER_CPUS)})

    def operations(self, chance: random.Random) -> Iterator[tuple[float, str, tuple[Any, ...]]]:
        for _ in range(chance.randint(10, 60)):
            yield chance.uniform(1, 59), "touch_container", (chance.choice(TOUCHES), chance.randrange(1_000))
        for _ in range(chance.randint(0, 3)):
            within_ms, for_ms = chance.choice((0, 0, 2_000)), chance.choice((100, 3_000, 20_000))
            yield chance.uniform(5, 55), "empty_node", (f"node{chance.randrange(5)}", within_ms, for_ms)

    def ends(self, framework: str, key: str, chance: random.Random) -> tuple[float, int] | None:
        return (chance.uniform(0, 30), chance.choice((0, 1))) if chance.random() < 0.3 else None

    # What clients see

    def answered(self, framework: str, command: Any, reply: Any) -> None:
        if isinstance(command, Create):
            assert isinstance(reply, Reserved)
            self._answered.add(reply.key)
        elif isinstance(command, Renamed) and command.done:
            self.happened["renamed"] += 1
        elif isinstance(command, Change):
            self.happened["updated"] += 1
            self._updated[command.key] = command.update["NanoCpus"]

    def unknown(self, framework: str, command: Any) -> None:
        if isinstance(command, Change):
            self._perhaps_updated[command.key].add(command.update["NanoCpus"])

    def touched(self, what: str, framework: str, key: str, task: str) -> None:
        self.happened[f"touched: {what}"] += 1
        if what == "remove":
            self._removed.add(task)

    # What must hold

    def check_step(self, cluster: SimulatedCluster) -> None:
        if not cluster.has_leader:
            return
        view = cluster.view("swarm")
        containers: dict[str, Container] = dict(view.objects(CONTAINER))
        names = {name: found.key for name, found in view.objects(NAME).items()}
        for key, container in containers.items():
            for name in {container.name, container.reserved} - {""}:
                assert names[name] == key, f"{key} is {name!r}, and so is {names[name]}"
        for key, task in view.tasks.items():
            self._follow(key, task)

    def _follow(self, key: str, task: Task) -> None:
        before = self._last.get(key)
        self._last[key] = task
        if before is not None and before.id != task.id and task.live:
            self._has_moved(key, task)
        if task.live:
            self._note_whether_it_runs(key, task)
            if key in self._answered and task.state in (TaskState.PREPARED, TaskState.RUNNING):
                self._made.add(key)
                self.happened["made"] += 1
                self.happened["running"] += task.running
        elif before is None or before.live or before.id != task.id:
            self._has_ended(key, task)

    def _has_moved(self, key: str, task: Task) -> None:
        assert key in MOVING, f"{key} has no policy, and was moved"
        wanted = Desired.RUNNING if self._ran.get(key, False) else Desired.PREPARED
        assert task.stopping or task.desired is wanted or key in self._started_late, (
            f"{key} is to be {task.desired} where it has moved to"
        )
        self.happened[f"moved, {'running' if wanted is Desired.RUNNING else 'stopped'}"] += 1
        self.happened["updated, and moved"] += key in self._updated

    def _note_whether_it_runs(self, key: str, task: Task) -> None:
        if task.running:
            if task.stopping and not self._ran.get(key, False):
                self._started_late.add(key)  # its start and its end may have come as one
            self._ran[key] = True
        elif task.state is TaskState.PREPARED and (task.status.incarnation > 1 or task.desired is Desired.PREPARED):
            self._ran[key] = False

    def _has_ended(self, key: str, task: Task) -> None:
        """For good, or to move: what is said of it here is held against what is there in the end."""
        exit_ = task.status.exit
        assert exit_ is not None
        drained = stopped_by_drain(task)
        why = ""
        if task.id in self._removed and not drained and exit_.outcome is not Outcome.LOST:
            why = "a client has removed it"
        elif (task.desired_reason and not drained) or "; its node" in exit_.reason:
            why = "an operator has killed it"
        elif drained and key not in MOVING:
            why = "its node was emptied"
        elif "is forgotten" in exit_.reason and key not in MOVING:
            why = "its node was forgotten"
        if why:
            self.happened[why] += 1
            self._gone[key] = why

    def check_end(self, cluster: SimulatedCluster) -> None:
        view = cluster.view("swarm")
        containers: dict[str, Container] = dict(view.objects(CONTAINER))
        live = view.live
        assert containers.keys() == live.keys(), containers.keys() ^ live.keys()
        assert cluster.kept("swarm") == sorted(live), (cluster.kept("swarm"), sorted(live))
        names = Counter(name for one in containers.values() for name in {one.name, one.reserved} - {""})
        assert set(names.values()) <= {1}, names
        assert names.keys() == view.objects(NAME).keys(), names.keys() ^ view.objects(NAME).keys()
        missing = self._made - containers.keys() - self._gone.keys()
        assert not missing, f"{missing} were made, and are gone"
        back = {key: why for key, why in self._gone.items() if key in containers}
        assert not back, f"have come back: {back}"
        for key, task in live.items():
            assert task.state in (TaskState.PREPARED, TaskState.RUNNING), (key, task.state)
            cpus, updated = view.spec(task).payload["HostConfig"]["NanoCpus"], self._updated.get(key, CPUS)
            assert cpus in {updated, *self._perhaps_updated[key]}, f"{key} has {cpus}, and was updated to {updated}"
