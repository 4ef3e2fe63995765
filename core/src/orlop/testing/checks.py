"""What the harness checks by itself: the kernel's invariants, and that handlers are idempotent."""

from __future__ import annotations

from typing import Any, Final

from orlop.kernel import invariants, records
from orlop.kernel.events import FrameworkActions
from orlop.kernel.kernel import Step
from orlop.kernel.state import FrameworkState, State

#: Up to so many tasks and nodes the whole state is checked after each step.
SMALL: Final = 50


class NotIdempotent(AssertionError):
    """A framework wanted something else when it was asked a second time about the same view."""


class InvariantChecks:
    """Checks each step: what it changed always, and the whole state while that is cheap.

    The whole state of a large cluster is looked at again once several times as much has changed as there is, so that
    checking a history takes as long as making it, however large the cluster is.
    """

    CHANGES_PER_DOCUMENT: Final = 4

    def __init__(self) -> None:
        self._changes = 0

    def step(self, before: State, step: Step) -> None:
        """Raises InvariantBroken."""
        changed = [*step.puts, *step.deletes]
        tasks = [key.removeprefix(records.TASKS) for key in changed if key.startswith(records.TASKS)]
        nodes = [key.removeprefix(records.NODES) for key in changed if key.startswith(records.NODES)]
        invariants.check_changed(before, step.state, tasks, nodes)
        self._changes += len(tasks) + len(nodes)
        documents = len(step.state.tasks) + len(step.state.candidates)
        if documents <= SMALL or self._changes > self.CHANGES_PER_DOCUMENT * documents:
            self._changes = 0
            invariants.check_step(before, step.state)
            invariants.check(step.state)


def ended_at_once(state: State, actions: FrameworkActions) -> bool:
    """Has the kernel not granted an ask: now or never, or a task that a node runs already? Or was nobody there to stop
    a task that is killed? That is news to answer."""
    own = state.framework(actions.framework)
    keys = [*(ask.key for ask in actions.asks), *(kill.key for kill in actions.kills)]
    return any(key not in own.live for key in keys)


def check_idempotent(state: State, framework: str, again: FrameworkActions) -> None:
    """again: what the handler wants of a state that has all that it wanted before. Raises NotIdempotent."""
    own = state.framework(framework)
    asks = [ask.key for ask in again.asks if ask.key not in own.live]
    kills = [kill.key for kill in again.kills if kill.key in own.live and not state.tasks[own.live[kill.key]].stopping]
    puts = [key for key, stored in again.puts.items() if (known := _stored(own, *key)) is None or known != stored.value]
    deletes = [key for key in again.deletes if _stored(own, *key) is not None]
    if asks or kills or puts or deletes:
        raise NotIdempotent(
            f"{framework}, asked again about the same view, wants: asks {asks}, kills {kills}, puts {puts}, "
            f"deletes {deletes}"
        )


def _stored(own: FrameworkState, kind: str, object_id: str) -> Any:
    of_kind = own.objects.get(kind)
    stored = of_kind.get(object_id) if of_kind is not None else None
    return stored.value if stored is not None else None
