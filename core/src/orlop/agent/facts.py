"""What of a node's facts its session is told, and when. Pure; the agent's shell and the simulated node ask it.

Servers that do not say that they understand facts are told none. After each welcome the facts are told in full, from
then on what has changed.
"""

from __future__ import annotations

from collections.abc import Collection

from orlop.model.facts import NodeFacts, difference, in_full
from orlop.model.messages import FACTS, Facts


class FactsTelling:
    """See the module. facts: the newest ones; None where nothing is known, such as without an engine."""

    def __init__(self) -> None:
        self.facts: NodeFacts | None = None
        self._told: NodeFacts | None = None
        self._wanted = False

    def hello(self) -> None:
        """Hello is said: until it is answered, nothing more is told."""
        self._told, self._wanted = None, False

    def welcomed(self, understands: Collection[str]) -> Facts | None:
        """What is to be told after a welcome."""
        self._told, self._wanted = None, FACTS in understands
        return self._next()

    def changed(self, facts: NodeFacts) -> Facts | None:
        """What is to be told of these newer facts."""
        self.facts = facts
        return self._next()

    def _next(self) -> Facts | None:
        if not self._wanted or self.facts is None:
            return None
        change = difference(self._told, self.facts) if self._told is not None else in_full(self.facts)
        self._told = self.facts
        return None if change.empty else Facts(change=change)
