"""Why things wait: `/v1/asks` for all that do, `/v1/explain/…` for one task or for all of a group.

An explanation looks at every node, so that identical asks are explained once, the number of explanations in one
answer is bounded, and all are made on another thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs
import orjson
from aiohttp import web

from orlop.api.documents import (
    count_states,
    event_document,
    explanation_document,
    moment,
    specification,
    task_document,
)
from orlop.api.finding import find_group, find_task, task_named, task_of_key
from orlop.api.interface import OperatorServer
from orlop.api.requests import read_query, server_of
from orlop.api.responses import list_bytes
from orlop.kernel.state import State, WaitingKey, waiting_key
from orlop.model.asks import Explanation
from orlop.model.tasks import Task, TaskState

EXPLANATIONS_MAX: Final = 100
TASKS_NAMED_MAX: Final = 100
STORY_ENTRIES_MAX: Final = 200


@attrs.frozen
class Waiting:
    """Identical asks that wait: the oldest one, and all in the order of asking. delayed: held back by a back-off."""

    task: Task
    members: tuple[str, ...]
    delayed: bool


def waiting_groups(state: State, wanted: tuple[str, str] | None = None) -> list[Waiting]:
    """What waits, identical asks together, the oldest first. wanted: only of this (framework, group)."""
    found: dict[tuple[WaitingKey, bool], dict[int, str]] = {
        (key, False): dict(members) for key, members in state.waiting.items()
    }
    for sequence, (_, task_id) in state.delayed.items():
        found.setdefault((waiting_key(state.tasks[task_id]), True), {})[sequence] = task_id
    groups = [
        Waiting(state.tasks[members[min(members)]], tuple(members[one] for one in sorted(members)), delayed)
        for (key, delayed), members in found.items()
        if wanted in (None, (key.framework, key.group))
    ]
    return sorted(groups, key=lambda group: group.task.sequence)


async def list_asks(request: web.Request) -> web.Response:
    read_query(request)
    server = server_of(request)
    state = server.state()
    body = await asyncio.to_thread(_asks_bytes, server, state)
    return web.Response(body=body, content_type="application/json", charset="utf-8")


def _asks_bytes(server: OperatorServer, state: State) -> bytes:
    groups = waiting_groups(state)
    counts = {
        "waiting": sum(len(members) for members in state.waiting.values()),
        "delayed": len(state.delayed),
        "groups": len(groups),
    }
    return list_bytes("asks", _explained(server, state, groups), lambda: counts)


def _explained(server: OperatorServer, state: State, groups: Iterable[Waiting]) -> Iterable[dict[str, Any]]:
    for number, group in enumerate(groups):
        task = group.task
        if number < EXPLANATIONS_MAX:
            explanation = server.explain(task)
        else:
            explanation = Explanation(nodes=len(state.node_order), note="not looked into here: ask for it by its id")
        yield {
            **task_document(state, task),
            "since": moment(task.created_utc_ms),
            "delayed": group.delayed,
            "count": len(group.members),
            "tasks": group.members[:TASKS_NAMED_MAX],
            "explanation": explanation_document(explanation),
        }


async def explain(request: web.Request) -> web.Response:
    """A task by its id or name, or a whole group, or the latest task of a key, or a task by the beginning of its id."""
    read_query(request)
    wanted = request.match_info["id"]
    server = server_of(request)
    state = server.state()
    task = task_named(state, wanted)
    if task is None and (group := find_group(state, wanted)) is not None:
        body = await asyncio.to_thread(_group_bytes, server, state, *group)
    else:
        task = task or task_of_key(state, wanted) or find_task(state, wanted)
        body = await _task_bytes(server, state, task)
    return web.Response(body=body, content_type="application/json", charset="utf-8")


async def _task_bytes(server: OperatorServer, state: State, task: Task) -> bytes:
    entries, _ = await server.log_entries(after=None, limit=STORY_ENTRIES_MAX, subject=task.id)
    explanation = await asyncio.to_thread(server.explain, task)
    document = {
        "task": task_document(state, task),
        "explanation": explanation_document(explanation),
        "story": [event_document(*entry) for entry in entries],
        "specification": specification(state, task),
    }
    return orjson.dumps(document)


def _group_bytes(server: OperatorServer, state: State, framework: str, group: str) -> bytes:
    owner = state.framework(framework)
    tasks = [state.tasks[owner.latest[key]] for key in owner.groups[group]]
    waiting = sum(task.state is TaskState.PENDING for task in tasks)
    about = {
        "group": group,
        "framework": framework,
        "tasks": count_states(tasks),
        "waiting": waiting,
        "text": f"{waiting} of {group} wait" if waiting else f"nothing of {group} waits",
        "last_ended": next((task_document(state, task) for task in _ended_of(state, framework, group)), None),
    }
    groups = waiting_groups(state, (framework, group))
    return list_bytes("asks", _explained(server, state, groups), lambda: about)


def _ended_of(state: State, framework: str, group: str) -> Iterator[Task]:
    """Those that are recorded, the latest first."""
    for number in range(state.ended_next - 1, state.ended_oldest - 1, -1):
        entry = state.ended.get(number)
        task = state.tasks.get(entry[1]) if entry is not None else None
        if task is not None and (task.framework, task.group) == (framework, group):
            yield task


ROUTES: Final = [
    web.get("/v1/asks", list_asks),
    web.get("/v1/explain/{id:.+}", explain),
]
