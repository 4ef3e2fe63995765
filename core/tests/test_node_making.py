"""A node as its settings describe it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orlop.agent.session import AgentEnd, local_session
from orlop.configuration import AgentSettings, Settings
from orlop.model.messages import Hello
from orlop.processes.node import make_agent
from orlop.server.plugin_host import PluginHost

WITHIN_S = 30.0


async def test_a_runtime_that_no_plugin_offers_is_told_of(tmp_path: Path) -> None:
    agent_end, server_end = local_session()

    async def connect() -> AgentEnd:
        return agent_end

    settings = Settings(agent=AgentSettings(runtimes=("proces",)))
    agent = make_agent(settings, tmp_path, PluginHost(settings, [], found=[]), "c", connect)
    life = asyncio.create_task(agent.run())
    hello = await asyncio.wait_for(server_end.receive(), WITHIN_S)
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    assert isinstance(hello, Hello)
    assert hello.node.unavailable == {"proces": "no plugin here offers this runtime"}
