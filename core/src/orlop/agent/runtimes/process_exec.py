"""Commands beside a process task that somebody talks to: input, output, perhaps a terminal; see `Execution`.

The command runs as the task's user, in its folder and control groups, with its environment (`launcher`). What it
leaves running is killed when it ends, and all of it when whoever asked for it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from orlop.agent.runtimes.interface import Output
from orlop.agent.runtimes.process_folders import Facts
from orlop.model.streams import CHUNK_BYTES, CommandRequest

LAUNCHER: Final = Path(__file__).parent / "launcher.py"
#: A process that has left the group may hold the output open for ever; nobody waits for it longer than this.
LATE_OUTPUT_S: Final = 0.5
LATE_CHECK_S: Final = 0.1
_OWN_ENVIRONMENT: Final = {"PATH": os.defpath, "LANG": "C.UTF-8"}
DEFAULT_TERMINAL: Final = "xterm"


async def execute_beside(facts: Facts, request: CommandRequest) -> ProcessExecution:
    """Starts it. Raises OSError when there can be no more processes."""
    environment = dict(facts.environment)
    if request.terminal:
        environment.setdefault("TERM", DEFAULT_TERMINAL)
    wanted = {
        "words": request.words,
        "environment": environment,
        "directory": facts.directory,
        "user": attrs.asdict(facts.user) if facts.user is not None else None,
        "groups": facts.groups,
        "terminal": request.terminal,
    }
    paper = os.memfd_create("orlop-command")  # neither on the command line nor on a disk: there are secrets in it
    try:
        os.write(paper, json.dumps(wanted).encode())
        os.lseek(paper, 0, os.SEEK_SET)
        command = (sys.executable, "-I", "-S", str(LAUNCHER), str(paper))
        if request.terminal:
            return await _on_terminal(command, paper, request.rows, request.columns)
        return await _on_pipes(command, paper)
    finally:
        os.close(paper)


async def _on_pipes(command: Sequence[str], paper: int) -> ProcessExecution:
    """The pipes are made here, because asyncio waits for a process with pipes of its own until nobody holds them."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
        its_input, input_ = _pipe(its, ours, reading=True)
        its_output, output = _pipe(its, ours, reading=False)
        its_error, error = _pipe(its, ours, reading=False)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=its_input, stdout=its_output, stderr=its_error, env=_OWN_ENVIRONMENT, pass_fds=(paper,)
        )
        ours.pop_all()
    readers, reading = {}, []
    for kind, descriptor in ((Output.OUTPUT, output), (Output.ERROR, error)):
        readers[kind], transport = await _reader(descriptor)
        reading.append(transport)
    return ProcessExecution(process, await _writer(input_), readers, reading)


def _pipe(its: contextlib.ExitStack, ours: contextlib.ExitStack, *, reading: bool) -> tuple[int, int]:
    """(the command's end, ours); each is closed by its stack. reading: is the command's end the one to read from?"""
    read, write = os.pipe()
    one, other = (read, write) if reading else (write, read)
    its.callback(os.close, one)
    ours.callback(os.close, other)
    return one, other


async def _on_terminal(command: Sequence[str], paper: int, rows: int, columns: int) -> ProcessExecution:
    master, slave = os.openpty()
    try:
        _set_size(master, rows, columns)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=slave, stdout=slave, stderr=slave, env=_OWN_ENVIRONMENT, pass_fds=(paper,)
        )
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    reader, transport = await _reader(os.dup(master))
    writer = await _writer(os.dup(master))
    return ProcessExecution(process, writer, {Output.OUTPUT: reader}, [transport], master)


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    reader = asyncio.StreamReader(limit=CHUNK_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    return reader, transport


async def _writer(descriptor: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop), os.fdopen(descriptor, "wb", buffering=0)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)


def _set_size(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class _Source:
    """One of the command's outputs. waiting_since_s: when a piece was last asked for that is not there yet."""

    def __init__(self, kind: Output, reader: asyncio.StreamReader) -> None:
        self._kind = kind
        self._reader = reader
        self.waiting_since_s: float | None = None

    async def move(self, pieces: asyncio.Queue[tuple[Output, bytes] | None]) -> None:
        """To its end."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # a terminal whose last user has gone says EIO
            while True:
                self.waiting_since_s = loop.time()
                data = await self._reader.read(CHUNK_BYTES)
                self.waiting_since_s = None
                if not data:
                    return
                await pieces.put((self._kind, data))


class ProcessExecution:
    """See the module, and `Execution` for the methods.

    reading: transports to be closed with it. terminal: the descriptor of its master, if it has one.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        writer: asyncio.StreamWriter,
        readers: Mapping[Output, asyncio.StreamReader],
        reading: list[asyncio.BaseTransport],
        terminal: int | None = None,
    ) -> None:
        self._process = process
        self._writer = writer
        self._sources = [_Source(kind, reader) for kind, reader in readers.items()]
        self._reading = reading
        self._terminal = terminal

    async def write(self, data: bytes) -> None:
        """See `Execution`."""
        with contextlib.suppress(OSError):  # it has ended, or closed its input
            self._writer.write(data)
            await self._writer.drain()

    async def end_input(self) -> None:
        """See `Execution`."""
        if self._terminal is not None:
            await self.write(b"\x04")  # what a terminal's user types to say so
        else:
            self._writer.close()

    async def output(self) -> AsyncIterator[tuple[Output, bytes]]:
        """See `Execution`."""
        pieces: asyncio.Queue[tuple[Output, bytes] | None] = asyncio.Queue(1)
        moving = {asyncio.create_task(source.move(pieces)): source for source in self._sources}
        ending = asyncio.ensure_future(self._end(moving, pieces))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
        finally:
            for task in (*moving, ending):
                task.cancel()
            await asyncio.wait([*moving, ending])

    async def _end(
        self, moving: Mapping[asyncio.Task[None], _Source], pieces: asyncio.Queue[tuple[Output, bytes] | None]
    ) -> None:
        """After the command itself has ended, its output ends soon, however slowly it is taken."""
        await self._process.wait()
        self._kill()
        loop = asyncio.get_running_loop()
        ended_s = loop.time()
        late = set(moving)
        while late:
            _, late = await asyncio.wait(late, timeout=LATE_CHECK_S)
            for task in late:
                since_s = moving[task].waiting_since_s
                if since_s is not None and loop.time() - max(since_s, ended_s) >= LATE_OUTPUT_S:
                    task.cancel()
        await pieces.put(None)

    async def result(self) -> int:
        """See `Execution`."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def resize(self, rows: int, columns: int) -> None:
        """See `Execution`."""
        if self._terminal is not None:
            _set_size(self._terminal, rows, columns)

    async def close(self) -> None:
        """See `Execution`."""
        self._kill()
        self._writer.close()
        await self._process.wait()
        for transport in self._reading:
            transport.close()
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None

    def _kill(self) -> None:
        """The command and its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # It may not have a group of its own yet. asyncio's own kill would wait for it beside asyncio's watcher.
                os.kill(self._process.pid, signal.SIGKILL)
