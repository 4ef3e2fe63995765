"""Tasks: `/v1/tasks`, one task, and its end."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any, Final

from aiohttp import web

from orlop.api.documents import task_detail, task_document
from orlop.api.finding import find_node, find_task
from orlop.api.requests import cause_of, flag, read_body, read_query, server_of, several_of, text, whole
from orlop.api.responses import answer, answer_list, computed
from orlop.kernel.events import KillTask
from orlop.kernel.state import State
from orlop.model.tasks import STATE_ORDER, Task, TaskState

LISTED_TASKS_MAX: Final = 100_000


async def list_tasks(request: web.Request) -> web.Response:
    asked = read_query(
        request,
        framework=text,
        state=several_of([one.value for one in TaskState]),
        group=text,
        node=text,
        all=flag,
        limit=whole(1, LISTED_TASKS_MAX),
    )
    state = server_of(request).state()
    node_id = find_node(state, asked["node"]).id if asked["node"] is not None else None
    found = await computed(state, lambda: select(state, asked, node_id))
    return await answer_list(
        state,
        "tasks",
        lambda: (task_document(state, task) for task in islice(found, asked["limit"])),
        lambda: {"total": len(found)},
    )


def select(state: State, asked: Mapping[str, Any], node_id: str | None) -> list[Task]:
    """The tasks asked for, in the order of their asking. Ended ones only on request, be it by naming their state."""
    states = asked["state"]
    if states is None and not asked["all"]:
        states = {one.value for one in TaskState if STATE_ORDER[one] < STATE_ORDER[TaskState.ENDED]}
    found = [
        task
        for task in state.tasks.values()
        if (states is None or task.state.value in states)
        and asked["framework"] in (None, task.framework)
        and asked["group"] in (None, task.group)
        and node_id in (None, task.node)
    ]
    return sorted(found, key=lambda task: task.sequence)


async def get_task(request: web.Request) -> web.Response:
    read_query(request)
    state = server_of(request).state()
    task = find_task(state, request.match_info["id"])
    return await answer(state, lambda: task_detail(state, task))


async def kill_task(request: web.Request) -> web.Response:
    """202: the stop is wished for. `changed` is false when it was before, or when the task has ended."""
    asked = read_query(request, reason=text)
    await read_body(request)
    server = server_of(request)
    task = find_task(server.state(), request.match_info["id"])
    reason = cause_of(asked["reason"])
    changed = await server.submit(KillTask(task=task.id, reason=reason))
    state = server.state()
    now = state.tasks.get(task.id)
    return await answer(
        state,
        lambda: {"changed": bool(changed), "task": task_document(state, now) if now is not None else {"id": task.id}},
        HTTPStatus.ACCEPTED,
    )


ROUTES: Final = [
    web.get("/v1/tasks", list_tasks),
    web.get("/v1/tasks/{id}", get_task),
    web.delete("/v1/tasks/{id}", kill_task),
]
