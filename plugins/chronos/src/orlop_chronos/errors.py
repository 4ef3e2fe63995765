"""Errors as Chronos' clients know them: a status and a JSON object with a text."""

from __future__ import annotations

import http
from collections.abc import Sequence
from typing import Any, Final

#: How many wrong members one answer names; a hostile document has no end of them.
MOST_PROBLEMS: Final = 20


class ChronosError(Exception):
    """A request that is refused. status: of the HTTP answer. message: its text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @property
    def body(self) -> dict[str, Any]:
        return {"message": self.message, "status": http.HTTPStatus(self.status).phrase}


def bad_request(text: str) -> ChronosError:
    return ChronosError(400, text)


def unknown_job(name: str) -> ChronosError:
    """Chronos answers 400, never 404, and clients rely on it."""
    return bad_request(f"Job '{name}' not found")


def unknown_run(name: str, number: int) -> ChronosError:
    """Chronos knows of no runs, so that no client of it relies on another status."""
    return ChronosError(404, f"Job '{name}' has no run {number}")


def not_valid(problems: Sequence[str]) -> ChronosError:
    """problems: each with the path of what is wrong."""
    told = list(dict.fromkeys(problems))
    more = f"; and {len(told) - MOST_PROBLEMS} more" if len(told) > MOST_PROBLEMS else ""
    return bad_request("; ".join(told[:MOST_PROBLEMS]) + more)
