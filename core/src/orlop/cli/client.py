"""Talks to a server's HTTP API."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, Final

from orlop.cli.failures import CONFLICT, ERROR, NOT_FOUND, Failure

TIMEOUT_S: Final = 30.0
_CODES: Final = {404: NOT_FOUND, 409: CONFLICT}


class Client:
    """base: the server's URL."""

    def __init__(self, base: str) -> None:
        self.base = base

    def get(self, path: str, **query: Any) -> Any:
        """A JSON answer. Raises Failure."""
        with self._open("GET", path, query, None, TIMEOUT_S) as answer:
            return json.load(answer)

    def send(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """A request that changes something; its JSON answer, None for an empty one. Raises Failure."""
        with self._open(method, path, query, body, TIMEOUT_S) as answer:
            data = answer.read()
        return json.loads(data) if data else None

    def stream(self, path: str, *, accept: str = "*/*", **query: Any) -> Iterator[bytes]:
        """Pieces of an answer as they come. Raises Failure."""
        with self._open("GET", path, query, None, None, accept) as answer:
            while piece := answer.read1(65_536):
                yield piece

    def _open(
        self, method: str, path: str, query: dict[str, Any], body: Any, timeout_s: float | None, accept: str = "*/*"
    ) -> Any:
        given = {name: str(value) for name, value in query.items() if value not in (None, "", False)}
        url = self.base + urllib.parse.quote(path, safe="/*%") + (f"?{urllib.parse.urlencode(given)}" if given else "")
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(  # noqa: S310  (the operator says which server)
            url, data, {"Accept": accept, "Content-Type": "application/json"}, method=method
        )
        try:
            return urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise Failure(
                f"no server at {self.base}: {reason}", hint="start one with `orlop up`, or name it with --server URL"
            ) from error


def _refusal(error: urllib.error.HTTPError) -> Failure:
    try:
        document = json.load(error)
    except ValueError:
        document = {}
    text = document.get("error") or document.get("message") or f"{error.code} {error.reason}"
    where = f"{document['path']}: " if document.get("path") else ""
    details = document.get("details")
    if isinstance(details, list):
        text += ": " + "; ".join(f"{row.get('path', '')} {', '.join(row.get('errors', []))}" for row in details)
    failure = Failure(f"{where}{text}", hint=document.get("hint", ""), code=_CODES.get(error.code, ERROR))
    failure.document = document  # type: ignore[attr-defined]
    return failure
