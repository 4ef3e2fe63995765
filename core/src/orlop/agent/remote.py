"""The agent's way to servers on other machines: joining, sessions, streams, over HTTP and WebSockets.

Several addresses are tried in turn; a server that does not lead answers with a redirect to the one that does. Failed
rounds are followed by a pause with full jitter. A peer that is dead without a word is found by the session's
`lifeline`, and by the system on streams (pings would wait there behind data that nobody reads).

Trust: see `credentials`. Before a node has joined, the join token says by a hash which authority is the right one;
the server's is fetched without trust, compared, and only then the token is shown.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import attrs
import orjson
from aiohttp import hdrs
from yarl import URL

from orlop.agent.backoff import Backoff
from orlop.agent.credentials import Credentials, not_yet_trusting, trusting
from orlop.agent.lifeline import can_keep_awake, keep_awake
from orlop.agent.session import Link
from orlop.agent.streams import WebSocketStream
from orlop.agent.websocket import WebSocketLink, look_after
from orlop.model import wire
from orlop.model.messages import ToAgent, ToServer
from orlop.model.streams import FRAME_BYTES_MAX
from orlop.security import authority as signing
from orlop.security.tokens import Purpose, Token

log = logging.getLogger(__name__)

CONNECT_WITHIN_S: Final = 10.0
#: For a connection and the handshake of TLS: a dead server shall not keep an agent from the others for long.
CONNECTION_WITHIN_S: Final = 5.0
ANSWER_WITHIN_S: Final = 30.0
ANSWER_BYTES_MAX: Final = 2**20
#: Where there is no lifeline: a ping after so much silence; without an answer within half of it the session is over.
PING_S: Final = 14.0
REDIRECTS_MAX: Final = 3


class Unreachable(ConnectionError):
    """No server could be asked; trying again may help."""


class ServerRefused(ConnectionError):
    """A server answered with an error; the text is its own. status: of HTTP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class WrongCluster(ValueError):
    """The servers are not of the cluster that this node belongs to, or are not what the token says."""


class _Answered(Exception):
    """Carries a `ServerRefused` through aiohttp, which takes each OSError for its own."""

    def __init__(self, refused: ServerRefused) -> None:
        super().__init__(str(refused))
        self.refused = refused


class _Redirected(Exception):
    def __init__(self, location: URL) -> None:
        super().__init__(str(location))
        self.location = location


@attrs.frozen(kw_only=True)
class Introduction:
    """What a server says of itself. authority: PEM, None where there is no authentication."""

    url: URL
    cluster: str
    name: str
    authority: bytes | None


class RemoteServers:
    """Servers of one cluster. urls: at least one, http or https. To be made on the event loop; `close` at the end.

    language: of the sessions.
    """

    def __init__(
        self, urls: Sequence[URL], node: str, credentials: Credentials, language: wire.Language | None = None
    ) -> None:
        assert urls
        self._urls = tuple(urls)
        self._node = node
        self._credentials = credentials
        self._language = language or wire.LANGUAGE
        self._context: ssl.SSLContext | None = None
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(
                total=ANSWER_WITHIN_S, connect=CONNECT_WITHIN_S, sock_connect=CONNECTION_WITHIN_S
            ),
            middlewares=(_follow_nothing,),
        )
        self._backoff = Backoff(random.random)
        self._leader: URL | None = None
        self._silent: URL | None = None
        self._link: WebSocketLink[ToServer, ToAgent] | None = None
        self._lifeline: asyncio.Task[None] | None = None
        self._said = ""

    async def close(self) -> None:
        """What was sent on the last session is still delivered, if that takes no time."""
        if self._link is not None:
            self._link.close("the agent stops")
            await self._link.finished()
        if self._lifeline is not None:
            self._lifeline.cancel()
        await self._http.close()

    # Joining

    async def introduce(self) -> Introduction:
        """The first server that answers. Not to be trusted before its authority is compared. Raises Unreachable."""
        introduction: Introduction = await self._first_of(self._introduce)
        return introduction

    async def _introduce(self, url: URL) -> Introduction:
        context = not_yet_trusting() if url.scheme == "https" else None
        document = await self._ask("GET", url / "v1/agents/cluster", None, context)
        authority = document.get("authority")
        return Introduction(
            url=url,
            cluster=_text(document, "cluster"),
            name=_text(document, "name"),
            authority=authority.encode() if isinstance(authority, str) else None,
        )

    async def join(self, token: Token, cluster: str) -> str:
        """Gets this node its certificate. The cluster's id. cluster: whom the node belongs to, empty for nobody yet.

        Raises WrongCluster, ServerRefused, Unreachable.
        """
        return str(await self._first_of(lambda url: self._join(url, token, cluster)))

    async def _join(self, url: URL, token: Token, cluster: str) -> str:
        assert token.purpose is Purpose.JOIN
        if url.scheme != "https":
            raise WrongCluster(f"{url} is not https: a token is not shown to a server that cannot prove who it is")
        introduction = await self._introduce(url)
        try:
            authority = signing.first_of(introduction.authority or b"")  # that of the server's own certificate
            known = signing.fingerprint(authority) == token.authority
        except ValueError:
            known = False
        if not known:
            raise WrongCluster(
                f"{url} is a server of another cluster than the token's, or somebody is in between "
                "(or the cluster has a new authority since the token was made)"
            )
        if cluster not in ("", introduction.cluster):
            raise WrongCluster(
                f"this node belongs to cluster {cluster}, and {url} is of {introduction.cluster}: "
                "--rejoin lets it change, and its tasks become orphans"
            )
        key = await asyncio.to_thread(self._credentials.key, secrets.token_bytes(signing.KEY_ENTROPY_BYTES))
        request = signing.make_request(key, self._node)
        body = {"token": token.text, "node": self._node, "certificate_request": request.decode()}
        document = await self._ask("POST", url / "v1/agents/join", body, trusting(authority))
        await self._keep(document)
        return _text(document, "cluster")

    async def _keep(self, document: dict[str, Any]) -> None:
        """What a server has answered that this node has reason to trust."""
        certificate, authority = _text(document, "certificate").encode(), _text(document, "authority").encode()
        try:
            await asyncio.to_thread(self._credentials.keep, certificate, authority)
        except ValueError as error:
            raise WrongCluster(str(error)) from error
        self._context = None

    async def renew(self) -> None:
        """A new certificate for the same key, shown as soon as it is kept; the session goes on with the old one.

        Whom this node trusts from now on comes with it. Raises ServerRefused, Unreachable, WrongCluster.
        """
        key = await asyncio.to_thread(self._credentials.key, secrets.token_bytes(signing.KEY_ENTROPY_BYTES))
        body = {"certificate_request": signing.make_request(key, self._node).decode()}

        async def ask(url: URL) -> dict[str, Any]:
            return await self._ask("POST", url / "v1/agents/renew", body, await self._trusted(url))

        document = await self._first_of(ask)
        await self._keep(document)
        log.info("this node's certificate is renewed")
        try:
            await self._first_of(self._confirm)
        except ServerRefused as error:
            if error.status != HTTPStatus.NOT_FOUND:  # a server of an earlier version does not ask
                raise

    async def is_admitted(self) -> bool:
        """False when a server says that this node's certificate is good for nothing. Raises Unreachable."""
        try:
            await self._first_of(self._confirm)
        except ServerRefused as error:
            return error.status != HTTPStatus.FORBIDDEN
        return True

    async def _confirm(self, url: URL) -> dict[str, Any]:
        return await self._ask("POST", url / "v1/agents/confirm", {}, await self._trusted(url))

    # Sessions and streams

    async def connect(self) -> Link[ToServer, ToAgent]:
        """A session with the leader, as soon as there is one."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._backoff.pause_s(loop.time()))
            try:
                self._link = await self._first_of(self._dial_session)
            except ConnectionError as error:
                self._complain(str(error))
            else:
                self._said = ""
                self._backoff.began(loop.time())
                return self._link

    async def _dial_session(self, url: URL) -> WebSocketLink[ToServer, ToAgent]:
        awake = can_keep_awake()
        socket = await self._upgrade(
            url / "v1/agents/session", wire.MESSAGE_BYTES_MAX, None if awake else PING_S, self._language.offers()
        )
        try:
            dialect = self._language.agreed(socket.protocol)
        except wire.WrongVersion as error:
            await socket.close(message=str(error).encode())
            raise ServerRefused(0, f"{url}: {error}: upgrade the older one") from error
        self._leader, self._silent = url, None
        if self._lifeline is not None:
            self._lifeline.cancel()
        self._lifeline = asyncio.create_task(self._keep_awake(socket, url)) if awake else None
        return WebSocketLink(socket, dialect.decode_to_agent, f"the server at {url}", encode=dialect.encode_in_pieces)

    async def _keep_awake(self, socket: aiohttp.ClientWebSocketResponse[bool], url: URL) -> None:
        try:
            reason = await keep_awake(socket)
        except (OSError, RuntimeError):  # aiohttp says RuntimeError of a socket that is closed
            return  # who receives on it knows why
        log.warning("the session with the server at %s is given up: %s", url, reason)
        self._leader, self._silent = None, url  # it is asked last: another one may lead already

    async def dial_stream(self, stream_id: str) -> WebSocketStream:
        """The stream of this id, at the server that the session is with. Raises ConnectionError."""
        url = self._leader or self._urls[0]
        try:
            return WebSocketStream(await self._upgrade(url / "v1/agents/streams" / stream_id, FRAME_BYTES_MAX))
        except _Redirected as error:
            raise ServerRefused(307, f"{url} does not lead any more") from error

    async def _upgrade(
        self, url: URL, bytes_max: int, heartbeat_s: float | None = None, protocols: Sequence[str] = ()
    ) -> aiohttp.ClientWebSocketResponse[bool]:
        context = await self._trusted(url)
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                socket = await self._http.ws_connect(
                    url,
                    ssl=context if context is not None else True,
                    heartbeat=heartbeat_s,
                    protocols=protocols,
                    max_msg_size=bytes_max + 1,
                    timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
                )
        except (_Answered, aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _as_connection_error(url, error) from error
        look_after(socket.get_extra_info("socket"))
        return socket

    async def _trusted(self, url: URL) -> ssl.SSLContext | None:
        if url.scheme != "https":
            return None
        if self._context is None:
            try:
                self._context = await asyncio.to_thread(self._credentials.context)
            except (ssl.SSLError, AssertionError) as error:
                raise Unreachable(f"this node's certificate cannot be used: {error}") from error
        return self._context

    # Asking

    async def _first_of(self, ask: Any) -> Any:
        """What the first server gives that can be reached, with redirects followed. Raises the last error."""
        last: ConnectionError | None = None
        known = [self._leader] if self._leader is not None else []
        for start in dict.fromkeys([*known, *sorted(self._urls, key=lambda url: url == self._silent)]):
            url = start
            for _ in range(REDIRECTS_MAX + 1):
                try:
                    return await ask(url)
                except _Redirected as redirected:
                    if redirected.location.scheme != url.scheme:
                        last = ServerRefused(307, f"{url} sends on to {redirected.location}, which is no {url.scheme}")
                        break
                    url = redirected.location.origin()
                except ConnectionError as error:
                    # a server's own words say more than another one's silence
                    last = last if isinstance(last, ServerRefused) and isinstance(error, Unreachable) else error
                    break
            else:
                last = ServerRefused(307, f"{start} sends in circles")
        self._leader = None
        assert last is not None
        raise last

    async def _ask(self, method: str, url: URL, body: Any, context: ssl.SSLContext | None) -> dict[str, Any]:
        data = orjson.dumps(body) if body is not None else None
        headers = {hdrs.CONTENT_TYPE: "application/json"} if data else {}
        ssl_ = context if context is not None else True
        try:
            async with self._http.request(method, url, data=data, headers=headers, ssl=ssl_) as answer:
                raw = await answer.content.readexactly(min(answer.content_length or 0, ANSWER_BYTES_MAX))
        except (_Answered, aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise _as_connection_error(url, error) from error
        document = _object(raw)
        if document is None:
            raise ServerRefused(0, f"{url.origin()} answers with something that is not Orlop's")
        return document

    def _complain(self, text: str) -> None:
        """Once for each new trouble; again and again it would only fill the log."""
        log.log(logging.INFO if text == self._said else logging.WARNING, "no session with a server: %s", text)
        self._said = text


async def _follow_nothing(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> Any:
    """Redirects and errors as exceptions: aiohttp follows the former, and hides the latter's text from WebSockets."""
    answer = await handler(request)
    if answer.status < 300:
        return answer
    location = answer.headers.get(hdrs.LOCATION)
    if answer.status < 400 and location:
        answer.close()
        try:
            raise _Redirected(request.url.join(URL(location)))
        except ValueError:
            raise _Answered(ServerRefused(answer.status, f"{request.url.origin()} sends on to nowhere")) from None
    document = _object(await answer.content.read(ANSWER_BYTES_MAX)) or {}
    answer.close()
    text = str(document.get("error") or answer.reason)
    raise _Answered(ServerRefused(answer.status, f"{request.url.origin()}: {text}"))


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise ServerRefused(0, f"the server's answer has no {name}")
    return value


def _as_connection_error(url: URL, error: BaseException) -> ConnectionError:
    if isinstance(error, _Answered):
        return error.refused
    origin = url.origin()
    if isinstance(error, TimeoutError):
        return Unreachable(f"{origin} does not answer in time")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Unreachable(f"{origin} is not a server of this cluster: {error.certificate_error}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unreachable(f"{origin}: {_reason(error.os_error)}")
    return Unreachable(f"{origin}: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """The system's words, without an event loop's decoration."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
