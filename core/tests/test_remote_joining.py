"""Nodes that join over real sockets: tokens, certificates, admission."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

import attrs
import pytest
from serving import (
    serving,
    still_there,
)

from orlop.agent.credentials import Credentials
from orlop.agent.remote import ServerRefused, Unreachable, WrongCluster
from orlop.security import authority as signing
from orlop.security.tokens import Purpose, make_token


async def test_a_node_joins_with_a_token_and_has_a_session(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        link = await one.session("n1")
        node = one.server.state().node("n1")
        assert node is not None
        assert node.schedulable
        files = {file.name: file.stat().st_mode & 0o777 for file in (one.data / "n1").iterdir()}
        assert files == {"key.pem": 0o600, "certificate.pem": 0o600, "authority.pem": 0o600}
        await still_there(link, "n1")


async def test_without_authentication_a_node_of_this_machine_needs_no_token(tmp_path: Path) -> None:
    async with serving(tmp_path, auth=False) as one:
        introduction = await one.servers("n1").introduce()
        assert (introduction.cluster, introduction.authority) == (one.server.state().cluster_id, None)
        await one.session("n1")
        with pytest.raises(WrongCluster, match="not https"):
            await one.servers("n2").join(make_token(Purpose.JOIN, bytes(21), "ab" * 32), "")
        assert not (one.data / "admin.token").exists()


async def test_a_token_is_good_for_one_node_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as one:
        token = await one.token()
        first = one.servers("n1")
        assert await first.join(token, "") == one.server.state().cluster_id
        assert await first.join(token, "") == one.server.state().cluster_id, "a lost answer is given again"
        with pytest.raises(ServerRefused, match="the token was used before") as caught:
            await one.servers("n2").join(token, "")
        assert caught.value.status == 403
        assert "an agent at 127.0.0.1 is refused: the token was used before" in caplog.text
        assert token.secret not in caplog.text


async def test_tokens_that_let_nobody_in(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        good = await one.token()
        wrong = attrs.evolve(good, secret="0" * 25)
        expired = await one.token(lifetime_ms=1)
        revoked = await one.token()
        await one.server.remote.revoke_token(revoked.id, "test")
        await asyncio.to_thread(_wait_until_ms, time.time_ns() // 1_000_000 + 2)
        for token, why in ((wrong, "not known"), (expired, "expired"), (revoked, "revoked")):
            with pytest.raises(ServerRefused, match=why):
                await one.servers("n1").join(token, "")
        other = await one.token(node="n2")
        with pytest.raises(ServerRefused, match="for node n2 only"):
            await one.servers("n1").join(other, "")
        assert await one.servers("n1").join(good, "")


def _wait_until_ms(utc_ms: int) -> None:
    while time.time_ns() // 1_000_000 < utc_ms:
        continue


async def test_two_nodes_that_race_with_one_token(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        token = await one.token()
        results = await asyncio.gather(
            *(one.servers(f"n{number}").join(token, "") for number in range(6)), return_exceptions=True
        )
        assert sum(isinstance(result, str) for result in results) == 1
        assert all(isinstance(result, str | ServerRefused) for result in results)


async def test_a_token_is_not_shown_to_a_server_of_another_authority(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with serving(tmp_path) as one, serving(tmp_path / "other") as other:
        token = await one.token()
        with pytest.raises(WrongCluster, match="another cluster than the token's"):
            await one.servers("n1", other.url).join(token, "")
        assert one.server.remote.tokens()[token.id].uses == 0
        with pytest.raises(WrongCluster, match="this node belongs to cluster elsewhere"):
            await one.servers("n1").join(token, "elsewhere")
        assert one.server.remote.tokens()[token.id].uses == 0


async def test_a_certificate_is_renewed_for_the_same_key_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        servers = await one.joined("n1")
        credentials = Credentials(one.data / "n1")
        before = credentials.certificate()
        await servers.renew()
        after = credentials.certificate()
        assert after != before
        await still_there(await one.session_of(servers, "n1"), "n1")
        (one.data / "n1" / "key.pem").unlink()
        fresh = credentials.key(secrets.token_bytes(signing.KEY_ENTROPY_BYTES))
        assert fresh
        with pytest.raises((ServerRefused, Unreachable)):
            await one.servers("n1").renew()


async def test_an_expelled_node_is_shut_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        servers = await one.joined("n1")
        await one.server.remote.expel("n1", "test")
        with pytest.raises(ServerRefused, match="not admitted"):
            await servers._dial_session(one.url)
        with pytest.raises(ServerRefused, match="not admitted"):
            await servers.renew()


async def test_credentials_that_do_not_fit_together_are_not_kept(tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    credentials = Credentials(tmp_path / "tls")
    key = credentials.key(secrets.token_bytes(48))
    assert credentials.key(secrets.token_bytes(48)) == key
    authority, foreign = (
        signing.make_authority("c", signing.make_key(secrets.token_bytes(48)), secrets.token_bytes(16), now_ms)
        for _ in range(2)
    )
    request = signing.make_request(key, "n1")
    certificate = signing.issue_agent(authority, request, "n1", secrets.token_bytes(16), now_ms)
    other = signing.issue_agent(
        authority,
        signing.make_request(signing.make_key(secrets.token_bytes(48)), "n1"),
        "n1",
        secrets.token_bytes(16),
        now_ms,
    )
    for wrong, of in ((certificate, foreign), (other, authority), (b"rubbish", authority)):
        with pytest.raises(ValueError, match="no certificate of this node's key"):
            credentials.keep(wrong, of.certificate)
    assert credentials.certificate() is None
    credentials.keep(certificate, authority.certificate)
    assert credentials.certificate() == certificate
