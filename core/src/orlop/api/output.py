"""What tasks have written: `/v1/tasks/ID/logs`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from orlop.api.finding import find_node, find_task
from orlop.api.problems import not_found
from orlop.api.requests import flag, one_of, read_query, server_of, text, whole
from orlop.api.streams import client_is_gone, streaming
from orlop.framework import NotAvailable
from orlop.kernel.state import State
from orlop.model.nodes import Node, NodeState

TAIL_LINES_MAX: Final = 100_000
#: How long the first output may take before the response begins without any.
FIRST_OUTPUT_S: Final = 1.0
#: How often a silent stream looks whether its client is still there.
CLIENT_CHECK_S: Final = 5.0


async def get_output(request: web.Request) -> web.StreamResponse:
    """The task's output as it is, in pieces; with `follow` until the task ends.

    node: where to ask for that of a task which the state has forgotten.
    """
    asked = read_query(
        request, stream=one_of(["stdout", "stderr"]), follow=flag, tail=whole(0, TAIL_LINES_MAX), node=text
    )
    server = server_of(request)
    wanted, stream, follow = request.match_info["id"], asked["stream"] or "stdout", bool(asked["follow"])
    if asked["node"] is not None and wanted not in server.state().tasks:
        output = server.kept_output(_node(server.state(), asked["node"]), wanted, stream, tail=asked["tail"])
        return await _send_output(request, wanted, output, wait_s=None)
    task = find_task(server.state(), wanted)
    try:
        output = server.task_output(task, stream, follow=follow, tail=asked["tail"])
    except LookupError as error:
        raise _no_output(task.id, error) from None
    return await _send_output(request, task.id, output, wait_s=FIRST_OUTPUT_S if follow else None)


def _node(state: State, wanted: str) -> Node:
    """Raises Problem (404, 409): without its node, output is lost."""
    node = find_node(state, wanted)
    if node.state is NodeState.GONE:
        raise not_found(f"the output is lost: node {node.info.name} is gone", "should it return, it may still have it")
    return node


async def _send_output(
    request: web.Request, task: str, output: AsyncIterator[bytes], wait_s: float | None
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
            raise NotAvailable(f"the output of task {task} cannot be read now: {error}") from None
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


def _no_output(task: str, error: LookupError) -> Exception:
    detail = str(error.args[0]) if error.args else "its node keeps none"
    return not_found(f"there is no output of task {task}: {detail}")


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


ROUTES: Final = [web.get("/v1/tasks/{id}/logs", get_output, allow_head=False)]
