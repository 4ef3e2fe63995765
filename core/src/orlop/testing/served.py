"""A plugin's HTTP routes on a real port, over a simulated cluster: the real kernel and framework, virtual time.

cluster = Cluster(Scaled())
with ServedCluster(cluster, lambda host: routes(host, settings)[0].application) as served:
    urllib.request.urlopen(f"{served.url}/copies")
    served.on_loop(lambda cluster: cluster.advance(10))
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self, TypeVar

from aiohttp import web

from orlop.framework import Candidate, Node, Task
from orlop.server.waiting import Waiting
from orlop.testing.harness import Cluster

T = TypeVar("T")

DEADLINE_S: Final = 20.0
FOLLOWER_QUEUE_MAX: Final = 1_024


class SimulatedHost:
    """The server's door to frameworks, on a simulated cluster. Used on the event loop's thread alone."""

    cluster_name = "test"
    address = "127.0.0.1:5050"
    version = "0"

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._queues: list[asyncio.Queue[Any]] = []
        self._waiting = Waiting()

    async def command(self, framework: str, command: Any) -> Any:
        """As the server's: the reply, after the commit. Raises Refused."""
        said = len(self.cluster.published)
        try:
            return self.cluster.command(framework, command)
        finally:
            self.cluster.settle()
            for queue in self._queues:
                for item in self.cluster.published[said:]:
                    queue.put_nowait(item)
            self.changed()

    async def view(self, framework: str) -> Any:
        return self.cluster.view(framework)

    async def wait_for(
        self,
        framework: str,
        name: str,
        condition: Callable[[Task | None], bool],
        timeout_s: float,
        *,
        durable: bool = True,
    ) -> Task | None:
        """As the server's: the task of this name, once `condition` holds of it, which may be when a command or a test
        has changed something. timeout_s: real seconds. Raises TimeoutError."""
        return await self._waiting.until(lambda: self.cluster.view(framework).task_named(name), condition, timeout_s)

    def changed(self) -> None:
        """Whoever waits looks again."""
        self._waiting.changed()

    def nodes(self) -> Sequence[Node]:
        """As the server's: all nodes, in the order of their names."""
        return sorted(self.cluster.state.nodes(), key=lambda node: (node.info.name, node.id))

    def candidates(self) -> Sequence[Candidate]:
        """As the server's: the same nodes as places for tasks."""
        return [self.cluster.state.candidate(node.id) for node in self.nodes()]

    @contextmanager
    def follow(self, framework: str) -> Iterator[asyncio.Queue[Any]]:
        queue: asyncio.Queue[Any] = asyncio.Queue(FOLLOWER_QUEUE_MAX)
        self._queues.append(queue)
        try:
            yield queue
        finally:
            self._queues.remove(queue)


class ServedCluster:
    """Serves in a thread of its own from `with` (or `open`) on. url: without a slash at the end."""

    def __init__(self, cluster: Cluster, application: Callable[[Any], web.Application]) -> None:
        """application: made of the host, as the `routes` hook makes it."""
        self._host = SimulatedHost(cluster)
        self._make = application
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.url = ""

    def open(self) -> None:
        self._thread.start()
        assert self._started.wait(DEADLINE_S), "the routes are not served"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the routes' thread does not end"

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def on_loop(self, work: Callable[[Cluster], T]) -> T:
        """Does something with the cluster, between requests; it comes to rest before this returns."""

        async def do() -> T:
            found = work(self._host.cluster)
            self._host.cluster.settle()
            self._host.changed()
            return found

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(DEADLINE_S)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = self._loop.run_until_complete(self._start())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _start(self) -> web.AppRunner:
        runner = web.AppRunner(self._make(self._host), shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner
