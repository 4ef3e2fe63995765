"""Servers and agents over real sockets, in one loop, for tests."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import waiting
from aiohttp import web
from ports import free_port
from yarl import URL

from orlop.agent.credentials import Credentials, trusting
from orlop.agent.remote import RemoteServers
from orlop.agent.session import Link, LinkClosed
from orlop.configuration import ServerSettings, Settings
from orlop.model.messages import (
    Assignments,
    Hello,
    ToAgent,
    ToServer,
    Welcome,
)
from orlop.model.nodes import NodeInfo
from orlop.model.resources import Resources
from orlop.processes.listening import listen
from orlop.processes.plugin_routes import usable_routes
from orlop.security.tokens import Token
from orlop.server import builtin
from orlop.server.plugin_host import PluginHost
from orlop.server.server import Server
from orlop.store.memory import MemoryStore

DEADLINE_S = 30

eventually = functools.partial(waiting.eventually, deadline_s=DEADLINE_S)
Agent = Link[ToServer, ToAgent]


class Serving:
    """A server that serves, and what a test needs of it."""

    def __init__(self, server: Server, data: Path) -> None:
        self.server = server
        self.data = data
        self.secure = server.settings.server.auth == "on"
        self.url = URL(f"{'https' if self.secure else 'http'}://{server.address}")
        self._opened: list[RemoteServers] = []

    @property
    def authority(self) -> bytes:
        return (self.data / "ca.pem").read_bytes()

    @property
    def admin(self) -> str:
        return (self.data / "admin.token").read_text().strip()

    def servers(self, node: str, *urls: URL) -> RemoteServers:
        """A node's way to this server."""
        made = RemoteServers(urls or (self.url,), node, Credentials(self.data / node))
        self._opened.append(made)
        return made

    async def token(self, **options: Any) -> Token:
        usual: dict[str, Any] = {"lifetime_ms": 60_000, "uses_max": 1, "node": "", "note": "", "by": "test"}
        token, _ = await self.server.remote.create_join_token(**(usual | options))
        return token

    async def joined(self, node: str) -> RemoteServers:
        """A node that has joined."""
        servers = self.servers(node)
        if self.secure:
            await servers.join(await self.token(), "")
        return servers

    async def session(self, node: str) -> Agent:
        """A node that has joined and been welcomed."""
        return await self.session_of(await self.joined(node), node)

    async def session_of(self, servers: RemoteServers, node: str) -> Agent:
        """The session of a node that has joined, once it is welcomed."""
        link = await servers.connect()
        link.send(hello(node))
        await heard(link, Welcome)
        return link

    async def close(self) -> None:
        for one in self._opened:
            await one.close()


@asynccontextmanager
async def serving(
    folder: Path,
    auth: bool = True,
    store: MemoryStore | None = None,
    keep: bool = False,
    within_s: float = DEADLINE_S,
    plugin: object | None = None,
    more_plugins: Mapping[str, object] | None = None,
    **options: Any,
) -> AsyncIterator[Serving]:
    """A real server over a store in memory. keep: it looks after its certificates, as a process does. within_s: for all
    that is done with it. plugin: with hooks, loaded as "tested". more_plugins: by their names."""
    data = folder / "server"
    data.mkdir(parents=True, exist_ok=True)
    made = ServerSettings(listen=f"127.0.0.1:{free_port()}", auth="on" if auth else "off", **options)
    settings = Settings(server=made)
    extra = [] if plugin is None else [("tested", plugin)]
    plugins = PluginHost(settings, [("orlop", builtin), *extra, *(more_plugins or {}).items()], found=[])
    plugins.load()
    server = Server(settings, plugins, store or MemoryStore(), "memory://", routes=usable_routes)
    runners: list[web.AppRunner] = []
    kept: asyncio.Task[None] | None = None
    server.start()
    one = Serving(server, data)
    try:
        async with asyncio.timeout(within_s):
            await server.ready()
            listening = await listen(server, data, runners)
            if keep and listening.door is not None:
                kept = asyncio.create_task(listening.door.keep(server))
            yield one
    finally:
        if kept is not None:
            kept.cancel()
            await asyncio.wait([kept])
        await one.close()
        for runner in runners:
            await runner.cleanup()
        await server.stop()


def hello(node: str, **members: Any) -> Hello:
    """Of a small node."""
    info = NodeInfo(id=node, name=node, address="127.0.0.1", resources=Resources.of({"cpus": 1000, "mem": 2**30}))
    return Hello(node=info, **members)


async def heard(link: Agent, kind: type) -> Any:
    """The next message of this kind."""
    while True:
        message = await link.receive()
        if isinstance(message, kind):
            return message


async def closed(link: Agent) -> str:
    """Why the session ended."""
    while True:
        try:
            await link.receive()
        except LinkClosed as error:
            return str(error)


async def still_there(link: Agent, node: str) -> None:
    """A session that works: it says hello again and is answered."""
    link.send(hello(node))
    assert (await heard(link, Assignments)).full


async def raw_session(one: Serving, context: ssl.SSLContext | None) -> tuple[Any, aiohttp.ClientSession]:
    """A WebSocket where sessions are, with nothing said yet."""
    http = aiohttp.ClientSession()
    try:
        web_socket = await http.ws_connect(
            one.url / "v1/agents/session", ssl=context if context is not None else True, max_msg_size=0
        )
    except BaseException:
        await http.close()
        raise
    return web_socket, http


async def asked(
    one: Serving, path: str = "v1/tokens", method: str = "GET", **options: Any
) -> tuple[int, dict[str, Any]]:
    """(status, document); of the list of tokens, if nothing else is said."""
    url, context = one.url / path, trusting(one.authority)
    async with aiohttp.ClientSession() as http, http.request(method, url, ssl=context, **options) as answer:
        return answer.status, await answer.json()
