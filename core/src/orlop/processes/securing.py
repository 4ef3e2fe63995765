"""What a server with authentication needs before it serves anybody: keys, certificates, the first token.

All of it is made at the first start and found again at the next. In the data folder, for the owner's eyes only:
`cluster.key` (seals the authority's key, which is in the store), `tls/server.pem` (this server's key and certificate),
`admin.token` (a token of the API). `ca.pem`, the authority's certificate, is for whoever wants to verify this server.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs

from orlop.agent.credentials import trusting
from orlop.api.authentication import by_token
from orlop.api.guard import Authenticate
from orlop.framework import NotAvailable
from orlop.framework import Refused as CommandRefused
from orlop.processes.exposure import CannotStart, host_of
from orlop.security import authority as signing
from orlop.security.authority import Authority
from orlop.security.files import UnsafeFile, read_or_make_key, read_private, write_private
from orlop.security.sealing import KEY_BYTES, NONCE_BYTES, CannotUnseal, seal, unseal
from orlop.security.tokens import ID_BYTES, SECRET_BYTES, InvalidToken, Purpose, Token, make_token, parse_token
from orlop.server.admission import StoredAuthority, stored_authority, stored_token
from orlop.server.remote_agents import SEALED_KEY
from orlop.server.server import Server

log = logging.getLogger(__name__)

CLUSTER_KEY: Final = "cluster.key"
ADMIN_TOKEN: Final = "admin.token"  # noqa: S105  (a file's name)
AUTHORITY_FILE: Final = "ca.pem"
SERVER_FILE: Final = "server.pem"
RENEW_CHECK_S: Final = 600.0
KEEP_CHECK_S: Final = 5.0
AUTHORITY_CHECK_S: Final = 0.1
SAID_AFTER_S: Final = 5.0
SAID_AGAIN_S: Final = 60.0
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104  (what they mean in a setting)


@attrs.frozen
class Door:
    """How clients are let in. context: of TLS. authenticate: of requests. trust: for connections to other servers.

    data: where the files are.
    """

    context: ssl.SSLContext
    authenticate: Authenticate
    trust: ssl.SSLContext
    authority: Authority = attrs.field(repr=False)
    names: frozenset[str]
    data: Path

    async def keep(self, server: Server) -> None:
        """For ever: a token for whoever owns this server's data, once it leads, and new certificates in time.

        Connections that are open keep the certificate that they began with.
        """
        renew_at_s = time.monotonic() + RENEW_CHECK_S
        while True:
            try:
                if server.role().leads:
                    await _admin_token(server, self.data)
                if time.monotonic() >= renew_at_s:
                    renew_at_s = time.monotonic() + RENEW_CHECK_S
                    await asyncio.to_thread(_load_certificate, self.context, self.authority, self.names, self.data)
            except NotAvailable as error:
                log.info("the token of this server waits: %s", error)
            except (OSError, ssl.SSLError, UnsafeFile, CommandRefused):
                log.exception("this server's token or certificate cannot be made")
            await asyncio.sleep(KEEP_CHECK_S)


async def secure(server: Server, data: Path, hosts: Iterable[str]) -> Door:
    """What a running server needs. hosts: what its listeners are bound to.

    Returns when the cluster's authority is known, which the first leader makes. Raises CannotStart.
    """
    try:
        authority = server.remote.authority = await _authority(server, data)
        if server.role().leads:
            await _admin_token(server, data)
        own = server.settings.server
        names = _names([*own.names, *([host_of(own.advertise)] if own.advertise else [])], hosts)
        return await asyncio.to_thread(_door, server, authority, names, data)
    except (UnsafeFile, CannotUnseal, OSError) as error:
        raise CannotStart(str(error)) from error
    except (NotAvailable, CommandRefused) as error:
        raise CannotStart(f"authentication cannot be set up: {error}") from error


async def _authority(server: Server, data: Path) -> Authority:
    """The cluster's, unsealed. Raises CannotUnseal, UnsafeFile, OSError."""
    said_at_s = time.monotonic() + SAID_AFTER_S
    why = ""
    while True:
        try:
            state = server.state()
            stored = stored_authority(state)
            if stored is not None or server.role().leads:
                return await _unsealed(server, state.cluster_id, stored, data)
            why = "the leader has not made one yet"
        except NotAvailable as error:
            why = str(error)
        if time.monotonic() >= said_at_s:
            said_at_s += SAID_AGAIN_S
            log.warning("this server listens as soon as it knows the cluster's authority: %s", why)
        await asyncio.sleep(AUTHORITY_CHECK_S)


async def _unsealed(server: Server, cluster_id: str, stored: StoredAuthority | None, data: Path) -> Authority:
    """Makes the authority where there is none. Raises CannotUnseal, UnsafeFile, OSError, NotAvailable."""
    path = data / CLUSTER_KEY
    if stored is not None and not path.exists():
        raise UnsafeFile(f"{path} is missing: copy it from another server of this cluster, or from where it was kept")
    key = await asyncio.to_thread(read_or_make_key, path, secrets.token_bytes(KEY_BYTES))
    if stored is None:
        made = await asyncio.to_thread(
            signing.make_authority,
            cluster_id,
            signing.make_key(secrets.token_bytes(signing.KEY_ENTROPY_BYTES)),
            secrets.token_bytes(signing.SERIAL_BYTES),
            _utc_ms(),
        )
        sealed = seal(key, SEALED_KEY, made.key, secrets.token_bytes(NONCE_BYTES))
        fresh = StoredAuthority(certificate=made.certificate.decode(), sealed_key=sealed)
        stored = await server.remote.keep_authority(fresh)
    certificate = stored.certificate.encode()
    await asyncio.to_thread(write_private, data / AUTHORITY_FILE, certificate, mode=0o644)
    return Authority(cluster_id=cluster_id, certificate=certificate, key=unseal(key, SEALED_KEY, stored.sealed_key))


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


def _door(server: Server, authority: Authority, names: frozenset[str], data: Path) -> Door:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_verify_locations(cadata=authority.certificate.decode())
    # Agents have certificates and operators have tokens: each resource asks for its own.
    context.verify_mode = ssl.CERT_OPTIONAL
    _load_certificate(context, authority, names, data)
    return Door(context, by_token(server.state), trusting(authority.certificate), authority, names, data)


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
