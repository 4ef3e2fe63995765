"""What plugins' own listeners are bound to, beside plain TCP and the cluster's TLS; and who comes in by them.

A Unix socket is for its owner, and TLS with client certificates for whoever has one of the authority that the operator
chose: neither is asked for anything more.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import ssl
import stat
import struct
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from orlop.api.guard import Handler, foreign_page
from orlop.api.requests import PRINCIPAL
from orlop.hookspecs import UNIX, ClientCertificates

log = logging.getLogger(__name__)

BACKLOG: Final = 1_024
_CREDENTIALS: Final = struct.Struct("3i")

#: Set while a request of the API's own listener is handed on to a plugin: it has passed the API's guard.
HANDED_ON: Final[ContextVar[bool]] = ContextVar("handed on", default=False)
#: Who came in by a listener that asks for no token, so that there is none to hand on; empty for others.
KNOWN_HERE: Final[ContextVar[str]] = ContextVar("known here", default="")


class UnixSite(web.SockSite):
    """A Unix socket that its owner alone can connect to; what a dead process has left in its place is replaced."""

    __slots__ = ("_inode", "_path")

    def __init__(self, runner: web.BaseRunner, path: Path) -> None:
        """Raises OSError."""
        self._path = path
        super().__init__(runner, _bound(path), backlog=BACKLOG)
        found = path.stat()
        self._inode = (found.st_dev, found.st_ino)

    async def stop(self) -> None:
        await super().stop()
        with contextlib.suppress(FileNotFoundError):
            found = self._path.stat()
            if (found.st_dev, found.st_ino) == self._inode:
                self._path.unlink()


def _bound(path: Path) -> socket.socket:
    """Raises OSError: EADDRINUSE when somebody answers there, EEXIST when it is something else."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        if _answers(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(listener.fileno(), 0o600)  # Linux gives a socket's file the mode that the socket has
        listener.bind(str(path))
        path.chmod(0o600)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        try:
            asking.connect(str(path))
        except BlockingIOError:  # it has no time at the moment
            return True
        except ConnectionRefusedError:
            return False
    return True


class CertificateFiles:
    """TLS for clients with a certificate. Files that have changed are read again for the next connection."""

    def __init__(self, files: ClientCertificates) -> None:
        """Raises OSError (ssl.SSLError is one); the text names the file."""
        self._paths = (Path(files.certificate), Path(files.key), Path(files.authority))
        self._seen = self._look()
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        try:
            if (seen := self._look()) != self._seen:
                self._context, self._seen = self._read(), seen
        except OSError as error:
            log.warning("the former certificates stay in use: %s", error)
        return self._context

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        found = [path.stat() for path in self._paths]
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)

    def _read(self) -> ssl.SSLContext:
        certificate, key, authority = self._paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            raise OSError(f"{certificate} and {key} are no certificate and its key: {error}") from error
        try:
            context.load_verify_locations(authority)
        except ssl.SSLError as error:
            raise OSError(f"{authority} holds no certificates: {error}") from error
        return context


def known_by_connection(request: web.Request) -> str:
    """Whose connection it is, where the connection alone says so; empty where it does not."""
    transport = request.transport
    if transport is None:
        return ""
    own = transport.get_extra_info("socket")
    if own is not None and own.family == socket.AF_UNIX:
        credentials = own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, _ = _CREDENTIALS.unpack(credentials)
        return f"user {user}"
    context = transport.get_extra_info("sslcontext")
    if context is None or context.verify_mode is not ssl.CERT_REQUIRED:
        return ""
    subject = (transport.get_extra_info("peercert") or {}).get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    return f"certificate {names[0]}" if names else "certificate"


def guard_of_listener(usual: Middleware) -> Middleware:
    """For an application with listeners of its own. usual: the API's guard."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if HANDED_ON.get():
            return await handler(request)
        principal = known_by_connection(request)
        if not principal:
            return await usual(request, handler)
        if (refused := foreign_page(request)) is not None:
            return refused.response(for_plugins=True)
        prove = getattr(request.protocol, "proven", None)
        if prove is not None:
            prove()
        token, known = PRINCIPAL.set(principal), KNOWN_HERE.set(principal)
        try:
            return await handler(request)
        finally:
            PRINCIPAL.reset(token)
            KNOWN_HERE.reset(known)

    return guard


def path_of(address: str) -> Path | None:
    """The path of a Unix socket's address; None for "host:port"."""
    return Path(address.removeprefix(UNIX)) if address.startswith(UNIX) else None
