"""A term's shell: what it does not say any more when it may not lead any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import attrs
import pytest
from terms import begin

from orlop.agent.agent import read_clock
from orlop.agent.session import LinkClosed, local_session
from orlop.configuration import Settings
from orlop.kernel.kernel import Kernel
from orlop.model.messages import Hello, Welcome
from orlop.model.nodes import NodeInfo
from orlop.model.resources import Resources
from orlop.server.bridge import Bridge
from orlop.server.leadership import Leadership, Metrics, Parts
from orlop.server.plugin_host import PluginHost
from orlop.server.routing import Host
from orlop.store.interface import OutcomeUnknown
from orlop.store.memory import MemoryStore

HELLO = Hello(node=NodeInfo(id="n", name="n", address="", resources=Resources(cpus=1), runtimes=("process",)))


async def no_engine(_: str) -> Any:
    raise AssertionError


@attrs.define
class Term:
    """A leader of one node, which is told `failed` when it has to end."""

    leads: bool = True
    failed: asyncio.Future[Exception] = attrs.field(factory=lambda: asyncio.get_running_loop().create_future())

    def begin(self) -> Leadership:
        store, kernel = MemoryStore(), Kernel()
        term = begin(store)
        host = Host(
            cluster_name="c",
            address="",
            version="1",
            state=lambda: term.state,
            explainer=cast(Callable[..., Any], kernel.explain),
            clock=read_clock,
            open_engine=no_engine,
        )
        parts = Parts(
            store=store,
            kernel=kernel,
            plugins=PluginHost(Settings(), [], found=[]),
            classes={},
            host=host,
            bridge=Bridge(asyncio.get_running_loop()),
            metrics=Metrics(),
            handler_timeout_s=1,
        )
        made = Leadership(term, parts, self._fail, lambda: self.leads)
        made.start()
        return made

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_result(error)


async def test_a_node_is_told_nothing_once_the_lease_may_have_ended() -> None:
    term = Term()
    leadership = term.begin()
    agent, server = local_session()
    serving = asyncio.create_task(leadership.serve_agent(server))
    agent.send(HELLO)
    async with asyncio.timeout(20):
        assert isinstance(await agent.receive(), Welcome)
        while not agent._inbox.empty():
            await agent.receive()
        term.leads = False  # as it wakes up: what it has written is durable, and would go out
        agent.send(HELLO)
        error = await term.failed
        assert isinstance(error, OutcomeUnknown)
        leadership.abandon(str(error))
        with pytest.raises(LinkClosed):
            await agent.receive()
        await serving
