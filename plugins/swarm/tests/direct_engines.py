"""A pool of engines that are reached at their sockets, without agents, and the pool's Docker API before it.

For tests of the routes: `DirectPool` and `DirectContainers` stand in for what the server gives them. Containers are
placed on the engine with the fewest of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import attrs
import orjson
from aiohttp import web
from certificates import Certificates
from direct_connections import dial_directly
from ports import free_port

from orlop.api.guard import Handler
from orlop.api.listening import guard_of_listener
from orlop.api.runner import OperatorRunner
from orlop.api.tls_site import TlsSite
from orlop_swarm.engines.answers import told
from orlop_swarm.engines.client import EngineClient, HttpResponse
from orlop_swarm.engines.interface import Connection, EngineNode, EngineUnavailable
from orlop_swarm.http import Services, make_application
from orlop_swarm.http.finding import Owner, Owners
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.services import Created, Creation, Known, Switch
from orlop_swarm.http.versions import Versions


class CountedConnection:
    """Knows whether it has been closed."""

    def __init__(self, inner: Connection) -> None:
        self._inner = inner
        self.closed = False
        self.read = inner.read
        self.write = inner.write
        self.write_eof = inner.write_eof

    async def close(self) -> None:
        self.closed = True
        await self._inner.close()


@attrs.frozen
class Host:
    """Where an engine is. address: its node's. socket: a path."""

    name: str
    address: str
    socket: str


class DirectPool:
    """`down`: node name → why it cannot be used; a test may write to it. `told`: the headers that engines were sent."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.down: dict[str, str] = {}
        self.told: list[Mapping[str, str]] = []
        self._hosts = {host.name: host for host in sorted(hosts, key=lambda host: host.name)}
        self._connections: list[CountedConnection] = []
        nodes = self.nodes()
        self._clients = {node.id: self._client(node) for node in nodes}

    def _client(self, node: EngineNode) -> EngineClient:
        connect = dial_directly(node.name, f"unix://{self._hosts[node.name].socket}")

        async def dial() -> Connection:
            self._connections.append(CountedConnection(await connect()))
            return self._connections[-1]

        client = EngineClient(node, dial)
        plain = client.request

        async def request(method: str, path: str, **options: Any) -> HttpResponse:
            self.told.append(options.get("headers") or {})
            return await plain(method, path, **options)

        client.request = request  # type: ignore[method-assign]
        return client

    @property
    def open_connections(self) -> int:
        return sum(not connection.closed for connection in self._connections)

    async def forget_idle(self) -> None:
        """Closes the connections that are kept for later requests."""
        for client in self._clients.values():
            await client.close()

    def nodes(self) -> list[EngineNode]:
        return [
            EngineNode(id=f"id-{host.name}", name=host.name, address=host.address, unavailable=self.down.get(name, ""))
            for name, host in self._hosts.items()
        ]

    def engine(self, node_id: str) -> EngineClient:
        node = next(node for node in self.nodes() if node.id == node_id)
        if node.unavailable:
            raise EngineUnavailable(node.name, node.unavailable)
        return self._clients[node_id]

    def engines(self) -> list[EngineClient]:
        return [self._clients[node.id] for node in self.nodes() if not node.unavailable]


class DirectContainers:
    """Places on an engine directly, and lets go of a container when it is told to. `released`: of those, the ids."""

    def __init__(self, pool: DirectPool) -> None:
        self._pool = pool
        self.remembered: dict[str, Known] = {}
        self.released: list[str] = []

    async def create(self, creation: Creation) -> Created:
        node, slash, name = creation.name.partition("/")
        if not slash or node not in [one.name for one in self._pool.nodes()]:
            node, name = "", creation.name
        engines = [engine for engine in self._pool.engines() if node in ("", engine.node.name)]
        for needed in _needed(creation.body.get("HostConfig") or {}):
            holds = [(await told(engine, f"/containers/{needed}/json"))[0] == 200 for engine in engines]
            engines = [engine for engine, does in zip(engines, holds, strict=True) if does] or engines
        image = quote(str(creation.body.get("Image", "")), safe="/:@")
        holds = [(await told(engine, f"/images/{image}/json"))[0] == 200 for engine in engines]
        engines = [engine for engine, does in zip(engines, holds, strict=True) if does] or engines
        counted = await asyncio.gather(*(told(engine, "/containers/json", "all=1") for engine in engines))
        by_count = sorted(zip(counted, engines, strict=True), key=lambda one: (len(one[0][1]), one[1].node.name))
        engine = by_count[0][1]
        query = {"name": name, "platform": creation.platform}
        response = await engine.request(
            "POST",
            "/containers/create",
            query=urlencode({key: value for key, value in query.items() if value}),
            headers={"Content-Type": "application/json"},
            body=orjson.dumps(creation.body),
            version=creation.version,
        )
        body = orjson.loads(await response.read())
        if response.status != 201:
            raise Problem(response.status, body["message"])
        status, shown = await told(engine, f"/containers/{body['Id']}/json")
        assert status == 200, shown
        name = shown["Name"].removeprefix("/")
        self.remembered[body["Id"]] = Known(
            id=body["Id"],
            name=name,
            node=engine.node.id,
            image=shown["Config"]["Image"],
            image_id=shown["Image"],
            state="running",
            labels=shown["Config"]["Labels"],
        )
        return Created(
            id=body["Id"], node=engine.node.id, name=name, warnings=body["Warnings"], moment=shown["Created"]
        )

    async def reserve(self, container: str, called: str, name: str) -> None:
        for one in self.remembered.values():
            if one.name == name and one.id != container:
                raise Problem(409, f'Conflict. The container name "/{name}" is already in use by container "{one.id}".')

    async def renamed(self, container: str, name: str) -> None:
        if container in self.remembered:
            self.remembered[container] = attrs.evolve(self.remembered[container], name=name)

    async def discard(self, reference: str) -> bool:
        found = [one for one in self.remembered.values() if reference in (one.id, one.name)]
        for one in found:
            del self.remembered[one.id]
        return bool(found)

    async def switching(self) -> Callable[[Owner, Switch], Awaitable[None]]:
        async def known(owner: Owner, switch: Switch) -> None:
            return None

        return known

    async def gone(self, container: str) -> None:
        self.released.append(container)
        self.remembered.pop(container, None)

    async def removing(self, container: str) -> bool:
        return False

    async def changed(self, container: str, **_: Any) -> None:
        """They are nothing to count, and do not move."""

    async def not_removed(self, container: str) -> None:
        raise NotImplementedError

    async def known(self, reference: str) -> Known | None:
        found = (one for one in self.remembered.values() if one.name == reference or one.id.startswith(reference))
        return next(found, None)

    async def settled(self, reference: str) -> bool:
        return False

    async def out_of_reach(self, silent: Set[str] = frozenset()) -> list[Known]:
        down = {node.id for node in self._pool.nodes() if node.unavailable} | silent
        return [one for one in self.remembered.values() if one.node in down]

    async def left_behind(self) -> Callable[[str, Mapping[str, str]], bool]:
        return lambda name, labels: False


def _needed(configuration: Mapping[str, Any]) -> Iterator[str]:
    """Containers that have to be on the same engine."""
    mode = configuration.get("NetworkMode") or ""
    for listed in (configuration.get("Links"), configuration.get("VolumesFrom")):
        yield from (item.partition(":")[0] for item in listed or ())
    if mode.startswith("container:"):
        yield mode.partition(":")[2]


@web.middleware
async def _anybody(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Those on plain TCP."""
    return await handler(request)


class Served:
    """The pool's API on TCP and a Unix socket, on an event loop in a thread of its own. url: for Docker clients.

    certificates: it is on `tls_url`, too, for clients with a certificate.
    """

    def __init__(
        self, hosts: Sequence[Host], folder: Path, certificates: Certificates | None = None, **options: Any
    ) -> None:
        self.socket = folder / "pool.sock"
        self._certificates = certificates
        self._options = options
        self._hosts = hosts
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.call(self._start())

    def call(self, work: Any) -> Any:
        """Runs a coroutine on the API's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> None:
        self.pool = DirectPool(self._hosts)
        self.containers = DirectContainers(self.pool)
        self.owners = Owners(self.pool, self.containers)
        services = Services(
            pool=self.pool,
            owners=self.owners,
            containers=self.containers,
            versions=Versions(self.pool),
            **self._options,
        )
        application = make_application(services)
        application.middlewares.append(guard_of_listener(_anybody))
        self._runner = OperatorRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        if self._certificates is not None:
            port = free_port()
            context = self._certificates.server(clients=True)
            await TlsSite(self._runner, "127.0.0.1", port, lambda: context).start()
            self.tls_url = f"tcp://127.0.0.1:{port}"
        await web.UnixSite(self._runner, str(self.socket)).start()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[-1][1]
        self.url = f"tcp://127.0.0.1:{self.port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self.pool.forget_idle()

    def close(self) -> None:
        self.call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def served(hosts: Sequence[Host], folder: Path, **options: Any) -> Iterator[Served]:
    api = Served(hosts, folder, **options)
    try:
        yield api
    finally:
        api.close()
