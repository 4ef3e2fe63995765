"""An engine as the event loop sees it: calls that are awaited, commands, output, and what is kept of ended tasks.

`Access` is there while the engine is not: `connected` is set between a snapshot and the next loss, and whoever must
not fail for the engine's absence waits for it; `lost` is set between a loss and the next snapshot. A call that is
under way when the engine goes away raises EngineLost; one to an engine that hangs gets its answer when it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from orlop.agent.runtimes import docker_container as container_json
from orlop.agent.runtimes.docker_calls import EngineCalls
from orlop.agent.runtimes.docker_container import Identity
from orlop.agent.runtimes.docker_engine import REQUEST_TIMEOUT_S, Command, Pools, close_stream, cut_stream
from orlop.agent.runtimes.docker_errors import EngineLost, EngineRefused, engine_errors
from orlop.agent.runtimes.docker_http import EngineHttp
from orlop.agent.runtimes.interface import RuntimeContext, UnknownTask
from orlop.agent.runtimes.outputs import STREAMS, Excerpt, Outputs, excerpt_of
from orlop.docker_containers import KEPT_NAMES, NODE_LABEL, TASK_LABEL

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Access:
    """See the module. client: docker-py's, of the last connection; None before the first. calls: without it."""

    def __init__(self, context: RuntimeContext) -> None:
        self.pools = Pools()
        self.client: Any = None
        self._http = EngineHttp(context.docker, REQUEST_TIMEOUT_S)
        self.calls = EngineCalls(self._http)
        self.connected = asyncio.Event()
        self.lost = asyncio.Event()
        self.unavailable = ""
        self._context = context
        self._outputs = Outputs(context.data / "outputs")

    def use(self, client: Any) -> None:
        """A connection has come about: this is its client."""
        self.client = client
        self.calls.version, self.calls.oldest = client.api_version, client.oldest_api_version

    def close(self) -> None:
        self._http.close()
        self.pools.close()

    async def call(self, pool: Executor, method: str, *arguments: Any, **options: Any) -> Any:
        """One call of docker-py's client. Raises EngineLost, EngineRefused."""
        return await self.in_thread(pool, getattr(self.client, method), *arguments, **options)

    async def in_thread(self, pool: Executor, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Raises EngineLost, EngineRefused."""

        def call() -> T:
            with engine_errors():
                return function(*arguments, **options)

        return await asyncio.get_running_loop().run_in_executor(pool, call)

    async def unless_lost(self, future: asyncio.Future[T]) -> T:
        """The result of what has no deadline; it goes on when nobody waits for it. Raises EngineLost too."""
        lost = asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait((future, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
        if not future.done() or future.cancelled():
            raise EngineLost(self.unavailable)
        return future.result()

    async def discard(self, container: str, identity: Identity) -> None:
        """Removes a half-made container, by id or name, if it is this task's. Raises EngineLost."""
        with contextlib.suppress(EngineRefused):
            inspected = await self.call(self.pools.control, "inspect_container", container)
            if container_json.identity_of(inspected["Config"].get("Labels"), self._context) == identity:
                await self.call(self.pools.control, "remove_container", inspected["Id"], v=True, force=True)

    async def keep(self, container: str, identity: Identity, *, stays_ended: bool = False) -> None:
        """Keeps an ended container for its output only. stays_ended: the engine is known to leave it so.

        Raises EngineLost.
        """
        name = container_json.kept_name(identity.task, identity.incarnation, int(time.time()))
        with contextlib.suppress(EngineRefused):  # it is gone
            if not stays_ended:
                await self._end_restarts(container)
            await self.call(self.pools.control, "rename", container, name)

    async def _end_restarts(self, container: str) -> None:
        """`always` begins again with the engine, also what has been stopped. Raises EngineLost, EngineRefused."""
        host = (await self.calls.inspect(container))["HostConfig"]
        if (host.get("RestartPolicy") or {}).get("Name") not in (None, "", "no"):
            await self.call(self.pools.control, "update_container", container, restart_policy={"Name": "no"})

    async def sweep(self) -> None:
        """Removes containers that are kept for too long. Raises EngineLost."""
        filters = {"label": [self._node_label], "name": re.escape(KEPT_NAMES)}
        listing = await self.call(self.pools.control, "containers", all=True, filters=filters)
        await self.remove_surplus(listing)

    async def remove_surplus(self, listing: list[dict[str, Any]]) -> None:
        """Removes the kept containers of a listing that are too old or too many, and keeps an excerpt of their output.
        Raises EngineLost."""
        items = {item["Id"]: item for item in listing}
        kept = [(since, name) for name, item in items.items() if (since := kept_since(item)) is not None]
        for container in container_json.surplus(kept, int(time.time())):
            await self.in_thread(self.pools.log, self._remove_kept, self.client, items[container])

    def _remove_kept(self, client: Any, item: Mapping[str, Any]) -> None:
        """Blocks."""
        identity = container_json.identity_of(item.get("Labels"), self._context)
        with contextlib.suppress(EngineRefused):  # it is gone, or its output goes elsewhere
            if identity is not None:
                with engine_errors():
                    found = {stream: excerpt_of(_log_of(client, item["Id"], stream)) for stream in STREAMS}
                self._keep_output(identity.task, found)
        with contextlib.suppress(EngineRefused), engine_errors():
            client.remove_container(item["Id"], v=True)

    def _keep_output(self, task: str, found: Mapping[str, Excerpt]) -> None:
        try:
            self._outputs.keep(task, found)
        except OSError as error:
            _log.warning("the output of task %s cannot be kept: %s", task, error)

    async def run_command(self, container: str, command: str, timeout_s: float) -> tuple[int, str]:
        """The exit code and the head of the output. The time counts from the start of the command, not while it
        waits for one of the threads. Raises EngineLost, UnknownTask, TimeoutError."""
        if not self.connected.is_set():
            raise EngineLost(self.unavailable)
        running = Command(self.client, container, command)
        loop = asyncio.get_running_loop()
        started = asyncio.Event()

        def run() -> tuple[int, str]:
            running.start()
            loop.call_soon_threadsafe(started.set)
            return running.result()

        done = asyncio.ensure_future(self.in_thread(self.pools.command, run))
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        begun = asyncio.ensure_future(started.wait())
        try:
            await asyncio.wait((done, begun), return_when=asyncio.FIRST_COMPLETED)
            return await asyncio.wait_for(asyncio.shield(done), timeout_s)
        except EngineRefused as error:
            raise UnknownTask(str(error)) from error
        except (TimeoutError, asyncio.CancelledError):
            if started.is_set() and not done.done():
                await self.in_thread(self.pools.control, running.abandon)
            raise
        finally:
            begun.cancel()

    async def output(self, task: str, stream: str, *, follow: bool, tail: int | None) -> AsyncGenerator[bytes, None]:
        """Of the task's last container, or what is left of it. Raises EngineLost, UnknownTask."""
        try:
            container = await self.newest_container(task)
        except UnknownTask:
            yield await asyncio.to_thread(self._outputs.read, task, stream, tail)
            return
        async with contextlib.aclosing(self.logs(container, stream, follow=follow, tail=tail)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def logs(self, container: str, stream: str, *, follow: bool, tail: int | None) -> AsyncGenerator[bytes, None]:
        """As a runtime's. The engine's own back-pressure applies: a chunk is read when the one before was taken.
        Raises EngineLost, UnknownTask."""
        options: dict[str, Any] = {"stdout": stream == "stdout", "stderr": stream == "stderr", "follow": follow}
        lines = "all" if tail is None else tail
        try:
            output = await self.call(self.pools.log, "logs", container, stream=True, tail=lines, **options)
        except EngineRefused as error:
            raise UnknownTask(str(error)) from error
        reading: Future[bytes] | None = None
        try:
            while True:
                reading = self.pools.log.submit(_next_of, output)
                if not (chunk := await asyncio.wrap_future(reading)):
                    return
                yield chunk
        finally:
            self._end_stream(output, reading)

    def _end_stream(self, stream: Any, reading: Future[bytes] | None) -> None:
        """Closes it when its last read is over, which this ends: a read that finds the end gives the connection back to
        those that all calls share, and closing does too. At once they would do it twice, and two calls would meet on
        one connection."""

        def close(_: object = None) -> None:
            with contextlib.suppress(RuntimeError):  # the pool may be closed already
                self.pools.log.submit(close_stream, stream)

        if reading is None or reading.done():
            close()
        else:
            cut_stream(stream)
            reading.add_done_callback(close)

    async def newest_container(self, task: str) -> str:
        """The id of the task's last container, kept ones included. Raises EngineLost, UnknownTask."""
        if not self.connected.is_set():
            raise EngineLost(self.unavailable)
        filters = {"label": [self._node_label, f"{TASK_LABEL}={task}"]}
        listing = await self.call(self.pools.control, "containers", all=True, filters=filters)
        ours = [
            (identity.incarnation, item["Created"], item["Id"])
            for item in listing
            if (identity := container_json.identity_of(item.get("Labels"), self._context)) is not None
        ]
        if not ours:
            raise UnknownTask(f"no container of task {task} is here")
        return str(max(ours)[2])

    @property
    def _node_label(self) -> str:
        return f"{NODE_LABEL}={self._context.node_id}"


def kept_since(item: Mapping[str, Any]) -> int | None:
    """Of an entry of a listing: since when it is only kept for its output, in UTC seconds."""
    found = [container_json.kept_since(name) for name in item.get("Names") or ()]
    return next((since for since in found if since is not None), None)


def _next_of(stream: Any) -> bytes:
    """Empty at its end. Raises EngineLost, EngineRefused."""
    with engine_errors():
        return next(stream, b"")


def _log_of(client: Any, container: str, stream: str) -> Iterable[bytes]:
    """In pieces, to its end."""
    options = {"stdout": stream == "stdout", "stderr": stream == "stderr"}
    found: Iterable[bytes] = client.logs(container, stream=True, **options)
    return found
