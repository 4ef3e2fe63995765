"""Whether a server leads or stands by. The roles that resources are accounted to are something else."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Role:
    """leads: is it the leader? leader_url: of who leads; empty when that is not known.

    stale_ms: how old its knowledge may be; 0 for the leader. reason: why it is not newer, where that is known.
    """

    leads: bool
    leader_url: str
    stale_ms: int = 0
    reason: str = ""
