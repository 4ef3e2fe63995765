"""Notices: who is told what, and that a notice is kept until it has been delivered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiosmtpd.controller import Controller
from certificates import Certificates
from chronos_cluster import ChronosCluster
from ports import free_port

from orlop_chronos import delivery, documents, notices, orders
from orlop_chronos.settings import Config

HOOK = "http://127.0.0.1:1/hook"


def waiting(cluster: ChronosCluster) -> list[notices.Notice]:
    return list(cluster.cluster.view("chronos").objects(documents.NOTICE).values())


def failed_job(**settings: Any) -> ChronosCluster:
    cluster = ChronosCluster(**settings)
    cluster.put("a", schedule="R/2999-01-01T00:00:00Z/P1D", retries=0, owner="x@example.com, y@example.com")
    cluster.give(orders.StartJob(name="a"))
    cluster.finish("a", code=3)
    return cluster


def test_each_owner_by_mail_and_each_place_once() -> None:
    cluster = failed_job(mail_server="127.0.0.1:25", slack_url=HOOK, mattermost_url=HOOK, cluster_name="blue")
    told = {(notice.channel.value, notice.to): notice for notice in waiting(cluster)}
    assert set(told) == {("mail", "x@example.com"), ("mail", "y@example.com"), ("slack", ""), ("mattermost", "")}
    notice = told["slack", ""]
    assert notice.subject == "[blue] [Chronos] job 'a' failed!"
    assert "run 0" in notice.message
    assert "after 1 attempts" in notice.message
    assert notice.facts["errorCount"] == "1"


def test_nobody_is_told_where_nothing_is_set_up() -> None:
    assert waiting(failed_job()) == []


def test_a_retry_is_not_told_and_a_deletion_is() -> None:
    cluster = ChronosCluster(slack_url=HOOK)
    cluster.put("a", retries=1)
    cluster.finish("a", code=1)
    assert waiting(cluster) == []
    cluster.give(orders.DeleteJob(name="a"))
    assert [notice.subject for notice in waiting(cluster)] == ["[Chronos] Your job 'a' was deleted!"]


def test_a_job_that_is_disabled_for_its_failures_is_told_once() -> None:
    cluster = failed_job(slack_url=HOOK, disable_after_failures=1)
    assert [notice.subject for notice in waiting(cluster)] == ["[Chronos] job 'a' disabled"]


def test_nothing_has_succeeded_for_too_long() -> None:
    cluster = ChronosCluster(slack_url=HOOK)
    cluster.put("a", schedule="R/2999-01-01T00:00:00Z/P1D", alertAfter="PT1H")
    cluster.advance(3599)
    assert waiting(cluster) == []
    cluster.advance(1)
    assert [notice.subject for notice in waiting(cluster)] == ["[Chronos] job 'a' has not succeeded in time"]
    cluster.advance(100_000)
    assert len(waiting(cluster)) == 1, "it is told once"
    cluster.give(orders.StartJob(name="a"))
    cluster.finish("a")
    cluster.advance(3600)
    assert len(waiting(cluster)) == 2, "and again after a success"


def test_a_notice_is_kept_until_it_is_settled() -> None:
    cluster = failed_job(slack_url=HOOK)
    (taken,) = cluster.give(orders.TakeNotices())
    assert cluster.give(orders.TakeNotices()) == [], "nobody else sends it meanwhile"
    cluster.advance(notices.TAKEN_MS / 1000)
    assert [notice.id for notice in cluster.give(orders.TakeNotices())] == [taken.id], "its sender has died"
    cluster.give(orders.SettleNotice(id=taken.id))
    assert waiting(cluster) == []
    cluster.give(orders.SettleNotice(id=taken.id))


def test_what_cannot_be_delivered_is_tried_again_ever_more_seldom_and_given_up() -> None:
    cluster = failed_job(slack_url=HOOK)
    waits: list[float] = []
    while waiting(cluster):
        taken = cluster.give(orders.TakeNotices())
        if not taken:
            cluster.advance(1 if len(waits) < 4 else 600)
            continue
        cluster.give(orders.SettleNotice(id=taken[0].id, error="no"))
        if left := waiting(cluster):
            waits.append((left[0].due_ms - cluster.now_ms) / 1000)
    assert waits[:4] == [5, 10, 20, 40]
    assert max(waits) == 3600
    assert [entry.type for entry in cluster.cluster.log if "notice.lost" in entry.type] == ["chronos.notice.lost"]


@pytest.mark.parametrize(
    "settings", [{"mail_server": "nowhere"}, {"mail_server": "a:0"}, {"slack_url": "ftp://a"}, {"task_epsilon": "1h"}]
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Config(**settings)


# --- delivery ---


class Mailbox:
    """What an SMTP server's handler keeps."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], str]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append((envelope.rcpt_tos, envelope.content.decode()))
        return "250 OK"


@asynccontextmanager
async def webhook(status: int = 200) -> AsyncIterator[tuple[str, list[tuple[str, Any]]]]:
    """A URL, and the (credentials, body) that it was sent. It may send its clients elsewhere, where all is well."""
    seen: list[tuple[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Authorization", ""), await request.json()))
        return web.Response(status=status, headers={"Location": "/page"} if status in (301, 302) else None)

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="welcome")

    application = web.Application()
    application.router.add_post("/hook", take)
    application.router.add_get("/page", page)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", seen
    finally:
        await runner.cleanup()


class ClusterHost:
    """The server's door to the framework, on a simulated cluster."""

    def __init__(self, cluster: ChronosCluster) -> None:
        self.cluster = cluster

    async def command(self, framework: str, command: Any) -> Any:
        assert framework == "chronos"
        return self.cluster.give(command)

    @contextmanager
    def follow(self, framework: str) -> Iterator[asyncio.Queue[Any]]:
        assert framework == "chronos"
        yield asyncio.Queue()


async def deliver(cluster: ChronosCluster, until: Any, host: ClusterHost | None = None) -> None:
    """Lets notices be sent until `until` holds."""
    context = delivery.beside(host or ClusterHost(cluster), cluster.settings)(web.Application())  # type: ignore[arg-type]
    await anext(context)
    async with asyncio.timeout(20):
        while not until():  # noqa: ASYNC110 - the condition is somebody else's
            await asyncio.sleep(0.01)
    await anext(context, None)


async def test_webhooks_are_sent() -> None:
    async with webhook() as (url, seen):
        cluster = failed_job(
            slack_url=url, mattermost_url=url, http_notification_url=url, http_notification_credentials="u:p"
        )
        await deliver(cluster, lambda: not waiting(cluster))
    texts = [body for _, body in seen if "text" in body]
    assert len(texts) == 2
    assert all(body["text"].startswith("[Chronos] job 'a' failed!: run 0") for body in texts)
    facts = [(credentials, body) for credentials, body in seen if "job" in body]
    assert [body["to"] for _, body in facts] == ["x@example.com", "y@example.com"] or len(facts) == 2
    assert all(credentials == "Basic dTpw" for credentials, _ in facts)
    assert all(isinstance(value, str) for _, body in facts for value in body.values())


@pytest.mark.parametrize("status", [503, 301, 302])
async def test_a_place_that_refuses_is_asked_again_later(status: int) -> None:
    """So is one that is elsewhere: who follows it there asks for a page, and has told nothing."""
    async with webhook(status=status) as (url, seen):
        cluster = failed_job(slack_url=url)
        await deliver(cluster, lambda: waiting(cluster)[0].tries == 1)
    assert len(seen) == 1
    assert waiting(cluster)[0].due_ms > cluster.now_ms


async def test_mails_are_sent() -> None:
    mailbox = Mailbox()
    server = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        cluster = failed_job(mail_server=f"127.0.0.1:{server.port}", mail_from="chronos@example.com")
        await deliver(cluster, lambda: not waiting(cluster))
    finally:
        server.stop()
        server.loop.close()
    assert sorted(to for to, _ in mailbox.mails) == [["x@example.com"], ["y@example.com"]]
    assert all("Subject: [Chronos] job 'a' failed!" in text for _, text in mailbox.mails)


async def test_mails_are_sent_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = Certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    mailbox = Mailbox()
    server = Controller(mailbox, hostname="127.0.0.1", port=free_port(), ssl_context=certificates.server())
    server.start()
    try:
        cluster = failed_job(mail_server=f"127.0.0.1:{server.port}", mail_ssl=True)
        await deliver(cluster, lambda: not waiting(cluster))
    finally:
        server.stop()
        server.loop.close()
    assert sorted(to for to, _ in mailbox.mails) == [["x@example.com"], ["y@example.com"]]


#: A greeting without an end, and a message of TLS that never gets to its end.
GREETING, TLS_RECORD = (b"", b"220-still with you\r\n"), (b"\x16\x03\x03\x40\x00", b"x")


@asynccontextmanager
async def tarpit(first: bytes, on_and_on: bytes) -> AsyncIterator[tuple[int, list[bool]]]:
    """The port of a server that never lets its clients go; and for each client whether it has gone by itself."""
    gone: list[bool] = []

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(gone)
        gone.append(False)
        try:
            writer.write(first)
            while True:
                writer.write(on_and_on)
                await writer.drain()
                await asyncio.sleep(0.05)
        except OSError:
            gone[number] = True
        finally:
            writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], gone


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is somebody else's
            await asyncio.sleep(0.01)


def threads_of_mails() -> int:
    return sum(thread.name == "orlop-chronos-mail" for thread in threading.enumerate())


@pytest.mark.parametrize(("says", "mail_ssl"), [(GREETING, False), (TLS_RECORD, True)])
async def test_a_mail_server_that_never_comes_to_an_end_holds_no_thread(
    says: tuple[bytes, bytes], mail_ssl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says something before each read has taken too long."""
    monkeypatch.setattr(delivery, "SEND_WITHIN_S", 0.3)
    most = 0

    async with tarpit(*says) as (port, gone):
        cluster = failed_job(mail_server=f"127.0.0.1:{port}", mail_ssl=mail_ssl)

        def both_were_tried() -> bool:
            nonlocal most
            most = max(most, threads_of_mails())
            return all(notice.tries == 1 for notice in waiting(cluster))

        await deliver(cluster, both_were_tried)
        await wait_for(lambda: gone == [True, True])
    assert most == 1, "one after the other"
    await wait_for(lambda: not threads_of_mails())


async def test_a_server_that_stops_leaves_no_thread_with_the_mail_server() -> None:
    async with tarpit(*GREETING) as (port, gone):
        cluster = failed_job(mail_server=f"127.0.0.1:{port}")
        await deliver(cluster, lambda: gone)
        await wait_for(lambda: gone == [True])
    await wait_for(lambda: not threads_of_mails())


BAD_OWNERS = ["a@[", "ops@", "<", ">", "ops@[10.0.0.1", '"', "@", "(", "a@b@c", "a\nb@c", "=?utf-8?q?a=0ab?=@x", "x:"]


async def test_owners_that_are_no_addresses_hold_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    mailbox = Mailbox()
    server = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        cluster = ChronosCluster(mail_server=f"127.0.0.1:{server.port}", mail_from="chronos@example.com")
        for number, owner in enumerate([*BAD_OWNERS, "ops@example.com, root"]):
            cluster.put(f"a{number}", schedule="R/2999-01-01T00:00:00Z/P1D", retries=0, owner=owner)
            cluster.give(orders.StartJob(name=f"a{number}"))
            cluster.finish(f"a{number}", code=3)
        assert len(waiting(cluster)) == len(BAD_OWNERS) + 2
        await deliver(cluster, lambda: not waiting(cluster))
    finally:
        server.stop()
        server.loop.close()
    assert sorted(to for to, _ in mailbox.mails) == [["ops@example.com"], ["root"]]
    for number, owner in enumerate(BAD_OWNERS):
        assert f"the notice of job 'a{number}' to {owner!r} by mail is given up: expected a mail address" in caplog.text
    lost = [entry for entry in cluster.cluster.log if entry.type == "chronos.notice.lost"]
    assert sorted(entry.subject for entry in lost) == sorted(BAD_OWNERS)


async def test_a_bug_in_one_notice_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = delivery._post

    def post(settings: Config, notice: notices.Notice) -> Any:
        if notice.to == "x@example.com":
            raise KeyError("x")
        return real(settings, notice)

    monkeypatch.setattr(delivery, "_post", post)
    async with webhook() as (url, seen):
        cluster = failed_job(http_notification_url=url)
        await deliver(cluster, lambda: [notice.tries for notice in waiting(cluster)] == [1])
    assert [body["to"] for _, body in seen] == ["y@example.com"]
    assert "the notice of job 'a' to 'x@example.com' by http cannot be delivered; this is a bug" in caplog.text
    assert "KeyError" in caplog.text


async def test_a_bug_in_the_framework_is_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "LOOK_EVERY_S", 0.01)
    async with webhook() as (url, seen):
        cluster = failed_job(slack_url=url)
        host = ClusterHost(cluster)
        failing = ["take", "settle"]

        async def command(framework: str, command: Any) -> Any:
            if isinstance(command, orders.TakeNotices) and "take" in failing:
                failing.remove("take")
                raise RuntimeError("take")
            if isinstance(command, orders.SettleNotice) and "settle" in failing:
                failing.remove("settle")
                cluster.advance(notices.TAKEN_MS / 1000)
                raise RuntimeError("settle")
            return cluster.give(command)

        monkeypatch.setattr(host, "command", command)
        await deliver(cluster, lambda: not waiting(cluster), host)
    assert len(seen) == 2, "it could not be settled, and so was sent again"
    assert failing == []
    assert "notices cannot be taken; this is a bug" in caplog.text
    assert "cannot be settled; this is a bug" in caplog.text


async def test_a_place_that_hangs_holds_up_no_other() -> None:
    """As many notices as are taken at once wait for it."""
    hanging, released = asyncio.Event(), asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hanging.set()
        await released.wait()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server, webhook() as (url, seen):
        port = server.sockets[0].getsockname()[1]
        cluster = ChronosCluster(slack_url=f"http://127.0.0.1:{port}/hook", http_notification_url=url)
        for number in range(notices.MOST_TAKEN + 1):
            name = f"a{number:02}"
            cluster.put(name, schedule="R/2999-01-01T00:00:00Z/P1D", retries=0)
            cluster.give(orders.StartJob(name=name))
            cluster.finish(name, code=3)
            cluster.advance(1)
        hung = {notices.Channel.SLACK}
        await deliver(cluster, lambda: hanging.is_set() and {notice.channel for notice in waiting(cluster)} == hung)
        released.set()
    assert len(seen) == notices.MOST_TAKEN + 1
    jobs = [body["job"] for _, body in seen]
    assert jobs == sorted(jobs), "in their order"


async def test_what_takes_too_long_is_left_to_be_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server may take it as soon as it is not left alone any more."""
    monkeypatch.setattr(delivery, "SEND_WITHIN_S", notices.TAKEN_MS / 1000 + 1)
    async with webhook() as (url, seen):
        cluster = failed_job(http_notification_url=url)
        taken = cluster.give(orders.TakeNotices())
        async with ClientSession() as session:
            await delivery._send_all(ClusterHost(cluster), session, cluster.settings, taken)  # type: ignore[arg-type]
    assert seen == []
    assert {notice.tries for notice in waiting(cluster)} == {0}


def test_each_channel_has_its_own_turn() -> None:
    cluster = failed_job(slack_url=HOOK, http_notification_url=HOOK)
    assert cluster.give(orders.TakeNotices(channels=frozenset())) == []
    (taken,) = cluster.give(orders.TakeNotices(channels=frozenset({notices.Channel.SLACK})))
    assert taken.channel is notices.Channel.SLACK
    assert [notice.channel.value for notice in cluster.give(orders.TakeNotices())] == ["http", "http"]


async def test_a_mail_server_that_is_not_there() -> None:
    cluster = failed_job(mail_server="127.0.0.1:1")
    await deliver(cluster, lambda: all(notice.tries for notice in waiting(cluster)))
    assert len(waiting(cluster)) == 2


def test_a_job_that_was_disabled_for_long_is_not_overdue_when_it_is_enabled() -> None:
    cluster = ChronosCluster(slack_url=HOOK)
    cluster.put("a", schedule="R/2999-01-01T00:00:00Z/P1D", alertAfter="PT1H", disabled=True)
    cluster.advance(100_000)
    cluster.give(orders.SetDisabled(name="a", disabled=False))
    cluster.advance(3_599)
    assert waiting(cluster) == []
    cluster.advance(1)
    assert len(waiting(cluster)) == 1


def test_an_owner_of_any_length_can_be_given_up() -> None:
    cluster = ChronosCluster(mail_server="localhost:25")
    cluster.put("a", owner="x" * 10_000, retries=0)
    cluster.finish("a", code=1)
    (taken,) = cluster.give(orders.TakeNotices())
    cluster.give(orders.SettleNotice(id=taken.id, error="expected a mail address", hopeless=True))
    assert waiting(cluster) == []
