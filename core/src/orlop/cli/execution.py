"""`orlop exec`: a command beside a task, with input, output and exit code as if it ran here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from orlop.cli.failures import CONFLICT, NOT_FOUND, Failure, Unreachable
from orlop.cli.options import client_of, server_options, task_argument

if TYPE_CHECKING:
    import aiohttp

    from orlop.cli.client import Client

PIECE_BYTES: Final = 32 * 1024
CONNECT_WITHIN_S: Final = 20.0
FRAME_BYTES_MAX: Final = 2**20 + 1
#: First bytes of frames; see `orlop.model.streams.Channel`, which takes too long to import.
INPUT, OUTPUT, ERROR, RESIZE, ENDED, FAILED = range(6)
#: What shells say for a program that Ctrl-C has ended.
INTERRUPTED: Final = 130
_CODES: Final = {404: NOT_FOUND, 409: CONFLICT}


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-t", "--terminal", is_flag=True, help="Give the command a terminal, this one's size.")
@click.option("-n", "--no-input", is_flag=True, help="Leave standard input alone.")
@server_options
@task_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def exec_(ctx: click.Context, terminal: bool, no_input: bool, task: str, command: tuple[str, ...]) -> None:
    """Run a command beside a task: in its container, or as its user in its folder.

    Standard input goes to the command, and the exit code is the command's.

    TASK: its id, its name, or the beginning of its id. `orlop exec TASK -- ls -l`
    """
    words = list(command[1:] if command[0] == "--" else command)
    if not words:
        raise click.UsageError("give a command: orlop exec TASK -- COMMAND")
    if terminal and not sys.stdin.isatty():
        raise Failure("-t needs a terminal as standard input", code=2)
    session = _Session(client_of(ctx), task, words, terminal=terminal, takes_input=not no_input)
    try:
        with _raw(terminal):
            code = asyncio.run(session.run())
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # whoever read the output has gone; nothing may be flushed to it any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
    ctx.exit(code)


@contextlib.contextmanager
def _raw(terminal: bool) -> Iterator[None]:
    """What is typed goes to the command as it is, Ctrl-C too."""
    if not terminal:
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


class _Session:
    """One command."""

    def __init__(self, client: Client, task: str, words: list[str], *, terminal: bool, takes_input: bool) -> None:
        self._client = client
        self._task = task
        self._words = words
        self._terminal = terminal
        self._takes_input = takes_input

    async def run(self) -> int:
        """The exit code. Raises Failure."""
        import aiohttp

        url = f"{self._client.base}/v1/tasks/{quote(self._task, safe='')}/exec"
        async with aiohttp.ClientSession(headers=self._client.headers, middlewares=(_refusals,)) as http:
            try:
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    socket = await http.ws_connect(url, ssl=self._client.context or True, max_msg_size=FRAME_BYTES_MAX)
            except _Refused as error:
                raise error.failure from None
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise Unreachable(f"cannot reach {self._client.base}: {error or 'no answer'}") from error
            async with socket:
                return await self._talk(socket)

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> int:
        wanted: dict[str, Any] = {"command": self._words}
        if self._terminal:
            size = shutil.get_terminal_size()
            wanted |= {"rows": size.lines, "columns": size.columns}
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGWINCH, lambda: loop.create_task(_resize(socket)))
        message = json.dumps(wanted)
        if len(message) > FRAME_BYTES_MAX:
            raise Failure(f"the command has {len(message)} bytes, and {FRAME_BYTES_MAX} can be sent: give it as input")
        await socket.send_str(message)
        if self._takes_input:
            loop = asyncio.get_running_loop()
            threading.Thread(target=_give_input, args=(socket, loop), daemon=True).start()
        else:
            await socket.send_bytes(bytes([INPUT]))
        return await self._take_output(socket)

    async def _take_output(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> int:
        """Written at once, however long that takes: a slow reader here holds back the command."""
        async for message in socket:
            frame = message.data
            if not isinstance(frame, bytes) or not frame:
                break
            channel, data = frame[0], frame[1:]
            if channel in (OUTPUT, ERROR):
                out = sys.stdout.buffer if channel == OUTPUT else sys.stderr.buffer
                out.write(data)
                out.flush()
            elif channel == ENDED:
                code = json.loads(data)["code"]
                if code is None:
                    raise Failure("the command has ended, and its exit code is not known")
                return int(code)
            elif channel == FAILED:
                raise Failure(str(json.loads(data)["error"]))
        raise Unreachable(f"{self._client.base} broke off; the command may still run")


async def _resize(socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
    size = shutil.get_terminal_size()
    with contextlib.suppress(ConnectionError, RuntimeError):
        await socket.send_bytes(bytes([RESIZE]) + json.dumps({"rows": size.lines, "columns": size.columns}).encode())


def _give_input(socket: aiohttp.ClientWebSocketResponse[bool], loop: asyncio.AbstractEventLoop) -> None:
    """On a thread: reads no more than the command takes."""
    with contextlib.suppress(OSError, RuntimeError):
        while True:
            data = os.read(0, PIECE_BYTES)
            asyncio.run_coroutine_threadsafe(socket.send_bytes(bytes([INPUT]) + data), loop).result()
            if not data:
                return


class _Refused(Exception):
    """Carries a Failure through aiohttp."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


async def _refusals(request: Any, handler: Any) -> Any:
    """The server's refusals in its own words, which aiohttp would drop."""
    answer = await handler(request)
    if answer.status < 300:
        return answer
    try:
        document = json.loads(await answer.content.read(2**20))
        text, hint = str(document["error"]), str(document.get("hint", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        text, hint = f"{answer.status} {answer.reason}", ""
    answer.close()
    if answer.status == 401:
        hint = "give a token in ORLOP_TOKEN"
    raise _Refused(Failure(text, hint=hint, code=_CODES.get(answer.status, 1)))
