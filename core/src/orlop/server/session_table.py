"""Which of a node's sessions counts: the newest. Pure; the server's shell and the simulated one ask it.

A node begins a session only after it has given up the last one, so the one that began last here is its newest. What
was said on an older one may have been held up on its way, and arrive when the newer one is long at work. It would be
taken for the node's session then, and end, and the node would hear nothing any more on the one that it has. So nothing
that an older session says counts, and it is ended. Nothing is lost with it: a session begins with the full truth, and
statuses are repeated until they are acknowledged.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import attrs

LinkT = TypeVar("LinkT")

SUPERSEDED: Final = "a newer session of this node has begun"


@attrs.define
class _Session(Generic[LinkT]):
    """order: later ones are greater. node: empty before the hello."""

    order: int
    link: LinkT
    node: str = ""


class SessionTable(Generic[LinkT]):
    """See the module. A link is whatever the shell sends through."""

    def __init__(self) -> None:
        self._begun = 0
        self._sessions: dict[str, _Session[LinkT]] = {}
        self._current: dict[str, str] = {}
        #: Of each node, the greatest order of those that said hello; one that ended counts too.
        self._newest: dict[str, int] = {}

    def begin(self, session: str, link: LinkT) -> None:
        """A session begins, under a name of its own. In the order in which nodes were let in."""
        self._begun += 1
        self._sessions[session] = _Session(self._begun, link)

    def hello(self, session: str, node: str) -> LinkT | None:
        """It says whose it is. The link of the session that is older, this one or the one before, and is to end."""
        known = self._sessions[session]
        if known.node != node:
            self._forget_node(session, known.node)
            known.node = node
        if self._newest.get(node, 0) > known.order:
            return known.link
        before = self._sessions.get(self._current.get(node, ""))
        self._newest[node], self._current[node] = known.order, session
        return before.link if before is not None and before is not known else None

    def node_of(self, session: str) -> str:
        """Whose session it is; empty when what it says does not count."""
        known = self._sessions.get(session)
        return known.node if known is not None and self._current.get(known.node) == session else ""

    def end(self, session: str) -> None:
        """It has ended."""
        known = self._sessions.pop(session, None)
        if known is not None:
            self._forget_node(session, known.node)

    def to_node(self, node: str, session: str = "") -> LinkT | None:
        """The way to the node; None when it has no session, or another one than this."""
        current = self._current.get(node, "")
        known = self._sessions.get(current)
        return known.link if known is not None and session in ("", current) else None

    def give_up(self, node: str) -> LinkT | None:
        """Nothing that the node's session still says counts, and it is to end: its link, if there is one."""
        link = self.to_node(node)
        self._current.pop(node, None)
        return link

    def link(self, session: str) -> LinkT | None:
        """Of a session, if it has not ended."""
        known = self._sessions.get(session)
        return known.link if known is not None else None

    def links(self) -> list[LinkT]:
        """Of all sessions."""
        return [known.link for known in self._sessions.values()]

    def _forget_node(self, session: str, node: str) -> None:
        if self._current.get(node) == session:
            del self._current[node]
