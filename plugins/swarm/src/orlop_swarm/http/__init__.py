"""The Docker API of the pool: an aiohttp application, one module per resource."""

from __future__ import annotations

from orlop_swarm.http.application import make_application
from orlop_swarm.http.services import SERVICES, Containers, Services

__all__ = ["SERVICES", "Containers", "Services", "make_application"]
