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

from orlop.agent.runtimes.interface import Connection
from orlop.agent.session import Link
from orlop.agent.streams import StreamClosed, StreamEnd, frames
from orlop.framework import NotAvailable, Task
from orlop.framework import Refused as CommandRefused
from orlop.kernel.state import State
from orlop.model import wire
from orlop.model.clock import Now
from orlop.model.messages import RENEW, Hello, RenewCertificate, ToAgent, ToServer
from orlop.model.streams import CommandRequest, EngineRequest, Fault, OutputRequest
from orlop.security import authority as signing
from orlop.security.authority import Authorities, Authority
from orlop.security.tokens import InvalidToken, Purpose, StoredToken, Token, make_token, parse_token
from orlop.server import admission
from orlop.server.admission import CreateToken, ExpelNode, NoteAccess, RedeemToken, RevokeToken
from orlop.server.engine_connections import TunnelledConnection
from orlop.server.renewals import Renewals
from orlop.server.rotation import HurryRotation, NoteCertificate, RotateAuthority, Rotation, StoredAuthority
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

    language: of the sessions. auth: do agents need certificates? authorities: sign them; None without, and until
    they are known. make_authority: a new one, its key sealed; set together with them. local_engines: connections to
    engines of nodes in this process. state: the newest durable one; raises NotAvailable. command, serve: of the
    leader's frameworks and sessions.
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
        self.authorities: Authorities | None = None
        self.make_authority: Callable[[], Awaitable[StoredAuthority]] | None = None
        self.streams = Streams()
        self.local_engines: dict[str, Callable[[], Awaitable[Connection]]] = {}
        self.renewals = Renewals()
        self.language = wire.LANGUAGE
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
        authority = self._needed_authorities().for_agents
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
        authority = self._needed_authorities().for_agents
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

    async def shown(self, certificate: bytes | None) -> None:
        """A node has shown its certificate (DER, checked): it is noted while a rotation waits for that.

        Raises NotAdmitted, NotAvailable.
        """
        node = self.node_of(certificate)
        coming = self.authorities.next if self.authorities is not None else None
        if node is None or certificate is None or coming is None:
            return
        issuer = signing.issuer_among(signing.to_pem(certificate), coming.certificate)
        admitted = admission.admitted_node(self._state(), node)
        if issuer is not None and admitted is not None and admitted.authority != issuer:
            await self._command(admission.NAME, NoteCertificate(node=node, authority=issuer))

    def _needed_authorities(self) -> Authorities:
        if not self.auth:
            raise NotAdmitted("authentication is off: agents of this machine join without a token")
        if self.authorities is None:
            raise NotAvailable("nothing was changed: this server does not know the cluster's authority yet")
        return self.authorities

    async def _issue(self, authority: Authority, node: str, request: bytes) -> bytes:
        serial = secrets.token_bytes(signing.SERIAL_BYTES)
        return await asyncio.to_thread(signing.issue_agent, authority, request, node, serial, self._clock().utc_ms)

    async def keep_authority(self, authority: StoredAuthority) -> StoredAuthority:
        """The one that counts, which is this one if there was none. Raises NotAvailable."""
        kept: StoredAuthority = await self._command(admission.NAME, admission.KeepAuthority(authority=authority))
        return kept

    # The authority takes another one's place

    async def rotate(self, *, after_ms: int, within_ms: int, keep_ms: int, by: str) -> Rotation:
        """See `rotation`. Raises NotAdmitted while authentication is off, CommandRefused, NotAvailable."""
        self._needed_authorities()
        assert self.make_authority is not None, "it is set together with the authorities"
        made = await self.make_authority()
        wanted = RotateAuthority(authority=made, after_ms=after_ms, within_ms=within_ms, keep_ms=keep_ms, by=by)
        begun: Rotation = await self._command(admission.NAME, wanted)
        return begun

    async def hurry_rotation(self, by: str) -> None:
        """Whoever is not ready is left behind. Raises CommandRefused, NotAvailable."""
        await self._command(admission.NAME, HurryRotation(by=by))

    def rotation(self) -> tuple[Rotation, list[str]] | None:
        """The one under way, and the nodes that it waits for. Raises NotAvailable."""
        return admission.rotation_under_way(self._state())

    def tell_renewals(self) -> None:
        """For the leader, now and then: agents get to know which certificates they shall have."""
        if self.authorities is not None:
            issuer = signing.fingerprint(self.authorities.for_agents.certificate)
            trusted = signing.fingerprints(self.authorities.trusted)
            self.renewals.tell(RenewCertificate(issuer=issuer, trusted=tuple(sorted(trusted))))

    # Tokens

    async def create_join_token(
        self, *, lifetime_ms: int, uses_max: int, node: str, note: str, by: str
    ) -> tuple[Token, StoredToken]:
        """A new join token. lifetime_ms: 0 for ever. Raises NotAdmitted while authentication is off, NotAvailable."""
        authority = self._needed_authorities().current
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
        watched = _Watched(link, self.streams, self.renewals)
        try:
            await self._serve(watched)
        finally:
            watched.ended()

    async def output(
        self, node_id: str, task: str, runtime: str, stream: str, *, follow: bool, tail: int | None
    ) -> AsyncIterator[bytes]:
        """A task's output on a node. Raises LookupError (there is none), NotAvailable (the node is out of reach)."""
        request = OutputRequest(task=task, runtime=runtime, output=stream, follow=follow, tail=tail)
        try:
            opened = await self.streams.open(node_id, request)
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

    async def open_engine(self, node_id: str) -> Connection:
        """A connection to a node's engine. Raises NotAvailable with the reason."""
        if (connect := self.local_engines.get(node_id)) is not None:
            try:
                return await connect()
            except (LookupError, OSError, ValueError) as error:
                raise NotAvailable(str(error.args[0]) if error.args else str(error)) from error
        try:
            return TunnelledConnection(await self.streams.open(node_id, EngineRequest()))
        except Refused as error:
            old = ": its agent may be of an earlier version" if error.fault is Fault.INVALID else ""
            raise NotAvailable(f"{error}{old}") from error
        except StreamClosed as error:
            raise NotAvailable(f"the node's connection broke off: {error}") from error


class _Watched:
    """A link that tells `Streams` and `Renewals` when the node can be asked. See `Link`."""

    def __init__(self, link: Link[ToAgent, ToServer], streams: Streams, renewals: Renewals) -> None:
        self._link = link
        self._streams = streams
        self._renewals = renewals
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
            if RENEW in message.understands:
                self._renewals.session_began(self._node, self.send)
        return message

    def ended(self) -> None:
        if self._node:
            self._streams.session_ended(self._node, self.send)
            self._renewals.session_ended(self._node, self.send)
