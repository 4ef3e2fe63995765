"""Emulated agents, many in one process: real sockets and the session's real messages, and no tasks behind them.

`python -m tests.benchmarks.emulation` reads one JSON object from its standard input (`Orders`), joins that many nodes,
opens a session for each and keeps it as an agent does: a hello, heartbeats and WebSocket pings as often as the real
one sends them, and for each task that is assigned the status that it runs, at once; where it is told how long tasks
run, also that they have ended well. On its standard output it writes how many sessions are open, one number a line,
whenever that changes. It ends when its standard input does.

What an agent needs of a WebSocket is little, and thousands of them share a machine with the server that is measured;
so frames are made and read here, by a protocol of one object per agent. All nodes of a process share one key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import secrets
import ssl
import struct
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import aiohttp
import attrs
import orjson

from orlop.agent.agent import HEARTBEAT_S
from orlop.agent.credentials import trusting
from orlop.agent.lifeline import PING_S
from orlop.model import wire
from orlop.model.messages import Assignment, Assignments, Heartbeat, Hello, Received, Statuses, Welcome
from orlop.model.nodes import NodeInfo
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.tasks import Desired, Exit, Outcome, Status, TaskState
from orlop.security import authority as signing

JOINS_AT_ONCE: Final = 32
DIALS_AT_ONCE: Final = 64
DIAL_WITHIN_S: Final = 30.0
TELL_S: Final = 0.05
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA
_HEARTBEAT: Final = wire.encode(Heartbeat())
_FINAL, _MASKED = 0x80, 0x80


@attrs.frozen
class Orders:
    """host, port: of the server. authority: its certificate, PEM, with which TLS is spoken; empty for plain HTTP.

    token: join token for all. first, count: numbers of the nodes. heartbeat_s: between two of an agent's.
    task_runs_s: how long each task runs; 0: for ever. starts: a folder, in which a file gets a line for each start of
    Chronos' tasks: the nominal time and that at which the agent was told, UTC milliseconds.
    """

    host: str
    port: int
    first: int
    count: int
    authority: str = ""
    token: str = ""
    heartbeat_s: float = HEARTBEAT_S
    task_runs_s: float = 0.0
    starts: str = ""


def node_info(number: int) -> NodeInfo:
    name = f"node-{number:05d}"
    return NodeInfo(
        id=name,
        name=name,
        address="127.0.0.1",
        resources=Resources(cpus=64, mem="256GiB", disk="1TiB"),
        ports=PortSet.parse("31000-32000"),
        attributes={"rack": f"r{number % 10}"},
        runtimes=("process",),
    )


def frame(kind: int, data: bytes = b"") -> bytes:
    """A whole message of a client."""
    size = len(data)
    mask = os.urandom(4)
    masked = int.from_bytes(data, "big") ^ int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    if size < 126:
        head = struct.pack("!BB", _FINAL | kind, _MASKED | size)
    elif size < 2**16:
        head = struct.pack("!BBH", _FINAL | kind, _MASKED | 126, size)
    else:
        head = struct.pack("!BBQ", _FINAL | kind, _MASKED | 127, size)
    return head + mask + masked.to_bytes(size, "big")


@attrs.define
class Counted:
    """Of all agents of this process."""

    open: int = 0
    acknowledged: int = 0
    starts: TextIO | None = None

    def started(self, told_ms: int, items: Iterable[Assignment]) -> None:
        """Notes when these were told."""
        if self.starts is not None:
            nominal = (item.environment.get("CHRONOS_JOB_RUN_TIME", "") for item in items)
            self.starts.write("".join(f"{one} {told_ms}\n" for one in nominal if one))
            self.starts.flush()

    async def tell(self) -> None:
        """For ever."""
        told = (0, 0)
        while True:
            await asyncio.sleep(TELL_S)
            if told != (told := (self.open, self.acknowledged)):
                print(*told, flush=True)


class EmulatedAgent(asyncio.Protocol):
    """One session. welcomed: done when it has begun."""

    def __init__(self, info: NodeInfo, orders: Orders, counted: Counted) -> None:
        self._info = info
        self._host = f"{orders.host}:{orders.port}"
        self._heartbeat_s = orders.heartbeat_s
        self._task_runs_s = orders.task_runs_s
        self._counted = counted
        self._loop = asyncio.get_running_loop()
        self._data = b""
        self._upgraded = False
        self._statuses: dict[str, Status] = {}
        self._heard_s = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        self.welcomed: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(
            f"GET /v1/agents/session HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        self._data += data
        if not self._upgraded:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head:
                self._give_up(ConnectionError(head.partition(b"\r\n")[0].decode(errors="replace")))
                return
            self._upgraded, self._data = True, rest
            self._send(Hello(node=self._info, statuses=tuple(self._statuses.values())))
        for kind, payload in self._frames():
            self._take(kind, payload)

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """Whole frames of the server, which masks and splits none."""
        data, at = self._data, 0
        while len(data) - at >= 2:
            size, head = data[at + 1], 2
            if size == 126:
                head = 4
            elif size == 127:
                head = 10
            if len(data) - at < head:
                break
            if head > 2:
                size = int.from_bytes(data[at + 2 : at + head], "big")
            if len(data) - at < head + size:
                break
            yield data[at] & 0x0F, data[at + head : at + head + size]
            at += head + size
        self._data = data[at:]

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == _PING:
            self._transport.write(frame(_PONG, payload))
        elif kind == _CLOSE:
            self._give_up(ConnectionError(payload[2:].decode(errors="replace")))
        elif kind == _BINARY:
            match wire.decode_to_agent(payload):
                case Welcome():
                    self._begin()
                case Assignments() as message:
                    self._run(message)
                case Received() as message:
                    self._counted.acknowledged += len(message.items)

    def _begin(self) -> None:
        if not self.welcomed.done():
            self.welcomed.set_result(None)
            self._counted.open += 1
            self._timers = [
                self._loop.call_later(self._heartbeat_s * random.random(), self._beat, 0),
                self._loop.call_later(PING_S, self._ping, 1),
            ]

    def _beat(self, place: int) -> None:
        self._transport.write(frame(_BINARY, _HEARTBEAT))
        self._timers[place] = self._loop.call_later(self._heartbeat_s, self._beat, place)

    def _ping(self, place: int) -> None:
        silent_s = self._loop.time() - self._heard_s
        if silent_s >= PING_S:
            self._transport.write(frame(_PING))
        self._timers[place] = self._loop.call_later(
            PING_S - silent_s if silent_s < PING_S else PING_S, self._ping, place
        )

    def _run(self, message: Assignments) -> None:
        """Everything starts and stops at once."""
        told_ms = time.time_ns() // 1_000_000
        news, started = [], []
        for item in message.items:
            known = self._statuses.get(item.task)
            if item.desired in (Desired.STOPPED, Desired.REMOVED):
                exit_ = Exit(outcome=Outcome.KILLED)
                news.append(Status(task=item.task, state=TaskState.REMOVED, sequence=2, exit=exit_))
                self._statuses.pop(item.task, None)
            elif known is None:
                self._statuses[item.task] = Status(
                    task=item.task, state=TaskState.RUNNING, sequence=1, external_id=str(os.getpid())
                )
                news.append(self._statuses[item.task])
                started.append(item)
        if news:
            self._send(Statuses(items=tuple(news)))
        if started:
            self._counted.started(told_ms, started)
            if self._task_runs_s:
                self._loop.call_later(self._task_runs_s, self._end, [item.task for item in started])

    def _end(self, tasks: list[str]) -> None:
        """Those that still run have ended well."""
        finished = Exit(outcome=Outcome.FINISHED, code=0)
        news = [
            Status(task=task, state=TaskState.REMOVED, sequence=2, exit=finished)
            for task in tasks
            if self._statuses.pop(task, None) is not None
        ]
        if news:
            self._send(Statuses(items=tuple(news)))

    def _send(self, message: Hello | Statuses) -> None:
        self._transport.write(frame(_BINARY, wire.encode(message)))

    def _give_up(self, error: ConnectionError) -> None:
        if not self.welcomed.done():
            self.welcomed.set_exception(error)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()
        if not self.welcomed.done():
            self.welcomed.set_exception(ConnectionError(f"the connection is lost: {exc}"))
        elif not self.welcomed.exception():
            self._counted.open -= 1


class Emulator:
    """All agents of this process."""

    def __init__(self, orders: Orders, folder: Path) -> None:
        self._orders = orders
        self._folder = folder
        self._key = signing.make_key(secrets.token_bytes(signing.KEY_ENTROPY_BYTES))
        self.counted = Counted()

    async def run(self) -> None:
        if self._orders.starts:
            self.counted.starts = (Path(self._orders.starts) / str(self._orders.first)).open("w")
        numbers = range(self._orders.first, self._orders.first + self._orders.count)
        contexts: dict[int, ssl.SSLContext] = {}
        if self._orders.authority:
            trust = trusting(self._orders.authority.encode())
            connector = aiohttp.TCPConnector(limit=JOINS_AT_ONCE, force_close=True, ssl=trust)
            async with aiohttp.ClientSession(connector=connector) as http:
                await _each(numbers, JOINS_AT_ONCE, lambda number: self._join(http, number, contexts))
        await _each(numbers, DIALS_AT_ONCE, lambda number: self._dial(number, contexts.pop(number, None)))

    async def _join(self, http: aiohttp.ClientSession, number: int, contexts: dict[int, ssl.SSLContext]) -> None:
        node = node_info(number).id
        request = signing.make_request(self._key, node).decode()
        body = {"token": self._orders.token, "node": node, "certificate_request": request}
        url = f"https://{self._orders.host}:{self._orders.port}/v1/agents/join"
        async with http.post(url, json=body) as answer:
            document = await answer.json()
            assert answer.status == 200, document
        file = self._folder / f"{node}.pem"
        file.write_bytes(self._key + document["certificate"].encode())
        contexts[number] = trusting(self._orders.authority.encode())
        contexts[number].load_cert_chain(file)
        file.unlink()

    async def _dial(self, number: int, context: ssl.SSLContext | None) -> None:
        host, port = self._orders.host, self._orders.port
        agent = EmulatedAgent(node_info(number), self._orders, self.counted)
        async with asyncio.timeout(DIAL_WITHIN_S):
            await asyncio.get_running_loop().create_connection(lambda: agent, host, port, ssl=context)
            await agent.welcomed


async def _each(numbers: range, at_once: int, work: Any) -> None:
    """Does the work for all of them, so many at a time."""
    left = iter(numbers)

    async def some() -> None:
        for number in left:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(some())


async def _main(orders: Orders) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, lambda: None if os.read(sys.stdin.fileno(), 1) else ended.set())
    with tempfile.TemporaryDirectory(prefix="orlop-emulation-") as folder:
        emulator = Emulator(orders, Path(folder))
        running, telling = loop.create_task(emulator.run()), loop.create_task(emulator.counted.tell())
        waiting = loop.create_task(ended.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
            await waiting
        for task in (running, waiting, telling):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_main(Orders(**orjson.loads(sys.stdin.readline()))))
