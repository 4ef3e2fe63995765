"""Plugins' own listeners: Unix sockets, TLS with client certificates, and who is not let in, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from certificates import Certificates
from operator_stub import StubServer, make_server
from ports import free_port
from serving import serving
from yarl import URL

from orlop.api.application import make_application, mount_plugin_routes
from orlop.api.authentication import by_token
from orlop.api.listening import UnixSite
from orlop.api.requests import PRINCIPAL
from orlop.api.runner import OperatorRunner
from orlop.hookspecs import ClientCertificates, Routes, hookimpl
from orlop.processes.exposure import CannotStart
from orlop.security.sealing import CannotUnseal
from orlop.security.vouching import Vouching
from orlop.server.role import Role

WITHIN = aiohttp.ClientTimeout(total=20)


class Asked:
    """A plugin whose only route says who asks."""

    def __init__(self, *listen: str, tls: ClientCertificates | None = None) -> None:
        self._listen = listen
        self._tls = tls

    @hookimpl
    def routes(self, host: Any, settings: Any) -> Sequence[Routes]:
        async def who(request: web.Request) -> web.Response:
            return web.Response(text=f"{request.path} for {PRINCIPAL.get()}")

        application = web.Application()
        application.router.add_get("/{rest:.*}", who)
        return [Routes(prefix="tested", application=application, listen=self._listen, tls=self._tls)]


def by(certificates: Certificates) -> ClientCertificates:
    return ClientCertificates(
        certificate=str(certificates.server_cert),
        key=str(certificates.server_key),
        authority=str(certificates.authority),
    )


async def get(url: str | URL, **options: Any) -> tuple[int, str]:
    connector = options.pop("connector", None)
    async with aiohttp.ClientSession(connector=connector, timeout=WITHIN) as http, http.get(url, **options) as answer:
        return answer.status, await answer.text()


def said(told: str) -> str:
    """The reason, where clients of Marathon and Chronos look."""
    document = json.loads(told)
    assert document["message"] == document["error"]
    return str(document["message"])


@pytest.mark.parametrize("auth", [True, False])
async def test_a_unix_socket_is_its_owners_and_asks_for_nothing(tmp_path: Path, auth: bool) -> None:
    path = tmp_path / "api.sock"
    left_by_the_dead = socket.socket(socket.AF_UNIX)
    left_by_the_dead.bind(str(path))
    left_by_the_dead.close()
    async with serving(tmp_path, auth=auth, plugin=Asked(f"unix://{path}")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        answer = await get("http://docker/x", connector=aiohttp.UnixConnector(str(path)))
        assert answer == (200, f"/x for user {os.getuid()}")
    assert not path.exists()


async def test_what_is_no_dead_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(CannotStart, match="File exists"):
        async with serving(tmp_path, auth=False, plugin=Asked(f"unix://{path}")):
            pass
    assert path.read_text() == "precious"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(CannotStart, match="already in use"):
            async with serving(tmp_path, auth=False, plugin=Asked(f"unix://{path}")):
                pass
    assert path.exists()


@pytest.mark.parametrize("auth", [True, False])
async def test_a_client_certificate_is_let_in_on_any_address(tmp_path: Path, auth: bool) -> None:
    certificates = Certificates(tmp_path / "tls", client="alice")
    port = free_port()
    plugin = Asked(f"0.0.0.0:{port}", tls=by(certificates))
    async with serving(tmp_path, auth=auth, plugin=plugin):
        url = f"https://localhost:{port}/x"
        assert await get(url, ssl=certificates.client(certificate=True)) == (200, "/x for certificate alice")
        page = {"Origin": "https://elsewhere.example"}
        status, told = await get(url, ssl=certificates.client(certificate=True), headers=page)
        assert (status, said(told)) == (403, "the request comes from a page of 'https://elsewhere.example'")


async def test_whoever_has_none_or_one_of_another_authority_is_not(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "tls")
    strangers = Certificates(tmp_path / "others")
    wrong = certificates.client()
    wrong.load_cert_chain(strangers.cert, strangers.key)
    port = free_port()
    async with serving(tmp_path, auth=False, plugin=Asked(f"127.0.0.1:{port}", tls=by(certificates))):
        url = f"https://localhost:{port}/x"
        for context in (certificates.client(), wrong):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await get(url, ssl=context)
        status, told = await get(f"http://localhost:{port}/x")
        assert (status, "speaks TLS" in told) == (400, True)
        assert (await get(url, ssl=certificates.client(certificate=True)))[0] == 200


async def test_a_new_certificate_is_taken_up_and_a_broken_one_is_not(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "tls")
    port = free_port()
    async with serving(tmp_path, auth=False, plugin=Asked(f"127.0.0.1:{port}", tls=by(certificates))):
        url = f"https://localhost:{port}/x"
        former = certificates.client(certificate=True)
        certificates.server_cert.write_text("nothing")
        assert (await get(url, ssl=former))[0] == 200
        renewed = Certificates(tmp_path / "tls")
        assert (await get(url, ssl=renewed.client(certificate=True)))[0] == 200
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await get(url, ssl=former)


async def test_loopback_asks_for_the_apis_token(tmp_path: Path) -> None:
    port = free_port()
    async with serving(tmp_path, plugin=Asked(f"127.0.0.1:{port}")) as one:
        context = ssl.create_default_context(cadata=one.authority.decode())
        url = f"https://127.0.0.1:{port}/x"
        status, told = await get(url, ssl=context)
        assert (status, "token" in said(told)) == (401, True)
        status, _ = await get(url, ssl=context, headers={"Authorization": f"Bearer {one.admin}"})
        assert status == 200


async def test_it_does_not_start_where_it_would_be_open(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="without authentication only loopback addresses"):
        async with serving(tmp_path, auth=False, plugin=Asked(f"0.0.0.0:{free_port()}")):
            pass


async def test_it_does_not_start_without_its_certificates(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "tls")
    certificates.authority.write_text("nothing")
    with pytest.raises(CannotStart, match=r"ca\.pem holds no certificates"):
        async with serving(tmp_path, auth=False, plugin=Asked("0.0.0.0:1", tls=by(certificates))):
            pass


async def test_one_application_may_have_several_listeners(tmp_path: Path) -> None:
    path, port = tmp_path / "api.sock", free_port()
    async with serving(tmp_path, auth=False, plugin=Asked(f"127.0.0.1:{port}", f"unix://{path}")) as one:
        mine = f"user {os.getuid()}"
        found = await asyncio.gather(
            get(f"http://127.0.0.1:{port}/x"),
            get("http://docker/x", connector=aiohttp.UnixConnector(str(path))),
            get(f"http://{one.server.address}/tested/x"),
        )
    assert found == [(200, "/x for operator"), (200, f"/x for {mine}"), (200, "/x for operator")]


@contextlib.asynccontextmanager
async def standby_of(leaders: Vouching, own: Vouching, path: Path) -> AsyncIterator[None]:
    """A leader that asks for tokens, and a standby with a plugin's listener on a Unix socket."""
    host = None
    leader = make_server()
    leads = make_application(leader, by_token(leader.state, lambda: leaders))
    mount_plugin_routes(leads, Asked().routes(host, None))
    async with TestServer(leads) as at:
        standby = Standby(str(at.make_url("/")).rstrip("/"))
        (routes,) = Asked(f"unix://{path}").routes(host, None)
        application = make_application(standby, by_token(standby.state), vouching=lambda: own)
        mount_plugin_routes(application, [routes])
        runner = OperatorRunner(routes.application)
        async with TestServer(application):
            await runner.setup()
            try:
                await UnixSite(runner, path).start()
                yield
            finally:
                await runner.cleanup()


class Standby(StubServer):
    def __init__(self, leader_url: str) -> None:
        super().__init__(make_server().cluster)
        self._role = Role(leads=False, leader_url=leader_url, stale_ms=1)

    def role(self) -> Role:
        return self._role


async def test_a_standby_says_to_the_leader_who_asks(tmp_path: Path) -> None:
    key, path = bytes(32), tmp_path / "api.sock"
    async with standby_of(Vouching(key), Vouching(key), path):
        forged = {"Orlop-Principal": Vouching(bytes([1]) * 32).vouch("root", "GET", "/tested/x?y=%2F")}
        for headers in ({}, forged):
            answer = await get(
                URL("http://docker/x?y=%2F", encoded=True),
                connector=aiohttp.UnixConnector(str(path)),
                headers=headers,
            )
            assert answer == (200, f"/x for user {os.getuid()}")


@pytest.mark.parametrize("own", [Vouching(bytes([1]) * 32), Vouching(bytes(32), lambda: 1)], ids=["other", "old"])
async def test_a_leader_believes_no_stranger_and_nothing_old(tmp_path: Path, own: Vouching) -> None:
    path = tmp_path / "api.sock"
    async with standby_of(Vouching(bytes(32)), own, path):
        status, said = await get("http://docker/x", connector=aiohttp.UnixConnector(str(path)))
        assert (status, "does not believe" in said) == (401, True)


def test_a_word_is_good_for_one_request_only() -> None:
    vouching = Vouching(bytes(32), lambda: 10**9)
    said = vouching.vouch("alice", "GET", "/swarm/a")
    assert vouching.principal(said, "GET", "/swarm/a") == "alice"
    for method, path in (("POST", "/swarm/a"), ("GET", "/swarm/b")):
        with pytest.raises(CannotUnseal):
            vouching.principal(said, method, path)
    with pytest.raises(CannotUnseal):
        vouching.principal("x" * 3_000, "GET", "/swarm/a")
