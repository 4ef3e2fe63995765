"""A pool of engines that are reached at their sockets, without agents, and the pool's Docker API before it.

For tests of the routes: `DirectPool` and `DirectContainers` stand in for what the server gives them. Containers are
placed on the engine with the fewest of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import attrs
import orjson
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from orlop_swarm.engines.interface import EngineNode, EngineUnavailable, Upgraded
from orlop_swarm.http import Services, make_application
from orlop_swarm.http.finding import Owners, told
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.services import Created, Creation, Known
from orlop_swarm.http.versions import Versions

HIGHEST_VERSION = "1.41"


class DirectConnection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        return await self._reader.read(262_144)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def write_eof(self) -> None:
        self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()


class DirectResponse:
    def __init__(self, node: str, response: aiohttp.ClientResponse) -> None:
        self._node, self._response = node, response
        self.status = response.status
        self.reason = response.reason or ""
        self.headers = response.headers

    async def read(self, limit: int = 64 * 2**20) -> bytes:
        try:
            return await self._response.read()
        except aiohttp.ClientError as error:
            raise EngineUnavailable(self._node, str(error)) from None

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            raise EngineUnavailable(self._node, str(error)) from None

    async def close(self) -> None:
        self._response.close()


@attrs.frozen
class _Refused:
    """An answer to a request for the connection, which was refused."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    reason: str = ""

    async def read(self, limit: int = 64 * 2**20) -> bytes:
        return self.body

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self.body

    async def close(self) -> None:
        return None


class DirectEngine:
    def __init__(self, node: EngineNode, socket: str, session: aiohttp.ClientSession) -> None:
        self.node, self._socket, self._session = node, socket, session

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterator[bytes] | None = None,
        version: str = "",
    ) -> DirectResponse:
        url = f"http://engine/v{version or HIGHEST_VERSION}{path}{'?' if query else ''}{query}"
        try:
            response = await self._session.request(
                method,
                aiohttp.client.URL(url, encoded=True),
                headers=headers,
                data=body,
                skip_auto_headers=["Content-Type", "User-Agent", "Accept", "Accept-Encoding"],
            )
        except (aiohttp.ClientError, OSError) as error:
            raise EngineUnavailable(self.node.name, str(error)) from None
        return DirectResponse(self.node.name, response)

    async def upgrade(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        version: str = "",
    ) -> Upgraded:
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError as error:
            raise EngineUnavailable(self.node.name, str(error)) from None
        lines = [f"{method} /v{version or HIGHEST_VERSION}{path}{'?' if query else ''}{query} HTTP/1.1", "Host: engine"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            raise EngineUnavailable(self.node.name, "it has hung up") from None
        status = int(head.split(b" ", 2)[1])
        fields = _fields(head)
        if status == 101 or "raw-stream" in fields.get("Content-Type", ""):
            return Upgraded(status=status, head=head, connection=DirectConnection(reader, writer), response=None)
        refused = await reader.readexactly(int(fields.get("Content-Length", "0")))
        writer.close()
        return Upgraded(status=status, head=head, connection=None, response=_Refused(status, fields, refused))


def _fields(head: bytes) -> CIMultiDictProxy[str]:
    fields: CIMultiDict[str] = CIMultiDict()
    for line in head.decode().split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields.add(name, value.strip())
    return CIMultiDictProxy(fields)


@attrs.frozen
class Host:
    """Where an engine is. address: its node's. socket: a path."""

    name: str
    address: str
    socket: str


class DirectPool:
    """To be made on the event loop. `down`: node name → why it cannot be used; a test may write to it."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.down: dict[str, str] = {}
        self._hosts = {host.name: host for host in sorted(hosts, key=lambda host: host.name)}
        self._sessions = {
            host.name: aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(host.socket, limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                read_bufsize=262_144,
            )
            for host in hosts
        }

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    def nodes(self) -> list[EngineNode]:
        return [
            EngineNode(id=f"id-{host.name}", name=host.name, address=host.address, unavailable=self.down.get(name, ""))
            for name, host in self._hosts.items()
        ]

    def engine(self, node_id: str) -> DirectEngine:
        for engine in self.engines():
            if engine.node.id == node_id:
                return engine
        raise EngineUnavailable(node_id, "it is down")

    def engines(self) -> list[DirectEngine]:
        return [
            DirectEngine(node, self._hosts[node.name].socket, self._sessions[node.name])
            for node in self.nodes()
            if not node.unavailable
        ]


class DirectContainers:
    """Places on an engine directly, and lets go of a container when it is told to. `released`: of those, the ids."""

    def __init__(self, pool: DirectPool) -> None:
        self._pool = pool
        self.remembered: dict[str, Known] = {}
        self.released: list[str] = []

    async def create(self, creation: Creation) -> Created:
        node, _, name = creation.name.rpartition("/")
        engines = [engine for engine in self._pool.engines() if node in ("", engine.node.name)]
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
        return Created(id=body["Id"], node=engine.node.id, name=name, warnings=body["Warnings"])

    async def reserve(self, container: str, name: str) -> None:
        for one in self.remembered.values():
            if one.name == name and one.id != container:
                raise Problem(409, f'Conflict. The container name "/{name}" is already in use by container "{one.id}".')

    async def renamed(self, container: str, name: str) -> None:
        if container in self.remembered:
            self.remembered[container] = attrs.evolve(self.remembered[container], name=name)

    async def gone(self, container: str) -> None:
        self.released.append(container)
        self.remembered.pop(container, None)

    async def known(self, reference: str) -> Known | None:
        found = (one for one in self.remembered.values() if one.name == reference or one.id.startswith(reference))
        return next(found, None)

    async def out_of_reach(self) -> list[Known]:
        down = {node.id for node in self._pool.nodes() if node.unavailable}
        return [one for one in self.remembered.values() if one.node in down]


class Served:
    """The pool's API on TCP and a Unix socket, on an event loop in a thread of its own. url: for Docker clients."""

    def __init__(self, hosts: Sequence[Host], folder: Path, **options: Any) -> None:
        self.socket = folder / "pool.sock"
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
        self._runner = web.AppRunner(make_application(services), handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket)).start()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[-1][1]
        self.url = f"tcp://127.0.0.1:{self.port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self.pool.close()

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
