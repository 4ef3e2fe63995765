"""What this process knows of one docker task."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import attrs

from orlop.agent.runtimes.docker_container import Identity
from orlop.agent.runtimes.interface import Phase, Report

#: Events after which the next end may be another one than the events alone tell.
_MEDDLING: Final = frozenset({"kill", "update"})
#: The events that a record is to be told of.
NOTED: Final = _MEDDLING | {"start", "oom", "destroy"}


@attrs.define(kw_only=True, eq=False)
class Record:
    """starting: a start is under way, and will report. last: what was last reported. changed: the runtime's count
    of changes when `last` was set. stopping: it has been told to end. killed: we have sent it SIGKILL. sending: signals
    that wait for their turn.

    undisturbed: since before its start all its events have been seen, the engine leaves it as it ends, and nobody
    has asked the engine for anything else: then its `die` event tells all about its end, and no inspection is
    needed. out_of_memory: the kernel killed in it for memory. gone: its container has been removed.
    """

    task: str
    incarnation: int
    container: str = ""
    starting: bool = False
    stopping: bool = False
    killed: bool = False
    undisturbed: bool = False
    out_of_memory: bool = False
    gone: bool = False
    sending: set[str] = attrs.field(factory=set)
    last: Report | None = None
    changed: int = 0
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    abandoned: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def phase(self) -> Phase | None:
        return self.last.phase if self.last else None

    @property
    def identity(self) -> Identity:
        return Identity(self.task, self.incarnation)

    def saying(self, phase: Phase, **members: Any) -> Report:
        """A report of this task in its container."""
        members.setdefault("external_id", self.container)
        return Report(task=self.task, incarnation=self.incarnation, phase=phase, **members)

    def note(self, action: str, attributes: Mapping[str, str]) -> None:
        """Of an event, at once: what its later ones mean."""
        if action == "oom":
            self.out_of_memory = True
        elif action == "destroy":
            self.gone = True
        elif action in _MEDDLING or (action == "start" and "exitCode" in attributes):
            # Labels are among an event's attributes, and win over the engine's own.
            self.undisturbed = False
