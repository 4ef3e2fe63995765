"""How far nodes' clocks are from the leader's, for people: nothing is decided by it. Pure.

A node tells what its clock shows as its session begins, and every minute. Compared with it is the clock of this process
that never steps, and what that means in time of day is asked when it is shown: so the difference is right at once when
the leader's own clock is set. A reading that was held up on its way looks like a clock that is behind; of a node's last
two the one counts that is nearer.

Which clock is wrong can be told where several nodes agree: a leader that is ahead writes times that have not come yet,
and when it is set right, or another one leads, what is due by the clock waits until they have passed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from orlop.model.clock import Now

#: Less is not worth mentioning: a leader's time never goes back by so much either.
APART_MS: Final = 5_000
NAMED_MAX: Final = 3


@attrs.frozen(kw_only=True)
class Clocks:
    """ahead_ms: of each node of which it is known: by how much its clock is ahead of the leader's, less than 0 behind.

    trouble: what is wrong, empty when nothing is. whose: the nodes with a trouble, or the leader alone ("leader").
    """

    ahead_ms: Mapping[str, int] = attrs.field(factory=dict)
    trouble: str = ""
    whose: frozenset[str] = frozenset()


class NodeClocks:
    """See the module."""

    def __init__(self) -> None:
        self._apart: dict[str, tuple[int, ...]] = {}

    def told(self, node: str, utc_ms: int, now: Now) -> None:
        """The node's clock shows this, as it arrives."""
        self._apart[node] = (*self._apart.get(node, ())[-1:], utc_ms - now.monotonic_ms)

    def forget(self, node: str) -> None:
        """There is no such node any more, or it does not speak."""
        self._apart.pop(node, None)

    def judge(self, now: Now, name_of: Callable[[str], str]) -> Clocks:
        """As of now. name_of: node's id → its name."""
        own = now.utc_ms - now.monotonic_ms
        ahead = {node: min((one - own for one in apart), key=abs) for node, apart in self._apart.items()}
        off = {node: by for node, by in ahead.items() if abs(by) >= APART_MS}
        if not off:
            return Clocks(ahead_ms=ahead)
        by = _shared(off)
        if by is not None and len(off) > 1 and 2 * len(off) > len(ahead):
            apart = f"{abs(by) / 1000:.0f} s {'ahead of' if by < 0 else 'behind'}"
            trouble = f"the leader's clock is {apart} those of {len(off)} of {len(ahead)} nodes: set it right"
            return Clocks(ahead_ms=ahead, trouble=trouble, whose=frozenset({"leader"}))
        worst = sorted(off, key=lambda node: (-abs(off[node]), node))
        named = [f"{name_of(node)} by {off[node] / 1000:+.0f} s" for node in worst[:NAMED_MAX]]
        named += [f"{len(off) - NAMED_MAX} more"] if len(off) > NAMED_MAX else []
        trouble = f"clocks of nodes differ from the leader's: {', '.join(named)}"
        return Clocks(ahead_ms=ahead, trouble=trouble, whose=frozenset(off))


def _shared(off: Mapping[str, int]) -> int | None:
    """By how much all of them are off, if that is about the same: in the middle."""
    values = sorted(off.values())
    return values[len(values) // 2] if values[-1] - values[0] < APART_MS else None
