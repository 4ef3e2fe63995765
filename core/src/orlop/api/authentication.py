"""Who asks, when authentication is on: a bearer token, or the same token as the password of basic authentication.

The latter is for browsers and old clients. A browser sends such a password by itself with whatever a foreign page
asks of it, so a request that a foreign page caused is refused whatever it carries.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from orlop.api.agents import PREFIX
from orlop.api.guard import UNPROVEN, Authenticate, foreign_page
from orlop.api.problems import Problem
from orlop.api.sparing import Sparing
from orlop.kernel.state import State
from orlop.security.sealing import CannotUnseal
from orlop.security.tokens import TOKEN_CHARACTERS_MAX, InvalidToken, Purpose, parse_token, wrong_with
from orlop.security.vouching import HEADER, Vouching
from orlop.server.admission import stored_token

log = logging.getLogger(__name__)

_CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="Orlop", charset="UTF-8", Bearer realm="Orlop"'}
_HINT: Final = "send a token of the API as `Authorization: Bearer TOKEN`, or as the password of any user"


def by_token(state: Callable[[], State], vouching: Callable[[], Vouching] | None = None) -> Authenticate:
    """Asks every client for a token of the API, unless another server vouches for it; agents have a guard of their own.

    state: the newest durable one.
    """
    said = Sparing(log)

    async def authenticate(request: web.Request) -> str:
        if request.path.startswith(PREFIX):
            return UNPROVEN
        if (refused := foreign_page(request)) is not None:
            raise refused
        if vouching is not None and (vouched := request.headers.get(HEADER)) is not None:
            try:
                return vouching().principal(vouched, request.method, request.raw_path)
            except CannotUnseal as error:
                said.warning(f"vouched {request.remote}", f"a principal from {request.remote} is not believed: {error}")
                raise _unknown("this server does not believe who is said to ask") from None
        try:
            return principal(state(), request.headers.get(hdrs.AUTHORIZATION, ""), time.time_ns() // 1_000_000)
        except Problem as problem:
            said.warning(str(request.remote), f"{request.method} from {request.remote} is refused: {problem.error}")
            raise

    return authenticate


def principal(state: State, header: str, utc_ms: int) -> str:
    """Whom the `Authorization` header speaks for. Raises Problem (401)."""
    text = _presented(header)
    if text is None:
        raise _unknown("this server asks for a token")
    try:
        token = parse_token(text)
    except InvalidToken:
        raise _unknown("the token is not known") from None
    stored = stored_token(state, token.id)
    why = wrong_with(stored, Purpose.API, token.secret_hash, utc_ms)
    if stored is None or why is not None:
        raise _unknown(why or "the token is not known")
    return stored.note or token.id


def _presented(header: str) -> str | None:
    """The token in a header's value; None without one."""
    scheme, _, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value[: TOKEN_CHARACTERS_MAX + 1]
    if scheme.lower() != "basic" or len(value) > 2 * TOKEN_CHARACTERS_MAX + 400:
        return None
    try:
        decoded = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return decoded.partition(":")[2]


def _unknown(error: str) -> Problem:
    return Problem(HTTPStatus.UNAUTHORIZED, error, hint=_HINT, headers=_CHALLENGE)
