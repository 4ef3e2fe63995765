"""Jobs: listing, defining, starting, stopping."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from orlop_chronos import orders, reading, rendering
from orlop_chronos.documents import JobRecord, Progress
from orlop_chronos.errors import ChronosError, bad_request
from orlop_chronos.http.calls import Call, answer, answer_list, done, text
from orlop_chronos.model import Job

MOST_FOUND = 1_000
#: Of the answer to an order that makes a run: its number.
RUN_HEADER = "Orlop-Run"


async def listing(call: Call) -> web.StreamResponse:
    """In this list alone `uris` and `fetch` mirror each other (Chronos)."""
    return await answer_list(call, await call.jobs(), _listed)


def _listed(record: JobRecord, progress: Progress) -> dict[str, Any]:
    job = rendering.job(record, progress)
    if job["fetch"]:
        job["uris"] = [fetch["uri"] for fetch in job["fetch"]]
    elif job["uris"]:
        job["fetch"] = [{"uri": uri, "executable": False, "cache": False, "extract": True} for uri in job["uris"]]
    return job


async def summary(call: Call) -> web.StreamResponse:
    jobs = await call.jobs()

    def row(record: JobRecord, progress: Progress) -> dict[str, Any]:
        return rendering.summary(record, progress, jobs.states(record.job.name, progress))

    return await answer_list(call, jobs, row, b'{"jobs":[', b"]}")


async def search(call: Call) -> web.StreamResponse:
    """By parts of the name and of the command, or of any of the two; case does not matter."""
    jobs = await call.jobs()
    limit = min(call.number("limit", 10), MOST_FOUND)
    offset = call.number("offset", 0)
    parts = [call.value(parameter).casefold() for parameter in ("name", "command", "any")]
    found: list[tuple[JobRecord, Progress]] = []
    async for stretch in jobs.stretches():
        found += [one for one in stretch if _matches(one[0].job, *parts)]
        if len(found) >= offset + limit:
            break
    return answer([rendering.job(record, progress) for record, progress in found[offset : offset + limit]])


def _matches(job: Job, name: str, command: str, either: str) -> bool:
    own_name, own_command = job.name.casefold(), job.command.casefold()
    return name in own_name and command in own_command and (either in own_name or either in own_command)


async def show(call: Call) -> web.StreamResponse:
    jobs = await call.jobs()
    return answer(rendering.job(jobs.record(call.name), jobs.progress(call.name)))


async def put_scheduled(call: Call) -> web.StreamResponse:
    """Neither schedule nor parents: once, now (Chronos)."""
    document = dict(await call.json())
    if not document.get("parents"):
        document["schedule"] = document.get("schedule") or "R1//PT24H"
        document["parents"] = []
    return await _put(call, document)


async def put_dependent(call: Call) -> web.StreamResponse:
    document = dict(await call.json())
    if not document.get("parents"):
        raise bad_request("parents: expected at least one")
    return await _put(call, document)


async def _put(call: Call, document: dict[str, object]) -> web.StreamResponse:
    definition = await read_definition(call, document)
    await call.give(orders.PutJob(definition=definition, names=call.dialect.names))
    return done()


async def read_definition(call: Call, document: dict[str, object]) -> reading.Definition:
    settings = call.settings
    defaults = reading.Defaults(
        epsilon=settings.task_epsilon if call.dialect.epsilon else "",
        extract=call.dialect.extract,
        cpus=settings.task_cpus,
        mem=settings.task_mem,
        disk=settings.task_disk,
        retry_delay=settings.failure_retry_s,
    )
    now_ms = (await call.jobs()).view.now.utc_ms
    return reading.read_job(document, now_ms, defaults)


async def delete(call: Call) -> web.StreamResponse:
    wanted = call.value("children", orders.Children.INHERIT)
    try:
        children = orders.Children(wanted)
    except ValueError:
        raise bad_request(f"children: expected one of {', '.join(orders.Children)}, got {wanted[:40]!r}") from None
    await call.give(orders.DeleteJob(name=call.name, children=children))
    return done()


async def start(call: Call) -> web.StreamResponse:
    """Chronos' clients learn nothing of the run that is made; its number is in a header for all others."""
    response = done()
    response.headers[RUN_HEADER] = str(await _start(call))
    return response


async def start_told(call: Call) -> web.StreamResponse:
    """As `start`, and says which run it is."""
    return answer({"job": call.name, "run": await _start(call)})


async def _start(call: Call) -> int:
    """The run's number."""
    arguments = call.value("arguments")
    if "\0" in arguments:
        raise bad_request("arguments: expected a text without NUL characters")
    number: int = await call.give(orders.StartJob(name=call.name, arguments=arguments or None))
    return number


async def mark_succeeded(call: Call) -> web.StreamResponse:
    """The answer's text is no JSON, although it says so (Chronos)."""
    known = await call.give(orders.MarkSucceeded(name=call.name))
    marked = text(f"marked job {call.name} as successful: {str(known).lower()}")
    marked.content_type = "application/json"
    return marked


async def kill(call: Call) -> web.StreamResponse:
    await _kill(call)
    return done()


async def kill_told(call: Call) -> web.StreamResponse:
    """As `kill`, and says which runs it has stopped."""
    return answer({"job": call.name, "stopped": await _kill(call)})


async def _kill(call: Call) -> list[int]:
    """The numbers of the runs that were stopped."""
    number = call.number("run", -1)
    stopped: list[int] = await call.give(orders.KillRuns(name=call.name, number=number if number >= 0 else None))
    return stopped


async def kill_all(call: Call) -> web.StreamResponse:
    jobs = await call.jobs()
    for name in jobs.names():
        if jobs.progress(name).open_runs:
            try:
                await call.give(orders.KillRuns(name=name))
            except ChronosError as error:
                if error.status != 400:
                    raise
                # It was deleted meanwhile, with what it ran.
    return done()


async def report_task(call: Call) -> web.StreamResponse:
    """Of `async` jobs. The code may be a text, as the script that came with Chronos sends it."""
    code = (await call.json()).get("statusCode")
    if isinstance(code, bool) or not re.fullmatch(r"-?\d{1,9}", str(code), re.ASCII):
        raise bad_request("statusCode: expected a number")
    await call.give(orders.ReportTask(task=call.request.match_info["task"], code=int(code)))
    return done()


async def set_disabled(call: Call) -> web.StreamResponse:
    await call.give(orders.SetDisabled(name=call.name, disabled=call.last_word == "disable"))
    return done()


async def pause(call: Call) -> web.StreamResponse:
    await call.give(orders.Pause(paused=call.last_word == "pause"))
    return done()


async def paused(call: Call) -> web.StreamResponse:
    """Is everything paused?"""
    return answer({"paused": (await call.jobs()).paused})


async def backfill(call: Call) -> web.StreamResponse:
    from_ms, until_ms = (_instant(call, name) for name in ("from", "until"))
    count = await call.give(orders.Backfill(name=call.name, from_ms=from_ms, until_ms=until_ms))
    return answer({"runs": count})


def _instant(call: Call, parameter: str) -> int:
    try:
        at_ms = reading.read_instant(call.value(parameter))
    except ChronosError as error:
        raise bad_request(f"{parameter}: {error.message}") from None
    if at_ms is None:
        raise bad_request(f"{parameter}: expected a time such as 2014-10-10T18:32:00Z")
    return at_ms
