"""The cluster's certificate authority, and another one that takes its place: `/v1/authority`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from orlop.api.agents import AGENTS
from orlop.api.documents import moment
from orlop.api.problems import Problem
from orlop.api.requests import PRINCIPAL, read_body, read_query, server_of, whole
from orlop.api.responses import plain
from orlop.framework import Refused
from orlop.security import authority as signing
from orlop.server.admission import stored_authorities
from orlop.server.remote_agents import NotAdmitted, RemoteAgents
from orlop.server.rotation import CURRENT, FORMER, NEXT

DURATION_S_MAX: Final = 366 * 24 * 3_600
DEFAULT_AFTER_S: Final = 3_600
DEFAULT_WITHIN_S: Final = 7 * 24 * 3_600
DEFAULT_KEEP_S: Final = 3_600

_NAMES: Final = {CURRENT: "current", NEXT: "next", FORMER: "former"}


async def get_authority(request: web.Request) -> web.Response:
    read_query(request)
    stored = stored_authorities(server_of(request).state())
    found = [
        {
            "state": name,
            "fingerprint": signing.fingerprint(stored[key].certificate.encode()),
            "expires": moment(signing.expires_at(stored[key].certificate.encode())),
            "certificate": stored[key].certificate,
        }
        for key, name in _NAMES.items()
        if key in stored
    ]
    return plain({"authorities": found, "rotation": _rotation(request.app[AGENTS])})


async def rotate(request: web.Request) -> web.Response:
    """202: a new authority is there, and spreads."""
    read_query(request)
    seconds = whole(0, DURATION_S_MAX)
    body = await read_body(request, after_s=seconds, within_s=seconds, keep_s=seconds)
    agents = request.app[AGENTS]
    try:
        await agents.rotate(
            after_ms=1000 * _given(body["after_s"], DEFAULT_AFTER_S),
            within_ms=1000 * _given(body["within_s"], DEFAULT_WITHIN_S),
            keep_ms=1000 * _given(body["keep_s"], DEFAULT_KEEP_S),
            by=PRINCIPAL.get(),
        )
    except (NotAdmitted, Refused) as error:
        raise Problem(HTTPStatus.CONFLICT, str(error)) from None
    return plain({"rotation": _rotation(agents)}, HTTPStatus.ACCEPTED)


async def hurry(request: web.Request) -> web.Response:
    """The present phase ends now."""
    read_query(request)
    agents = request.app[AGENTS]
    try:
        await agents.hurry_rotation(PRINCIPAL.get())
    except Refused as error:
        raise Problem(HTTPStatus.CONFLICT, str(error)) from None
    return plain({"rotation": _rotation(agents)})


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _rotation(agents: RemoteAgents) -> dict[str, Any] | None:
    found = agents.rotation()
    if found is None:
        return None
    rotation, waiting = found
    return {
        "phase": "keeping" if rotation.drop_utc_ms else "spreading",
        "change_from": moment(rotation.from_utc_ms),
        "change_by": moment(rotation.by_utc_ms),
        "drop": moment(rotation.drop_utc_ms),
        "waiting": waiting,
    }


ROUTES: Final = [
    web.get("/v1/authority", get_authority),
    web.post("/v1/authority/rotation", rotate),
    web.post("/v1/authority/rotation/hurry", hurry),
]
