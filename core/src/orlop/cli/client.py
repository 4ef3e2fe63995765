"""Talks to a server's HTTP API, with the standard library alone: it is imported by each short command."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Final

from orlop.cli.failures import CONFLICT, ERROR, NOT_FOUND, Failure, Unreachable

TIMEOUT_S: Final = 30.0
ERROR_BYTES_MAX: Final = 2**20
PIECE_BYTES: Final = 65_536
TOKEN_VARIABLE: Final = "ORLOP_TOKEN"  # noqa: S105  (a variable's name)
AUTHORITY_VARIABLE: Final = "ORLOP_CA"
#: Of answers of a server without a leader: how old what it knows may be, in milliseconds.
STALE_HEADER: Final = "Orlop-Stale-Ms"
_CODES: Final = {404: NOT_FOUND, 409: CONFLICT}
_HINTS: Final = {
    401: f"give a token in {TOKEN_VARIABLE}: the server's data folder has one in admin.token",
    403: f"the token in {TOKEN_VARIABLE} does not permit it",
}
_AUTHORITY_HINT: Final = f"verify it with --ca FILE or {AUTHORITY_VARIABLE}: the server's data folder has ca.pem"
_TLS_HINTS: Final = {
    "CERTIFICATE_VERIFY_FAILED": _AUTHORITY_HINT,
    "WRONG_VERSION_NUMBER": "is it a server without TLS? Then use http://",
}
_START: Final = "start one with `orlop up`, or name it with --server URL or ORLOP_SERVER"


class Client:
    """base: the server's URL. token: for servers with authentication; from ORLOP_TOKEN when None.

    authority: the file with the certificate authority of an https server; from ORLOP_CA when None, else the system's.
    """

    def __init__(
        self, base: str, *, token: str | None = None, authority: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.base = base.rstrip("/")
        self._token = (os.environ.get(TOKEN_VARIABLE, "") if token is None else token).strip()
        if not self._token.isprintable():
            raise Failure(f"{TOKEN_VARIABLE}: expected a token in one line", code=2)
        self._timeout_s = timeout_s
        self._told = False
        parts = urllib.parse.urlsplit(self.base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Failure(f"--server: expected a URL such as http://127.0.0.1:5050, got {base!r}", code=2)
        loopback = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
        # a proxy for the world outside cannot reach this machine's own addresses
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})] if loopback else []
        self.context: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self.context = _context(os.environ.get(AUTHORITY_VARIABLE, "") if authority is None else authority)
            handlers.append(urllib.request.HTTPSHandler(context=self.context))
        self._opener = urllib.request.build_opener(*handlers)

    @property
    def headers(self) -> dict[str, str]:
        """What each request carries to say who asks."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def get(self, path: str, **query: Any) -> Any:
        """A JSON answer. Raises Failure."""
        return self._json("GET", path, query, None)

    def send(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """A request that changes something; its JSON answer, None for an empty one. Raises Failure."""
        return self._json(method, path, query, body)

    def stream(self, path: str, *, accept: str = "*/*", **query: Any) -> Iterator[bytes]:
        """Pieces of an answer as they come. Raises Failure; Unreachable when it breaks off."""
        with self._open("GET", path, query, None, None, accept) as answer:
            try:
                while piece := answer.read1(PIECE_BYTES):
                    yield piece
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(f"{self.base} broke off: {error}") from error

    def _json(self, method: str, path: str, query: Mapping[str, Any], body: Any) -> Any:
        with self._open(method, path, query, body, self._timeout_s) as answer:
            try:
                data = answer.read()
                document = json.loads(data) if data else None
            except ValueError as error:
                raise Failure(f"{self.base} answered with something that is not JSON", hint="is it Orlop?") from error
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(f"{self.base} broke off: {error}") from error
            self._tell_if_stale(answer.headers.get(STALE_HEADER), document)
            return document

    def _tell_if_stale(self, stale_ms: str | None, document: Any) -> None:
        """Once: commands ask more than one question. A document that says so itself is for its command to show."""
        if stale_ms is not None and not self._told and not (isinstance(document, Mapping) and "stale_ms" in document):
            self._told = True
            seconds = int(stale_ms) // 1000
            sys.stderr.write(f"orlop: {self.base} cannot ask a leader: what it knows may be {seconds} s old\n")

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: Any,
        timeout_s: float | None,
        accept: str = "application/json",
    ) -> Any:
        # Zero is a value, and equal to False.
        given = {name: _text(value) for name, value in query.items() if value not in (None, "") and value is not False}
        asked = f"?{urllib.parse.urlencode(given, doseq=True)}" if given else ""
        url = self.base + urllib.parse.quote(path, safe="/*%") + asked
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Accept": accept, "Content-Type": "application/json", **self.headers}
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310  (http and https only)
        try:
            # a stream may be silent for long, but connecting may not
            answer = self._opener.open(request, timeout=self._timeout_s)
            if timeout_s is None:
                _never_time_out(answer)
            return answer
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except TimeoutError as error:
            raise Unreachable(f"{self.base} did not answer within {self._timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            hint = next((hint for sign, hint in _TLS_HINTS.items() if sign in str(error)), _START)
            raise Unreachable(f"cannot reach {self.base}: {_reason(error)}", hint=hint) from error


def _context(authority: str) -> ssl.SSLContext:
    """Raises Failure."""
    try:
        return ssl.create_default_context(cafile=authority or None)
    except OSError as error:  # ssl.SSLError is one
        raise Failure(f"--ca: {authority} cannot be used: {error.strerror or error}", code=2) from error


def _text(value: Any) -> str | list[str]:
    """Of a list one text for each, for a parameter that is repeated."""
    if isinstance(value, list | tuple):
        return [str(one) for one in value]
    return "true" if value is True else str(value)


def _never_time_out(answer: Any) -> None:
    """Lifts the time limit of an open answer; the socket is where http.client keeps it."""
    raw = getattr(getattr(answer, "fp", None), "raw", None)
    connection = getattr(raw, "_sock", None)
    if isinstance(connection, socket.socket):
        connection.settimeout(None)


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"TLS: {reason.verify_message or reason.reason}"
    if isinstance(reason, ssl.SSLError):
        return f"TLS: {reason.reason or reason}"
    return str(getattr(reason, "strerror", None) or reason or type(error).__name__)


def _refusal(error: urllib.error.HTTPError) -> Failure:
    """The server's refusal, in Orlop's form or in Marathon's."""
    try:
        document = json.loads(error.read(ERROR_BYTES_MAX))
    except (ValueError, OSError):
        document = {}
    finally:
        error.close()
    if not isinstance(document, dict):
        document = {}
    text = str(document.get("error") or document.get("message") or f"{error.code} {error.reason}")
    where = f"{document['path']}: " if document.get("path") else ""
    details = document.get("details")
    if isinstance(details, list):
        rows = [row for row in details if isinstance(row, dict)]
        text += ": " + "; ".join(f"{row.get('path', '')} {', '.join(row.get('errors', []))}" for row in rows)
    own = _HINTS.get(error.code, "")
    hint = own if error.code == 401 else str(document.get("hint") or own)  # the server's is for those who write clients
    return Failure(f"{where}{text}", hint=hint, code=_CODES.get(error.code, ERROR), document=document)
