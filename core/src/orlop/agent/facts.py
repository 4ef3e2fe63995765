"""What of a node's facts its session is told, and when. Pure; the agent's shell and the simulated node ask it.

They come with each hello, so that nothing is placed on the node by a server that does not know them; from then on what
has changed is told. A server that does not say that it understands facts is told no more. One that has not got those of
the hello, for it is of an earlier version or the hello was too large with them, is told them in full after the welcome.
"""

from __future__ import annotations

from collections.abc import Collection

from orlop.model.facts import FactsChange, NodeFacts, difference, in_full
from orlop.model.messages import FACTS, Facts


class FactsTelling:
    """See the module. facts: the newest ones; None where nothing is known, such as without an engine."""

    def __init__(self) -> None:
        self.facts: NodeFacts | None = None
        self._said: NodeFacts | None = None
        self._told: NodeFacts | None = None
        self._wanted = False

    def hello(self) -> FactsChange | None:
        """What the hello says of them: until it is answered, nothing more is told."""
        self._said, self._told, self._wanted = self.facts, None, False
        return in_full(self.facts) if self.facts is not None else None

    def welcomed(self, understands: Collection[str], *, known: bool) -> Facts | None:
        """What is to be told after a welcome. known: those of the hello are."""
        self._told, self._wanted = self._said if known else None, FACTS in understands
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
