"""One request, as the resources' handlers see it, and the answers they give."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import attrs
import orjson
from aiohttp import ClientPayloadError, web

from orlop.framework import NotAvailable, Refused, View
from orlop_marathon import errors
from orlop_marathon.errors import MarathonError
from orlop_marathon.executing import Result
from orlop_marathon.framework import Marathon
from orlop_marathon.orders import Order, Origin
from orlop_marathon.parsing import load_json
from orlop_marathon.settings import Config

if TYPE_CHECKING:
    from orlop.server.routing import Host

#: So much of a body that is too large is still read, so that the client gets to see the answer. In bytes.
MOST_DRAINED_BYTES: Final = 64 * 1024 * 1024

Handler = Callable[["Call"], Awaitable[web.StreamResponse]]
#: HTTP method → handler, of one URI.
Methods = Mapping[str, Handler]


@attrs.frozen
class Call:
    """A request. host: the door to the framework. settings: of the plugin."""

    host: Host
    settings: Config
    request: web.Request

    @property
    def origin(self) -> Origin:
        return Origin(client_ip=self.request.remote or "", uri=self.request.rel_url.path)

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean query parameter: `true` in any case is true, anything else is false."""
        value = self.request.query.get(name)
        return default if value is None else value.casefold() == "true"

    def values(self, *names: str) -> list[str]:
        """All values of a repeatable query parameter."""
        return [value for name in names for value in self.request.query.getall(name, [])]

    def value(self, name: str) -> str | None:
        return self.request.query.get(name)

    @property
    def accepted(self) -> list[str]:
        """The media types that the client takes, in its order; whatever it prefers is not looked at."""
        return [part.partition(";")[0].strip() for part in self.request.headers.get("Accept", "*/*").split(",")]

    @property
    def wants_text(self) -> bool:
        """Is it one that takes text and does not name JSON?"""
        return "text/plain" in self.accepted and "application/json" not in self.accepted

    async def json(self) -> Any:
        """The body's JSON value. Raises MarathonError (400, 413)."""
        return load_json(await self._body())

    async def _body(self) -> bytes:
        limit = self.settings.max_body_bytes
        parts: list[bytes] = []
        size = 0
        try:
            async for part in self.request.content.iter_any():
                size += len(part)
                if size <= limit:
                    parts.append(part)
                elif size > MOST_DRAINED_BYTES:
                    break
        except (ClientPayloadError, web.RequestPayloadError, ValueError) as error:
            raise errors.bad_request(f"The request's body cannot be read: {error}") from None
        if size > limit:
            raise body_too_large(limit)
        return b"".join(parts)

    async def view(self) -> View:
        """The state now. Raises MarathonError (503)."""
        try:
            return await self.host.view(Marathon.name)
        except NotAvailable as error:
            raise unavailable(error) from None

    async def give(self, order: Order) -> Result:
        """Has an order carried out; returns when it is durable. Raises MarathonError."""
        try:
            result = await self.host.command(Marathon.name, order)
        except Refused as refused:
            if isinstance(refused.reason, MarathonError):
                raise refused.reason from None
            raise
        except NotAvailable as error:
            raise unavailable(error) from None
        assert isinstance(result, Result), "the framework replies to each order"
        return result


def body_too_large(limit: int) -> MarathonError:
    text = f"larger than {limit} bytes"
    return MarathonError(413, {"message": "Request body is too large", "details": [{"path": "/", "errors": [text]}]})


def unavailable(error: Exception) -> MarathonError:
    return MarathonError(503, {"message": str(error)})


def answer(
    value: Any, *, status: int = 200, deployment: str | None = None, location: str | None = None
) -> web.Response:
    """A JSON answer."""
    headers = {}
    if deployment is not None:
        headers["Marathon-Deployment-Id"] = deployment
    if location is not None:
        headers["Location"] = quote(location)
    return web.Response(body=orjson.dumps(value), status=status, headers=headers, content_type="application/json")


def plain(value: str) -> web.Response:
    """An answer for scripts."""
    return web.Response(text=value, content_type="text/plain")


def empty(status: int) -> web.Response:
    return web.Response(status=status)


def deployed(result: Result, *, status: int = 200, location: str | None = None) -> web.Response:
    """`{"version", "deploymentId"}`."""
    body = {"version": result.version, "deploymentId": result.deployment}
    return answer(body, status=status, deployment=result.deployment, location=location)


def failed(error: MarathonError, headers: Mapping[str, str] | None = None) -> web.Response:
    body = orjson.dumps(error.body)
    return web.Response(body=body, status=error.status, headers=headers, content_type="application/json")
