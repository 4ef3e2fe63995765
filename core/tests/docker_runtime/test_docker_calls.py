"""What is called below docker-py does, and refuses, what docker-py itself does and refuses."""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import docker.errors
import orjson
import pytest
from engines import Engine
from hypothesis import given
from hypothesis import strategies as st

from orlop.agent.runtimes import docker_calls
from orlop.agent.runtimes.docker_engine import connect

# docker-py leaves a socket to the garbage collector when an engine goes away under it
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

BODY = {"Image": "busybox:latest", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}


@contextlib.contextmanager
def over_tcp(path: str) -> Iterator[str]:
    """The unix socket's engine, at the address that is given."""

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as engine, selectors.DefaultSelector() as both:
                engine.connect(path)
                both.register(self.request, selectors.EVENT_READ, engine)
                both.register(engine, selectors.EVENT_READ, self.request)
                while True:
                    for key, _ in both.select():
                        data = key.fileobj.recv(65_536)  # type: ignore[union-attr]
                        if not data:
                            return
                        key.data.sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(params=["unix", "tcp"])
def connected(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Any]:
    """A client as the runtime has it."""
    with contextlib.ExitStack() as stack:
        url = (
            engine.url if request.param == "unix" else stack.enter_context(over_tcp(engine.url.removeprefix("unix://")))
        )
        client = stack.enter_context(contextlib.closing(connect(url, 30)))
        client.oldest_api_version = "1.12"
        yield client


def test_a_container_is_made_and_started(connected: Any) -> None:
    made = docker_calls.create(connected, BODY, "mine_yours", "", "1.30")
    docker_calls.start(connected, made["Id"])
    docker_calls.start(connected, made["Id"])  # it runs already, which is no error
    inspected = connected.inspect_container(made["Id"])
    assert (inspected["Name"], inspected["State"]["Status"]) == ("/mine_yours", "running")
    assert docker_calls.inspect(connected, made["Id"]) == inspected


def test_events_are_those_of_docker_py(connected: Any) -> None:
    began_s = int(time.time())
    made = [docker_calls.create(connected, BODY, f"c{number}", "", "")["Id"] for number in range(20)]
    whole = {"since": began_s, "until": int(time.time()) + 1, "filters": {"container": made}}
    mine = list(docker_calls.events(connected.events(**whole)))
    assert [event["Actor"]["ID"] for event in mine] == made
    assert mine == list(connected.events(**whole, decode=True))


@given(st.lists(st.dictionaries(st.text(), st.text())), st.data())
def test_events_are_read_from_pieces_of_any_size(told: list[dict[str, str]], data: st.DataObject) -> None:
    whole = b"".join(orjson.dumps(event) + b"\n" for event in told)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    pieces = [whole[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(whole)])]
    assert list(docker_calls.events(pieces)) == told
    assert list(docker_calls.events([whole.decode()])) == told


def test_what_is_no_event_ends_the_stream() -> None:
    told = docker_calls.events([b'{"Action":"start"}\n<html>\n'])
    assert next(told) == {"Action": "start"}
    with pytest.raises(ConnectionError, match="no JSON"):
        next(told)


def refusal(call: Callable[[], object]) -> tuple[type, int, str]:
    with pytest.raises(docker.errors.APIError) as refused:
        call()
    return refused.type, refused.value.status_code, refused.value.explanation


def test_refusals_are_those_of_docker_py(connected: Any) -> None:
    def both(mine: Callable[[], object], theirs: Callable[[], object]) -> type:
        said = refusal(mine)
        assert said == refusal(theirs)
        return said[0]

    def their_create(body: Any, name: str) -> Any:
        return connected.create_container_from_config(body, name)

    missing = BODY | {"Image": "nosuchimage:1"}
    absent = both(lambda: docker_calls.create(connected, missing, "a", "", ""), lambda: their_create(missing, "a"))
    assert absent is docker.errors.ImageNotFound
    docker_calls.create(connected, BODY, "taken", "", "")
    both(lambda: docker_calls.create(connected, BODY, "taken", "", ""), lambda: their_create(BODY, "taken"))
    both(lambda: docker_calls.create(connected, BODY, "/no/name", "", ""), lambda: their_create(BODY, "/no/name"))
    both(lambda: docker_calls.inspect(connected, "nosuch"), lambda: connected.inspect_container("nosuch"))
    gone = both(lambda: docker_calls.start(connected, "nosuch"), lambda: connected.start("nosuch"))
    assert gone is docker.errors.NotFound
    wrong = BODY | {"Cmd": ["/nosuchprogram"]}
    made = docker_calls.create(connected, wrong, "wrong", "", "")["Id"]
    both(lambda: docker_calls.start(connected, made), lambda: connected.start(made))


def test_an_engine_that_is_gone_is_told(engine: Engine, connected: Any) -> None:
    import urllib3.exceptions

    engine.stop()
    try:
        with pytest.raises((urllib3.exceptions.HTTPError, OSError)):
            docker_calls.create(connected, BODY, "late", "", "")
    finally:
        engine.start()
