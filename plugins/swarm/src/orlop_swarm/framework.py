"""Swarm's framework: containers that Docker clients have made, as tasks of the kernel.

Theory of operation. A container's task is asked for as `prepared`, now or never, and kept when its runs end: clients
start and stop it through its engine. What is stored beside the task is whose a name is, and, of containers that move,
whether it runs. A container ends with its task: when it is removed, by whomever. One that moves is asked for again,
under its key and with its name and labels, when its node is lost or drained; it is started if it ran. Of the others,
those on a lost node wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final

import attrs

from orlop.framework import (
    Action,
    Amend,
    Changed,
    Delete,
    Desired,
    Emit,
    Framework,
    Kill,
    Outcome,
    Put,
    Refused,
    Reply,
    Task,
    TaskState,
    View,
    stopped_by_drain,
)
from orlop_swarm import asking
from orlop_swarm.asking import ID_LABEL, InvalidRequest
from orlop_swarm.documents import CONTAINER, NAME, Container, Name
from orlop_swarm.names import name_of, refusal
from orlop_swarm.orders import Change, Conflict, Create, Discard, Keep, Move, Order, Rename, Reserve, Reserved
from orlop_swarm.settings import Config

#: A container that could not be made where it was to move is tried again after so long.
TRY_AGAIN_AFTER_MS: Final = 10_000
#: Why a container is stopped that is made anew where there is more room.
REBALANCED: Final = "rebalanced"
DISCARDED: Final = "removed by its client"


class Swarm(Framework):
    """See the module."""

    name = "swarm"
    config = Config
    documents: ClassVar[Mapping[str, type]] = {CONTAINER: Container, NAME: Name}

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings if settings is not None else Config())

    def command(self, view: View, command: Order) -> Iterable[Action]:
        """Carries out one of `orders`. Refused with a `Conflict`, or an `InvalidRequest`."""
        try:
            match command:
                case Create():
                    yield from self._create(view, command)
                case Reserve():
                    yield from self._reserve(view, command)
                case Rename():
                    yield from self._rename(view, command)
                case Move():
                    yield from self._move(view, command)
                case Discard():
                    yield Kill(command.key, DISCARDED)
                case Keep():
                    yield from self._keep(view, command)
                case Change():
                    yield from self._change(view, command)
        except InvalidRequest as error:
            raise Refused(error) from error

    def _create(self, view: View, order: Create) -> Iterator[Action]:
        if order.name and (reason := refusal(order.name)):
            raise InvalidRequest(reason)
        name = order.name or self._made_up(view)
        key = self._key(view, order, name)
        self._refuse_taken(view, name, key)
        yield Put(NAME, name, Name(key=key))
        yield Put(CONTAINER, key, Container(name=name, moves=asking.moves(order.body), asked=view.version))
        yield asking.ask_of(order, key, name, self.settings)
        yield Reply(Reserved(key=key, name=name))

    @staticmethod
    def _key(view: View, order: Create, name: str) -> str:
        labels = order.body.get("Labels")
        given = labels.get(ID_LABEL) if isinstance(labels, Mapping) else None
        if isinstance(given, str) and given:
            if _stays(view, given):
                raise InvalidRequest(f"{ID_LABEL}: there is a container with this id already: {given}")
            return given
        attempt = 0
        while (key := _made_key(view, name, attempt)) in view.objects(CONTAINER):
            attempt += 1  # made, and renamed, in the same run
        return key

    @staticmethod
    def _made_up(view: View) -> str:
        names, number = view.objects(NAME), view.unique("name").int
        attempt = 0
        while (name := name_of(number, attempt)) in names:
            attempt += 1
        return name

    @staticmethod
    def _refuse_taken(view: View, name: str, key: str) -> None:
        taken = view.objects(NAME).get(name)
        if taken is None or taken.key == key:
            return
        if _stays(view, taken.key):
            task = view.live.get(taken.key)
            external_id = task.status.external_id if task is not None else ""
            raise Refused(Conflict(name=name, key=taken.key, container=external_id))

    def _reserve(self, view: View, order: Reserve) -> Iterator[Action]:
        if reason := refusal(order.name, f"/{order.name}"):
            raise InvalidRequest(f"Error when allocating new name: {reason}")
        self._refuse_taken(view, order.name, order.key)
        known = view.objects(CONTAINER).get(order.key)
        if known is not None:
            for name in {known.reserved} - {known.name, order.name, ""}:
                yield from _release(view, name, order.key)  # it has one second name, that of the last who asked
            yield Put(NAME, order.name, Name(key=order.key))
            yield Put(CONTAINER, order.key, attrs.evolve(known, reserved=order.name))

    def _rename(self, view: View, order: Rename) -> Iterator[Action]:
        known = view.objects(CONTAINER).get(order.key)
        if known is None:
            return
        self._refuse_taken(view, order.name, order.key)
        for name in sorted({known.name, known.reserved} - {order.name, ""}):
            yield from _release(view, name, order.key)
        yield Put(NAME, order.name, Name(key=order.key))
        yield Put(CONTAINER, order.key, attrs.evolve(known, name=order.name, reserved=""))

    @staticmethod
    def _move(view: View, order: Move) -> Iterator[Action]:
        task, container = view.live.get(order.key), view.objects(CONTAINER).get(order.key)
        if task is None or container is None or not container.moves or task.id != order.task or task.desired_reason:
            raise Refused("it may not move, or has moved already")
        yield Kill(order.key, REBALANCED)

    @staticmethod
    def _keep(view: View, order: Keep) -> Iterator[Action]:
        known = view.objects(CONTAINER).get(order.key)
        if known is not None:
            yield Put(CONTAINER, order.key, attrs.evolve(known, moves=order.moves))

    def _change(self, view: View, order: Change) -> Iterator[Action]:
        task = view.live.get(order.key)
        if task is not None:
            yield Amend(order.key, asking.changed(view.spec(task), order, self.settings))

    def handle(self, view: View, changed: Changed) -> Iterable[Action]:
        containers = view.objects(CONTAINER)
        keys = set(containers) if changed.everything else {*changed.keys, *changed.rejected} & containers.keys()
        for key in sorted(keys):
            yield from self._attend(view, key, containers[key])

    def _attend(self, view: View, key: str, container: Container) -> Iterator[Action]:
        task = view.tasks.get(key)
        if container.asked == view.version:
            return  # this very run has asked for it: there is no task of it yet
        if task is not None and task.live:
            if container.moves and container.runs is not _runs(task, container.runs):
                yield Put(CONTAINER, key, attrs.evolve(container, runs=not container.runs))
        elif task is not None and container.moves and (why := why_it_moves(task)):
            failed = task.status.exit is not None and task.status.exit.outcome is Outcome.ERROR
            not_before = view.now.utc_ms + TRY_AGAIN_AFTER_MS if failed else 0
            spec = view.spec(task)
            yield asking.again(spec, key, container.name, task.role, runs=container.runs, not_before_utc_ms=not_before)
            yield Emit("rescheduled", key, {"name": container.name, "reason": why})
        else:
            for name in sorted({container.name, container.reserved} - {""}):
                yield from _release(view, name, key)
            yield Delete(CONTAINER, key)


def _made_key(view: View, name: str, attempt: int) -> str:
    """64 hexadecimal digits. Several commands of one run see the same `unique` numbers; names tell them apart."""
    return "".join(view.unique("container", name, str(attempt), half).hex for half in ("first", "second"))


def _stays(view: View, key: str) -> bool:
    """Is there a container of this key, or will there be one again? Commands come before their run's handler, which
    is the one to ask for what has to move."""
    container = view.objects(CONTAINER).get(key)
    if key in view.live or (container is not None and container.asked == view.version):
        return True
    task = view.tasks.get(key)
    return task is not None and container is not None and container.moves and bool(why_it_moves(task))


def _runs(task: Task, before: bool) -> bool:
    """What is not heard of, or on its way to be started anew, is as it was."""
    if task.unreachable or task.state not in (TaskState.PREPARED, TaskState.RUNNING):
        return before
    to_start = task.desired is Desired.RUNNING and task.status.incarnation == 1
    return before if to_start and not task.running else task.running


def why_it_moves(task: Task) -> str:
    """Its node is lost, drained or too full, or it could not be made where it was to move; empty: a client has removed
    it, or somebody has killed it, before anything else befell it."""
    exit_ = task.status.exit
    asked_to = stopped_by_drain(task) or task.desired_reason == REBALANCED
    if exit_ is None or task.placement is None or (task.desired_reason and not asked_to):
        return ""
    could_not_move = exit_.outcome is Outcome.ERROR and task.wait_ms is None
    if exit_.outcome is Outcome.LOST or asked_to or could_not_move:
        return exit_.reason or task.desired_reason or exit_.outcome.value
    return ""


def _release(view: View, name: str, key: str) -> Iterator[Action]:
    taken = view.objects(NAME).get(name)
    if taken is not None and taken.key == key:
        yield Delete(NAME, name)
