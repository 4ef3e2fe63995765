"""The agent's end of the supervisor: starts it where there is none, keeps a connection, replaces an old one.

Each connection begins with the full list of what the supervisor has; whatever was under way when the last one broke
is to be asked for again by whoever reads the list. Requests sent while there is no connection are dropped for the
same reason.

A supervisor whose source differs from the installed one is told to `reexec`, once per agent's life: it keeps its pid
and its children, so an upgrade of Orlop harms no task.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import orjson

_log = logging.getLogger(__name__)

#: How long a supervisor may take to start, and to send its list.
START_TIMEOUT_S: Final = 10.0
LIST_TIMEOUT_S: Final = 5.0
RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 5.0
LINE_BYTES_MAX: Final = 64 * 2**20
READ_BYTES: Final = 2**18
#: With neither tasks nor an agent for this long it ends; its journal keeps what it knew.
IDLE_EXIT_S: Final = 60.0

SOURCE: Final = Path(__file__).parent / "supervisor"
#: The exit code of a supervisor that finds another one.
_ANOTHER_ONE: Final = 3


class SupervisorUnavailable(Exception):
    """It cannot be reached or started; the text says why."""


def source_version(source: Path = SOURCE) -> str:
    """A hash of the supervisor's source files."""
    digest = hashlib.sha256()
    for file in sorted(source.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@attrs.define
class SupervisorClient:
    """See the module. All callbacks are called on the event loop.

    pid: of the supervisor that was connected to last, 0 before.
    on_list: with the entries, on each connection. on_news: any other message. on_unavailable: with the reason, each
    time that an attempt has failed.
    """

    data: Path
    groups: Sequence[str]
    on_list: Callable[[list[dict[str, Any]]], None]
    on_news: Callable[[dict[str, Any]], None]
    on_unavailable: Callable[[str], None]
    source: Path = SOURCE
    idle_exit_s: float = IDLE_EXIT_S
    pid: int = attrs.field(default=0, init=False)
    _writer: asyncio.StreamWriter | None = attrs.field(default=None, init=False)
    _task: asyncio.Task[None] | None = attrs.field(default=None, init=False)
    _upgraded: bool = attrs.field(default=False, init=False)
    _outgoing: list[bytes] = attrs.field(factory=list, init=False)

    def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name="supervisor client")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def send(self, message: dict[str, Any]) -> bool:
        """False when there is no connection. What is sent in one turn of the event loop goes in one piece."""
        if self._writer is None or self._writer.is_closing():
            return False
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))
        return True

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._writer is not None and outgoing:
            self._writer.write(b"".join(outgoing))

    async def _run(self) -> None:
        delay_s = RETRY_FIRST_S
        while True:
            try:
                reader, writer = await self._connect()
            except (SupervisorUnavailable, OSError) as error:
                self.on_unavailable(str(error))
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_MAX_S)
                continue
            try:
                greeting = await self._read_list(reader)
                delay_s = RETRY_FIRST_S
                self._writer = writer
                self._greet(greeting)
                await self._read_news(reader)
            except (SupervisorUnavailable, OSError, ValueError) as error:
                self.on_unavailable(str(error))
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_MAX_S)
            finally:
                self._writer = None
                self._outgoing = []
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _read_list(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                line = await reader.readline()
        except TimeoutError:
            raise SupervisorUnavailable(f"the supervisor does not answer within {LIST_TIMEOUT_S:g} s") from None
        if not line:
            raise SupervisorUnavailable("the supervisor has closed the connection")
        greeting: dict[str, Any] = orjson.loads(line)
        return greeting

    async def _read_news(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        while data := await reader.read(READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._hear(orjson.loads(line))

    def _hear(self, message: dict[str, Any]) -> None:
        if message["is"] == "list":
            self.on_list(message["tasks"])
        elif message["is"] == "error":
            _log.warning("the supervisor refuses: %s", message["reason"])
        else:
            self.on_news(message)

    def _greet(self, greeting: dict[str, Any]) -> None:
        self.pid = greeting["pid"]
        self.on_list(greeting["tasks"])
        version = source_version(self.source)
        if greeting["version"] != version and not self._upgraded:
            self._upgraded = True
            _log.info("the supervisor (pid %d) is replaced in place by its new version", greeting["pid"])
            self.send(
                {
                    "do": "reexec",
                    "executable": sys.executable,
                    "source": str(self.source / "__main__.py"),
                    "options": self._options(version),
                }
            )

    def _options(self, version: str) -> dict[str, Any]:
        return {
            "data": str(self.data.resolve()),
            "version": version,
            "idle_exit_s": self.idle_exit_s,
            "groups": list(self.groups),
        }

    # --- connecting and starting ---

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await self._dial()
        except (FileNotFoundError, ConnectionRefusedError):
            await self._start()
        return await self._dial()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        with _short_path(self.data) as folder:
            return await asyncio.open_unix_connection(f"{folder}/supervisor.sock", limit=LINE_BYTES_MAX)

    async def _start(self) -> None:
        """Returns when it listens, or when another one is there."""
        self.data.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(self.source / "__main__.py"),
            orjson.dumps(self._options(source_version(self.source))),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # LD_BIND_NOW: where the system's functions are is looked up once, and not again by each child.
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "LD_BIND_NOW": "1"},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                _, errors = await process.communicate()
        except TimeoutError:
            process.kill()
            raise SupervisorUnavailable(f"the supervisor has not started within {START_TIMEOUT_S:g} s") from None
        if process.returncode not in (0, _ANOTHER_ONE):
            text = errors.decode(errors="replace").strip().rpartition("\n")[2]
            raise SupervisorUnavailable(text or f"the supervisor has ended with code {process.returncode}")


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """A name for the folder that leaves room in the 108 bytes of a unix socket's address."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
