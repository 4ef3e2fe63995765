"""Terms of leadership over a store, as servers begin them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from orlop.agent.agent import read_clock
from orlop.configuration import Settings
from orlop.kernel.kernel import Kernel
from orlop.model.documents import to_bytes
from orlop.model.messages import Seen
from orlop.server.bridge import Bridge
from orlop.server.leadership import Metrics, Parts
from orlop.server.loading import LEADER_KEY, LeaderRecord, Term, begin_term, list_entries
from orlop.server.plugin_host import PluginHost
from orlop.server.routing import Host
from orlop.store.interface import Delete, Put, Store


def begin(store: Store, seen: Seen | None = None, *, utc_ms: int = 1_000) -> Term:
    """Takes the lead, as the next server would."""
    store.transact([Delete(LEADER_KEY)])
    leader = to_bytes(LeaderRecord(server="s", url="", since_utc_ms=1))
    revision = store.transact([Put(LEADER_KEY, leader)]).revision
    return begin_term(store, list_entries(store)[0], {}, revision, new_cluster_id="c", utc_ms=utc_ms, seen=seen)


def parts_of(store: Store, term: Term, url: str = "") -> Parts:
    """What a term is led with where there are no plugins. On the running loop."""
    kernel = Kernel()
    host = Host(
        cluster_name="c",
        address="",
        version="1",
        state=lambda: term.state,
        explainer=cast(Callable[..., Any], kernel.explain),
        clock=read_clock,
        open_engine=_no_engine,
    )
    return Parts(
        store=store,
        kernel=kernel,
        plugins=PluginHost(Settings(), [], found=[]),
        classes={},
        host=host,
        bridge=Bridge(asyncio.get_running_loop()),
        metrics=Metrics(),
        handler_timeout_s=1,
        url=url,
    )


async def _no_engine(_: str) -> Any:
    raise AssertionError
