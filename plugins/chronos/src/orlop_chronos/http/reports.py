"""What jobs have done, what they depend on, and how the scheduler is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import attrs
from aiohttp import web

from orlop.addresses import reached_at
from orlop.framework import NodeState
from orlop_chronos import drawing, instants, rendering
from orlop_chronos.documents import Attempt, JobRecord, Run, RunState, task_key
from orlop_chronos.errors import bad_request, unknown_run
from orlop_chronos.http.calls import Call, Jobs, answer, text
from orlop_chronos.settings import Config
from orlop_chronos.specs import node_name, task_name

if TYPE_CHECKING:
    from orlop.server.routing import Host

#: Of a listener on every address of its machine.
#: Chronos' --job_history_limit.
SHOWN_IN_STATISTICS: Final = 5
MOST_RUNS: Final = 1_000
#: Runs in one answer of which it is told why no node has taken them: each such reason is a look at every node.
MOST_EXPLAINED: Final = 10
#: A picture of more is of use to nobody.
MOST_DRAWN: Final = 2_000

_PERCENTILES: Final = {
    "75thPercentile": 0.75,
    "95thPercentile": 0.95,
    "98thPercentile": 0.98,
    "99thPercentile": 0.99,
    "median": 0.5,
}


def histogram(durations_ms: Sequence[int]) -> dict[str, float]:
    """In milliseconds. Of nothing: zeros."""
    ordered = sorted(durations_ms)
    found = {name: _percentile(ordered, share) for name, share in _PERCENTILES.items()}
    found["mean"] = sum(ordered) / len(ordered) if ordered else 0.0
    found["count"] = len(ordered)
    return found


def _percentile(ordered: Sequence[int], share: float) -> float:
    """Between the two nearest values, as Dropwizard does it."""
    if not ordered:
        return 0.0
    position = share * (len(ordered) + 1)
    if position < 1:
        return float(ordered[0])
    if position >= len(ordered):
        return float(ordered[-1])
    lower, upper = ordered[int(position) - 1], ordered[int(position)]
    return lower + (position - int(position)) * (upper - lower)


def _durations(runs: Sequence[Run]) -> list[int]:
    """Of successful runs, in milliseconds: from the start of the attempt that succeeded to the run's end, whenever the
    run was due."""
    return [
        max(run.ended_ms - (run.attempts[-1].started_ms or run.attempts[-1].asked_ms), 0)
        for run in runs
        if run.state is RunState.SUCCEEDED and run.ended_ms and run.attempts
    ]


async def statistics(call: Call) -> web.StreamResponse:
    jobs = await call.jobs()
    record = jobs.record(call.name)
    runs = jobs.runs(call.name, MOST_RUNS)
    attempts = [item for run in runs[: SHOWN_IN_STATISTICS * 4] for item in _items(jobs, record, run)]
    return answer({"histogram": histogram(_durations(runs)), "taskStatHistory": attempts[:SHOWN_IN_STATISTICS]})


def _attempts(jobs: Jobs, run: Run) -> list[Attempt]:
    """The run's attempts as they are now: of one that goes on, its task knows more than what is stored."""
    found = list(run.attempts)
    if found and found[-1].ended_ms is None:
        task = jobs.view.tasks.get(task_key(run, len(found) - 1))
        if task is not None:
            found[-1] = attrs.evolve(
                found[-1],
                task=task.id,
                started_ms=task.started_utc_ms,
                node=node_name(jobs.view, task),
                node_id=task.node or "",
            )
    return found


def _items(jobs: Jobs, record: JobRecord, run: Run) -> list[dict[str, Any]]:
    """The run's attempts as Chronos shows them, newest first."""
    return [
        _item(task_name(record.job, run, number), run.job, attempt)
        for number, attempt in reversed(list(enumerate(_attempts(jobs, run))))
    ]


def _item(name: str, job: str, attempt: Attempt) -> dict[str, Any]:
    started_ms, ended_ms = attempt.started_ms, attempt.ended_ms
    item: dict[str, Any] = {
        "taskId": name,
        "jobName": job,
        "slaveId": attempt.node,
        "startTime": _clock(started_ms),
        "endTime": _clock(ended_ms),
    }
    if started_ms is not None and ended_ms is not None:
        item["duration"] = _duration(ended_ms - started_ms)
    return item | {"status": "Running" if ended_ms is None else "Success" if attempt.outcome == "finished" else "Fail"}


def _clock(at_ms: int | None) -> str:
    if at_ms is None:
        return "N/A"
    moment: datetime = instants.wall_at(at_ms, instants.UTC)
    return moment.strftime("%m/%d/%y %H:%M:%S")


def _duration(milliseconds: int) -> str:
    seconds = max(milliseconds, 0) // 1000
    hours, minutes = seconds // 3600, seconds // 60 % 60
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{seconds % 60}s"]
    return "".join(part for part in parts if part)


async def percentile(call: Call) -> web.StreamResponse:
    """Of all jobs, longest first, in seconds."""
    wanted = call.request.match_info["percentile"]
    if wanted not in _PERCENTILES and wanted not in ("mean", "count"):
        return answer([])
    jobs = await call.jobs()
    rows: list[dict[str, Any]] = []
    async for stretch in jobs.stretches():
        for record, _ in stretch:
            name = record.job.name
            rows.append(
                {"jobNameLabel": name, "time": histogram(_durations(jobs.runs(name, MOST_RUNS)))[wanted] / 1000}
            )
    return answer(sorted(rows, key=lambda row: (-row["time"], row["jobNameLabel"])))


async def history(call: Call) -> web.StreamResponse:
    """Runs, newest first, with all their attempts; or one of them."""
    jobs = await call.jobs()
    record = jobs.record(call.name)
    if call.value("run"):
        number = call.number("run", 0)
        one = jobs.run(call.name, number)
        if one is None:
            raise unknown_run(call.name, number)
        runs = [one]
    else:
        runs = jobs.runs(call.name, min(call.number("limit", 100), MOST_RUNS))
    waiting = jobs.without_node(runs, MOST_EXPLAINED)
    return answer([_run(jobs, record, run, waiting.get(run.number)) for run in runs])


def _run(jobs: Jobs, record: JobRecord, run: Run, waits_because: str | None) -> dict[str, Any]:
    """waits_because: why no node has taken the run's task yet; None if one has, or will at once."""
    attempts = [
        {
            "taskId": task_name(record.job, run, number),
            "task": attempt.task,
            "askedTime": rendering.instant(attempt.asked_ms),
            "startTime": rendering.instant(attempt.started_ms),
            "endTime": rendering.instant(attempt.ended_ms),
            "node": attempt.node,
            "outputLost": _is_output_lost(jobs, attempt),
            "outcome": attempt.outcome,
            "exitCode": attempt.code,
            "signal": attempt.signal,
            "reason": attempt.reason,
        }
        for number, attempt in enumerate(_attempts(jobs, run))
    ]
    return {
        "job": run.job,
        "run": run.number,
        "nominalTime": rendering.instant(run.nominal_ms),
        "cause": run.cause.value,
        "becauseOf": run.because_of,
        "state": (run.state if waits_because is None else RunState.WAITING).value,
        "count": run.count,
        "arguments": run.arguments,
        "endTime": rendering.instant(run.ended_ms),
        "nextAttemptTime": rendering.instant(run.due_ms) if run.state is RunState.WAITING else "",
        "reason": run.reason or waits_because or "",
        "attempts": attempts,
    }


def _is_output_lost(jobs: Jobs, attempt: Attempt) -> bool:
    """Output is kept by the node alone."""
    node = jobs.view.node(attempt.node_id) if attempt.node_id else None
    return bool(attempt.node_id) and (node is None or node.state is NodeState.GONE)


async def graph_dot(call: Call) -> web.StreamResponse:
    jobs = await call.jobs()
    numbers = {name: number for number, name in enumerate(jobs.names(), 1)}
    lines = [f"  {number} [ label={_quoted(name)} ];" for name, number in numbers.items()]
    async for stretch in jobs.stretches():
        for record, _ in stretch:
            number, parents = numbers[record.job.name], record.job.parents
            lines += [f"  {numbers[parent]} -> {number};" for parent in parents if parent in numbers]
    return text("\n".join(["digraph G {", *lines, "}", ""]))


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


async def graph_csv(call: Call) -> web.StreamResponse:
    rows, links = [], []
    async for nodes in _nodes(await call.jobs()):
        for node in nodes:
            rows.append(f"node,{node.name},{node.status},{node.state}\n")
            links += [f"link,{parent},{node.name}\n" for parent in node.parents]
    return text("".join(rows + links))


async def graph_svg(call: Call) -> web.StreamResponse:
    """As a picture."""
    drawn: list[drawing.Node] = []
    async for nodes in _nodes(await call.jobs()):
        drawn += nodes
        if len(drawn) > MOST_DRAWN:
            raise bad_request(f"there are more than {MOST_DRAWN} jobs, too many to draw")
    return web.Response(text=drawing.svg(drawn), content_type="image/svg+xml")


async def _nodes(jobs: Jobs) -> AsyncIterator[list[drawing.Node]]:
    """Of the graph, a stretch at a time."""
    async for stretch in jobs.stretches():
        yield [
            drawing.Node(
                name=record.job.name,
                parents=record.job.parents,
                status=rendering.status(progress.counters),
                state=rendering.state(jobs.states(record.job.name, progress)),
            )
            for record, progress in stretch
        ]


async def leader(call: Call) -> web.StreamResponse:
    return answer({"leader": leader_address(call.host, call.settings)})


def leader_address(host: Host, settings: Config) -> str:
    """ "host:port" under which clients reach Chronos' API, whichever address they have asked."""
    if ":" in settings.hostname:
        return settings.hostname
    return reached_at(settings.listen, settings.hostname, host.address)


async def ping(call: Call) -> web.StreamResponse:  # noqa: ARG001
    pong = text("pong\n")
    pong.headers["Cache-Control"] = "must-revalidate,no-cache,no-store"
    return pong


async def metrics(call: Call) -> web.StreamResponse:
    """In the shape of Dropwizard's, with the names that clients read."""
    jobs = await call.jobs()
    queued = {True: 0, False: 0}
    counters: dict[str, dict[str, int]] = {}
    histograms = {}
    async for stretch in jobs.stretches():
        for record, progress in stretch:
            name = record.job.name
            queued[record.job.high_priority] += sum(state is RunState.QUEUED for state in jobs.states(name, progress))
            counters[f"jobs.run.success.{name}"] = {"count": progress.counters.success_count}
            counters[f"jobs.run.failure.{name}"] = {"count": progress.counters.error_count}
            if durations := _durations(jobs.runs(name, MOST_RUNS)):
                histograms[f"jobs.run.time.{name}"] = histogram(durations)
    manager = "org.apache.mesos.chronos.scheduler.jobs.TaskManager"
    gauges = {f"{manager}.queueSize": {"value": queued[False]}, f"{manager}.highQueueSize": {"value": queued[True]}}
    return answer(
        {"version": "3.1.3", "gauges": gauges, "counters": counters, "histograms": histograms, "meters": {},
         "timers": {}}
    )  # fmt: skip


async def progress_of_task(call: Call) -> web.StreamResponse:
    """Counting elements was for jobs with Cassandra; without it Chronos takes the number and keeps nothing."""
    jobs = await call.jobs()
    record = jobs.record(call.name)
    document = await call.json()
    number = document.get("numAdditionalElementsProcessed")
    if not record.job.data_processing_job_type:
        raise bad_request(f"Job '{call.name}' is not of dataProcessingJobType")
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise bad_request("numAdditionalElementsProcessed: expected a number from 0")
    if jobs.view.task_named(call.request.match_info["task"]) is None:
        raise bad_request(f"Task '{call.request.match_info['task']}' not found")
    return web.Response(status=204)
