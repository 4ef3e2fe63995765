"""Marathon's HTTP API: an aiohttp application, one module per resource."""

from __future__ import annotations

from orlop_marathon.http.dispatching import application

__all__ = ["application"]
