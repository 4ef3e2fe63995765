"""Engines that answer as a test has written down, for what real ones cannot be made to do: pulls without a registry,
engines that go away in the middle, hang, or remember other events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs
import orjson
from multidict import CIMultiDict, CIMultiDictProxy

from orlop_swarm.engines.interface import EngineNode, EngineUnavailable, Upgraded

#: What an engine says of itself, which the pool asks for when it pleases.
OF_ITSELF = {
    "/version": {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Os": "linux"},
    "/info": {"NCPU": 2, "MemTotal": 2**30, "Labels": []},
    "/_ping": b"OK",
}


@attrs.frozen(kw_only=True)
class Asked:
    """A request as it came to an engine."""

    node: str
    method: str
    path: str
    query: str
    body: bytes | None


class ScriptedResponse:
    """pieces: of the body; an exception among them is raised in its place, an awaitable is waited for."""

    def __init__(self, pieces: Sequence[Any], status: int = 200) -> None:
        self.status, self.reason = status, ""
        self.headers = CIMultiDictProxy(CIMultiDict({"Content-Type": "application/json"}))
        self.closed = False
        self._pieces = pieces

    async def pieces(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, Awaitable):
                await piece
            else:
                yield piece if isinstance(piece, bytes) else orjson.dumps(piece) + b"\r\n"

    async def read(self, limit: int = 2**26) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def close(self) -> None:
        self.closed = True


Script = Callable[[Asked], ScriptedResponse]


class ScriptedEngine:
    oldest = newest = ""

    def __init__(self, node: EngineNode, script: Script, asked: list[Asked]) -> None:
        self.node = node
        self._script = script
        self._asked = asked

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterator[bytes] | None = None,
        version: str = "",
    ) -> ScriptedResponse:
        whole = b"".join([piece async for piece in body]) if isinstance(body, AsyncIterator) else body
        if path in OF_ITSELF:
            return ScriptedResponse([OF_ITSELF[path]])
        asked = Asked(node=self.node.name, method=method, path=path, query=query, body=whole)
        self._asked.append(asked)
        await asyncio.sleep(0)
        return self._script(asked)

    async def upgrade(self, method: str, path: str, **more: Any) -> Upgraded:
        raise EngineUnavailable(self.node.name, "it is only written down")


class ScriptedPool:
    """scripts: by node's name. down: node's name → why it cannot be used. asked: all requests."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self._scripts = scripts
        self.down: dict[str, str] = {}
        self.asked: list[Asked] = []

    def nodes(self) -> list[EngineNode]:
        return [
            EngineNode(id=f"id-{name}", name=name, address="10.0.0.1", unavailable=self.down.get(name, ""))
            for name in sorted(self._scripts)
        ]

    def engine(self, node_id: str) -> ScriptedEngine:
        return next(engine for engine in self.engines() if engine.node.id == node_id)

    def engines(self) -> list[ScriptedEngine]:
        return [
            ScriptedEngine(node, self._scripts[node.name], self.asked) for node in self.nodes() if not node.unavailable
        ]
