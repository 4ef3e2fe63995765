"""What each start of a container asks of an engine, and what it is told: not through docker-py, see `docker_http`, nor
through its reader of events, which looks for the ends of JSON documents. Refusals are those of docker-py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from http.client import responses
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson

from orlop.agent.runtimes.docker_errors import LOST_STATUSES, EngineLost, EngineRefused
from orlop.agent.runtimes.docker_http import EngineHttp
from orlop.docker_versions import nearest

#: What engines of all versions say of an image that there is not (docker-py 7.1).
_NO_IMAGE: Final = (
    "no such image",
    "not found: does not exist or no pull access",
    "repository does not exist",
)


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
        text = _words(said) or responses.get(status, f"status {status}")
        if status in LOST_STATUSES:
            raise EngineLost(text)
        no_image = status == HTTPStatus.NOT_FOUND and any(words in text.lower() for words in _NO_IMAGE)
        raise EngineRefused(text, status, no_image=no_image)


def _words(said: bytes) -> str:
    """The engine's, of its answer."""
    try:
        document = orjson.loads(said)
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict) and isinstance(document.get("message"), str):
        return str(document["message"]).strip()
    return said.decode(errors="replace").strip()


def events(stream: Iterable[bytes | str]) -> Iterator[dict[str, Any]]:
    """Those of `client.events(decode=False)`: engines write one on each line. Raises ConnectionError, and as docker-py.

    stream: in pieces of any size; texts where it is no stream, which docker-py has read to its end.
    """
    rest = b""
    for piece in stream:
        *lines, rest = (rest + (piece.encode() if isinstance(piece, str) else piece)).split(b"\n")
        for line in filter(None, lines):
            try:
                event: dict[str, Any] = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ConnectionError(f"the engine tells an event that is no JSON: {error}") from error
            yield event
