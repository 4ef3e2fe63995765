"""What is called without docker-py does, and refuses, what docker-py itself does and refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
import pytest
from engines import Engine

from orlop.agent.runtimes.docker_calls import EngineCalls
from orlop.agent.runtimes.docker_engine import connect
from orlop.agent.runtimes.docker_errors import EngineLost, EngineRefused, engine_errors
from orlop.agent.runtimes.docker_http import EngineHttp

# docker-py leaves a socket to the garbage collector when an engine goes away under it
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

BODY = {"Image": "busybox:latest", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
WITHIN_S = 30


@attrs.frozen
class Address:
    """An engine's, with docker-py's client of it."""

    url: str
    client: Any

    @contextlib.contextmanager
    def calls(self) -> Iterator[EngineCalls]:
        """As the runtime has them."""
        with contextlib.closing(EngineHttp(self.url, WITHIN_S)) as http:
            calls = EngineCalls(http)
            calls.version, calls.oldest = self.client.api_version, "1.12"
            yield calls


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Address]:
    url = engine.url if request.param == "unix" else engine.tcp_url
    with contextlib.closing(connect(url, WITHIN_S)) as client:
        yield Address(url, client)


async def test_a_container_is_made_and_started(address: Address) -> None:
    client = address.client
    with address.calls() as calls:
        made = await calls.create(BODY, "mine_yours", "", "1.30")
        await calls.start(made["Id"])
        await calls.start(made["Id"])  # it runs already, which is no error
        inspected = client.inspect_container(made["Id"])
        assert (inspected["Name"], inspected["State"]["Status"]) == ("/mine_yours", "running")
        assert await calls.inspect(made["Id"]) == inspected
        assert await calls.inspect("mine_yours") == inspected


async def test_a_container_is_connected_and_disconnected(address: Address) -> None:
    client = address.client
    with address.calls() as calls:
        network = client.create_network("a net/work")["Id"]
        made = await calls.create({**BODY, "HostConfig": {}}, "connected", "", "")
        await calls.connect(made["Id"], network, {"Aliases": ["other"]})
        networks = client.inspect_container(made["Id"])["NetworkSettings"]["Networks"]
        assert networks.keys() == {"bridge", "a net/work"}
        await calls.connect(made["Id"], "a net/work", None)
        assert client.inspect_container(made["Id"])["NetworkSettings"]["Networks"].keys() == {"bridge"}
        client.remove_network(network)


async def agreed(mine: Awaitable[object], theirs: Callable[[], object]) -> EngineRefused:
    """The refusal of both."""
    with pytest.raises(EngineRefused) as said:
        await mine
    with pytest.raises(EngineRefused) as expected, engine_errors():
        theirs()
    told, due = said.value, expected.value
    assert (str(told), told.status, told.no_image) == (str(due), due.status, due.no_image)
    return told


async def test_refusals_are_those_of_docker_py(address: Address) -> None:
    client = address.client
    with address.calls() as calls:

        async def refused(body: Any, name: str) -> EngineRefused:
            theirs = client.create_container_from_config
            return await agreed(calls.create(body, name, "", ""), lambda: theirs(body, name))

        assert (await refused(BODY | {"Image": "nosuchimage:1"}, "a")).no_image
        await calls.create(BODY, "taken", "", "")
        assert (await refused(BODY, "taken")).status == 409
        assert (await refused(BODY, "/no/name")).status == 400
        await agreed(calls.inspect("nosuch"), lambda: client.inspect_container("nosuch"))
        assert not (await agreed(calls.start("nosuch"), lambda: client.start("nosuch"))).no_image
        made = (await calls.create(BODY | {"Cmd": ["/nosuchprogram"]}, "wrong", "", ""))["Id"]
        await agreed(calls.start(made), lambda: client.start(made))


class Answering(EngineHttp):
    """Answers all calls in the same way."""

    def __init__(self, status: int, said: bytes) -> None:
        super().__init__("unix:///nowhere", WITHIN_S)
        self._answer = status, said

    async def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        return self._answer


@pytest.mark.parametrize(
    ("status", "said", "text"),
    [
        (500, b'{"message":"no room"}', "no room"),
        (500, b"plain words\n", "plain words"),
        (500, b"[1]", "[1]"),
        (418, b"", "I'm a Teapot"),
        (499, b"", "status 499"),
    ],
)
async def test_a_refusal_is_told_in_whatever_form_it_comes(status: int, said: bytes, text: str) -> None:
    with pytest.raises(EngineRefused) as refused:
        await EngineCalls(Answering(status, said)).start("c")
    assert (str(refused.value), refused.value.status) == (text, status)


async def test_an_engine_that_is_gone_is_told_and_found_again(engine: Engine, address: Address) -> None:
    with address.calls() as calls:
        await calls.create(BODY, "early", "", "")  # over a connection that is kept
        engine.stop()
        try:
            for _ in range(2):
                with pytest.raises(EngineLost):
                    await calls.create(BODY, "late", "", "")
        finally:
            engine.start()
        assert (await calls.inspect("early"))["Name"] == "/early"
