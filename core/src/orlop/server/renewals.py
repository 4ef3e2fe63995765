"""Which agents are told to renew their certificates: those whose session has not been told the present wish yet.

A few at a time: each renewal is a connection and two signatures, and thousands of nodes hear of a new authority in the
same moment. What becomes of a wish is the agent's business, which tries until it has what is wished.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from orlop.agent.session import LinkClosed
from orlop.model.messages import RenewCertificate

TOLD_AT_ONCE_MAX: Final = 50

Send = Callable[[RenewCertificate], None]


@attrs.define
class _Session:
    send: Send
    told: RenewCertificate | None = None


class Renewals:
    """Sessions of agents that understand the wish. Lives on the event loop."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}

    def session_began(self, node: str, send: Send) -> None:
        """The node's newest session is the one that counts."""
        self._sessions[node] = _Session(send)

    def session_ended(self, node: str, send: Send) -> None:
        """Of a session that may have been replaced already."""
        known = self._sessions.get(node)
        if known is not None and known.send == send:
            del self._sessions[node]

    def tell(self, wish: RenewCertificate) -> None:
        """Tells some of those that have not heard it. To be called again and again."""
        behind = [one for one in self._sessions.values() if one.told != wish]
        for session in behind[:TOLD_AT_ONCE_MAX]:
            session.told = wish
            try:
                session.send(wish)
            except LinkClosed:
                continue
