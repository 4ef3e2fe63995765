"""What tests of routes get of a simulated cluster: the same doors as a server's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from orlop.framework import Action, Ask, Framework, Process, Reply, View
from orlop.testing.harness import Cluster
from orlop.testing.served import SimulatedHost

WITHIN_S = 20.0


class Starting(Framework):
    """A command is the key of a task, and its name."""

    name = "starting"

    def command(self, view: View, command: str) -> Iterable[Action]:
        yield Ask(command, run=Process("true"), name=command)
        yield Reply(command)

    def reconcile(self, view: View) -> Iterable[Action]:
        return ()


def served() -> SimulatedHost:
    cluster = Cluster(Starting())
    for name in ("n2", "n1"):
        cluster.add_node(name)
    return SimulatedHost(cluster)


async def test_a_task_is_waited_for_until_it_is_as_wanted() -> None:
    host = served()
    waiting = asyncio.ensure_future(
        host.wait_for("starting", "a", lambda task: task is not None and task.running, WITHIN_S)
    )
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await host.command("starting", "a") == "a"
    task = await waiting
    assert task is not None
    assert (task.key, task.running) == ("a", True)
    with pytest.raises(TimeoutError):
        await host.wait_for("starting", "a", lambda task: task is None, 0.01)


async def test_nodes_are_in_the_order_of_their_names() -> None:
    host = served()
    assert [node.info.name for node in host.nodes()] == ["n1", "n2"]
    assert [one.node.info.name for one in host.candidates()] == ["n1", "n2"]
