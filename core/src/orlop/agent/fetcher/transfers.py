"""One artefact from where it is: HTTP, FTP, or a file of this node.

Everything that is imported late by the standard library is imported here: after the fetcher has become another user it
may not be able to read modules any more.
"""

from __future__ import annotations

import base64
import email.utils  # noqa: F401
import encodings.idna  # noqa: F401
import ftplib
import http.client
import mimetypes  # noqa: F401
import os
import socket
import ssl
import stat
import urllib.error
import urllib.request
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from .budget import Budget, CannotFetch

#: A server that sends nothing for so long has hung.
STALL_S = 60.0
CHUNK_BYTES = 256 * 1024
NOT_MODIFIED = 304
AUTHORIZATION = "Authorization"
#: Characters of a URL that are sent as they are.
_PLAIN = "!#$%&'()*+,/:;=?@[]~"


def is_local(uri: str) -> bool:
    return uri.startswith("/") or uri.partition(":")[0].lower() == "file"


def fetch(uri: str, into: BinaryIO, budget: Budget, local: list[str]) -> None:
    """local: paths below which the node allows its own files. Raises CannotFetch, OSError for what is written."""
    if is_local(uri):
        with open_local(uri, local) as file:
            copy(file, into, budget)
    else:
        download(uri, into, budget)


class Unchanged(Exception):
    """What is known already is still so."""


class Unreachable(CannotFetch):
    """The server could not be asked."""


def download(uri: str, into: BinaryIO, budget: Budget, known: dict[str, str] | None = None) -> dict[str, str]:
    """Returns the headers by which the server can tell whether it has changed. known: headers that ask for a change.
    Raises CannotFetch, Unreachable, Unchanged, OSError for what is written."""
    with _open(uri, known or {}) as answer:
        headers = answer.headers
        copy(answer, into, budget, _length(headers))
    return {
        condition: headers[name]
        for condition, name in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified"))
        if headers.get(name)
    }


def _open(uri: str, conditions: dict[str, str]) -> Any:
    try:
        return urllib.request.build_opener(_Redirects).open(_request(uri, conditions), timeout=STALL_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == NOT_MODIFIED and conditions:
                raise Unchanged from None
            raise CannotFetch(f"the server answers {error.code} {error.reason}".strip()) from None
    except urllib.error.URLError as error:
        raise Unreachable(_trouble(error.reason)) from None
    except (http.client.HTTPException, OSError, EOFError, ValueError, ftplib.Error) as error:
        raise Unreachable(_trouble(error)) from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Credentials are for the host that they were given for, wherever on it a request is sent."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        credentials = req.unredirected_hdrs.get(AUTHORIZATION)
        if request is not None and credentials and (request.type, request.host) == (req.type, req.host):
            request.add_unredirected_header(AUTHORIZATION, credentials)
        return request


def _request(uri: str, conditions: dict[str, str]) -> urllib.request.Request:
    parts = urlsplit(quote(uri, safe=_PLAIN))
    credentials, at, host = parts.netloc.rpartition("@")
    headers = {"User-Agent": "orlop", "Accept": "*/*", **conditions}
    if not at or parts.scheme.lower() == "ftp":
        return urllib.request.Request(urlunsplit(parts), headers=headers)  # noqa: S310
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), headers=headers)  # noqa: S310
    encoded = base64.b64encode(unquote(credentials).encode()).decode()
    request.add_unredirected_header(AUTHORIZATION, f"Basic {encoded}")
    return request


def _trouble(reason: object) -> str:
    match reason:
        case socket.gaierror():
            return f"its host is not known: {reason.strerror}"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {reason.verify_message}"
        case TimeoutError():
            return f"the server sends nothing for {STALL_S:g} s"
        case OSError(strerror=str(text)):
            return f"it cannot be reached: {text}"
    return f"it cannot be reached: {reason or type(reason).__name__}"


def _length(headers: Any) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def copy(source: Any, into: BinaryIO, budget: Budget, length: int | None = None) -> None:
    """length: what there should be; None when it is not known. Raises CannotFetch, OSError for what is written."""
    if length is not None and length > budget.left:
        raise budget.too_large()
    count = 0
    while data := _read(source, count):
        budget.take(len(data))
        into.write(data)
        count += len(data)
    if length is not None and count != length:
        raise Unreachable(f"the server ended after {count} of {length} bytes")


def _read(source: Any, count: int) -> bytes:
    try:
        data: bytes = source.read(CHUNK_BYTES)
    except (http.client.HTTPException, OSError, EOFError, ftplib.Error) as error:
        raise Unreachable(f"after {count} bytes: {_trouble(error)}") from None
    return data


def open_local(uri: str, allowed: list[str]) -> BinaryIO:
    """A file of this node, if it is among those that its operator has named. Raises CannotFetch."""
    path = uri
    if not uri.startswith("/"):
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise CannotFetch("a file: URI names no host, or localhost")
        path = unquote(parts.path)
    real = os.path.realpath(path)
    folders = [os.path.realpath(folder) for folder in allowed]
    if not any(real == folder or real.startswith(folder.rstrip("/") + "/") for folder in folders):
        raise CannotFetch("this node gives no such file away: [agent] fetch_local names those that it does")
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CannotFetch(f"it cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CannotFetch("it is not a regular file")
    return os.fdopen(descriptor, "rb")
