"""Faults to plant in the simulated cluster: each takes away one of the rules that keep it whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import pytest

from orlop.agent.task_record import TaskRecord
from orlop.agent.worker import Worker
from orlop.kernel import assignments, lifecycle
from orlop.kernel.events import Assign
from orlop.kernel.kernel import _Batch
from orlop.model.messages import Assignments
from orlop.server.session_table import SessionTable
from orlop.server.writing import Released, Transaction, Writer
from orlop.testing.simulation import leading

Plant = Callable[[pytest.MonkeyPatch], None]


def no_epoch_compare_in_the_store(patch: pytest.MonkeyPatch) -> None:
    """An old leader's transactions are taken."""
    original = Writer.next

    def unfenced(self: Writer) -> Any:
        work = original(self)
        return Transaction(work.writes, ()) if isinstance(work, Transaction) else work

    patch.setattr(Writer, "next", unfenced)


def no_epoch_compare_on_the_node(patch: pytest.MonkeyPatch) -> None:
    """A node obeys whoever speaks to it, and a server speaks without asking the store. Each alone is not to be found:
    the other holds."""
    patch.setattr(Worker, "is_deposed", lambda self, epoch: False)
    patch.setattr(_Batch, "_tells_nodes", lambda self: False)


def effects_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """What was decided is seen before it is durable."""
    original = Writer.next

    def early(self: Writer) -> Any:
        fresh = self._writing is None
        waiting = self._pipeline._waiting[0] if self._pipeline._waiting and fresh else None
        work = original(self)
        if fresh and waiting is not None and isinstance(work, Transaction):
            effects, waiting.effects = tuple(waiting.effects), []
            submissions, waiting.submissions = tuple(waiting.submissions), []
            return Released(effects, tuple((one, None) for one in submissions))
        return work

    patch.setattr(Writer, "next", early)


def no_resync(patch: pytest.MonkeyPatch) -> None:
    """A new session does not begin with the full truth."""

    def nothing(effect: Assign) -> Assignments:
        made = assignments.assignments(effect)
        return attrs.evolve(made, full=False, items=()) if made.full else made

    patch.setattr(leading, "assignments", nothing)


def no_check_on_return(patch: pytest.MonkeyPatch) -> None:
    """A node that returns keeps what was replaced meanwhile."""

    def keep(self: Worker, record: TaskRecord, message: Assignments, now: Any) -> Iterator[Any]:
        return iter(())

    patch.setattr(Worker, "_unnamed", keep)


def late_hello_counts(patch: pytest.MonkeyPatch) -> None:
    """Whoever says hello last is the node's session, even one that the node has given up."""
    original = SessionTable.hello

    def last(self: SessionTable[Any], session: str, node: str) -> None:
        self._newest.clear()
        self._current.pop(node, None)
        original(self, session, node)

    patch.setattr(SessionTable, "hello", last)


def silent_session_goes_on(patch: pytest.MonkeyPatch) -> None:
    """A node that was silent, and given up, speaks on as if nothing had happened."""
    patch.setattr(leading.Leading, "_end_session", lambda self, event: None)


def no_stop_alone(patch: pytest.MonkeyPatch) -> None:
    """A node runs on what its policy does not let run without a server."""
    patch.setattr(Worker, "_stop_alone", lambda self, task, now: iter(()))


def lost_though_kept(patch: pytest.MonkeyPatch) -> None:
    """What is to be kept is given up with its node."""
    patch.setattr(lifecycle, "is_lost", lambda policy, gone, silent_ms: gone)


def lost_at_once(patch: pytest.MonkeyPatch) -> None:
    """What is to be given up later is given up with its node's first silence."""
    patch.setattr(lifecycle, "is_lost", lambda policy, gone, silent_ms: not policy.keep)


FAULTS: Final[dict[str, Plant]] = {
    plant.__name__: plant
    for plant in (
        no_epoch_compare_in_the_store,
        effects_before_the_commit,
        no_resync,
        no_check_on_return,
        no_stop_alone,
        lost_though_kept,
        lost_at_once,
    )
}

#: So rare that plans for them are written by hand.
RARE_FAULTS: Final[dict[str, Plant]] = {
    plant.__name__: plant for plant in (no_epoch_compare_on_the_node, late_hello_counts, silent_session_goes_on)
}
