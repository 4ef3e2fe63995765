"""`orlop up`: server, agent and every installed plugin in one process, on the embedded store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orlop.configuration import Settings
from orlop.processes import server as serving
from orlop.processes.exposure import CannotStart
from orlop.processes.node import make_agent
from orlop.server.server import Server
from orlop.store.interface import Store


def run(settings: Settings, data: Path, announce: Callable[[str], None] = print) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code. Raises CannotStart, StoreError, DocumentError."""
    data = data.absolute()

    async def agent(server: Server) -> None:
        made = make_agent(settings, data, server.plugins, server.state().cluster_id, server.connect_local_agent)
        server.agent = made
        server.remote.streams.attach_local(made.node_id, made.serve_stream)
        if server.remote.auth:
            await server.remote.admit_local(made.node_id)
        await made.run()

    return serving.run(settings, data, announce, agent, _check_embedded)


def _check_embedded(store: Store) -> None:
    if not store.exclusive:
        raise CannotStart(
            "[store] url names a store that several servers can share: start `orlop server` for each of them, and "
            "`orlop agent` on each machine; `orlop up` is for the embedded store"
        )
