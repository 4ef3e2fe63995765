"""`/v2/tasks` and `/v2/queue`."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Final

from aiohttp import web

from orlop.framework import Explanation, Task, View, format_utc
from orlop_marathon import errors, orders, paths, root, wire
from orlop_marathon.events import mesos_state
from orlop_marathon.http.apps import kill
from orlop_marathon.http.calls import Call, Methods, answer, empty, plain
from orlop_marathon.http.reading import Reader

#: Values of `status`; others ask for nothing.
_STATUSES: Final = {"running": "TASK_RUNNING", "staging": "TASK_STAGING"}
#: The forms that ids of tasks have had in the course of time, all in one (Marathon 1.11, `Task.Id.parse`).
_TASK_ID: Final = re.compile(r".+[._][^._]+(\.[0-9]+)?", re.DOTALL)

#: Reasons of Mesos' offers in their funnel order, and words in the kernel's reasons that mean them.
_REASONS: Final = (
    ("UnfulfilledRole", ("role", "quota")),
    ("UnfulfilledConstraint", ("constraint", "attribute", "hostname", "runtime")),
    ("NoCorrespondingReservationFound", ("reservation",)),
    ("AgentMaintenance", ("drain", "unreachable", "not ready")),
    ("InsufficientCpus", ("cpu",)),
    ("InsufficientMemory", ("mem",)),
    ("InsufficientDisk", ("disk",)),
    ("InsufficientGpus", ("gpu",)),
    ("InsufficientPorts", ("port",)),
    ("DeclinedScarceResources", ("scarce",)),
)


def resolve_tasks(tail: list[str]) -> Methods | None:
    if not tail:
        return {"GET": _list}
    return {"POST": _delete} if tail == ["delete"] else None


def resolve_queue(tail: list[str]) -> Methods | None:
    if not tail:
        return {"GET": _queue}
    return {"DELETE": partial(_reset, path=paths.join(tail[:-1]))} if tail[-1] == "delay" else None


async def _list(call: Call) -> web.Response:
    reader = Reader(await call.view())
    if call.wants_text:
        return plain("".join(reader.endpoints(path) for path in reader.apps))
    asked = (value.casefold() for value in call.values("status", "status[]"))
    states = {_STATUSES[value] for value in asked if value in _STATUSES}
    tasks = [
        reader.task(task)
        for path in reader.apps
        for task in reader.placed(path)
        if not states or mesos_state(task) in states
    ]
    return answer({"tasks": tasks})


async def _delete(call: Call) -> web.Response:
    document = await call.json()
    if not isinstance(document, dict):
        raise errors.wrong_type([errors.Problem("/", wire.EXPECTED_OBJECT)])
    ids = document.get("ids")
    if not isinstance(ids, list):
        fault = wire.PATH_MISSING if ids is None else wire.EXPECTED_ARRAY
        raise errors.wrong_type([errors.Problem("/ids", fault)])
    wrong = [position for position, one in enumerate(ids) if not isinstance(one, str)]
    if wrong:
        raise errors.wrong_type([errors.Problem(f"/ids({position})", wire.EXPECTED_STRING) for position in wrong])
    for one in ids:
        if not _TASK_ID.fullmatch(one):
            raise errors.invalid_task_id(one)
    return await kill(call, ids)


# --- the queue ---


async def _queue(call: Call) -> web.Response:
    reader = Reader(await call.view())
    items = []
    for path, record in reader.apps.items():
        waiting = [task for task in reader.live(path) if task.placement is None]
        if waiting:
            item = _item(reader.view, waiting)
            items.append({**item, "app": reader.definition(record)})
    return answer({"queue": items})


def _item(view: View, waiting: list[Task]) -> dict[str, Any]:
    """One app that waits. `role` is left out: old clients do not know it here."""
    now = view.now.utc_ms
    earliest = min(task.not_before_utc_ms for task in waiting)
    left_ms = max(0, earliest - now)
    return {
        "count": len(waiting),
        "delay": {"timeLeftSeconds": -(-left_ms // 1000), "overdue": not left_ms},
        "since": format_utc(min(task.created_utc_ms for task in waiting)),
        "processedOffersSummary": _summary(view.explain(waiting[0])),
        "lastUnusedOffers": [],
    }


def _summary(explanation: Explanation) -> dict[str, Any]:
    """The kernel's explanation in the terms of offers: each node counts as one offer."""
    declined = dict.fromkeys((reason for reason, _ in _REASONS), 0)
    for name, text, count in explanation.ruled_out:
        declined[_reason(f"{name} {text}")] += count
    rows, left = [], explanation.nodes
    for reason, count in declined.items():
        rows.append({"reason": reason, "declined": count, "processed": left})
        left -= count
    return {
        "processedOffersCount": explanation.nodes,
        "unusedOffersCount": explanation.nodes - explanation.fits,
        "rejectSummaryLastOffers": rows,
        "rejectSummaryLaunchAttempt": rows,
    }


def _reason(text: str) -> str:
    lowered = text.casefold()
    for reason, words in _REASONS:
        if any(word in lowered for word in words):
            return reason
    return "UnfulfilledConstraint"


async def _reset(call: Call, path: str) -> web.Response:
    if path not in (await call.view()).objects(root.APP):
        raise errors.not_queued(path)
    await call.give(orders.ResetDelay(path=path))
    return empty(204)
