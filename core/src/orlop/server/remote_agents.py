"""Agents of other machines, as the server sees them: joining, certificates, sessions, streams.

This is the shell around `admission` (what is committed), `orlop.security` (what is signed) and `sessions`: it reads
the clock, draws random bytes, signs. While authentication is off, agents join without a token and are whoever they
say they are: then only this machine is served.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from orlop.agent.session import Link
from orlop.agent.streams import StreamClosed, StreamEnd, frames
from orlop.framework import NotAvailable, Task
from orlop.framework import Refused as CommandRefused
from orlop.kernel.state import State
from orlop.model.clock import Now
from orlop.model.messages import Hello, ToAgent, ToServer
from orlop.model.streams import CommandRequest, Fault, OutputRequest
from orlop.security import authority as signing
from orlop.security.authority import Authority
from orlop.security.tokens import InvalidToken, Purpose, StoredToken, Token, make_token, parse_token
from orlop.server import admission
from orlop.server.admission import CreateToken, ExpelNode, NoteAccess, RedeemToken, RevokeToken, StoredAuthority
from orlop.server.streams import Refused, Streams

log = logging.getLogger(__name__)

#: A framework's `command`: its reply after the commit. Raises CommandRefused, NotAvailable.
Command = Callable[[str, Any], Awaitable[Any]]
#: Serves one session until it ends.
ServeSession = Callable[[Link[ToAgent, ToServer]], Awaitable[None]]

_NODE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SEALED_KEY: Final = "the authority's key"


class NotAdmitted(Exception):
    """Who asks is not let in; the text says why, in words for the asker."""


class RemoteAgents:
    """Lives on the event loop.

    auth: do agents need certificates? authority: signs them; None without, and until it is known. state: the newest
    durable one; raises NotAvailable. command, serve: of the leader's frameworks and sessions.
    """

    def __init__(
        self,
        *,
        auth: bool,
        state: Callable[[], State],
        command: Command,
        serve: ServeSession,
        clock: Callable[[], Now],
    ) -> None:
        self.auth = auth
        self.authority: Authority | None = None
        self.streams = Streams()
        self._state = state
        self._command = command
        self._serve = serve
        self._clock = clock

    @property
    def cluster_id(self) -> str:
        return self._state().cluster_id

    # Who is it?

    def node_of(self, certificate: bytes | None) -> str | None:
        """The node that a client's certificate (DER, checked by TLS) speaks for; None while there are none.

        Raises NotAdmitted.
        """
        if not self.auth:
            return None
        if certificate is None:
            raise NotAdmitted("a certificate of this cluster is needed: join with a token first")
        node = signing.node_of(certificate, self.cluster_id)
        if node is None:
            raise NotAdmitted("the certificate does not speak for a node of this cluster")
        admitted = admission.admitted_node(self._state(), node)
        if admitted is None or admitted.key != signing.key_fingerprint_of(certificate):
            raise NotAdmitted(f"node {node} is not admitted with this key any more: join with a new token")
        return node

    # Certificates

    async def join(self, token_text: str, node: str, request: bytes) -> bytes:
        """The node's first certificate, PEM. Raises NotAdmitted, NotAvailable."""
        authority = self._needed_authority()
        if not _NODE_ID.fullmatch(node):
            raise NotAdmitted("a node's id has 1 to 63 letters, digits, '.', '_' and '-'")
        try:
            token = parse_token(token_text)
            key = await asyncio.to_thread(signing.request_fingerprint, request)
        except (InvalidToken, signing.InvalidRequest) as error:
            raise NotAdmitted(str(error)) from None
        if token.purpose is not Purpose.JOIN:
            raise NotAdmitted("this is a token for the API: agents join with a join token (orlop token create)")
        redeem = RedeemToken(id=token.id, secret_hash=token.secret_hash, node=node, key=key)
        try:
            await self._command(admission.NAME, redeem)
        except CommandRefused as error:
            raise NotAdmitted(str(error)) from None
        log.info("node %s has joined with token %s", node, token.id)
        return await self._issue(authority, node, request)

    async def renew(self, certificate: bytes | None, request: bytes) -> bytes:
        """The next certificate, PEM, for whoever has a good one and the same key. Raises NotAdmitted, NotAvailable."""
        authority = self._needed_authority()
        node = self.node_of(certificate)
        assert node is not None, "with an authority a certificate speaks for a node"
        admitted = admission.admitted_node(self._state(), node)
        try:
            key = await asyncio.to_thread(signing.request_fingerprint, request)
        except signing.InvalidRequest as error:
            raise NotAdmitted(str(error)) from None
        if admitted is None or admitted.key != key:
            raise NotAdmitted("a certificate is renewed for the same key only")
        return await self._issue(authority, node, request)

    def _needed_authority(self) -> Authority:
        if not self.auth:
            raise NotAdmitted("authentication is off: agents of this machine join without a token")
        if self.authority is None:
            raise NotAvailable("nothing was changed: this server does not know the cluster's authority yet")
        return self.authority

    async def _issue(self, authority: Authority, node: str, request: bytes) -> bytes:
        serial = secrets.token_bytes(signing.SERIAL_BYTES)
        return await asyncio.to_thread(signing.issue_agent, authority, request, node, serial, self._clock().utc_ms)

    async def keep_authority(self, authority: StoredAuthority) -> StoredAuthority:
        """The one that counts, which is this one if there was none. Raises NotAvailable."""
        kept: StoredAuthority = await self._command(admission.NAME, admission.KeepAuthority(authority=authority))
        return kept

    # Tokens

    async def create_join_token(
        self, *, lifetime_ms: int, uses_max: int, node: str, note: str, by: str
    ) -> tuple[Token, StoredToken]:
        """A new join token. lifetime_ms: 0 for ever. Raises NotAdmitted while authentication is off, NotAvailable."""
        authority = self._needed_authority()
        entropy = secrets.token_bytes(21)
        token = make_token(Purpose.JOIN, entropy, signing.fingerprint(authority.certificate))
        now_ms = self._clock().utc_ms
        stored = StoredToken(
            purpose=Purpose.JOIN,
            secret_hash=token.secret_hash,
            note=note,
            created_utc_ms=now_ms,
            expires_utc_ms=now_ms + lifetime_ms if lifetime_ms else 0,
            uses_max=uses_max,
            node=node,
        )
        await self._command(admission.NAME, CreateToken(id=token.id, token=stored, by=by))
        return token, stored

    async def keep_api_token(self, token: Token, note: str) -> None:
        """Makes a token good for the API. Raises CommandRefused, NotAvailable."""
        stored = StoredToken(
            purpose=Purpose.API, secret_hash=token.secret_hash, note=note, created_utc_ms=self._clock().utc_ms
        )
        await self._command(admission.NAME, CreateToken(id=token.id, token=stored, by="server"))

    def tokens(self) -> dict[str, StoredToken]:
        """All tokens, the oldest first."""
        return admission.stored_tokens(self._state())

    async def revoke_token(self, token_id: str, by: str) -> bool:
        """Was it good until now? Raises CommandRefused (there is none), NotAvailable."""
        return bool(await self._command(admission.NAME, RevokeToken(id=token_id, by=by)))

    async def expel(self, node: str, by: str) -> bool:
        """Takes a node's admission back; its certificate is good for nothing then. Raises NotAvailable."""
        return bool(await self._command(admission.NAME, ExpelNode(node=node, by=by)))

    async def admit_local(self, node: str) -> None:
        """The node of this process, whose name nobody else may take. Raises NotAvailable."""
        await self._command(admission.NAME, admission.AdmitLocal(node=node))

    async def note(self, kind: str, subject: str, by: str, **details: str) -> None:
        """An entry in the event log. Raises NotAvailable."""
        await self._command(admission.NAME, NoteAccess(type=kind, subject=subject, by=by, details=details))

    # Sessions, streams

    async def serve(self, link: Link[ToAgent, ToServer]) -> None:
        """One session, until it ends."""
        watched = _Watched(link, self.streams)
        try:
            await self._serve(watched)
        finally:
            watched.ended()

    async def output(
        self, task: Task, runtime: str, stream: str, *, follow: bool, tail: int | None
    ) -> AsyncIterator[bytes]:
        """A task's output on its node. Raises LookupError (there is none), NotAvailable (the node is out of reach)."""
        if task.placement is None:
            raise NotAvailable("the task is not on a node yet, so it has no output")
        request = OutputRequest(task=task.id, runtime=runtime, output=stream, follow=follow, tail=tail)
        try:
            opened = await self.streams.open(task.placement.node, request)
        except Refused as error:
            if error.fault is Fault.NOT_FOUND:
                raise LookupError(str(error)) from error
            raise NotAvailable(str(error)) from error
        except StreamClosed as error:
            raise NotAvailable(f"the node's connection broke off: {error}") from error
        try:
            async for piece in frames(opened):
                yield piece
        finally:
            await opened.close()

    async def command(self, task: Task, request: CommandRequest) -> StreamEnd:
        """A stream to a command beside a task. Raises LookupError (the task does not run), ValueError, NotAvailable."""
        if task.placement is None:
            raise LookupError("the task is not on a node yet")
        try:
            return await self.streams.open(task.placement.node, request)
        except Refused as error:
            kinds = {Fault.NOT_FOUND: LookupError, Fault.INVALID: ValueError}
            raise kinds.get(error.fault, NotAvailable)(str(error)) from error
        except StreamClosed as error:
            raise NotAvailable(f"the node's connection broke off: {error}") from error


class _Watched:
    """A link that tells `Streams` when the node can be asked to dial. See `Link`."""

    def __init__(self, link: Link[ToAgent, ToServer], streams: Streams) -> None:
        self._link = link
        self._streams = streams
        self._node = ""
        self.send = link.send
        self.hear = link.hear
        self.close = link.close

    async def receive(self) -> ToServer:
        """See `Link`."""
        message = await self._link.receive()
        if isinstance(message, Hello) and not self._node:
            self._node = message.node.id
            self._streams.session_began(self._node, self.send)
        return message

    def ended(self) -> None:
        if self._node:
            self._streams.session_ended(self._node, self.send)
