"""Events of an engine: those that docker-py reads, and whatever else may come on the line."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from unittest import mock

import docker
import orjson
import pytest
from engines import Engine
from hypothesis import given
from hypothesis import strategies as st

from orlop.agent.runtimes import docker_events
from orlop.agent.runtimes.docker_engine import connect
from orlop.agent.runtimes.docker_errors import EngineLost, EngineRefused, engine_errors
from orlop.agent.runtimes.docker_events import Events

WITHIN_S = 30.0
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
BODY = {"Image": "busybox:latest", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}


@pytest.fixture(params=["unix", "tcp"])
def url(request: pytest.FixtureRequest, engine: Engine) -> str:
    return engine.url if request.param == "unix" else engine.tcp_url


def test_they_are_those_of_docker_py(url: str, client: docker.APIClient) -> None:
    began_s = int(time.time())
    made = [client.create_container_from_config(BODY, f"c{number}")["Id"] for number in range(20)]
    filters = {"container": made, "type": ["container"]}
    until_s = int(time.time()) + 1
    version = client.api_version
    with contextlib.closing(
        Events(url, version, since_s=began_s, until_s=until_s, filters=filters, timeout_s=WITHIN_S)
    ) as mine:
        told = list(mine)
    assert [event["Actor"]["ID"] for event in told] == made
    assert told == list(client.events(since=began_s, until=until_s, filters=filters, decode=True))


def test_they_come_as_they_happen_until_they_are_cut(url: str, client: docker.APIClient) -> None:
    filters = {"type": ["container"], "event": ["create"]}
    with contextlib.closing(
        Events(url, client.api_version, since_s=int(time.time()), filters=filters, timeout_s=WITHIN_S)
    ) as events:
        made = client.create_container_from_config(BODY, "made")["Id"]
        told = iter(events)
        while next(told)["Actor"]["ID"] != made:  # those of this second's other containers
            pass
        threading.Timer(0.1, events.cut).start()
        with pytest.raises(EngineLost, match="closed"):
            list(told)
    events.cut()  # nobody reads any more, which is no fault


def test_a_refusal_is_that_of_docker_py(url: str) -> None:
    with pytest.raises(EngineRefused) as mine:
        Events(url, "9.99", since_s=1, filters={}, timeout_s=WITHIN_S)
    with (
        contextlib.closing(docker.APIClient(url, version="9.99")) as newer,
        pytest.raises(EngineRefused) as theirs,
        engine_errors(),
    ):
        newer.info()  # docker-py looks at no status of events
    assert (str(mine.value), mine.value.status) == (str(theirs.value), theirs.value.status)


def test_an_engine_that_is_gone_is_told(engine: Engine) -> None:
    with contextlib.closing(connect(engine.url, WITHIN_S)) as client:
        version = client.api_version
    with contextlib.closing(
        Events(engine.url, version, since_s=int(time.time()), filters={}, timeout_s=WITHIN_S)
    ) as events:
        engine.stop()
        try:
            with contextlib.suppress(EngineLost):  # one that ends in good order ends its stream as well
                list(events)
            with pytest.raises(EngineLost):
                Events(engine.url, version, since_s=1, filters={}, timeout_s=WITHIN_S)
        finally:
            engine.start()


@contextlib.contextmanager
def answering(said: bytes, receive_bytes: int = 1024, *, ends: bool = True) -> Iterator[None]:
    """An engine that says this, of which so many bytes come at once."""
    ours, theirs = socket.socketpair()
    theirs.sendall(said)
    if ends:
        theirs.shutdown(socket.SHUT_WR)
    with (
        theirs,
        mock.patch.object(docker_events, "_connect", return_value=ours),
        mock.patch.object(docker_events, "RECEIVE_BYTES", receive_bytes),
    ):
        yield
    ours.close()


def events(timeout_s: float = WITHIN_S, pause_s: float = 0) -> Events:
    return Events("unix:///nowhere", "1.41", since_s=1, filters={}, timeout_s=timeout_s, pause_s=pause_s)


def read_into(seen: list[object]) -> None:
    """All events, and what ends them."""
    with contextlib.closing(events()) as mine:
        seen.extend(mine)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@given(st.lists(st.dictionaries(st.text(max_size=9), st.text(max_size=9))), st.data())
def test_they_are_read_in_whatever_pieces_they_come(told: list[dict[str, str]], data: st.DataObject) -> None:
    whole = b"".join(orjson.dumps(event) + b"\n" for event in told)
    cuts = sorted(data.draw(st.lists(st.integers(1, max(1, len(whole) - 1)))))
    pieces = [whole[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(whole)])]
    said = HEAD + b"".join(chunk(piece) for piece in pieces if piece) + END
    with answering(said, data.draw(st.integers(1, 200))), contextlib.closing(events()) as mine:
        assert list(mine) == told


def test_whoever_has_time_reads_them_together_and_is_woken_when_they_are_cut() -> None:
    said = HEAD + chunk(b'{"a":1}\n') + chunk(b'{"a":2}\n')
    with answering(said, ends=False), contextlib.closing(events(pause_s=0.001)) as mine:
        told = iter(mine)
        assert [next(told), next(told)] == [{"a": 1}, {"a": 2}]
    with answering(said, ends=False), contextlib.closing(events(pause_s=10 * WITHIN_S)) as mine:
        mine.cut()
        began_s = time.monotonic()
        with pytest.raises(EngineLost, match="closed"):
            list(mine)
        assert time.monotonic() - began_s < WITHIN_S


@pytest.mark.parametrize(
    ("said", "told", "reason"),
    [
        (HEAD + chunk(b'{"a":1}\n<html>\n') + END, [{"a": 1}], "no JSON"),
        (HEAD + chunk(b'{"a":1}\n{"b"'), [{"a": 1}], "closed the connection"),
        (HEAD + b"nonsense", [], "no HTTP"),
        (HEAD, [], "closed the connection"),
        (HEAD + chunk(b"a" * 300), [], "more than 200 bytes"),
    ],
)
def test_what_is_no_event_ends_them(said: bytes, told: list[object], reason: str) -> None:
    seen: list[object] = []
    with (
        mock.patch.object(docker_events, "LINE_BYTES_MAX", 200),
        answering(said, 20),
        pytest.raises(EngineLost, match=reason),
    ):
        read_into(seen)
    assert seen == told


@pytest.mark.parametrize(("said", "reason"), [(b"", "closed"), (b"nonsense\r\n\r\n", "no HTTP"), (HEAD[:20], "closed")])
def test_what_does_not_answer_is_no_engine(said: bytes, reason: str) -> None:
    with answering(said), pytest.raises(EngineLost, match=reason):
        events()


def test_one_that_ends_with_something_unread_has_closed_the_connection() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(HEAD)
    with mock.patch.object(docker_events, "_connect", return_value=ours), contextlib.closing(events()) as mine:
        theirs.close()  # the request has not been read, so that this is a reset
        with pytest.raises(EngineLost, match="closed the connection"):
            list(mine)


def test_what_never_answers_is_given_up() -> None:
    with answering(HEAD[:20], ends=False), pytest.raises(EngineLost, match="does not answer"):
        events(timeout_s=0.05)


def test_a_refusal_without_an_end_is_read_as_far_as_it_may_go() -> None:
    refused = b"HTTP/1.1 500 No\r\n\r\n" + b"too much " * 100
    with (
        mock.patch.object(docker_events, "LINE_BYTES_MAX", 200),
        answering(refused, 20, ends=False),
        pytest.raises(EngineLost, match="more than 200"),
    ):
        events()
