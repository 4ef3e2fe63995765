"""The operator API's event stream, over a stub server."""

import json
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from operator_stub import make_server, problem, read, with_client

from orlop.api.events import KEEP_ALIVE_S, LISTED_EVENTS_MAX
from orlop.kernel.events import DrainNode


async def next_event(response: ClientResponse) -> dict[str, str]:
    """The next event of a stream, as its fields; comments are passed over."""
    fields: dict[str, str] = {}
    while True:
        line = (await response.content.readline()).decode().rstrip("\n")
        if not line and "data" in fields:
            return fields
        if line and not line.startswith((":", "retry:")):
            name, _, value = line.partition(": ")
            fields[name] = value


STREAM = {"Accept": "text/event-stream"}


def test_listed_events_can_be_continued() -> None:
    server = make_server()

    async def work(client: TestClient[Any, Any]) -> None:
        everything = (await read(client, f"/v1/events?limit={LISTED_EVENTS_MAX}"))["events"]
        assert everything[0]["type"] == "node.ready"
        seen: list[Any] = []
        after = "0-0"
        while True:
            page = await read(client, f"/v1/events?after={after}&limit=2&type=task,node.ready")
            if not page["events"]:
                break
            seen += page["events"]
            after = page["next"]
        assert seen == [event for event in everything if event["type"] == "node.ready" or "task." in event["type"]]
        assert (await read(client, "/v1/events?limit=1"))["events"] == everything[-1:]
        assert (await read(client, "/v1/events?after=999999-0"))["gap"] is True
        assert (await problem(client.get("/v1/events?after=soon"), 400))["path"] == "query.after"
        await problem(client.get("/v1/events", headers={**STREAM, "Last-Event-ID": "soon"}), 400)

    with_client(work, server)


def test_a_stream_goes_on_where_another_stopped() -> None:
    server = make_server()

    async def work(client: TestClient[Any, Any]) -> None:
        everything = (await read(client, f"/v1/events?limit={LISTED_EVENTS_MAX}"))["events"]
        async with client.get(f"/v1/events?after={everything[2]['id']}", headers=STREAM) as response:
            assert response.content_type == "text/event-stream"
            received = [await next_event(response) for _ in everything[3:]]
            server.cluster.end_task(server.cluster.running()[0])
            received.append(await next_event(response))
        documents = [json.loads(event["data"]) for event in received]
        assert documents[:-1] == everything[3:]
        assert documents[-1]["type"] == "task.ended"
        last = received[-2]["id"]
        headers = {**STREAM, "Last-Event-ID": last}
        # The header is newer than the address that the client began with.
        async with client.get(f"/v1/events?after={everything[0]['id']}", headers=headers) as response:
            assert await next_event(response) == received[-1]

    with_client(work, server)


def test_a_stream_without_an_id_begins_now_and_can_be_narrowed() -> None:
    server = make_server()

    async def work(client: TestClient[Any, Any]) -> None:
        async with client.get("/v1/events?follow&type=task.ended", headers={}) as response:
            await response.content.readuntil(b": connected\n\n")
            victim = server.cluster.running()[0]
            server.cluster.step(DrainNode(node="n0", drained=True))
            server.cluster.end_task(victim)
            event = json.loads((await next_event(response))["data"])
            assert (event["type"], event["subject"]) == ("task.ended", victim.id)

    with_client(work, server)


@pytest.mark.parametrize("after", ["0-0", "999999-0"])
def test_what_the_log_has_not_is_said(after: str) -> None:
    server = make_server(log_kept=1)

    async def work(client: TestClient[Any, Any]) -> None:
        async with client.get(f"/v1/events?after={after}", headers=STREAM) as response:
            gap = await next_event(response)
            assert gap["event"] == "gap"
            assert json.loads(gap["data"])["after"] == after
            assert "id" not in gap
            server.cluster.step(DrainNode(node="n0", drained=True))
            while json.loads((await next_event(response))["data"])["type"] != "node.drained":
                pass

    with_client(work, server)


def test_a_follower_that_was_too_slow_is_cut_off() -> None:
    server = make_server()

    async def work(client: TestClient[Any, Any]) -> None:
        async with client.get("/v1/events", headers=STREAM) as response:
            await response.content.readuntil(b": connected\n\n")
            for number in range(1_100):
                server.cluster.step(DrainNode(node="n0", drained=number % 2 == 0))
            assert b"data" not in await response.content.read()

    with_client(work, server)


def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEEP_ALIVE_S < 60, "proxies and load balancers give up after a minute"
    monkeypatch.setattr("orlop.api.events.KEEP_ALIVE_S", 0.01)

    async def work(client: TestClient[Any, Any]) -> None:
        async with client.get("/v1/events", headers=STREAM) as response:
            await response.content.readuntil(b": alive\n\n")

    with_client(work, make_server())


def test_streams_are_bounded_and_end_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop.api.streams.STREAMS_MAX", 1)

    async def work(client: TestClient[Any, Any]) -> None:
        response = await client.get("/v1/events", headers=STREAM)
        await response.content.readuntil(b": connected\n\n")
        told = await problem(client.get("/v1/events", headers=STREAM), 503)
        assert "1 streams" in told["error"]

    # Leaving closes the server under the open stream, within the deadline.
    with_client(work, make_server())
