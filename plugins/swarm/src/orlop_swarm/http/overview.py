"""What the kernel knows of the pool's nodes, for `docker info`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orlop.framework import Candidate
from orlop_swarm.engines.pool import engine_node
from orlop_swarm.merging.system import About, Member
from orlop_swarm.settings import Config


class KernelOverview:
    """See `services.Overview`. candidates: of the newest durable state; raises NotAvailable. name, version: of the
    cluster. address: this server's, which is the one that leads when it answers."""

    def __init__(
        self,
        candidates: Callable[[], Sequence[Candidate]],
        settings: Config,
        *,
        name: str,
        version: str,
        address: str,
    ) -> None:
        self._candidates = candidates
        self._settings = settings
        self._name = name
        self._version = version
        self._address = address

    def about(self) -> About:
        """See `services.Overview`."""
        return About(
            id=self._name,
            name=self._name,
            version=self._version,
            strategy=self._settings.strategy,
            filters=self._settings.filters,
            primary=self._address,
        )

    def members(self) -> Sequence[Member]:
        """Nodes with an engine. Reserved is what tasks of all frameworks hold there, and other containers."""
        return [member for candidate in self._candidates() if (member := _member(candidate)) is not None]


def _member(candidate: Candidate) -> Member | None:
    node = engine_node(candidate.node)
    if node is None:
        return None
    total, free = candidate.node.info.resources, candidate.free
    return Member(
        id=node.id,
        name=node.name,
        address=node.address,
        unavailable=node.unavailable,
        attributes=node.attributes,
        reserved_cpus=total.get("cpus") - free.get("cpus"),
        reserved_mem=total.get("mem") - free.get("mem"),
        cpus=total.get("cpus"),
        mem=total.get("mem"),
    )
