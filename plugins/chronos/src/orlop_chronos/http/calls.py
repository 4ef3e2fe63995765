"""One request, as the resources' handlers see it, and the answers they give."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import attrs
import orjson
from aiohttp import ClientPayloadError, web

from orlop.framework import NotAvailable, Refused, TaskState, View
from orlop_chronos import documents, reading
from orlop_chronos.documents import Control, JobRecord, Progress, Run, RunState, run_id, task_key
from orlop_chronos.errors import ChronosError, bad_request, unknown_job
from orlop_chronos.framework import Chronos
from orlop_chronos.http import packing
from orlop_chronos.orders import Order
from orlop_chronos.settings import Config

if TYPE_CHECKING:
    from orlop.server.routing import Host

Handler = Callable[["Call"], Awaitable[web.StreamResponse]]

#: Jobs that are looked at before other requests have their turn: a few milliseconds.
AT_A_STRETCH: Final = 250

_NOTHING: Final = Progress()


@attrs.frozen
class Dialect:
    """prefix: of its paths. names: what a new job may be called. epsilon: does it know of one by default?
    extract: is what is fetched unpacked by default?"""

    prefix: str
    names: re.Pattern[str]
    epsilon: bool
    extract: bool


V2: Final = Dialect(prefix="/scheduler", names=reading.NAMES_V2, epsilon=True, extract=False)
V3: Final = Dialect(prefix="/v1/scheduler", names=reading.NAMES_V3, epsilon=False, extract=True)


@attrs.frozen
class Call:
    """A request. host: the door to the framework. settings: of the plugin."""

    host: Host
    settings: Config
    dialect: Dialect
    request: web.Request

    @property
    def name(self) -> str:
        """Of the job, from the path."""
        return self.request.match_info["name"]

    @property
    def last_word(self) -> str:
        """Of the path."""
        return self.request.path.rstrip("/").rpartition("/")[2]

    def value(self, name: str, default: str = "") -> str:
        """A query parameter."""
        return self.request.query.get(name, default)

    def number(self, name: str, default: int) -> int:
        """A query parameter that is a whole number from 0 on. Raises ChronosError."""
        text = self.value(name)
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise bad_request(f"{name}: expected a number from 0 to 999999999, got {text[:40]!r}")
        return int(text)

    async def json(self) -> Any:
        """The body's object. Raises ChronosError (400, 413)."""
        limit = self.settings.max_body_bytes
        parts: list[bytes] = []
        size = 0
        try:
            async for part in self.request.content.iter_any():
                size += len(part)
                if size > limit:
                    raise ChronosError(413, f"expected a body of at most {limit} bytes")
                parts.append(part)
        except (ClientPayloadError, web.RequestPayloadError, ValueError) as error:
            raise bad_request(f"the request's body cannot be read: {' '.join(str(error).split())}") from None
        return reading.load_json(b"".join(parts))

    async def jobs(self) -> Jobs:
        """The state now. Raises ChronosError (503)."""
        try:
            return Jobs(await self.host.view(Chronos.name))
        except NotAvailable as error:
            raise ChronosError(503, str(error)) from None

    async def give(self, order: Order) -> Any:
        """Has an order carried out; returns when it is durable. Raises ChronosError."""
        try:
            return await self.host.command(Chronos.name, order)
        except Refused as refused:
            if isinstance(refused.reason, ChronosError):
                raise refused.reason from None
            raise
        except NotAvailable as error:
            raise ChronosError(503, str(error)) from None


@attrs.frozen
class Jobs:
    """What the API shows of one moment."""

    view: View

    def names(self) -> list[str]:
        """In order."""
        return list(self.view.objects(documents.JOB))

    async def stretches(self) -> AsyncIterator[list[tuple[JobRecord, Progress]]]:
        """Every job, in the order of names. Others have their turn in between: there may be a great many."""
        progress = self.view.objects(documents.PROGRESS)
        jobs = iter(self.view.objects(documents.JOB).items())
        while stretch := list(itertools.islice(jobs, AT_A_STRETCH)):
            yield [(record, progress.get(name, _NOTHING)) for name, record in stretch]
            await asyncio.sleep(0)

    def record(self, name: str) -> JobRecord:
        """Raises ChronosError for an unknown job."""
        found: JobRecord | None = self.view.objects(documents.JOB).get(name)
        if found is None:
            raise unknown_job(name)
        return found

    def progress(self, name: str) -> Progress:
        found: Progress = self.view.objects(documents.PROGRESS).get(name, _NOTHING)
        return found

    def run(self, name: str, number: int) -> Run | None:
        return self.view.objects(documents.RUN).get(run_id(name, number))

    def runs(self, name: str, most: int) -> list[Run]:
        """The newest, and what is still open, newest first."""
        progress = self.progress(name)
        first = max(progress.oldest_run, progress.next_run - most)
        open_before = sorted((number for number in progress.open_runs if number < first), reverse=True)
        numbers = [*range(progress.next_run - 1, first - 1, -1), *open_before]
        return [run for number in numbers if (run := self.run(name, number)) is not None]

    def states(self, name: str, progress: Progress) -> list[RunState]:
        """Of the job's open runs. One whose task no node has taken yet is queued (Chronos)."""
        runs = [run for number in progress.open_runs if (run := self.run(name, number)) is not None]
        return [RunState.QUEUED if self._is_pending(run) else run.state for run in runs]

    def without_node(self, runs: Iterable[Run], most: int) -> dict[int, str]:
        """Why no node takes the tasks of these runs of a job, by the run's number; of so many runs at `most`.

        Those that some node will take at once are not among them.
        """
        found: dict[int, str] = {}
        for run in itertools.islice(filter(self._is_pending, runs), most):
            explanation = self.view.explain(self.view.tasks[_task_of(run)])
            if explanation.note or not explanation.fits:
                found[run.number] = str(explanation)
        return found

    def _is_pending(self, run: Run) -> bool:
        if run.state is not RunState.ACTIVE:
            return False
        task = self.view.tasks.get(_task_of(run))
        return task is not None and task.state is TaskState.PENDING

    @property
    def paused(self) -> bool:
        """Is nothing started by time or by a parent?"""
        control: Control | None = self.view.objects(documents.CONTROL).get(documents.CLUSTER)
        return control is not None and control.paused


def _task_of(run: Run) -> str:
    """The key of the last attempt's task."""
    return task_key(run, len(run.attempts) - 1)


def answer(value: Any, *, status: int = 200) -> web.Response:
    """A JSON answer, on one line."""
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


async def answer_list(
    call: Call,
    jobs: Jobs,
    shown: Callable[[JobRecord, Progress], Any],
    before: bytes = b"[",
    after: bytes = b"]",
) -> web.StreamResponse:
    """All jobs as a JSON list."""
    parts = _list_in_parts(jobs, shown, before, after)
    return await packing.answer_in_parts(call.request, parts, "application/json")


async def _list_in_parts(
    jobs: Jobs, shown: Callable[[JobRecord, Progress], Any], before: bytes, after: bytes
) -> AsyncIterator[bytes]:
    """Each stretch becomes text as a whole: a text of its own for each of very many jobs would cost more than its
    making does, in memory that is asked for piece by piece."""
    yield before
    comma = b""
    async for stretch in jobs.stretches():
        yield comma + orjson.dumps([shown(record, progress) for record, progress in stretch])[1:-1]
        comma = b","
    yield after


def text(value: str) -> web.Response:
    return web.Response(text=value, content_type="text/plain")


def done() -> web.Response:
    """204: what clients take for success. An empty 200 they take for an error."""
    return web.Response(status=204)


def failed(error: ChronosError) -> web.Response:
    return answer(error.body, status=error.status)
