"""Facts that are kept true to a real engine, whatever is done to it by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from docker_driver import launch, opened
from engine_facts import listed_facts
from engines import Engine

from orlop.agent.runtimes import docker_following
from orlop.agent.runtimes.docker import DockerRuntime
from orlop.agent.runtimes.interface import Phase, RuntimeContext
from orlop.model.facts import NodeFacts
from orlop.model.resources import Resources

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

WITHIN_S = 30.0


class Told:
    """What a runtime has told."""

    def __init__(self) -> None:
        self.all: list[NodeFacts] = []
        self._news = asyncio.Event()

    def __call__(self, facts: NodeFacts) -> None:
        self.all.append(facts)
        self._news.set()

    async def until(self, condition: Callable[[NodeFacts], Any]) -> NodeFacts:
        async with asyncio.timeout(WITHIN_S):
            while not (self.all and condition(self.all[-1])):
                self._news.clear()
                await self._news.wait()
        return self.all[-1]


def is_seen(container: str, state: str) -> Callable[[NodeFacts], bool]:
    """Whether the container is told to be in the state."""
    return lambda facts: facts.containers[container].state == state


@asynccontextmanager
async def following(context: RuntimeContext) -> AsyncIterator[Told]:
    """Of a runtime without tasks."""
    runtime, told = DockerRuntime(context), Told()
    runtime.follow_facts(told)
    await runtime.open(lambda _: None)
    try:
        yield told
    finally:
        await runtime.close()


async def _create(client: Any, name: str) -> str:
    host = client.create_host_config(mem_limit="64m", nano_cpus=500_000_000)
    made = await asyncio.to_thread(
        client.create_container, "busybox", ["sleep", "1000"], name=name, labels={"tier": "front"}, host_config=host
    )
    identifier: str = made["Id"]
    return identifier


async def test_the_node_is_not_open_before_its_first_hello_can_tell_of_them(context: RuntimeContext) -> None:
    async with following(context) as told:
        assert told.all, "its containers are known"


async def test_what_is_done_by_hand_is_seen(context: RuntimeContext, client: Any) -> None:
    async with following(context) as told:
        await told.until(lambda facts: facts.images)
        made = await _create(client, "theirs")
        created = await told.until(lambda facts: made in facts.containers)
        assert not created.foreign_use
        for do, state, use in (
            (client.start, "running", Resources(cpus=0.5, mem="64MiB")),
            (client.pause, "paused", Resources(cpus=0.5, mem="64MiB")),
            (client.unpause, "running", Resources(cpus=0.5, mem="64MiB")),
            (client.kill, "exited", Resources()),
        ):
            await asyncio.to_thread(do, made)
            facts = await told.until(is_seen(made, state))
            assert facts.foreign_use == use
        await asyncio.to_thread(client.update_container, made, mem_limit=32 * 2**20)
        await told.until(lambda facts: facts.containers[made].memory_bytes == 32 * 2**20)
        await asyncio.to_thread(client.rename, made, "renamed")
        await told.until(lambda facts: facts.containers[made].names == ("renamed",))
        await asyncio.to_thread(client.remove_container, made)
        await told.until(lambda facts: made not in facts.containers)


async def test_images_that_are_tagged_untagged_and_committed_are_seen(context: RuntimeContext, client: Any) -> None:
    async with following(context) as told:
        await told.until(lambda facts: facts.images)

        def tags(facts: NodeFacts) -> set[str]:
            return {tag for image in facts.images.values() for tag in image.tags}

        made = await _create(client, "theirs")
        await asyncio.to_thread(client.tag, "busybox", "followed", "1")
        await told.until(lambda facts: "followed:1" in tags(facts))
        await asyncio.to_thread(client.commit, made, "committed", "1")
        await told.until(lambda facts: "committed:1" in tags(facts))
        for image in ("followed:1", "committed:1"):
            await asyncio.to_thread(client.remove_image, image)
        facts = await told.until(lambda facts: not {"followed:1", "committed:1"} & tags(facts))
        assert facts == listed_facts(client, "c1")


async def test_tasks_are_no_facts_and_make_no_news(context: RuntimeContext, client: Any) -> None:
    async with following(context) as told, opened(context) as driver:
        await told.until(lambda facts: facts.images)
        task = launch(context)
        await driver.runtime.start(task)
        await driver.phase(task.task, Phase.RUNNING)
        made = await _create(client, "theirs")
        await told.until(lambda facts: made in facts.containers)
        assert len(told.all) == 2
        assert set(told.all[-1].containers) == {made}


async def test_what_happens_while_the_engine_is_away_is_seen_after_it(
    context: RuntimeContext, client: Any, engine: Engine
) -> None:
    async with following(context) as told:
        made = await _create(client, "theirs")
        await asyncio.to_thread(client.start, made)
        await told.until(lambda facts: made in facts.containers and facts.containers[made].state == "running")
        await asyncio.to_thread(engine.kill)
        assert told.all[-1].foreign_use, "its containers may go on"
        await asyncio.to_thread(engine.start)
        await told.until(lambda facts: facts.containers[made].state == "exited")


async def test_what_makes_no_events_is_seen_too(
    context: RuntimeContext, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_following, "LOOK_AGAIN_S", 0.2)
    monkeypatch.setattr(docker_following, "_EVENTS", {"type": ["plugin"]})
    async with following(context) as told:
        await told.until(lambda facts: facts.images)
        made = await _create(client, "theirs")
        await told.until(lambda facts: made in facts.containers)
        await asyncio.to_thread(client.start, made)
        await told.until(lambda facts: facts.foreign_use)
        await asyncio.to_thread(client.remove_container, made, force=True)
        await told.until(lambda facts: not facts.containers)
