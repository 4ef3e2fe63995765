"""Sessions between programs of different versions, over real sockets: the highest that both speak is spoken."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import aiohttp
import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Serving, heard, hello, serving, still_there

from orlop.agent.credentials import Credentials
from orlop.agent.remote import RemoteServers, ServerRefused
from orlop.api import agents as agents_api
from orlop.model import wire
from orlop.model.messages import RENEW, Assignments, Heartbeat, Hello, Refused, RenewCertificate, Welcome
from orlop.model.tasks import Status, TaskState


def same(_: str, members: dict[str, Any]) -> dict[str, Any]:
    return members


NOW = wire.LANGUAGE
#: The next version, which speaks the present one too, and the one after it, which does not any more.
NEXT = wire.Language(steps=(wire.Step(same, same),))
LATER = wire.Language(oldest=2, steps=(wire.Step(same, same),))


async def session(one: Serving, node: str, language: wire.Language) -> tuple[Any, set[int]]:
    """An agent's session in this language, and the versions of the messages that it hears."""
    servers = await one.joined(node)
    made = RemoteServers((one.url,), node, Credentials(one.data / node), language)
    one._opened.append(made)
    await servers.close()
    made._link = link = cast(Any, await made._dial_session(one.url))
    heard_versions: set[int] = set()
    decode = link._decode

    def note(data: bytes) -> Any:
        heard_versions.add(orjson.loads(data)["v"])
        return decode(data)

    link._decode = note
    return link, heard_versions


async def said_by(socket: aiohttp.ClientWebSocketResponse[bool], kind: str) -> dict[str, Any]:
    """The server's next message of this kind."""
    while True:
        message: dict[str, Any] = orjson.loads((await socket.receive()).data)
        if message["type"] == kind:
            return message


@pytest.mark.parametrize(
    ("agents", "servers", "spoken"),
    [
        (NOW, NOW, 1),
        (NOW, NEXT, 1),
        (NEXT, NOW, 1),
        (NEXT, NEXT, 2),
        (NEXT, LATER, 2),
        (LATER, NEXT, 2),
        (LATER, LATER, 3),
    ],
)
async def test_the_highest_version_that_both_know_is_spoken(
    tmp_path: Path, agents: wire.Language, servers: wire.Language, spoken: int
) -> None:
    async with serving(tmp_path) as one:
        one.server.remote.language = servers
        link, versions = await session(one, "n1", agents)
        link.send(hello("n1"))
        await heard(link, Welcome)
        await still_there(link, "n1")
        link.send(Heartbeat())
        await still_there(link, "n1")
        assert versions == {spoken}
        assert one.server.state().node("n1") is not None


@pytest.mark.parametrize(
    ("agents", "servers", "why"),
    [
        (NOW, LATER, "the other side speaks version 1 of the session, and this one speaks version 2 to 3"),
        (LATER, NOW, "the other side speaks version 3 of the session, and this one speaks version 1"),
    ],
    ids=["an older agent", "an older server"],
)
async def test_who_has_no_version_in_common_is_told_so_and_nobody_else_notices(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, agents: wire.Language, servers: wire.Language, why: str
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(tmp_path) as one:
        other = await one.session("well")
        one.server.remote.language = servers
        with pytest.raises(ServerRefused) as caught:
            await session(one, "n1", agents)
        assert why in str(caught.value)
        assert "an agent at 127.0.0.1 is refused: " + why in caplog.text
        assert one.server.state().node("n1") is None
        await still_there(other, "well")


async def test_a_server_that_knows_of_no_versions_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As all are that are out there: they pay no heed to what is offered."""
    monkeypatch.setattr(agents_api, "_spoken", lambda _: (None, wire.Dialect()))
    async with serving(tmp_path) as one:
        link, versions = await session(one, "n1", NEXT)
        link.send(hello("n1"))
        await still_there(link, "n1")
        assert versions == {1}
        with pytest.raises(ServerRefused, match="speaks version 1 of the session, and this one speaks version 2 to 3"):
            await session(one, "n2", LATER)
        await still_there(link, "n1")


async def test_an_agent_that_knows_of_no_versions_speaks_the_first(tmp_path: Path) -> None:
    """As all do that are out there: they offer nothing."""
    async with serving(tmp_path, auth=False) as one:
        one.server.remote.language = NEXT
        async with aiohttp.ClientSession() as http, http.ws_connect(one.url / "v1/agents/session") as socket:
            assert socket.protocol is None
            await socket.send_bytes(wire.encode(hello("n1")))
            answer = await said_by(socket, "welcome")
            assert (answer["v"], answer["cluster_id"]) == (1, one.server.state().cluster_id)


async def test_members_that_are_not_known_are_passed_over_and_kinds_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is new within a version: members for everybody, kinds of messages for those that ask for them."""
    async with serving(tmp_path, auth=False) as one:
        async with aiohttp.ClientSession() as http, http.ws_connect(one.url / "v1/agents/session") as socket:
            said = orjson.loads(wire.encode(hello("n1", understands=("song", RENEW)))) | {"mood": {"deep": [1]}}
            said["node"]["mood"] = "calm"
            await socket.send_bytes(orjson.dumps(said))
            await said_by(socket, "welcome")
            await socket.send_bytes(b'{"v":1,"type":"song","words":[]}')
            answer = await said_by(socket, "refused")
            assert "a message's type is unknown: 'song'" in answer["reason"]
        assert "a message's type is unknown: 'song'" in caplog.text


async def test_a_wish_is_sent_to_those_only_who_understand_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as one:
        modern, plain = await one.joined("modern"), await one.joined("plain")
        links = {}
        for node, servers, understands in (("modern", modern, (RENEW,)), ("plain", plain, ())):
            links[node] = await servers.connect()
            links[node].send(hello(node, understands=understands))
            await heard(links[node], Welcome)
        one.server.remote.tell_renewals()
        assert (await heard(links["modern"], RenewCertificate)).trusted
        links["plain"].send(hello("plain"))
        while not isinstance(message := await links["plain"].receive(), Assignments) or not message.full:
            assert not isinstance(message, RenewCertificate)


# --- steps ---

OLD_WORDS = {"hello": {"node": "ship"}, "heartbeat": {}, "statuses": {"items": "news"}, "welcome": {"epoch": "reign"}}


def renamed(kind: str, members: dict[str, Any], back: bool) -> dict[str, Any]:
    words = OLD_WORDS.get(kind, {})
    names = {new: old for old, new in words.items()} if back else words
    return {names.get(name, name): value for name, value in members.items()}


#: A program for which version 1 had other words, and version 2 the present ones, and 3 nothing new.
CHANGED = wire.Language(
    steps=(
        wire.Step(up=lambda kind, it: renamed(kind, it, True), down=lambda kind, it: renamed(kind, it, False)),
        wire.Step(same, same),
    )
)
STATUS = Status(task="t1", state=TaskState.RUNNING, sequence=3)


def test_a_message_is_in_the_words_of_the_version_that_is_spoken() -> None:
    said = attrs.evolve(hello("n1"), statuses=(STATUS,))
    old = orjson.loads(CHANGED.dialect(1).encode(said))
    assert old.keys() == {"v", "type", "ship", "statuses"}
    assert old["v"] == 1
    for version in (2, 3):
        new = orjson.loads(CHANGED.dialect(version).encode(said))
        assert new["v"] == version
        assert new["node"] == old["ship"]


@given(
    st.sampled_from([1, 2, 3]), st.sampled_from([hello("n1"), Heartbeat(), attrs.evolve(hello("n2"), cluster_id="c")])
)
def test_what_is_said_in_any_version_is_understood(version: int, message: Any) -> None:
    dialect = CHANGED.dialect(version)
    assert dialect.decode_to_server(dialect.encode(message)) == message


def test_a_refusal_is_readable_in_every_version() -> None:
    for version in (1, 2, 3):
        refused = Refused(reason="no")
        assert CHANGED.dialect(version).decode_to_agent(CHANGED.dialect(3).encode(refused)) == refused


def test_another_version_in_the_midst_of_a_session_is_refused() -> None:
    with pytest.raises(wire.WrongVersion, match="speaks version 2 of the session, and this one speaks version 1"):
        CHANGED.dialect(1).decode_to_server(CHANGED.dialect(2).encode(Heartbeat()))


def test_what_a_step_cannot_read_is_refused_like_other_rubbish() -> None:
    def fails(_: str, members: dict[str, Any]) -> dict[str, Any]:
        return {"node": members["nothing"]}

    broken = wire.Language(steps=(wire.Step(up=fails, down=same),)).dialect(1)
    with pytest.raises(wire.WireError, match="a hello message of version 1 cannot be read: KeyError"):
        broken.decode_to_server(b'{"v":1,"type":"hello"}')


@pytest.mark.parametrize(
    ("offered", "picked", "version"),
    [
        ([], None, 1),
        (["", "chat"], None, 1),
        (["orlop.session.9", "orlop.session.2", "orlop.session.1"], "orlop.session.2", 2),
        (["orlop.session.1"], "orlop.session.1", 1),
        (["orlop.session.x", "orlop.session.2"], "orlop.session.2", 2),
    ],
)
def test_a_server_picks_what_both_know(offered: list[str], picked: str | None, version: int) -> None:
    found, dialect = NEXT.pick(offered)
    assert (found, dialect.version) == (picked, version)
    assert NEXT.agreed(found).version == version


def test_todays_agent_offers_nothing_and_the_next_ones_offer_all() -> None:
    assert NOW.offers() == ()
    assert NEXT.offers() == ("orlop.session.2", "orlop.session.1")
    assert LATER.offers() == ("orlop.session.3", "orlop.session.2")
    with pytest.raises(wire.WrongVersion, match=r"version 9 .* version 2 to 3"):
        LATER.pick(["orlop.session.9"])


def test_the_bytes_of_hello_have_nothing_new_for_those_who_say_nothing_new() -> None:
    plain: Hello = hello("n1")
    assert b"understands" not in wire.encode(plain)
