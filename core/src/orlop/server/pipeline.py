"""The commit pipeline: nothing leaves before the commit. A pure state machine; `core.py` is its shell.

Events are decided in steps over the *head*, the newest state that was decided. The documents of all steps decided
while a transaction is under way are written together in the next one. When a transaction is durable, its state
becomes the *committed* one and its effects are released. When the store definitely refuses it, everything decided
since is forgotten with it: the head falls back to the committed state, and whoever waits is told why. When the
outcome is not known there is nothing safe left to do in this life: the shell steps down and loads anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from orlop.kernel.events import Effect, Event
from orlop.kernel.kernel import Kernel
from orlop.kernel.state import State
from orlop.model.clock import Now
from orlop.model.messages import Epoch


@attrs.frozen
class Submission:
    """An event and who wants to know: `done(None)` when it is durable, `done(reason)` when it was refused."""

    event: Event
    done: Callable[[str | None], None] | None = None


@attrs.define
class Batch:
    """Steps that are written in one transaction. puts: key → document. state: after all of them."""

    state: State
    puts: dict[str, Any] = attrs.field(factory=dict)
    deletes: set[str] = attrs.field(factory=set)
    effects: list[Effect] = attrs.field(factory=list)
    submissions: list[Submission] = attrs.field(factory=list)

    @property
    def writes(self) -> int:
        return len(self.puts) + len(self.deletes)


class Pipeline:
    """See the module."""

    def __init__(self, kernel: Kernel, state: State, epoch: Epoch) -> None:
        self._kernel = kernel
        self._epoch = epoch
        self.committed = state
        self.head = state
        self._next: Batch | None = None
        self._in_flight: Batch | None = None

    def decide(self, submissions: Sequence[Submission], now: Now) -> None:
        """Decides the events on the head, as one step."""
        step = self._kernel.step(self.head, [one.event for one in submissions], now, self._epoch)
        batch = self._next
        if batch is None:
            batch = self._next = Batch(state=step.state)
        for key, document in step.puts.items():
            batch.puts[key] = document
            batch.deletes.discard(key)
        for key in step.deletes:
            batch.puts.pop(key, None)
            batch.deletes.add(key)
        batch.state = step.state
        batch.effects.extend(step.effects)
        batch.submissions.extend(submissions)
        self.head = step.state

    def take(self) -> Batch | None:
        """The next batch to write, if none is under way. One without writes is durable already."""
        if self._in_flight is not None or self._next is None:
            return None
        self._in_flight, self._next = self._next, None
        return self._in_flight

    def succeeded(self) -> Batch:
        """The batch under way is durable: release its effects, tell its submitters."""
        batch = self._in_flight
        assert batch is not None, "only a batch that was taken can succeed"
        self._in_flight = None
        self.committed = batch.state
        return batch

    def refused(self) -> list[Submission]:
        """The batch under way was not applied: it and all decided after it is forgotten; tell these submitters."""
        batch = self._in_flight
        assert batch is not None, "only a batch that was taken can be refused"
        forgotten = batch.submissions + (self._next.submissions if self._next is not None else [])
        self._in_flight = self._next = None
        self.head = self.committed
        return forgotten
