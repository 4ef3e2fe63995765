"""Tasks: `/v1/tasks`, one task, its end and its output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any, Final

from aiohttp import web

from orlop.api.documents import task_detail, task_document
from orlop.api.finding import find_node, find_task
from orlop.api.problems import not_found
from orlop.api.requests import cause_of, flag, one_of, read_body, read_query, server_of, several_of, text, whole
from orlop.api.responses import answer, answer_list, computed
from orlop.api.streams import client_is_gone, streaming
from orlop.framework import NotAvailable
from orlop.kernel.events import KillTask
from orlop.kernel.state import State
from orlop.model.tasks import STATE_ORDER, Task, TaskState

LISTED_TASKS_MAX: Final = 100_000
TAIL_LINES_MAX: Final = 100_000
#: How long the first output may take before the response begins without any.
FIRST_OUTPUT_S: Final = 1.0
#: How often a silent stream looks whether its client is still there.
CLIENT_CHECK_S: Final = 5.0


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


async def get_output(request: web.Request) -> web.StreamResponse:
    """The task's output as it is, in pieces; with `follow` until the task ends."""
    asked = read_query(request, stream=one_of(["stdout", "stderr"]), follow=flag, tail=whole(0, TAIL_LINES_MAX))
    server = server_of(request)
    task = find_task(server.state(), request.match_info["id"])
    follow = bool(asked["follow"])
    try:
        output = server.task_output(task, asked["stream"] or "stdout", follow=follow, tail=asked["tail"])
    except LookupError as error:
        raise _no_output(task, error) from None
    return await _send_output(request, task, output, wait_s=FIRST_OUTPUT_S if follow else None)


async def _send_output(
    request: web.Request, task: Task, output: AsyncIterator[bytes], wait_s: float | None
) -> web.StreamResponse:
    chunks = _Chunks(output)
    try:
        try:
            # Errors come with the first piece, and must be known before the response begins.
            await chunks.wait(wait_s)
            first = chunks.take()
        except LookupError as error:
            raise _no_output(task, error) from None
        except ConnectionError as error:
            raise NotAvailable(f"the output of task {task.id} cannot be read now: {error}") from None
        response = web.StreamResponse()
        response.content_type, response.charset = "text/plain", "utf-8"
        async with streaming(request):
            await response.prepare(request)
            if first:
                await response.write(first)
            while not chunks.over and not client_is_gone(request):
                await chunks.wait(CLIENT_CHECK_S)
                if piece := chunks.take():
                    await response.write(piece)
            await response.write_eof()
        return response
    finally:
        await chunks.close()


def _no_output(task: Task, error: LookupError) -> Exception:
    detail = str(error.args[0]) if error.args else "its node keeps none"
    return not_found(f"there is no output of task {task.id}: {detail}")


class _Chunks:
    """Pieces of an asynchronous iterator, for which one can wait for a while without losing any."""

    def __init__(self, output: AsyncIterator[bytes]) -> None:
        self._output = output
        self._next: asyncio.Future[bytes | None] = asyncio.ensure_future(_pull(output))
        self.over = False

    async def wait(self, timeout_s: float | None) -> None:
        """Until there is a piece, or the time is over."""
        await asyncio.wait([self._next], timeout=timeout_s)

    def take(self) -> bytes:
        """The piece, empty when there is none yet. Raises what the iterator raises."""
        if self.over or not self._next.done():
            return b""
        piece = self._next.result()
        if piece is None:
            self.over = True
            return b""
        self._next = asyncio.ensure_future(_pull(self._output))
        return piece

    async def close(self) -> None:
        """Lets go of the iterator."""
        self._next.cancel()
        await asyncio.wait([self._next])
        if not self._next.cancelled():
            self._next.exception()
        if (close := getattr(self._output, "aclose", None)) is not None:
            await close()


async def _pull(output: AsyncIterator[bytes]) -> bytes | None:
    return await anext(output, None)


ROUTES: Final = [
    web.get("/v1/tasks", list_tasks),
    web.get("/v1/tasks/{id}", get_task),
    web.delete("/v1/tasks/{id}", kill_task),
    web.get("/v1/tasks/{id}/logs", get_output, allow_head=False),
]
