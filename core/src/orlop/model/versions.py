"""Versions of stored documents: which one this program writes of each kind, and how it reads those before.

A kind begins at version 1 and gets another one with each change after which an earlier program would read or write it
wrongly: a member that is renamed, or means something else, and also one that is new, because a program that does not
know it would lose it. With each goes a *step*, a pure function from the JSON object of one version to that of the next.

Documents are brought up to date when they are read, step by step, and written in the new form when they change: a
state may hold documents of several versions for ever. A newer version than this program knows is never read, and so
never written over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

#: From the JSON object of one version, without `v`, to that of the next. Pure; it may change and return its argument.
Step = Callable[[dict[str, Any]], dict[str, Any]]

FIRST: Final = 1


class Versions:
    """The kinds that have more than one version, by their classes."""

    def __init__(self) -> None:
        self._steps: dict[type, list[Step]] = {}

    def of(self, cls: type) -> int:
        """The version that is written."""
        return FIRST + len(self._steps.get(cls, ()))

    def add(self, cls: type, from_version: int, step: Step) -> None:
        """The kind has another version. In order: ValueError when `from_version` is not the last one."""
        if from_version != self.of(cls):
            raise ValueError(
                f"the last version of {cls.__name__} is {self.of(cls)}, and this step is from {from_version}"
            )
        self._steps.setdefault(cls, []).append(step)

    def steps(self) -> Mapping[type, tuple[Step, ...]]:
        """All of them, by kind."""
        return {cls: tuple(steps) for cls, steps in self._steps.items()}

    def upgraded(self, cls: type, document: dict[str, Any], from_version: int) -> dict[str, Any]:
        """A document of an earlier version in the form of the last one."""
        for step in self._steps.get(cls, ())[from_version - FIRST :]:
            document = step(document)
        return document


#: Of core's own documents: the state's, and a node's records.
VERSIONS: Final = Versions()
