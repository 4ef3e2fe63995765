"""Marathon's API over HTTP for tests: real kernel, real framework, real server; the nodes are simulated."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from aiohttp import web

from orlop.testing.harness import Cluster
from orlop_marathon.framework import Marathon
from orlop_marathon.http import application
from orlop_marathon.settings import Config

DEADLINE_S = 20


class StubHost:
    """The server's door to a framework, on a simulated cluster. Used on the event loop's thread alone."""

    cluster_name = "test"
    address = "127.0.0.1:5050"
    version = "0"

    def __init__(self, config: Config) -> None:
        self.cluster = Cluster(Marathon(config), check_idempotence=False)
        self.cluster.add_node("n1", cpus=64, mem="64GiB", zone="z1")
        self.cluster.add_node("n2", cpus=64, mem="64GiB")
        self.cluster.settle()
        self.queues: list[asyncio.Queue[Any]] = []

    async def command(self, framework: str, command: Any) -> Any:
        said = len(self.cluster.published)
        reply = self.cluster.command(framework, command)
        self.cluster.settle()
        for queue in self.queues:
            for item in self.cluster.published[said:]:
                queue.put_nowait(item)
        return reply

    async def view(self, framework: str) -> Any:
        return self.cluster.view(framework)

    @contextmanager
    def follow(self, framework: str) -> Iterator[asyncio.Queue[Any]]:
        queue: asyncio.Queue[Any] = asyncio.Queue(1024)
        self.queues.append(queue)
        try:
            yield queue
        finally:
            self.queues.remove(queue)


class Server:
    """The API on a port of its own, in a thread of its own."""

    def __init__(self, config: Config) -> None:
        self.loop = asyncio.new_event_loop()
        self.host = StubHost(config)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._started = threading.Event()
        self._config = config
        self._thread.start()
        assert self._started.wait(DEADLINE_S)
        self.session = requests.Session()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._open())
        self._started.set()
        self.loop.run_forever()
        self.loop.run_until_complete(self._runner.cleanup())
        self.loop.close()

    async def _open(self) -> None:
        self._runner = web.AppRunner(application(self.host, self._config), shutdown_timeout=0)  # type: ignore[arg-type]
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def close(self) -> None:
        self.session.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def on_loop(self, work: Callable[[Cluster], Any]) -> Any:
        """Does something with the cluster, between requests."""

        async def do() -> Any:
            found = work(self.host.cluster)
            self.host.cluster.settle()
            return found

        return asyncio.run_coroutine_threadsafe(do(), self.loop).result(DEADLINE_S)

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        if body is not None:
            options["data"] = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self.session.request(method, self.url + path, timeout=DEADLINE_S, **options)

    def ok(self, method: str, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
        response = self.call(method, path, body, **options)
        assert response.status_code == status, (response.status_code, response.text)
        return response.json() if response.content else None

    def stored(self) -> dict[str, bytes]:
        """Everything that is stored but the kernel's own bookkeeping."""
        return self.on_loop(
            lambda cluster: {key: value for key, value in cluster.documents.items() if "objects/" in key}
        )

    def reset(self) -> None:
        assert self.call("DELETE", "/v2/groups", params={"force": "true"}).status_code == 200
        self.on_loop(lambda cluster: None)


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    made = Server(Config())
    yield made
    made.close()


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    yield shared
    shared.reset()
