"""The operator API with authentication, and what it is made of: tokens, the authority, certificates."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from serving import (
    asked,
    serving,
)

from orlop.agent.credentials import trusting
from orlop.agent.remote import ServerRefused
from orlop.processes.exposure import CannotStart
from orlop.security import authority as signing
from orlop.security.tokens import parse_token


async def test_the_api_asks_for_a_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as one:
        status, document = await asked(one)
        assert (status, document["error"]) == (401, "this server asks for a token")
        status, document = await asked(one, headers={"Authorization": f"Bearer {one.admin}"})
        assert status == 200
        assert [row["purpose"] for row in document["tokens"]] == ["api"]
        password = base64.b64encode(f"anybody:{one.admin}".encode()).decode()
        assert (await asked(one, headers={"Authorization": f"Basic {password}"}))[0] == 200
        join = await one.token()
        wrong = attrs.evolve(parse_token(one.admin), secret="1" * 25).text
        for value in (f"Bearer {wrong}", f"Bearer {join.text}", "Bearer ", "Basic !", "Basic " + "A" * 4000, "x", "é"):
            assert (await asked(one, headers={"Authorization": value}))[0] == 401, value[:40]
        headers = {"Authorization": f"Bearer {one.admin}", "Origin": "https://evil.example"}
        assert (await asked(one, headers=headers))[0] == 403
        assert (await asked(one, headers=headers | {"Origin": str(one.url)}))[0] == 200
        assert one.admin.rpartition("-")[2] not in caplog.text
        assert "is refused" in caplog.text


async def test_a_load_balancer_needs_no_token_to_ask_whether_a_server_serves(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        assert await asked(one, "health") == (200, {"status": "ok"})
        known = {"Authorization": f"Bearer {one.admin}"}
        assert await asked(one, "health", headers=known) == (200, {"status": "ok", "role": "leader"})
        assert (await asked(one, "health", headers={"Authorization": "Bearer x"}))[0] == 401
        assert (await asked(one, "health", "POST"))[0] == 401
        assert (await asked(one, "metrics"))[0] == 401


async def test_a_revoked_admin_token_is_replaced_at_the_next_start(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        first = one.admin
        await one.server.remote.revoke_token(parse_token(first).id, "test")
        assert (await asked(one, headers={"Authorization": f"Bearer {first}"}))[0] == 401
        from orlop.processes.securing import secure

        await secure(one.server, one.data, [])
        assert one.admin != first
        assert (await asked(one, headers={"Authorization": f"Bearer {one.admin}"}))[0] == 200
        assert (await asked(one, headers={"Authorization": f"Bearer {first}"}))[0] == 401


async def test_the_authority_is_made_once_and_needs_the_cluster_key(tmp_path: Path) -> None:
    from orlop.processes.securing import secure

    async with serving(tmp_path) as one:
        server = one.server
        before, certificate = one.authority, (one.data / "tls" / "server.pem").read_bytes()
        await secure(server, one.data, ["127.0.0.1"])
        assert one.authority == before
        assert (one.data / "tls" / "server.pem").read_bytes() == certificate
        await secure(server, one.data, ["127.0.0.1", "10.9.8.7"])
        assert "10.9.8.7" in signing.names_of((one.data / "tls" / "server.pem").read_bytes())
        key = (one.data / "cluster.key").read_bytes()
        (one.data / "cluster.key").unlink()
        with pytest.raises(CannotStart, match=r"cluster\.key is missing"):
            await secure(server, one.data, [])
        (one.data / "cluster.key").write_text("00" * 32)
        (one.data / "cluster.key").chmod(0o600)
        with pytest.raises(CannotStart, match="another cluster key"):
            await secure(server, one.data, [])
        (one.data / "cluster.key").write_bytes(key)
        (one.data / "cluster.key").chmod(0o644)
        with pytest.raises(CannotStart, match="chmod 600"):
            await secure(server, one.data, [])
        assert b"PRIVATE" not in b"".join(entry.value for entry in one.server._parts.store.range("").entries)


async def test_a_certificate_has_the_advertised_names(tmp_path: Path) -> None:
    async with serving(tmp_path, advertise="orlop.example:5050", names=("10.1.1.1",)) as one:
        names = signing.names_of((one.data / "tls" / "server.pem").read_bytes())
        assert names == {"orlop.example", "10.1.1.1", "127.0.0.1", "::1", "localhost"}


async def test_nobody_takes_the_place_of_the_servers_own_node(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        await one.server.remote.admit_local("local")
        token = await one.token()
        with pytest.raises(ServerRefused, match="another key"):
            await one.servers("local").join(token, "")


async def test_tokens_over_the_api(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        headers = {"Authorization": f"Bearer {one.admin}"}
        async with aiohttp.ClientSession(base_url=one.url, headers=headers) as http:
            context = trusting(one.authority)

            async def call(method: str, path: str, status: int, **options: Any) -> Any:
                async with http.request(method, path, ssl=context, **options) as answer:
                    assert answer.status == status, await answer.text()
                    return await answer.json()

            made = await call("POST", "/v1/tokens", 201, json={"lifetime_s": 60, "uses": 3, "note": "rack 1"})
            token = parse_token(made["token"])
            assert token.authority == signing.fingerprint(one.authority)
            listed = (await call("GET", "/v1/tokens", 200))["tokens"]
            (row,) = [row for row in listed if row["id"] == token.id]
            assert (row["state"], row["uses_max"], row["note"]) == ("good", 3, "rack 1")
            assert "token" not in row
            assert token.secret not in str(listed)
            await one.servers("n1").join(token, "")
            assert (await call("DELETE", f"/v1/tokens/{token.id}", 200))["changed"] is True
            assert (await call("DELETE", f"/v1/tokens/{token.id}", 200))["changed"] is False
            await call("DELETE", "/v1/tokens/nothere0", 404)
            for body in ({"uses": 0}, {"uses": "many"}, {"lifetime_s": -1}, {"lifetime_s": 1.5}, {"colour": "red"}):
                await call("POST", "/v1/tokens", 400, json=body)
            refused = await call("POST", "/v1/tokens", 400, json={"uses": 10**20})
            assert refused["error"].startswith("uses: expected a whole number from 1 to ")
            await one.session_of(one.servers("n1"), "n1")
            assert (await call("DELETE", "/v1/nodes/n1/admission", 200))["changed"] is True
            kinds = [row["type"] for row in (await call("GET", "/v1/events", 200))["events"]]
            assert {"orlop.token.created", "orlop.token.revoked", "orlop.node.joined", "orlop.node.expelled"} <= set(
                kinds
            )
