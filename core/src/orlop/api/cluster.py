"""The cluster at a glance: `/v1/cluster`, `/v1/frameworks`, `/v1/roles`, `/health`."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from yarl import URL

from orlop.api.documents import broken_plugins, cluster_document, framework_documents, moment, role_documents
from orlop.api.interface import OperatorServer
from orlop.api.requests import read_query, server_of
from orlop.api.responses import answer, answer_list, plain

HEALTH_PATH: Final = "/health"


async def get_cluster(request: web.Request) -> web.Response:
    read_query(request)
    server = server_of(request)
    state = server.state()
    role = server.role()
    statuses, plugins = dict(server.framework_status()), server.plugins.describe()
    about = {
        "name": server.cluster_name,
        "version": server.version,
        "address": server.address,
        "leader": role.leader_url,
        "store": without_password(server.store_url),
        "started": moment(server.started_utc_ms),
        "uptime_s": max(0, round(time.time() - server.started_utc_ms / 1000)),
        "read_only": server.read_only_reason(),
        "store_trouble": server.store_trouble(),
        "clock_trouble": server.clocks().trouble,
        "stale_ms": role.stale_ms,
        "broken_plugins": broken_plugins(plugins),
    }
    return await answer(
        state, lambda: {**about, **cluster_document(state), "frameworks": framework_documents(state, statuses, plugins)}
    )


async def list_frameworks(request: web.Request) -> web.Response:
    read_query(request)
    server = server_of(request)
    state = server.state()
    statuses, plugins = dict(server.framework_status()), server.plugins.describe()
    return await answer_list(state, "frameworks", lambda: framework_documents(state, statuses, plugins))


async def list_roles(request: web.Request) -> web.Response:
    read_query(request)
    state = server_of(request).state()
    return await answer_list(state, "roles", lambda: role_documents(state))


async def get_health(request: web.Request) -> web.Response:
    """503 when writes are refused. A quarantined framework is a warning: taking this server away would not help it.

    A standby is well when it knows a leader and can see the store: then it serves everything.
    """
    read_query(request)
    document, status = _health(server_of(request))
    return plain(document, status)


async def get_bare_health(request: web.Request) -> web.Response:
    """What whoever has no token is told, a load balancer say: whether this server serves, and not why."""
    read_query(request)
    document, status = _health(server_of(request))
    return plain({"status": document["status"]}, status)


def _health(server: OperatorServer) -> tuple[dict[str, Any], HTTPStatus]:
    role = server.role()
    if not role.leads and role.leader_url and not role.reason:
        standby = {"status": "ok", "role": "standby", "leader": role.leader_url, "stale_ms": role.stale_ms}
        return standby, HTTPStatus.OK
    reason = server.read_only_reason() if role.leads else role.reason
    if reason:
        stale = {} if role.leads else {"role": "standby", "stale_ms": role.stale_ms}
        reasons = [f"writes are refused: {reason}"]
        return {"status": "degraded", **stale, "reasons": reasons}, HTTPStatus.SERVICE_UNAVAILABLE
    warnings = [
        f"framework {name} is {one.state}: {one.error}"
        for name, one in sorted(server.framework_status().items())
        if one.state != "running"
    ]
    warnings += filter(None, (server.store_trouble(), server.clocks().trouble))
    return {"status": "ok", "role": "leader", **({"warnings": warnings} if warnings else {})}, HTTPStatus.OK


def without_password(store_url: str) -> str:
    """The store's URL as everybody may see it."""
    try:
        url = URL(store_url)
        return str(url.with_user(None)) if url.raw_user is not None or url.raw_password is not None else store_url
    except ValueError:
        # Several hosts with ports, as etcd's URLs have them, are no URL to most parsers.
        scheme, separator, rest = store_url.partition("://")
        hosts, slash, path = rest.partition("/")
        return f"{scheme}{separator}{hosts.rpartition('@')[2]}{slash}{path}"


ROUTES: Final = [
    web.get("/v1/cluster", get_cluster),
    web.get("/v1/frameworks", list_frameworks),
    web.get("/v1/roles", list_roles),
    web.get(HEALTH_PATH, get_health),
]
