"""What is answered when something is not as asked for: an engine's own form, `{"message": "..."}`."""

from __future__ import annotations

import orjson
from aiohttp import web


class Problem(Exception):
    """A refusal. status: of HTTP. message: what the client shows its user."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def response(self) -> web.Response:
        return answer({"message": self.message}, status=self.status)


class NotFound(Problem):
    """No engine has it. hidden: one has, and clients are not to see it."""

    def __init__(self, message: str, *, hidden: bool = False) -> None:
        super().__init__(404, message)
        self.hidden = hidden


class NodeAway(Problem):
    """The container is known, and its node does not answer. reason: why not."""

    def __init__(self, reference: str, node: str, reason: str) -> None:
        super().__init__(503, f"Container {reference} is on node {node}, which is not available: {reason}")
        self.reason = reason


def answer(value: object, *, status: int = 200) -> web.Response:
    """A JSON answer as an engine writes it: with a line's end."""
    body = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, status=status, content_type="application/json")
