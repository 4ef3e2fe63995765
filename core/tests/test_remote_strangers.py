"""Who is not let in to a server, over real sockets, and that nobody else notices."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import struct
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSMsgType
from serving import (
    closed,
    eventually,
    heard,
    hello,
    raw_session,
    serving,
    still_there,
)

from orlop.agent.credentials import Credentials, trusting
from orlop.agent.remote import Unreachable
from orlop.api import runner as running_api
from orlop.api import tls_site
from orlop.model.messages import (
    Refused,
)
from orlop.model.wire import decode_to_agent


@pytest.mark.parametrize("auth", [True, False], ids=["tls", "plain"])
@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b'{"v":2,"type":"hello"}', "the other side speaks version 2 of the session, and this one speaks version 1"),
        (b"rubbish", "a message is not JSON"),
        (b"\x00" * 5000, "a message is not JSON"),
        (b'{"v":1,"type":"welcome","cluster_id":"x","epoch":{"generation":9,"revision":9}}', "not one that an agent"),
        (b'{"v":1,"type":"heartbeat"}', "a session begins with a hello"),
        ("a text", "expected a binary message"),
    ],
)
async def test_what_is_no_session_is_refused_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, auth: bool, sent: bytes | str, why: str
) -> None:
    async with serving(tmp_path, auth=auth) as one:
        other = await one.session("well")
        await one.joined("n1")
        context = Credentials(one.data / "n1").context() if auth else None
        web_socket, http = await raw_session(one, context)
        async with http:
            await (web_socket.send_str(sent) if isinstance(sent, str) else web_socket.send_bytes(sent))
            answer = await web_socket.receive()
            assert answer.type is WSMsgType.BINARY
            refused = decode_to_agent(answer.data)
            assert isinstance(refused, Refused)
            assert why in refused.reason
            assert (await web_socket.receive()).type is WSMsgType.CLOSE
            assert web_socket.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION
        assert why in caplog.text
        await still_there(other, "well")


async def test_a_hello_of_another_node_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        victim = await one.session("victim")
        link = await (await one.joined("thief")).connect()
        link.send(hello("victim"))
        refused = await heard(link, Refused)
        assert "speaks for node thief, and the hello is of node victim" in refused.reason
        await closed(link)
        await still_there(victim, "victim")


async def test_a_hello_of_another_node_later_in_the_session_is_refused_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        link = await one.session("thief")
        link.send(hello("victim"))
        assert "speaks for node thief" in (await heard(link, Refused)).reason
        assert one.server.state().node("victim") is None


async def test_without_a_certificate_there_is_no_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as one, aiohttp.ClientSession() as http:
        for path in ("session", "streams/x"):
            url = one.url / "v1/agents" / path
            async with http.get(url, ssl=trusting(one.authority)) as answer:
                assert answer.status == 403
                assert "certificate" in (await answer.json())["error"]
        async with http.post(one.url / "v1/agents/renew", ssl=trusting(one.authority)) as answer:
            assert answer.status == 403


async def test_a_certificate_of_a_foreign_authority_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "foreign").mkdir()
    async with serving(tmp_path) as one, serving(tmp_path / "foreign") as foreign:
        other = await one.session("well")
        await foreign.joined("n1")
        context = Credentials(foreign.data / "n1").context()
        context.load_verify_locations(cadata=one.authority.decode())
        with contextlib.suppress(aiohttp.ClientError, OSError):  # TLS 1.3 tells a client only when it reads
            web_socket, http = await raw_session(one, context)
            async with http:
                assert (await web_socket.receive()).type is not WSMsgType.BINARY
        await eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text, "it is logged")
        servers = foreign.servers("n1", one.url)
        with pytest.raises(Unreachable, match="not a server of this cluster"):
            await servers._dial_session(one.url)
        await still_there(other, "well")


async def test_plain_http_is_told_that_this_is_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as one:
        other = await one.session("well")
        async with aiohttp.ClientSession() as http, http.get(one.url.with_scheme("http") / "v1/cluster") as answer:
            assert answer.status == 400
            told = await answer.json()
            assert told["error"] == "this port speaks TLS"
            assert told["message"] == "this port speaks TLS: use https://"  # which is what Docker's clients show
        assert "does not speak TLS" in caplog.text
        await still_there(other, "well")


@pytest.mark.parametrize("auth", [True, False], ids=["tls", "plain"])
async def test_a_frame_of_a_gigabyte_is_refused_unread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, auth: bool
) -> None:
    async with serving(tmp_path, auth=auth) as one:
        other = await one.session("well")
        await one.joined("n1")
        context = Credentials(one.data / "n1").context() if auth else None
        reader, writer = await asyncio.open_connection(one.url.host, one.url.port, ssl=context)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        writer.write(
            f"GET /v1/agents/session HTTP/1.1\r\nHost: 127.0.0.1:{one.url.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(struct.pack("!BBQ", 0x82, 0x80 | 127, 2**30) + secrets.token_bytes(4) + b"x" * 100_000)
        with contextlib.suppress(ConnectionError):
            assert await reader.read(2**20), "a close frame"
            await reader.read()
        writer.close()
        assert "exceeds limit" in caplog.text
        await still_there(other, "well")


async def test_strangers_that_send_nothing_are_closed_and_do_not_crowd_out_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_site, "HANDSHAKE_WITHIN_S", 1.0)
    monkeypatch.setattr(tls_site, "UNFINISHED_MAX", 5)
    async with serving(tmp_path) as one:
        strangers = [await asyncio.open_connection(one.url.host, one.url.port) for _ in range(20)]
        await still_there(await one.session("well"), "well")
        for reader, writer in strangers:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        assert "the oldest is dropped" in caplog.text
        assert "has not finished its TLS handshake in time" in caplog.text


async def test_connections_that_do_not_say_who_they_are_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_api, "PROVEN_WITHIN_S", 0.5)
    monkeypatch.setattr(running_api, "UNPROVEN_MAX", 3)
    async with serving(tmp_path) as one:
        session = await one.session("well")
        strangers = [
            await asyncio.open_connection(one.url.host, one.url.port, ssl=trusting(one.authority)) for _ in range(6)
        ]
        for reader, writer in strangers:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        await still_there(session, "well")
