"""A plugin's API over a simulated cluster, and calls of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import requests
from aiohttp import web

from orlop.testing.harness import Cluster
from orlop.testing.served import DEADLINE_S, ServedCluster


class ServedApi(ServedCluster):
    """See `ServedCluster`. One connection is kept, as clients do."""

    def __init__(self, cluster: Cluster, application: Callable[[Any], web.Application]) -> None:
        super().__init__(cluster, application)
        self.session = requests.Session()

    def close(self) -> None:
        self.session.close()
        super().close()

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        """body: sent as JSON, unless it is text or bytes."""
        if body is not None:
            options["data"] = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self.session.request(method, self.url + path, timeout=DEADLINE_S, **options)
