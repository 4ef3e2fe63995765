"""`orlop up`: server, agent and every installed plugin in one process, on the embedded store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from orlop.configuration import Settings
from orlop.kernel.records import META_KEY, Meta
from orlop.model.documents import from_bytes
from orlop.model.messages import Seen
from orlop.processes import server as serving
from orlop.processes.exposure import CannotStart
from orlop.processes.node import make_agent, open_records
from orlop.server.server import Server
from orlop.store.interface import Store


def run(settings: Settings, data: Path, announce: Callable[[str], None] = print, *, rejoin: bool = False) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code. Raises CannotStart, StoreError, DocumentError.

    rejoin: this node may change from one cluster to another.
    """
    data = data.absolute()

    async def agent(server: Server) -> None:
        made = make_agent(settings, data, server.plugins, server.state().cluster_id, server.connect_local_agent)
        server.agent = made
        server.remote.streams.attach_local(made.node_id, made.serve_stream)
        server.remote.local_engines[made.node_id] = made.connect_engine
        if server.remote.auth:
            await server.remote.admit_local(made.node_id)
        await made.run()

    def check(store: Store) -> Seen | None:
        _check_embedded(store)
        return _check_membership(store, data, rejoin)

    return serving.run(settings, data, announce, agent, check)


def _check_embedded(store: Store) -> None:
    if not store.exclusive:
        raise CannotStart(
            "[store] url names a store that several servers can share: start `orlop server` for each of them, and "
            "`orlop agent` on each machine; `orlop up` is for the embedded store"
        )


def _check_membership(store: Store, data: Path, rejoin: bool) -> Seen | None:
    """What this node has seen. Raises CannotStart when it belongs to another cluster, or the state is gone."""
    entry = store.get(META_KEY)
    cluster_id = from_bytes(entry.value, Meta, META_KEY).cluster_id if entry is not None else ""
    with contextlib.closing(open_records(data)) as records:
        identity = records.identity()
        if identity is None or identity.cluster_id in ("", cluster_id):
            return records.seen()
        if rejoin:
            records.leave_cluster()
            return None
    found = f"of cluster {cluster_id}" if cluster_id else "empty"
    raise CannotStart(
        f"the state is {found}, and this node ({data / 'agent'}) belongs to cluster {identity.cluster_id}: put the"
        " right state back, or let the node change with --rejoin; what it still runs then goes on as orphans"
    )
