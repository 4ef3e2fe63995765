"""Commands beside tasks: `/v1/tasks/{id}/exec`, a WebSocket.

The client's first message is a text, a JSON object: {"command": ["sh"], "rows"?, "columns"?}; with a size the command
gets a terminal. All others, both ways, are binary, and are handed on to and from the node as they are: their first
byte names the channel (`orlop.model.streams.Channel`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import WSMsgType, web

from orlop.agent.streams import StreamClosed, StreamEnd, frames
from orlop.api.agents import AGENTS, upgraded
from orlop.api.finding import find_task
from orlop.api.problems import Problem, printable
from orlop.api.requests import PRINCIPAL, read_query, server_of
from orlop.api.streams import streaming
from orlop.framework import NotAvailable
from orlop.model.streams import FRAME_BYTES_MAX, Channel, CommandRequest
from orlop.model.tasks import Task, TaskState

log = logging.getLogger(__name__)

FIRST_MESSAGE_WITHIN_S: Final = 10.0
WORDS_MAX: Final = 1_000
SIZE_MAX: Final = 10_000


async def execute(request: web.Request) -> web.StreamResponse:
    read_query(request)
    state = server_of(request).state()
    task = find_task(state, request.match_info["id"])
    if task.state is not TaskState.RUNNING:
        raise Problem(HTTPStatus.CONFLICT, f"task {task.id} does not run: it is {task.state.value}")
    runtime = state.spec_of(task).runtime
    async with streaming(request):
        socket = await upgraded(request, FRAME_BYTES_MAX)
        try:
            wanted = await _wanted(socket, task, runtime)
            await _note(request, task, wanted)
            stream = await request.app[AGENTS].command(task, wanted)
        except (ValueError, LookupError, NotAvailable) as error:
            await _fail(socket, str(error.args[0]) if error.args else "there is no such task")
            return socket
        try:
            await _relay(socket, stream)
        finally:
            await stream.close()
            await socket.close()
    return socket


async def _wanted(socket: web.WebSocketResponse[bool], task: Task, runtime: str) -> CommandRequest:
    """Raises ValueError with what was expected."""
    try:
        message = await socket.receive(FIRST_MESSAGE_WITHIN_S)
    except TimeoutError:
        raise ValueError(f"no command within {FIRST_MESSAGE_WITHIN_S:g} s") from None
    if message.type is not WSMsgType.TEXT:
        raise ValueError("expected a text with the command first")
    try:
        document: Any = orjson.loads(message.data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the first message is not JSON: {error}") from None
    words = document.get("command") if isinstance(document, dict) else None
    if not isinstance(words, list) or not words or len(words) > WORDS_MAX or not all(map(_is_word, words)):
        raise ValueError(f"command: expected an array of 1 to {WORDS_MAX} texts")
    sizes = [document.get(name) or 0 for name in ("rows", "columns")]
    if any(type(size) is not int or not 0 <= size <= SIZE_MAX for size in sizes):
        raise ValueError(f"rows, columns: expected whole numbers up to {SIZE_MAX}")
    rows, columns = sizes
    return CommandRequest(task=task.id, runtime=runtime, words=tuple(words), rows=rows, columns=columns)


def _is_word(word: object) -> bool:
    return isinstance(word, str) and "\0" not in word and printable(word) == word


async def _note(request: web.Request, task: Task, wanted: CommandRequest) -> None:
    """Only the program is named: what follows it may be secret."""
    try:
        await request.app[AGENTS].note(
            "task.exec", task.id, PRINCIPAL.get(), program=wanted.words[0][:100], name=task.name
        )
    except NotAvailable as error:  # who looks into a full disk must not be kept out by it
        log.warning("a command in task %s is not in the event log: %s", task.id, error)


async def _fail(socket: web.WebSocketResponse[bool], reason: str) -> None:
    with contextlib.suppress(ConnectionError):  # the client is gone, or has sent too much to be read
        await socket.send_bytes(bytes([Channel.FAILED]) + orjson.dumps({"error": printable(reason)}))
        await socket.close()


async def _relay(socket: web.WebSocketResponse[bool], stream: StreamEnd) -> None:
    """Until the node has said all, or the client is gone."""
    there = asyncio.ensure_future(_to_node(socket, stream))
    back = asyncio.ensure_future(_to_client(socket, stream))
    try:
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        for task in (there, back):
            if task.done():
                task.result()
    except (StreamClosed, ConnectionError) as error:
        log.info("a command's stream broke off: %s", error)
    finally:
        for task in (there, back):
            task.cancel()
        await asyncio.wait({there, back})


async def _to_node(socket: web.WebSocketResponse[bool], stream: StreamEnd) -> None:
    """Returns when the client is gone, or says what it must not."""
    while True:
        message = await socket.receive()
        if message.type is not WSMsgType.BINARY or not message.data:
            return
        await stream.send(message.data)


async def _to_client(socket: web.WebSocketResponse[bool], stream: StreamEnd) -> None:
    async for frame in frames(stream):
        await socket.send_bytes(frame)
        if frame[0] in (Channel.ENDED, Channel.FAILED):
            return


ROUTES: Final = [web.get("/v1/tasks/{id}/exec", execute, allow_head=False)]
