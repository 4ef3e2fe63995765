"""Errors as the API tells them: one JSON object that says what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import orjson
from aiohttp import web


class Problem(Exception):
    """A request that cannot be served.

    path: of what is wrong, such as `query.limit` or `body.reason`. hint: what to do about it.
    headers: that belong to the status, such as `WWW-Authenticate`.
    """

    def __init__(
        self, status: int, error: str, *, hint: str = "", path: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.hint = hint
        self.path = path
        self.headers = dict(headers or {})

    def response(self, *, for_plugins: bool = False) -> web.Response:
        """The answer. for_plugins: `message` says it too, where clients of Marathon and Chronos look."""
        document = {"error": printable(self.error)}
        if for_plugins:
            document["message"] = document["error"]
        if self.hint:
            document["hint"] = printable(self.hint)
        if self.path:
            document["path"] = printable(self.path)
        return web.Response(
            status=self.status, body=orjson.dumps(document), content_type="application/json", headers=self.headers
        )


def invalid(path: str, error: str, hint: str = "") -> Problem:
    """400: the caller's fault."""
    return Problem(HTTPStatus.BAD_REQUEST, error, path=path, hint=hint)


def not_found(error: str, hint: str = "") -> Problem:
    """404."""
    return Problem(HTTPStatus.NOT_FOUND, error, hint=hint)


def ambiguous(error: str, hint: str = "") -> Problem:
    """409: several things answer to that name."""
    return Problem(HTTPStatus.CONFLICT, error, hint=hint)


def printable(text: str) -> str:
    """The text without lone surrogates: bytes of a request that are no UTF-8 arrive as these, and JSON has none."""
    return text.encode("utf-8", "replace").decode()
