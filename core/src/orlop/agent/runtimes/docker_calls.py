"""What each start of a container asks of an engine: not through docker-py, see `docker_http`. Refusals are those of
docker-py."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from orlop.agent.runtimes.docker_errors import refusal
from orlop.agent.runtimes.docker_http import EngineHttp
from orlop.docker_versions import nearest


class EngineCalls:
    """See the module. version, oldest: of the engine's API, `1.41`; as it was last connected to.

    All raise EngineLost, and EngineRefused with the engine's words.
    """

    def __init__(self, http: EngineHttp) -> None:
        self._http = http
        self.version = ""
        self.oldest = ""

    async def create(self, body: Mapping[str, Any], name: str, platform: str, version: str) -> dict[str, Any]:
        """POST /containers/create; the answer. version: of the API that the body is meant in, brought to the nearest
        that the engine knows; empty: the engine's newest."""
        version = nearest(version or self.version, self.oldest, self.version)
        query = urlencode({"name": name, **({"platform": platform} if platform else {})})
        path = f"/v{version}/containers/create?{query}"
        made: dict[str, Any] = orjson.loads(await self._call("POST", path, orjson.dumps(body)))
        return made

    async def start(self, container: str) -> None:
        """POST /containers/ID/start."""
        await self._call("POST", f"/v{self.version}/containers/{container}/start")

    async def connect(self, container: str, network: str, settings: Mapping[str, Any] | None) -> None:
        """POST /networks/NAME/connect, with an endpoint's settings; None: /disconnect."""
        body = {"Container": container} if settings is None else {"Container": container, "EndpointConfig": settings}
        action = "disconnect" if settings is None else "connect"
        path = f"/v{self.version}/networks/{quote(network, safe='')}/{action}"
        await self._call("POST", path, orjson.dumps(body))

    async def inspect(self, container: str) -> dict[str, Any]:
        """GET /containers/ID/json; the answer. container: its id or name."""
        path = f"/v{self.version}/containers/{quote(container, safe='')}/json"
        seen: dict[str, Any] = orjson.loads(await self._call("GET", path))
        return seen

    async def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of the answer."""
        status, said = await self._http.call(method, path, body)
        if status < HTTPStatus.BAD_REQUEST:
            return said
        raise refusal(status, said)
