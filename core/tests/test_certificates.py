"""Certificates that end, and authorities that change, over real sockets: sessions go on, and nobody needs a token."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from serving import Agent, Serving, eventually, hello, serving, still_there

from orlop.agent import renewal
from orlop.agent.credentials import Credentials, trusting
from orlop.agent.remote import RemoteServers, Unreachable, WrongCluster
from orlop.agent.renewal import Renewal
from orlop.agent.session import LinkClosed
from orlop.model.messages import RENEW, Assignments, RenewCertificate
from orlop.processes import securing
from orlop.processes.agent import _join_again
from orlop.security import authority as signing
from orlop.server.session_table import SUPERSEDED
from orlop.store.memory import MemoryStore

LIFETIME_S = 4


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at every ten minutes is looked at often."""
    monkeypatch.setattr(renewal, "CHECK_S", 0.2)
    monkeypatch.setattr(renewal, "AGAIN_S", 0.2)
    monkeypatch.setattr(securing, "KEEP_CHECK_S", 0.05)
    monkeypatch.setattr(securing, "RENEW_CHECK_S", 0.2)


class Member:
    """What an agent does about its session and its certificate, without tasks."""

    def __init__(
        self, one: Serving, node: str, servers: RemoteServers, link: Agent, understands: tuple[str, ...]
    ) -> None:
        self.node = node
        self.understands = understands
        self.servers = servers
        self.link = link
        self.credentials = Credentials(one.data / node)
        self.asked = 0
        self.superseded = False
        self.answered = asyncio.Event()
        self.renewal = Renewal(self.credentials, servers.renew)

    async def serve(self) -> None:
        """For as long as its one session, which ends when a test begins another one for the node."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.renewal.run())
            while True:
                try:
                    message = await self.link.receive()
                except LinkClosed as error:
                    self.superseded = str(error) == SUPERSEDED
                    raise
                if isinstance(message, RenewCertificate):
                    self.asked += 1
                    self.renewal.ask(message)
                if isinstance(message, Assignments):
                    self.answered.set()

    async def works(self) -> None:
        """Its session, which is the one that it began with, is answered."""
        self.answered.clear()
        self.link.send(hello(self.node, understands=self.understands))
        await self.answered.wait()

    @property
    def trusts(self) -> set[str]:
        return set(signing.fingerprints(self.credentials.authority() or b""))

    @property
    def issuer(self) -> str | None:
        return signing.issuer_among(self.credentials.certificate() or b"", self.credentials.authority() or b"")


@asynccontextmanager
async def member(one: Serving, node: str, understands: tuple[str, ...] = (RENEW,)) -> AsyncIterator[Member]:
    """A node with a session."""
    servers = await one.joined(node)
    link = await servers.connect()
    link.send(hello(node, understands=understands))
    made = Member(one, node, servers, link, understands)
    serves = asyncio.create_task(made.serve())
    try:
        await asyncio.wait_for(made.answered.wait(), 10)
        yield made
        assert made.superseded or not serves.done(), serves.exception()
    finally:
        serves.cancel()
        await asyncio.gather(serves, return_exceptions=True)


def fingerprints(one: Serving) -> list[str]:
    """Of the authorities that the server hands out."""
    return list(signing.fingerprints(one.authority))


async def rotate(one: Serving, *, after_s: int = 0, within_s: int = 3600, keep_s: int = 3600) -> None:
    await one.server.remote.rotate(after_ms=after_s * 1000, within_ms=within_s * 1000, keep_ms=keep_s * 1000, by="test")


def waited_for(one: Serving) -> list[str]:
    """The nodes that the rotation under way waits for."""
    under_way = one.server.remote.rotation()
    assert under_way is not None
    return under_way[1]


async def answers(one: Serving, authority: bytes) -> bool:
    """Is the server one for a client that trusts this authority?"""
    async with aiohttp.ClientSession() as http:
        try:
            async with http.get(one.url / "health", ssl=trusting(authority)) as answer:
                return answer.status < 500
        except aiohttp.ClientConnectorCertificateError:
            return False


async def test_certificates_are_renewed_before_they_end_without_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "CERTIFICATE_DAYS", LIFETIME_S / 86_400)
    async with serving(tmp_path, keep=True) as one, member(one, "n1") as steady:
        idle = await one.joined("idle")  # nobody renews its certificate
        first = [Credentials(one.data / node).certificate() or b"" for node in ("n1", "idle")]
        ends_ms = max(map(signing.expires_at, first))
        await eventually(lambda: time.time() * 1000 > ends_ms + 1000, "the first certificates have ended")
        assert signing.expires_at(steady.credentials.certificate() or b"") > ends_ms
        await steady.works()
        await still_there(await one.session_of(one.servers("n1"), "n1"), "n1")
        with pytest.raises(Unreachable):
            await (await idle._dial_session(one.url)).receive()
        used = [token.uses for token in one.server.remote.tokens().values() if token.uses]
        assert used == [1, 1], "one token each, at the beginning"


async def test_another_authority_takes_over_while_sessions_go_on(tmp_path: Path) -> None:
    async with serving(tmp_path, keep=True) as one, member(one, "n1") as first, member(one, "n2") as second:
        former = one.authority
        (old,) = fingerprints(one)
        before = await one.token()
        await rotate(one)
        await eventually(lambda: len(fingerprints(one)) == 2, "the server trusts both")
        (new,) = set(fingerprints(one)) - {old}
        await eventually(lambda: fingerprints(one)[0] == new, "its certificate is of the new one")
        for each in (first, second):
            assert each.issuer == new
            assert each.trusts == {old, new}
            await each.works()
        assert not await answers(one, former)
        assert await answers(one, one.authority)
        with pytest.raises(WrongCluster, match="a new authority since the token was made"):
            await one.servers("late").join(before, "")
        await one.server.remote.hurry_rotation("test")
        await eventually(lambda: fingerprints(one) == [new], "the old one is dropped")
        await eventually(lambda: first.trusts == second.trusts == {new}, "by the nodes too")
        for each in (first, second):
            await each.works()
            await still_there(await one.session_of(one.servers(each.node), each.node), each.node)
        await still_there(await one.session("late"), "late")
        assert one.server.remote.rotation() is None
        kinds = [entry.type for _, _, entry in (await one.server.log_entries(after=None, limit=1000))[0]]
        assert [kind for kind in kinds if ".authority." in kind][-4:] == [
            "orlop.authority.spreading",
            "orlop.authority.changed",
            "orlop.authority.hurried",
            "orlop.authority.dropped",
        ]


async def test_certificates_of_the_former_authority_are_refused_when_it_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path, keep=True) as one, member(one, "n1") as steady:
        await one.joined("thief")
        stolen = Credentials(one.data / "thief").context()
        await rotate(one)
        await one.server.remote.hurry_rotation("test")
        await eventually(lambda: len(fingerprints(one)) == 2, "the server has the new one")
        await one.server.remote.hurry_rotation("test")
        await eventually(lambda: len(fingerprints(one)) == 1, "and that alone")
        stolen.load_verify_locations(cadata=one.authority.decode())
        async with aiohttp.ClientSession() as http:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with http.post(one.url / "v1/agents/confirm", ssl=stolen) as answer:
                    assert answer.status == 403
        await eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text, "it is logged")
        await steady.works()


async def test_a_node_that_was_away_needs_a_token_and_keeps_its_place(tmp_path: Path) -> None:
    async with serving(tmp_path, keep=True) as one, member(one, "n1") as steady:
        cluster = one.server.state().cluster_id
        away = await one.joined("away")
        credentials = Credentials(one.data / "away")
        await rotate(one)
        await eventually(lambda: waited_for(one) == ["away"], "n1 is ready")
        assert await answers(one, credentials.authority() or b""), "it is waited for"
        await one.server.remote.hurry_rotation("test")
        await eventually(lambda: fingerprints(one)[0] == steady.issuer, "servers have changed")
        with pytest.raises(Unreachable, match="not a server of this cluster"):
            await away._dial_session(one.url)
        await _join_again(away, credentials, cluster, "rubbish")
        await _join_again(away, credentials, cluster, (await one.token()).text)
        assert credentials.certificate() is not None
        await still_there(await one.session_of(away, "away"), "away")
        token = await one.token()
        await _join_again(away, credentials, cluster, token.text)
        assert one.server.remote.tokens()[token.id].uses == 0, "it is not used where none is needed"
        await steady.works()


async def test_an_agent_that_does_not_know_the_wish_is_waited_for_and_renews_in_its_own_time(tmp_path: Path) -> None:
    async with serving(tmp_path, keep=True) as one, member(one, "old", understands=()) as old, member(one, "n1"):
        await rotate(one)
        await eventually(lambda: waited_for(one) == ["old"], "the other one is ready")
        await old.works()
        assert old.asked == 0
        await old.servers.renew()
        await eventually(lambda: fingerprints(one)[0] == old.issuer, "servers have changed")
        await old.works()


async def test_a_standby_changes_with_the_leader_and_takes_over(tmp_path: Path) -> None:
    store = MemoryStore()
    store.exclusive = False  # two servers share it, as they would an etcd
    async with contextlib.AsyncExitStack() as stack:
        first_life = await stack.enter_async_context(contextlib.AsyncExitStack())
        first = await first_life.enter_async_context(serving(tmp_path / "first", store=store, keep=True))
        await eventually(lambda: first.server.role().leads, "the first server leads")
        folder = tmp_path / "second" / "server"
        folder.mkdir(parents=True)
        (folder / "cluster.key").write_bytes((first.data / "cluster.key").read_bytes())
        (folder / "cluster.key").chmod(0o600)
        second = await stack.enter_async_context(serving(tmp_path / "second", store=store, keep=True))
        assert not second.server.role().leads
        async with member(first, "n1") as steady:
            (old,) = fingerprints(first)
            await rotate(first)
            await eventually(lambda: fingerprints(first)[0] != old, "the leader has changed")
            assert steady.issuer == fingerprints(first)[0]
            await eventually(lambda: first.authority == second.authority, "the standby too")
            await first.server.remote.hurry_rotation("test")
            await eventually(lambda: len(fingerprints(first)) == len(fingerprints(second)) == 1, "both dropped it")
            assert await answers(second, first.authority)
            await eventually(lambda: steady.trusts == set(fingerprints(first)), "so has the node")
            await steady.works()
            credentials = steady.credentials
        await first_life.aclose()
        await eventually(lambda: second.server.role().leads, "the second server leads")
        servers = RemoteServers((second.url,), "n1", credentials)
        try:
            await still_there(await second.session_of(servers, "n1"), "n1")
        finally:
            await servers.close()


async def test_what_the_cluster_wishes_is_tried_until_it_is_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        servers = await one.joined("n1")
        tried = 0

        async def renew() -> None:
            nonlocal tried
            tried += 1
            if tried < 3:
                raise Unreachable("no server")
            await servers.renew()

        credentials = Credentials(one.data / "n1")
        made = Renewal(credentials, renew)
        running = asyncio.create_task(made.run())
        try:
            trusted = tuple(fingerprints(one))
            made.ask(RenewCertificate(issuer=trusted[0], trusted=trusted))
            await asyncio.sleep(0)
            assert tried == 0, "it is so already"
            made.ask(RenewCertificate(issuer="another", trusted=trusted))
            await eventually(lambda: tried >= 3, "it is tried again")
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError, LinkClosed):
                await running
