"""The commit pipeline: nothing leaves before the commit. A pure state machine; `core.py` is its shell.

Events are decided in steps over the *head*, the newest state that was decided. The documents of steps decided while a
transaction is under way are written together in the next one, as far as one transaction of the store holds them; a
single step may need more (`redo.py`). When a transaction is durable, its state becomes the *committed* one and its
effects are released. When the store definitely refuses it, everything decided since is forgotten with it: the head
falls back to the committed state, and whoever waits is told why. When the outcome is not known there is nothing safe
left to do in this term: the shell steps down and loads anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from orlop.kernel.events import Effect, Event
from orlop.kernel.kernel import Kernel, Step
from orlop.kernel.state import State
from orlop.model.clock import Now
from orlop.model.messages import Epoch


@attrs.frozen
class Failure:
    """Why an event did not become durable, or, `unknown`, may have."""

    reason: str
    unknown: bool = False

    def __str__(self) -> str:
        return f"{'the outcome is not known' if self.unknown else 'nothing was changed'}: {self.reason}"


@attrs.frozen
class Submission:
    """An event and who wants to know: `done(None)` when it is durable, `done(failure)` when it is not."""

    event: Event
    done: Callable[[Failure | None], object] | None = None

    def tell(self, failure: Failure | None) -> None:
        if self.done is not None:
            self.done(failure)


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

    def __init__(self, kernel: Kernel, state: State, epoch: Epoch, writes_max: int) -> None:
        """writes_max: documents that one transaction holds."""
        self._kernel = kernel
        self._epoch = epoch
        self._writes_max = writes_max
        self.committed = state
        self.head = state
        self._waiting: deque[Batch] = deque()
        self._in_flight: Batch | None = None
        self.is_abandoned = False

    def decide(self, submissions: Sequence[Submission], now: Now) -> None:
        """Decides the events on the head, as one step."""
        head = self.head
        self.add(head, self.step(head, submissions, now), submissions)

    def step(self, head: State, submissions: Sequence[Submission], now: Now) -> Step:
        """What the events lead to from this state. Changes nothing, so that shells with threads need no lock for it."""
        return self._kernel.step(head, [one.event for one in submissions], now, self._epoch)

    def add(self, head: State, step: Step, submissions: Sequence[Submission]) -> bool:
        """The step counts. False: it does not, for it was made from what is not the head any more."""
        if head is not self.head:
            return False
        batch = self._batch_for(step)
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
        return True

    def _batch_for(self, step: Step) -> Batch:
        """The last waiting batch if the step's documents fit into it, else a new one."""
        if self._waiting:
            last = self._waiting[-1]
            more = sum(key not in last.puts and key not in last.deletes for key in (*step.puts, *step.deletes))
            if last.writes + more <= self._writes_max or not more:
                return last
        made = Batch(state=step.state)
        self._waiting.append(made)
        return made

    def take(self) -> Batch | None:
        """The next batch to write, if none is under way. One without writes is durable already."""
        if self._in_flight is not None or not self._waiting:
            return None
        self._in_flight = self._waiting.popleft()
        return self._in_flight

    def succeeded(self) -> Batch:
        """The batch under way is durable: release its effects, tell its submitters."""
        batch = self._in_flight
        assert batch is not None, "only a batch that was taken can succeed"
        self._in_flight = None
        self.committed = batch.state
        return batch

    def refused(self) -> list[Submission]:
        """The store takes nothing now: what is under way and all decided after it is forgotten; tell these."""
        batch = self._in_flight
        forgotten = batch.submissions if batch is not None else []
        forgotten = forgotten + [one for later in self._waiting for one in later.submissions]
        self._forget()
        return forgotten

    def abandoned(self, reason: str) -> list[tuple[Submission, Failure]]:
        """The term ends: what is under way may still become durable, what waits never will; whom to tell what."""
        batch = self._in_flight
        told = [(one, Failure(reason)) for later in self._waiting for one in later.submissions]
        if batch is not None:
            told += [(one, Failure(reason, unknown=batch.writes > 0)) for one in batch.submissions]
        self._forget()
        self.is_abandoned = True
        return told

    def _forget(self) -> None:
        self._in_flight = None
        self._waiting.clear()
        self.head = self.committed
