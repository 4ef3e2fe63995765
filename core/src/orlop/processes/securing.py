"""What a server with authentication needs before it serves anybody: keys, certificates, the first token.

All of it is made at the first start and found again at the next. In the data folder, for the owner's eyes only:
`cluster.key` (seals the authority's key, which is in the store), `tls/server.pem` (this server's key and certificate),
`admin.token` (a token of the API). `ca.pem`, the certificates of the authorities, is for whoever wants to verify this
server.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from orlop.agent.credentials import trusting
from orlop.api.authentication import by_token
from orlop.api.guard import Authenticate
from orlop.framework import NotAvailable
from orlop.framework import Refused as CommandRefused
from orlop.kernel.state import State
from orlop.processes.exposure import CannotStart, host_of
from orlop.security import authority as signing
from orlop.security.authority import Authorities, Authority
from orlop.security.files import UnsafeFile, read_or_make_key, read_private, write_private
from orlop.security.sealing import KEY_BYTES, NONCE_BYTES, CannotUnseal, seal, unseal
from orlop.security.tokens import ID_BYTES, SECRET_BYTES, InvalidToken, Purpose, Token, make_token, parse_token
from orlop.security.vouching import Vouching
from orlop.server.admission import stored_authorities, stored_token
from orlop.server.remote_agents import SEALED_KEY
from orlop.server.rotation import CURRENT, FORMER, NEXT, StoredAuthority
from orlop.server.server import Server

log = logging.getLogger(__name__)

CLUSTER_KEY: Final = "cluster.key"
ADMIN_TOKEN: Final = "admin.token"  # noqa: S105  (a file's name)
AUTHORITY_FILE: Final = "ca.pem"
SERVER_FILE: Final = "server.pem"
RENEW_CHECK_S: Final = 600.0
KEEP_CHECK_S: Final = 1.0
AUTHORITY_CHECK_S: Final = 0.1
SAID_AFTER_S: Final = 5.0
SAID_AGAIN_S: Final = 60.0
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104  (what they mean in a setting)


class Door:
    """How clients are let in. authenticate: requests. names: of this server. data: where the files are.

    Contexts cannot forget an authority, so each change of the authorities makes new ones; connections that are open
    keep what they began with.
    """

    def __init__(self, state: Callable[[], State], names: frozenset[str], data: Path) -> None:
        self.authenticate: Authenticate = by_token(state, self.vouching)
        self.data = data
        self._names = names
        self._stored: dict[str, StoredAuthority] = {}
        self._context: ssl.SSLContext | None = None
        self._trust: ssl.SSLContext | None = None
        self._vouching: Vouching | None = None

    def context(self) -> ssl.SSLContext:
        """For the next connection of a client."""
        assert self._context is not None, "the authorities are known"
        return self._context

    def trust(self) -> ssl.SSLContext:
        """For the next connection to another server."""
        assert self._trust is not None, "the authorities are known"
        return self._trust

    def vouching(self) -> Vouching:
        """With the other servers of the cluster."""
        assert self._vouching is not None, "the authorities are known"
        return self._vouching

    async def take(self, server: Server, stored: dict[str, StoredAuthority]) -> None:
        """These are the cluster's authorities from now on. Raises CannotUnseal, UnsafeFile, OSError."""
        known = await asyncio.to_thread(_unsealed, server.state().cluster_id, stored, self.data)
        self._context = await asyncio.to_thread(_context, known, self._names, self.data)
        self._trust = trusting(known.trusted)
        self._vouching = Vouching(await asyncio.to_thread(_cluster_key, self.data))
        await asyncio.to_thread(write_private, self.data / AUTHORITY_FILE, known.trusted, mode=0o644)
        if self._stored and self._stored != stored:
            log.warning("the cluster's authorities have changed: %s", ", ".join(sorted(stored)))
        server.remote.authorities, self._stored = known, stored

    async def keep(self, server: Server) -> None:
        """For ever: the authorities that the cluster has, a token for whoever owns this server's data, once it leads,
        and new certificates in time.
        """
        renew_at_s = time.monotonic() + RENEW_CHECK_S
        while True:
            try:
                stored = server.stored_authorities()
                if stored and (stored != self._stored or time.monotonic() > renew_at_s):
                    renew_at_s = time.monotonic() + RENEW_CHECK_S
                    await self.take(server, stored)
                if server.role().leads:
                    server.remote.tell_renewals()
                    await _admin_token(server, self.data)
            except NotAvailable as error:
                log.info("the token of this server waits: %s", error)
            except (OSError, ssl.SSLError, UnsafeFile, CannotUnseal, CommandRefused):
                log.exception("this server's token or certificate cannot be made")
            await asyncio.sleep(KEEP_CHECK_S)


async def secure(server: Server, data: Path, hosts: Iterable[str]) -> Door:
    """What a running server needs. hosts: what its listeners are bound to.

    Returns when the cluster's authority is known, which the first leader makes. Raises CannotStart.
    """
    own = server.settings.server
    names = _names([*own.names, *([host_of(own.advertise)] if own.advertise else [])], hosts)
    door = Door(server.state, names, data)
    try:
        stored = await _stored_or_made(server, data)
        await door.take(server, stored)
        server.remote.make_authority = lambda: _make_authority(server, data)
        if server.role().leads:
            await _admin_token(server, data)
    except (UnsafeFile, CannotUnseal, OSError) as error:
        raise CannotStart(str(error)) from error
    except (NotAvailable, CommandRefused) as error:
        raise CannotStart(f"authentication cannot be set up: {error}") from error
    return door


async def _stored_or_made(server: Server, data: Path) -> dict[str, StoredAuthority]:
    """The cluster's authorities. Raises UnsafeFile, OSError, NotAvailable."""
    said_at_s = time.monotonic() + SAID_AFTER_S
    why = ""
    while True:
        try:
            if stored := stored_authorities(server.state()):
                return stored
            if server.role().leads:
                return {CURRENT: await server.remote.keep_authority(await _make_authority(server, data))}
            why = "the leader has not made one yet"
        except NotAvailable as error:
            why = str(error)
        if time.monotonic() >= said_at_s:
            said_at_s += SAID_AGAIN_S
            log.warning("this server listens as soon as it knows the cluster's authority: %s", why)
        await asyncio.sleep(AUTHORITY_CHECK_S)


async def _make_authority(server: Server, data: Path) -> StoredAuthority:
    """A new one. Makes the cluster key, too, where there is none. Raises UnsafeFile, OSError, NotAvailable."""
    key = await asyncio.to_thread(read_or_make_key, data / CLUSTER_KEY, secrets.token_bytes(KEY_BYTES))
    made = await asyncio.to_thread(
        signing.make_authority,
        server.state().cluster_id,
        signing.make_key(secrets.token_bytes(signing.KEY_ENTROPY_BYTES)),
        secrets.token_bytes(signing.SERIAL_BYTES),
        _utc_ms(),
    )
    sealed = seal(key, SEALED_KEY, made.key, secrets.token_bytes(NONCE_BYTES))
    return StoredAuthority(certificate=made.certificate.decode(), sealed_key=sealed)


def _cluster_key(data: Path) -> bytes:
    """Raises UnsafeFile, OSError."""
    path = data / CLUSTER_KEY
    if not path.exists():
        raise UnsafeFile(f"{path} is missing: copy it from another server of this cluster, or from where it was kept")
    return read_or_make_key(path, secrets.token_bytes(KEY_BYTES))


def _unsealed(cluster_id: str, stored: dict[str, StoredAuthority], data: Path) -> Authorities:
    """Raises CannotUnseal, UnsafeFile, OSError."""
    key = _cluster_key(data)

    def opened(one: StoredAuthority) -> Authority:
        secret = unseal(key, SEALED_KEY, one.sealed_key)
        return Authority(cluster_id=cluster_id, certificate=one.certificate.encode(), key=secret)

    coming, former = stored.get(NEXT), stored.get(FORMER)
    return Authorities(
        current=opened(stored[CURRENT]),
        next=opened(coming) if coming is not None else None,
        former=former.certificate.encode() if former is not None else None,
    )


async def _admin_token(server: Server, data: Path) -> None:
    """The token in the file is good; a new one is made where there is no file, or a revoked one in it.

    Raises UnsafeFile, OSError, NotAvailable, CommandRefused.
    """
    path = data / ADMIN_TOKEN
    token = _read_token(await asyncio.to_thread(read_private, path), path)
    known = stored_token(server.state(), token.id) if token is not None else None
    if token is None or (known is not None and known.revoked):
        token = make_token(Purpose.API, secrets.token_bytes(ID_BYTES + SECRET_BYTES))
        known = None
        await asyncio.to_thread(write_private, path, token.text.encode() + b"\n")
    if known is None:
        await server.remote.keep_api_token(token, note="admin")
    elif known.secret_hash != token.secret_hash:
        raise UnsafeFile(f"{path} holds a token that was changed: remove the file, and a new one is made")


def _read_token(data: bytes | None, path: Path) -> Token | None:
    if data is None:
        return None
    try:
        token = parse_token(data.decode("ascii", errors="replace"))
    except InvalidToken:
        token = None
    if token is None or token.purpose is not Purpose.API:
        raise UnsafeFile(f"{path} does not hold a token of the API: remove the file, and a new one is made")
    return token


def _names(advertised: Iterable[str], hosts: Iterable[str]) -> frozenset[str]:
    """What stands in the certificate: what was said, where it listens, and this machine's own names for itself."""
    bound = set(hosts)
    everywhere = {socket.gethostname()} if bound & set(_EVERYWHERE) else set()
    return frozenset({*advertised, *(bound - set(_EVERYWHERE)), *everywhere, *_LOOPBACK})


def _context(authorities: Authorities, names: frozenset[str], data: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_verify_locations(cadata=authorities.trusted.decode())
    # Agents have certificates and operators have tokens: each resource asks for its own.
    context.verify_mode = ssl.CERT_OPTIONAL
    _load_certificate(context, authorities.current, names, data)
    return context


def _load_certificate(context: ssl.SSLContext, authority: Authority, names: frozenset[str], data: Path) -> None:
    """The server's certificate for new connections: the one on disk, or a new one when that will not do any more."""
    path = data / "tls" / SERVER_FILE
    known = read_private(path)
    if known is None or not _is_good(known, authority, names):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = signing.make_key(secrets.token_bytes(signing.KEY_ENTROPY_BYTES))
        serial = secrets.token_bytes(signing.SERIAL_BYTES)
        certificate = signing.issue_server(authority, key, sorted(names), serial, _utc_ms())
        write_private(path, key + certificate)
    context.load_cert_chain(path)


def _is_good(known: bytes, authority: Authority, names: frozenset[str]) -> bool:
    try:
        return (
            signing.belongs(known, known)
            and signing.signed_by(known, authority.certificate)
            and names <= signing.names_of(known)
            and _utc_ms() < signing.renew_at(known)
        )
    except ValueError:
        return False


def _utc_ms() -> int:
    return time.time_ns() // 1_000_000
