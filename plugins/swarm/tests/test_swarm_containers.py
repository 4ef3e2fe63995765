"""What is peculiar to a pool: which engine is asked, what is shown of it, and what happens when one goes away."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.client
import os
import pty
import resource
import select
import socket
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import docker
import pytest
import requests
from aiohttp import ClientConnectionResetError, web
from aiohttp.test_utils import make_mocked_request
from direct_engines import Host, Served, served
from engines import Engine
from swarm_side_by_side import THERE
from waiting import wait_until

from orlop.docker_containers import OUTPUT_LABEL
from orlop_swarm.http.application import edge

NANOS = 10**9
#: An engine's number of a stream.
STDOUT = 1


@pytest.fixture
def pool(members: list[Engine], tmp_path: Any) -> Iterator[Served]:
    hosts = [Host(one.name, one.address, one.url.removeprefix("unix://")) for one in members]
    with served(hosts, tmp_path) as api:
        try:
            yield api
        finally:
            for one in members:
                one.clear()


@pytest.fixture
def client(pool: Served) -> Iterator[docker.APIClient]:
    with contextlib.closing(docker.APIClient(base_url=pool.url, version="1.41")) as made:
        yield made


@pytest.fixture
def direct(members: list[Engine]) -> Iterator[dict[str, docker.APIClient]]:
    clients = {one.name: one.client() for one in members}
    yield clients
    for one in clients.values():
        one.close()


def created_on(client: docker.APIClient, node: str, name: str, command: str = "sleep 1000", **options: Any) -> str:
    made = client.create_container("busybox", command, name=f"{node}/{name}", **options)
    assert client.inspect_container(made["Id"])["Node"]["Name"] == node
    identifier: str = made["Id"]
    return identifier


def said(call: Callable[[], Any]) -> tuple[int, str]:
    """Status and text of a refusal."""
    with pytest.raises(docker.errors.APIError) as caught:
        call()
    return caught.value.status_code, caught.value.explanation


def test_every_reference_leads_to_the_engine_that_holds_the_container(client: docker.APIClient) -> None:
    one = created_on(client, "alpha", "one", labels={"com.docker.swarm.id": "ab" * 32})
    two = created_on(client, "beta", "two")
    for reference in (one, one[:12], one[:20], "one", "alpha/one", f"alpha/{one}", "id-alpha/one", "ab" * 32, "ab" * 6):
        assert client.inspect_container(reference)["Id"] == one, reference
    for reference in (two, two[:12], "two", "beta/two"):
        assert client.inspect_container(reference)["Id"] == two, reference
    assert said(lambda: client.inspect_container("beta/one")) == (404, "No such container: beta/one")
    client.start("alpha/one")
    client.stop("ab" * 32, timeout=0)
    client.remove_container("alpha/one")
    assert said(lambda: client.start(one))[0] == 404


def test_a_container_that_went_to_another_engine_behind_the_pools_back_is_found(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    created_on(client, "alpha", "web")
    client.inspect_container("web")
    direct["alpha"].remove_container("web")
    moved = direct["beta"].create_container("busybox", "sleep 1000", name="web")["Id"]
    assert client.inspect_container("web")["Id"] == moved
    client.start("web")
    assert direct["beta"].inspect_container(moved)["State"]["Running"]


def test_a_name_that_two_engines_have_needs_its_node(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    made = {node: one.create_container("busybox", "true", name="twin")["Id"] for node, one in direct.items()}
    assert said(lambda: client.inspect_container("twin")) == (
        400,
        "Container twin is on several nodes: alpha/twin, beta/twin",
    )
    for node, identifier in made.items():
        assert client.inspect_container(f"{node}/twin")["Id"] == identifier
        assert client.inspect_container(identifier)["Id"] == identifier
    status, text = said(lambda: client.create_container("busybox", "true", name="twin"))
    assert status == 409
    assert text.startswith('Conflict. The container name "/twin" is already in use by container "')


def test_a_name_of_another_node_is_not_given_by_a_rename(client: docker.APIClient, pool: Served) -> None:
    one, two = created_on(client, "alpha", "one"), created_on(client, "beta", "two")
    status, text = said(lambda: client.rename("one", "two"))
    assert status == 409
    assert text == (
        f'Error when allocating new name: Conflict. The container name "/two" is already in use by container "{two}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    client.rename("one", "three")
    assert pool.containers.remembered[one].name == "three"
    assert client.inspect_container("three")["Id"] == one
    assert said(lambda: client.inspect_container("one"))[0] == 404


def test_a_removal_is_answered_when_the_kernel_has_let_go(client: docker.APIClient, pool: Served) -> None:
    removed = created_on(client, "alpha", "removed")
    client.remove_container("removed")
    assert pool.containers.released == [removed]
    waited = created_on(client, "beta", "waited", host_config=client.create_host_config(auto_remove=True))
    client.start("waited")
    client.stop("waited", timeout=0)
    with contextlib.suppress(docker.errors.NotFound):
        client.wait("waited", condition="removed")
        assert pool.containers.released == [removed, waited]
    ended = created_on(client, "alpha", "ended", "true")
    assert client.prune_containers()["ContainersDeleted"] == [ended]
    assert ended in pool.containers.released


def test_what_is_kept_of_other_frameworks_is_not_pruned(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    """Nor what they have made and are about to start."""
    make = functools.partial(direct["alpha"].create_container, "busybox", "true")
    kept, shown = make(labels={OUTPUT_LABEL: "kept"})["Id"], make()["Id"]
    other = make(labels={"old": ""})["Id"]
    assert client.prune_containers(filters={"label": ["old"]})["ContainersDeleted"] == [other]
    assert client.prune_containers()["ContainersDeleted"] == [shown]
    assert direct["alpha"].inspect_container(kept)["State"]["Status"] == "created"


def test_the_list_shows_all_nodes_and_can_be_narrowed_to_some(client: docker.APIClient, pool: Served) -> None:
    for number in range(6):
        created_on(client, ("alpha", "beta")[number % 2], f"c{number}")

    def names(**options: Any) -> list[str]:
        return [row["Names"][0] for row in client.containers(all=True, **options)]

    assert names() == ["/c5", "/c4", "/c3", "/c2", "/c1", "/c0"]
    assert names(filters={"node": "alpha"}) == ["/c4", "/c2", "/c0"]
    assert names(filters={"node": "id-beta"}) == ["/c5", "/c3", "/c1"]
    assert names(filters={"node": "b.ta"}) == ["/c5", "/c3", "/c1"]
    assert names(limit=3) == ["/c5", "/c4", "/c3"]
    assert names(filters={"before": "c4"}) == ["/c3", "/c2", "/c1", "/c0"]
    assert names(filters={"since": "c1"}) == ["/c5", "/c4", "/c3", "/c2"]
    assert names(filters={"since": "c1", "before": "c4"}) == ["/c3", "/c2"]


def test_classic_names_are_a_setting(members: list[Engine], tmp_path: Any) -> None:
    hosts = [Host(one.name, one.address, one.url.removeprefix("unix://")) for one in members]
    with (
        served(hosts, tmp_path, names="node") as api,
        contextlib.closing(docker.APIClient(base_url=api.url, version="1.41")) as client,
    ):
        created_on(client, "beta", "web")
        assert [row["Names"] for row in client.containers(all=True)] == [["/beta/web"]]
        client.remove_container("/beta/web")


def test_what_is_shown_of_a_container_tells_where_it_is(client: docker.APIClient, members: list[Engine]) -> None:
    beta = members[1]
    labels = {"orlop.task": "t1", "mine": "yes"}
    ports = client.create_host_config(port_bindings={80: 8080, 81: ("127.0.0.1", 8081)})
    created_on(client, "beta", "web", labels=labels, ports=[80, 81], host_config=ports)
    client.start("web")
    shown = client.inspect_container("web")
    assert shown["Node"]["Name"] == "beta"
    assert shown["Node"]["IP"] == shown["Node"]["Addr"] == beta.address
    assert shown["Node"]["Labels"] == {"engine": "beta"}
    assert shown["Node"]["Cpus"] > 0
    assert shown["Node"]["Memory"] > 2**20
    assert shown["Config"]["Labels"] == {"mine": "yes"}
    assert shown["NetworkSettings"]["Ports"] == {
        "80/tcp": [{"HostIp": beta.address, "HostPort": "8080"}],
        "81/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8081"}],
    }
    (row,) = client.containers()
    assert row["Labels"] == {"mine": "yes"}
    published = {port["PrivatePort"]: port["IP"] for port in row["Ports"]}
    assert published == {80: beta.address, 81: "127.0.0.1"}
    assert len(row["Ports"]) == 2
    assert client.port("web", 80) == [{"HostIp": beta.address, "HostPort": "8080"}]


def test_a_node_that_is_down_is_named(client: docker.APIClient, pool: Served) -> None:
    away = created_on(client, "beta", "away", labels={"tier": "back"})
    created_on(client, "alpha", "here")
    pool.pool.down["beta"] = "no word from it for 40 s"
    text = "which is not available: no word from it for 40 s"
    for call in (client.logs, client.start, client.remove_container, client.exec_create):
        arguments = ("away", "true") if call == client.exec_create else ("away",)
        assert said(functools.partial(call, *arguments)) == (
            503,
            f"Container away is on node beta, {text}",
        )
    assert said(lambda: client.start("nobody"))[0] == 404
    rows = {row["Names"][0]: row for row in client.containers(all=True)}
    assert rows["/away"]["Id"] == away
    assert rows["/away"]["Status"] == "Host Down"
    assert rows["/here"]["Status"] == "Created"
    assert [row["Names"][0] for row in client.containers(all=True, filters={"label": "tier=back"})] == ["/away"]
    assert client.containers() == []
    pool.containers.remembered[away] = attrs.evolve(pool.containers.remembered[away], body={"Cmd": ["sleep", "7"]})
    shown = client.inspect_container("away")
    assert (shown["Id"], shown["Name"], shown["Path"], shown["Node"]["Name"]) == (away, "/away", "sleep", "beta")
    assert shown["State"]["Error"] == "Host Down: no word from it for 40 s"
    with contextlib.closing(docker.DockerClient(pool.url, version="auto")) as whole:
        listed = {one.name: (one.status, one.labels) for one in whole.containers.list(all=True)}
    assert listed["away"] == ("running", {"tier": "back"})
    pool.pool.down.clear()
    assert client.inspect_container("away")["Id"] == away


def test_commands_are_found_by_their_own_ids(client: docker.APIClient, pool: Served) -> None:
    for node in ("alpha", "beta"):
        created_on(client, node, node)
        client.start(node)
    commands = {
        node: client.exec_create(node, "sh -c 'echo from $0; exit 3' " + node)["Id"] for node in ("alpha", "beta")
    }
    pool.owners._execs.clear()  # as on a server that has just begun to lead
    for node, command in commands.items():
        assert client.exec_start(command) == f"from {node}\n".encode()
        assert client.exec_inspect(command)["ExitCode"] == 3
    assert said(lambda: client.exec_inspect("f" * 64))[0] == 404


def test_archives_go_both_ways_and_are_found_where_they_are(client: docker.APIClient) -> None:
    created_on(client, "beta", "files")
    client.start("files")
    client.exec_start(client.exec_create("files", "dd if=/dev/urandom of=/tmp/big bs=1M count=20")["Id"])
    pieces, stat = client.get_archive("files", "/tmp/big")
    archive = b"".join(pieces)
    assert stat["size"] == 20 * 2**20
    assert client.put_archive("files", "/etc", archive)
    sums = client.exec_start(client.exec_create("files", "md5sum /tmp/big /etc/big")["Id"]).split()
    assert sums[0] == sums[2]
    exported = sum(len(piece) for piece in client.export("files"))
    assert exported > 40 * 2**20


def head_of(pool: Served, method: str, path: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", pool.port, timeout=30)
    connection.request(method, path)
    return connection


@pytest.mark.parametrize(
    ("method", "rest"),
    [("GET", "logs?follow=1&stdout=1"), ("POST", "wait"), ("POST", "wait?condition=next-exit"), ("GET", "stats")],
)
def test_heads_come_before_anything_else_does(method: str, rest: str, client: docker.APIClient, pool: Served) -> None:
    created_on(client, "beta", "quiet")
    client.start("quiet")
    connection = head_of(pool, method, f"/containers/quiet/{rest}")
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.getheader("Transfer-Encoding") == "chunked"
    connection.close()


def test_an_engine_that_goes_away_cuts_its_answers_off(
    client: docker.APIClient, pool: Served, members: list[Engine]
) -> None:
    created_on(client, "beta", "talks", "sh -c 'while true; do echo word; sleep 0.1; done'")
    client.start("talks")
    received = b""
    with socket.create_connection(("127.0.0.1", pool.port), timeout=30) as reader:
        reader.sendall(b"GET /containers/talks/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: pool\r\n\r\n")
        while b"word" not in received:
            received += reader.recv(65_536)
        members[1].kill()
        while piece := reader.recv(65_536):
            received += piece
    try:
        assert not received.endswith(b"0\r\n\r\n"), "a stream that was cut off does not end in good order"
        assert said(lambda: client.start("talks"))[0] == 503
        assert [row["Status"] for row in client.containers(all=True)] == ["Host Down"]
    finally:
        members[1].start()


def test_a_client_that_goes_away_ends_its_requests_to_engines(client: docker.APIClient, pool: Served) -> None:
    created_on(client, "beta", "quiet")
    client.start("quiet")
    answers = []
    for rest in ("logs?follow=1&stdout=1", "stats"):
        connection = head_of(pool, "GET", f"/containers/quiet/{rest}")
        answers.append((connection, connection.getresponse()))
    pool.call(pool.pool.forget_idle())
    assert pool.pool.open_connections == 2
    for connection, answer in answers:
        answer.close()
        connection.close()
    wait_until(lambda: pool.pool.open_connections == 0, "the requests to the engines to end")


def test_a_slow_reader_holds_the_engine_back(client: docker.APIClient, pool: Served) -> None:
    created_on(client, "alpha", "other")
    created_on(client, "alpha", "big")
    client.start("big")
    client.exec_start(client.exec_create("big", "dd if=/dev/zero of=/tmp/big bs=1M count=200")["Id"])
    with socket.create_connection(("127.0.0.1", pool.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        slow.sendall(b"GET /containers/big/archive?path=/tmp/big HTTP/1.1\r\nHost: pool\r\n\r\n")
        assert slow.recv(1000).startswith(b"HTTP/1.1 200 OK")
        # Others are served meanwhile, and nothing piles up: far more than all buffers together is still to come.
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(100):
            assert client.inspect_container("other")["State"]["Status"] == "created"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "in KiB"


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1.99/containers/json", 400, "client version 1.99 is too new. Maximum supported API version is 1.41"),
        (
            "/v1.2/containers/json",
            400,
            "client version 1.2 is too old. Minimum supported API version is 1.12",
        ),
        ("/nonsense", 404, "page not found"),
        ("/v1.41/nonsense", 404, "page not found"),
        ("/vx/containers/json", 404, "page not found"),
        ("/containers/json?filters=nonsense", 500, "invalid character"),
        ("/containers/json?filters=[]", 500, "cannot unmarshal"),
    ],
)
def test_refusals_are_an_engines_own(path: str, status: int, message: str, pool: Served, members: list[Engine]) -> None:
    session = requests.Session()
    ours = session.get(f"http://127.0.0.1:{pool.port}{path}")
    theirs = session.get(f"{members[0].tcp_url.replace('tcp', 'http')}{path}")
    assert (ours.status_code, ours.text) == (theirs.status_code, theirs.text)
    assert ours.status_code == status
    assert message in ours.text


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path", ["/v1.41/images/one//two/json?a=1%2f2", "/v1.41//containers/json", "//containers%2F%2fjson", "/x//"]
)
def test_a_path_with_an_empty_part_is_sent_elsewhere_as_by_an_engine(
    method: str, path: str, pool: Served, members: list[Engine]
) -> None:
    def told(port: int, host: str) -> tuple[int, str | None]:
        connection = http.client.HTTPConnection(host, port)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Location")

    ours = told(pool.port, "127.0.0.1")
    assert ours == told(2375, members[0].address)
    assert ours[0] == 301


async def test_a_client_that_goes_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async def gone(_: web.Request) -> web.StreamResponse:
        raise ClientConnectionResetError("Cannot write to closing transport")

    await edge(make_mocked_request("GET", "/containers/web/logs"), gone)
    assert not caplog.records


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/_ping", "/v1.40/_ping", "/containers/json", "/containers/nobody/json", "/nothing"])
def test_heads_are_those_of_an_engine(method: str, path: str, pool: Served, members: list[Engine]) -> None:
    def head(url: str) -> dict[str, str]:
        answer = requests.request(method, f"{url}{path}")
        return {**{name: value for name, value in answer.headers.items() if name != "Date"}, "status": answer.reason}

    assert head(f"http://127.0.0.1:{pool.port}") == head(members[0].tcp_url.replace("tcp", "http"))


def test_what_is_the_pools_own_business_is_not_told_to_engines(client: docker.APIClient, pool: Served) -> None:
    created_on(client, "alpha", "web")
    pool.pool.told.clear()
    headers = {
        "Authorization": "Bearer secret",
        "X-Registry-Auth": "e30=",
        "Orlop-Forwarded": "1",
        "Connection": "X-Hop",
        "X-Hop": "1",
        "X-Meta": "kept",
    }
    requests.post(f"http://127.0.0.1:{pool.port}/containers/web/start", headers=headers)
    told = next(one for one in pool.pool.told if "X-Meta" in one)
    assert told["X-Registry-Auth"] == "e30="
    assert told["X-Meta"] == "kept"
    assert not {"Authorization", "Orlop-Forwarded", "X-Hop", "Connection"} & set(told)


def test_many_at_once_do_not_get_in_each_others_way(client: docker.APIClient, pool: Served) -> None:
    results: list[bytes] = []

    def work(number: int) -> None:
        with contextlib.closing(docker.APIClient(base_url=pool.url, version="1.41")) as own:
            made = own.create_container("busybox", f"echo {number}", name=f"many{number}")["Id"]
            own.start(made)
            own.wait(made)
            results.append(own.logs(made))
            own.remove_container(made)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [f"{number}\n".encode() for number in range(8)]
    assert client.containers(all=True) == []


@pytest.mark.parametrize("cli", THERE)
def test_a_terminal_works_as_on_one_engine(cli: str, pool: Served, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    environment = {**os.environ, "DOCKER_HOST": pool.url, "DOCKER_CONFIG": str(tmp_path), "TERM": "dumb"}
    shell = subprocess.Popen(
        [cli, "run", "--rm", "-it", "--name", "terminal", "busybox", "sh"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = bytearray()

    def shown(text: bytes) -> bool:
        while select.select([ours], [], [], 0)[0]:
            try:
                seen.extend(os.read(ours, 65_536))
            except OSError:
                break
        return text in seen

    def shown_again(command: bytes, text: bytes) -> bool:
        os.write(ours, command)
        return shown(text)

    try:
        wait_until(lambda: shown(b"# "), "the shell's prompt")
        os.write(ours, b"tty; echo $((6 * 7))\n")
        wait_until(lambda: shown(b"42\r\n"), "the shell's answer")
        assert b"/dev/pts/0" in seen
        # The client tells the terminal's size when the command runs already.
        wait_until(lambda: shown_again(b"stty size\n", b"33 77"), "the terminal's size")
        os.write(ours, b"exit 5\n")
        assert shell.wait(30) == 5
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


async def test_a_web_socket_is_attached_to_the_container(
    client: docker.APIClient, pool: Served, members: list[Engine]
) -> None:
    created_on(client, "beta", "echo", "cat", stdin_open=True)
    client.start("echo")
    query = "stream=1&stdin=1&stdout=1"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{pool.port}/containers/echo/attach/ws?{query}") as attached,
    ):
        await attached.send_bytes(b"said\n")
        received = b""
        while b"said" not in received:
            message = await attached.receive(30)
            assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
            received += message.data if isinstance(message.data, bytes) else message.data.encode()
    assert received == b"said\n"


def test_sizes_and_measures(client: docker.APIClient) -> None:
    created_on(client, "beta", "web", tty=True)
    client.start("web")
    client.resize("web", height=20, width=80)
    command = client.exec_create("web", "sleep 100", tty=True)["Id"]
    client.exec_start(command, detach=True, tty=True)
    client.exec_resize(command, height=20, width=80)
    assert client.stats("web", stream=False)["name"] == "/web"
    stream = client.stats("web", stream=True, decode=True)
    assert next(stream)["memory_stats"]["usage"] > 0
    assert client.diff("web") is None
    assert [line[-1] for line in client.top("web")["Processes"]] == ["sleep 1000", "sleep 100"]


def framed(received: bytes) -> Iterator[tuple[int, bytes]]:
    """Output in frames, (stream, bytes): where a program's lines are cut is chance."""
    while received:
        stream, size = struct.unpack("!BxxxL", received[:8])
        yield stream, received[8 : 8 + size]
        assert len(received) >= 8 + size, "the last frame is whole"
        received = received[8 + size :]


def test_the_input_and_output_of_a_command_are_a_connection(client: docker.APIClient) -> None:
    created_on(client, "beta", "web")
    client.start("web")
    command = client.exec_create("web", "sh -c 'wc -c; echo end'", stdin=True)["Id"]
    attached = client.exec_start(command, socket=True)
    connection = attached._sock
    connection.settimeout(30)
    connection.sendall(b"x" * 5_000_000)
    connection.shutdown(socket.SHUT_WR)
    received = b""
    while piece := connection.recv(65_536):
        received += piece
    attached.close()
    connection.close()
    frames = list(framed(received))
    assert {stream for stream, _ in frames} == {STDOUT}
    assert b"".join(data for _, data in frames) == b"5000000\nend\n"
    assert client.exec_inspect(command)["ExitCode"] == 0


def test_a_refused_connection_is_an_ordinary_answer(client: docker.APIClient, pool: Served) -> None:
    created_on(client, "beta", "web")
    command = requests.post(f"http://127.0.0.1:{pool.port}/containers/web/exec", json={"Cmd": ["true"]})
    assert command.status_code == 409
    assert "is not running" in command.json()["message"]
    upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"}
    refused = requests.post(f"http://127.0.0.1:{pool.port}/containers/nobody/attach?stream=1", headers=upgrade)
    assert (refused.status_code, refused.text.strip()) == (404, "No such container: nobody")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{]", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b"", "application/json"),
        (b"{}", "application/json"),
        (b'{"Image": "busybox"}', "text/plain"),
        (b'{"Image": "busybox", "HostConfig": {"Memory": "much"}}', "application/json"),
        (b'{"Image": "busybox", "HostConfig": {"NetworkMode": "nonsense"}}', "application/json; charset=utf-8"),
    ],
)
def test_creations_are_refused_as_an_engine_refuses_them(
    body: bytes, kind: str, client: docker.APIClient, pool: Served, members: list[Engine]
) -> None:
    def answer(url: str) -> tuple[int, str]:
        said = requests.post(f"{url}/containers/create", data=body, headers={"Content-Type": kind})
        return said.status_code, "" if said.status_code == 201 else said.text

    ours = answer(f"http://127.0.0.1:{pool.port}")
    assert {row["Id"] for row in client.containers(all=True)} == set(pool.containers.remembered)
    assert ours == answer(members[0].tcp_url.replace("tcp", "http"))


def test_what_is_out_of_reach_can_be_given_up_by_force(client: docker.APIClient, pool: Served) -> None:
    created_on(client, "beta", "away")
    pool.pool.down["beta"] = "no word from it for 40 s"
    assert said(lambda: client.remove_container("away"))[0] == 503
    client.remove_container("away", force=True)
    assert client.containers(all=True) == []
    assert said(lambda: client.remove_container("away", force=True))[0] == 404


def test_what_is_kept_for_its_output_has_been_removed(client: docker.APIClient, members: list[Engine]) -> None:
    """An agent keeps the containers of ended tasks for a while, under names that say so."""
    kept = "orlop.ended.1764000000.abc.1"
    with contextlib.closing(members[0].client()) as direct:
        direct.create_container("busybox", "true", name=kept)
    created_on(client, "alpha", "here")
    assert [row["Names"] for row in client.containers(all=True)] == [["/here"]]
    assert said(lambda: client.inspect_container(kept))[0] == 404
    assert [client.info()[f"Containers{state}"] for state in ("", "Running", "Stopped")] == [1, 0, 1]
    assert [one["Names"] for one in client.df()["Containers"]] == [["/here"]]
