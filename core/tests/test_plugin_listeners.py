"""Plugins' own listeners: Unix sockets, TLS with client certificates, and who is not let in, over real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from certificates import Certificates
from running import free_port
from serving import serving

from orlop.api.requests import PRINCIPAL
from orlop.hookspecs import ClientCertificates, Routes, hookimpl
from orlop.processes.exposure import CannotStart

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


async def get(url: str, **options: Any) -> tuple[int, str]:
    connector = options.pop("connector", None)
    async with aiohttp.ClientSession(connector=connector, timeout=WITHIN) as http, http.get(url, **options) as answer:
        return answer.status, await answer.text()


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
        status, _ = await get(url, ssl=certificates.client(certificate=True), headers=page)
        assert status == 403


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
        assert (await get(url, ssl=context))[0] == 401
        status, _ = await get(url, ssl=context, headers={"Authorization": f"Bearer {one.admin}"})
        assert status == 200


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        ("0.0.0.0:{port}", "without authentication only loopback addresses"),
        ("unix://relative.sock", "expected an absolute path"),
        ("nothing", 'expected "host:port" or "unix:///path"'),
    ],
)
async def test_it_does_not_start_where_it_would_be_open(tmp_path: Path, listen: str, why: str) -> None:
    with pytest.raises(CannotStart, match=why):
        async with serving(tmp_path, auth=False, plugin=Asked(listen.format(port=free_port()))):
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
