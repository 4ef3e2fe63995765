"""Paths to handlers, the same for both dialects; whatever goes wrong becomes a JSON answer here.

Both take POST and PUT where one of them does: a client of one dialect that talks to the other is served.

What Orlop adds to a job is below `/jobs/{name}/`, where Chronos has nothing: below `/job/` a job that is called
`success` or `stat` would be taken for Chronos' own word, and another job for it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from orlop_chronos import delivery
from orlop_chronos.errors import ChronosError
from orlop_chronos.http import jobs, page, reports, upcoming
from orlop_chronos.http.calls import V2, V3, Call, Dialect, Handler, failed
from orlop_chronos.settings import Config

if TYPE_CHECKING:
    from orlop.server.routing import Host

_LOG: Final = logging.getLogger(__name__)

Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]

LEAST_COMPRESSED_BYTES: Final = 1024

#: (methods, path after the dialect's prefix, handler). The first that fits counts.
_RESOURCES: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("GET", "/jobs", jobs.listing),
    ("GET", "/jobs/summary", jobs.summary),
    ("GET", "/jobs/search", jobs.search),
    ("POST PUT", "/iso8601", jobs.put_scheduled),
    ("POST PUT", "/dependency", jobs.put_dependent),
    ("PUT", "/job/success/{name}", jobs.mark_succeeded),
    ("GET", "/job/stat/{name}", reports.statistics),
    ("GET", "/job/{name}", jobs.show),
    ("PUT", "/job/{name}", jobs.start),
    ("DELETE", "/job/{name}", jobs.delete),
    ("POST", "/job/{name}/task/{task}/progress", reports.progress_of_task),
    ("DELETE", "/task/kill/{name}", jobs.kill),
    ("DELETE", "/task/all", jobs.kill_all),
    ("PUT", "/task/{task}", jobs.report_task),
    ("GET", "/stats/{percentile}", reports.percentile),
    ("GET", "/graph/dot", reports.graph_dot),
    ("GET", "/graph/csv", reports.graph_csv),
    ("GET", "/graph/svg", reports.graph_svg),
    ("GET", "/leader", reports.leader),
    # Not Chronos'
    ("GET", "/jobs/{name}/runs", reports.history),
    ("POST", "/jobs/{name}/runs", jobs.start_told),
    ("DELETE", "/jobs/{name}/runs", jobs.kill_told),
    ("GET", "/jobs/{name}/next", upcoming.upcoming),
    ("PUT", "/jobs/{name}/enable", jobs.set_disabled),
    ("PUT", "/jobs/{name}/disable", jobs.set_disabled),
    ("POST", "/jobs/{name}/backfill", jobs.backfill),
    ("POST", "/next", upcoming.upcoming),
    ("GET", "/pause", jobs.paused),
    ("PUT", "/pause", jobs.pause),
    ("PUT", "/resume", jobs.pause),
    # As they were called before, for all jobs but those that are called `success` or `stat`
    ("GET", "/job/{name}/runs", reports.history),
    ("GET", "/job/{name}/next", upcoming.upcoming),
    ("PUT", "/job/{name}/enable", jobs.set_disabled),
    ("PUT", "/job/{name}/disable", jobs.set_disabled),
    ("POST", "/job/{name}/backfill", jobs.backfill),
)
_TOP: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("GET", "/ping", reports.ping),
    ("GET", "/metrics", reports.metrics),
    ("GET", "/leader", reports.leader),
)


def application(host: Host, settings: Config) -> web.Application:
    """Chronos' API."""
    made = web.Application(middlewares=[_answer_errors], client_max_size=settings.max_body_bytes)
    made.on_response_prepare.append(_let_any_page_read)
    made.cleanup_ctx.append(delivery.beside(host, settings))
    for dialect in (V3, V2):
        for methods, path, handler in _RESOURCES:
            _add_routes(made, methods, dialect.prefix + path, _route(host, settings, dialect, handler))
    for methods, path, handler in _TOP:
        _add_routes(made, methods, path, _route(host, settings, V3, handler))
    made.router.add_routes(page.ROUTES)
    return made


def _add_routes(made: web.Application, methods: str, path: str, serve: Serve) -> None:
    """Whatever can be had can be asked about. A slash at the path's end changes nothing (Chronos)."""
    wanted = [*methods.split(), *(["HEAD"] if "GET" in methods.split() else [])]
    for one in (path, path + "/"):
        for method in wanted:
            made.router.add_route(method, one, serve)


def _route(host: Host, settings: Config, dialect: Dialect, handler: Handler) -> Serve:
    async def serve(request: web.Request) -> web.StreamResponse:
        return await handler(Call(host, settings, dialect, request))

    return serve


async def _let_any_page_read(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Access-Control-Allow-Origin"] = "*"


@web.middleware
async def _answer_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        response = await handler(request)
    except ChronosError as error:
        response = failed(error)
    except web.HTTPException as error:
        response = failed(ChronosError(error.status, error.reason))
        response.headers.update({name: value for name, value in error.headers.items() if name == "Allow"})
    except ConnectionError:
        raise  # the client's, who has gone
    except Exception:  # noqa: BLE001  (told to the client as a mistake of ours, and logged)
        _LOG.exception("%s %s", request.method, request.path)
        response = failed(ChronosError(500, "Orlop has made a mistake, which is in the server's log"))
    body = getattr(response, "body", None)
    packed = hdrs.CONTENT_ENCODING in response.headers
    if isinstance(body, bytes) and len(body) >= LEAST_COMPRESSED_BYTES and not packed:
        response.enable_compression()
    return response
