"""Clients that send rubbish, half of something, too much or nothing: answered with 4xx or cut off, nothing changed."""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import socket
import urllib.parse
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import RunningOrlop, process_app, wait_until

pytestmark = pytest.mark.real

ANSWER_WITHIN_S = 30.0
HOST = b"Host: 127.0.0.1\r\n"
LISTENERS = ("address", "marathon_address")


@pytest.fixture(scope="module")
def orlop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(tmp_path_factory.mktemp("hostile"))
    try:
        cluster.start()
        cluster.put(process_app("/web", 2))
        cluster.wait_deployed()
        yield cluster
    finally:
        cluster.close()


def everything(orlop: RunningOrlop) -> Any:
    """All that a request might change."""
    nodes = [(node["id"], node["drained"]) for node in orlop.get(f"{orlop.url}/v1/nodes")["nodes"]]
    tasks = [(task["id"], task["desired"]) for task in orlop.get(f"{orlop.url}/v1/tasks")["tasks"]]
    apps = [(app["id"], app["version"]) for app in orlop.call("GET", "/v2/apps")["apps"]]
    return nodes, sorted(tasks), apps, orlop.call("GET", "/v2/deployments")


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), ANSWER_WITHIN_S)


def exchange(address: str, sent: bytes, *, breaks_off: bool = False) -> bytes:
    """What comes back to these bytes until the server closes; empty when it does so at once."""
    received = bytearray()
    with connect(address) as connection, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(sent)
        if breaks_off:
            connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65_536):
            received += part
    return bytes(received)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


# The operator API

OPERATIONS = [
    ("GET", "cluster"), ("GET", "frameworks"), ("GET", "roles"), ("GET", "nodes"), ("GET", "nodes/{id}"),
    ("GET", "tasks"), ("GET", "tasks/{id}"), ("GET", "tasks/{id}/logs"), ("GET", "asks"), ("GET", "explain/{id}"),
    ("GET", "events"), ("GET", "plugins"), ("DELETE", "tasks/{id}"), ("POST", "nodes/{id}/drain"),
    ("POST", "nodes/{id}/undrain"), ("DELETE", "nodes/{id}"),
]  # fmt: skip
WITH_BODY = [operation for operation in OPERATIONS if operation[0] == "POST"]

identifiers = st.one_of(
    st.sampled_from(["..", ".", "%", "%00", "%ff", "a%2fb", "a b", "'; --", "*", "null", "-1", "\u202e", "x" * 5_000]),
    st.text(max_size=30).map(lambda text: f"~{text}"),  # which no id begins with
)
queries = st.dictionaries(
    st.sampled_from(["limit", "state", "node", "group", "after", "type", "subject", "tail", "stream", "colour", ""]),
    st.one_of(st.text(max_size=20), st.integers().map(str), st.just("9" * 400)),
    max_size=3,
)
bodies = st.one_of(
    st.binary(max_size=100),
    st.sampled_from([b"{", b"[]", b"null", b'{"reason": 5}', b'{"reason": "' + b"x" * 2_000 + b'"}', b"[" * 50_000]),
    st.dictionaries(st.text(max_size=5), st.integers() | st.none(), min_size=1).map(lambda it: json.dumps(it).encode()),
)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_rubbish_to_the_operator_api_is_refused_with_the_path(orlop: RunningOrlop, method: str, path: str) -> None:
    before = everything(orlop)

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(identifiers, queries, bodies)
    def is_refused(identifier: str, query: dict[str, str], body: bytes) -> None:
        quoted = urllib.parse.quote(identifier, safe="")
        target = f"/v1/{path.replace('{id}', quoted)}?{urllib.parse.urlencode(query)}"
        connection = http.client.HTTPConnection(orlop.address, timeout=ANSWER_WITHIN_S)
        try:
            connection.request(method, target, body if method != "GET" else None)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status < 500, content
        if answer.status >= 400:
            assert json.loads(content)["error"]
        else:
            assert method == "GET", "no such thing can be done to anything"

    is_refused()
    assert everything(orlop) == before


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "body"),
        (b"\xff\xfe\x00", "body"),
        (b"[1]", "body"),
        (b'{"reason": 5}', "body.reason"),
        (b'{"colour": "red"}', "body.colour"),
        (b'{"reason": "' + b"x" * 1_001 + b'"}', "body.reason"),
    ],
)
def test_bodies_of_the_operator_api_are_read_strictly(
    orlop: RunningOrlop, method: str, path: str, body: bytes, named: str
) -> None:
    known = orlop.get(f"{orlop.url}/v1/nodes")["nodes"][0]["id"]
    before = everything(orlop)
    head = f"{method} /v1/{path.replace('{id}', known)} HTTP/1.1\r\nContent-Length: {len(body)}\r\n"
    answer = exchange(orlop.address, head.encode() + HOST + b"Connection: close\r\n\r\n" + body)
    assert status_of(answer) == 400
    assert body_of(answer)["path"] == named
    assert everything(orlop) == before


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_unknown_keys_of_the_operator_api_are_errors(orlop: RunningOrlop, method: str, path: str) -> None:
    target = f"/v1/{path.replace('{id}', 'x')}?colour=red"
    answer = exchange(orlop.address, f"{method} {target} HTTP/1.1\r\n".encode() + HOST + b"Connection: close\r\n\r\n")
    assert status_of(answer) == 400
    assert body_of(answer)["path"] == "query.colour"


# Raw sockets

MANY_HEADERS = b"".join(b"X-%d: y\r\n" % number for number in range(5_000))
HARDLY_HTTP = {
    "zeros": b"\x00" * 4_000,
    "random bytes": bytes(range(256)) * 20,
    "a TLS greeting": bytes.fromhex("160301020001000001fc0303") + bytes(200),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown version": b"GET / HTTP/9.9\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a huge header": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + HOST + MANY_HEADERS + b"\r\n",
    "a huge path": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a negative length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -5\r\n\r\n{}",
    "two lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    "an absurd length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n{}",
    "a length that is none": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: ten\r\n\r\n{}",
    "a length and chunks": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a space in a header's name": b"GET / HTTP/1.1\r\n" + HOST + b"A b: c\r\n\r\n",
    "a line break in a header": b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\nd\r\n\r\n",
}


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("sent", HARDLY_HTTP.values(), ids=HARDLY_HTTP.keys())
def test_what_is_hardly_http_gets_a_4xx(orlop: RunningOrlop, listener: str, sent: bytes) -> None:
    before = everything(orlop)
    answer = exchange(getattr(orlop, listener), sent)
    if answer:
        assert 400 <= status_of(answer) < 500, answer[:500]
        assert answer.isascii()
    assert everything(orlop) == before


def bodies_that_break_off(path: bytes, method: bytes = b"POST") -> dict[str, bytes]:
    start = method + b" " + path + b" HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    document = json.dumps(process_app("/half", 1)).encode()
    packed = zlib.compress(document)
    chunked = start + b"Transfer-Encoding: chunked\r\n\r\n"
    return {
        "half a body": start + b"Content-Length: 5000\r\n\r\n" + document,
        "a chunk's half": chunked + b"%x\r\n" % (len(document) + 1) + document,
        "no last chunk": chunked + b"%x\r\n" % len(document) + document + b"\r\n",
        "a chunk without a size": chunked + b"zz\r\n" + document + b"\r\n0\r\n\r\n",
        "not gzip": start + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(document) + document,
        "half of what was packed": (
            start + b"Content-Encoding: deflate\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed[:-10] + bytes(10)
        ),
    }


BREAKING_OFF = {
    **{f"Marathon: {name}": ("marathon_address", sent) for name, sent in bodies_that_break_off(b"/v2/apps").items()},
    **{f"orlop: {name}": ("address", sent) for name, sent in bodies_that_break_off(b"/v1/nodes/NODE/drain").items()},
}


@pytest.mark.parametrize(("listener", "sent"), BREAKING_OFF.values(), ids=BREAKING_OFF.keys())
def test_a_body_that_breaks_off_changes_nothing(orlop: RunningOrlop, listener: str, sent: bytes) -> None:
    node = orlop.get(f"{orlop.url}/v1/nodes")["nodes"][0]["id"].encode()
    before = everything(orlop)
    answer = exchange(getattr(orlop, listener), sent.replace(b"NODE", node), breaks_off=True)
    if answer:
        assert 400 <= status_of(answer) < 500, answer[:500]
    assert everything(orlop) == before


def test_a_small_body_that_unpacks_to_much_is_refused(orlop: RunningOrlop) -> None:
    packer = zlib.compressobj(9)
    zeros = bytes(1_000_000)
    packed = b"".join(packer.compress(zeros) for _ in range(300)) + packer.flush()
    assert len(packed) < 1_000_000
    node = orlop.get(f"{orlop.url}/v1/nodes")["nodes"][0]["id"]
    for listener, path in (("address", f"/v1/nodes/{node}/drain"), ("marathon_address", "/v2/apps")):
        head = f"POST {path} HTTP/1.1\r\nContent-Encoding: deflate\r\nContent-Length: {len(packed)}\r\n".encode()
        answer = exchange(getattr(orlop, listener), head + HOST + b"Connection: close\r\n\r\n" + packed)
        assert status_of(answer) == 413, answer[:500]
    assert peak_mib(orlop) < 200


def peak_mib(orlop: RunningOrlop) -> float:
    """Orlop's memory at its highest."""
    assert orlop.process is not None
    with open(f"/proc/{orlop.process.pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


def test_nothing_of_that_was_a_bug(orlop: RunningOrlop) -> None:
    """Runs after the tests above: the server's log has no traceback."""
    assert "Traceback" not in orlop.log.read_text()
    assert orlop.get(f"{orlop.url}/health")["status"] == "ok"


def test_clients_that_hold_connections_leave_room_for_work(orlop: RunningOrlop) -> None:
    """So few files that the flood would take all of them, were connections not bounded."""
    assert orlop.process is not None
    files, before = 768, resource.prlimit(orlop.process.pid, resource.RLIMIT_NOFILE)
    patient = http.client.HTTPConnection(orlop.marathon_address, timeout=ANSWER_WITHIN_S)
    patient.request("GET", "/ping")
    patient.getresponse().read()
    resource.prlimit(orlop.process.pid, resource.RLIMIT_NOFILE, (files, before[1]))
    held: list[socket.socket] = []
    try:
        for number in range(files):
            connection = connect(getattr(orlop, LISTENERS[number % 2]))
            held.append(connection)
            with contextlib.suppress(ConnectionError):
                connection.sendall(
                    b"POST /v2/apps HTTP/1.1\r\n" + HOST + (b"" if number % 3 else b"Content-Length: 9\r\n")
                )
        ended: dict[socket.socket, bytes] = {}

        def most_are_refused() -> bool:
            ended.update({one: said for one in held if one not in ended and (said := end_of(one)) is not None})
            return len(ended) > files // 2

        wait_until(most_are_refused, "beyond a third of the files, connections are refused")
        assert {status_of(said) for said in ended.values() if said} == {503}
        patient.request("PUT", "/v2/apps/web?force=true", json.dumps(process_app("/web", 4)))
        answer = patient.getresponse()
        assert answer.status == 200, answer.read()
        wait_until(lambda: len(orlop.task_processes()) >= 4, "new tasks start")
    finally:
        for one in held:
            one.close()
        resource.prlimit(orlop.process.pid, resource.RLIMIT_NOFILE, before)
        patient.close()
    wait_until(lambda: is_well(orlop), "others are served again")
    orlop.wait_deployed()
    assert orlop.app("/web")["tasksRunning"] == 4


def is_well(orlop: RunningOrlop) -> bool:
    try:
        return bool(orlop.get(f"{orlop.url}/health")["status"] == "ok")
    except OSError:
        return False


def end_of(connection: socket.socket) -> bytes | None:
    """What the server has said at the end of a connection, if that has come to one, and if it has arrived."""
    connection.setblocking(False)
    try:
        return connection.recv(65_536)
    except BlockingIOError:
        return None
    except ConnectionError:
        return b""
