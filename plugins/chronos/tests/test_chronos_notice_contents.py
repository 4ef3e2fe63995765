"""What notices say, by each channel and of each happening."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from chronos_cluster import ChronosCluster
from ports import free_port
from test_chronos_notices import HOOK, deliver, failed_job, waiting, webhook

from orlop_chronos import notices, orders

OWNER = "x@example.com"


def told(cluster: ChronosCluster) -> list[tuple[str, str]]:
    return [(notice.subject, notice.message) for notice in waiting(cluster)]


def test_a_job_that_has_run_as_often_as_it_should() -> None:
    cluster = ChronosCluster(slack_url=HOOK)
    cluster.put("a", schedule="R2//PT10S", owner=OWNER)
    cluster.finish("a")
    assert told(cluster) == []
    cluster.advance(10)
    cluster.finish("a")
    assert told(cluster) == [("[Chronos] job 'a' disabled", "it has run as often as it should")]
    assert cluster.show("a")["disabled"]


def test_a_job_that_has_failed_too_often() -> None:
    cluster = ChronosCluster(slack_url=HOOK, disable_after_failures=2)
    cluster.put("a", schedule="R//PT10S", retries=0)
    for _ in range(2):
        cluster.finish("a", code=1)
        cluster.advance(10)
    disabled, failed = sorted(told(cluster))
    assert disabled == ("[Chronos] job 'a' disabled", "2 runs in a row have failed")
    assert failed[0] == "[Chronos] job 'a' failed!"


@pytest.mark.parametrize("order", ["kill", "success", "skip"])
def test_of_what_goes_well_and_what_is_stopped_by_hand_nobody_is_told(order: str) -> None:
    cluster = ChronosCluster(slack_url=HOOK)
    cluster.put("a", schedule="R//PT10S", retries=0, overlap="forbid")
    match order:
        case "kill":
            cluster.give(orders.KillRuns(name="a"))
        case "success":
            cluster.finish("a")
        case "skip":
            cluster.advance(10)
    assert waiting(cluster) == []


def test_jobs_that_are_deleted_together_are_told_of_each() -> None:
    cluster = ChronosCluster(slack_url=HOOK)
    cluster.put("a", schedule="R0//PT1H")
    cluster.put("b", parents=["a"])
    cluster.give(orders.DeleteJob(name="a", children=orders.Children.DELETE))
    assert sorted(subject for subject, _ in told(cluster)) == [
        "[Chronos] Your job 'a' was deleted!", "[Chronos] Your job 'b' was deleted!",
    ]  # fmt: skip


def test_a_failed_run_is_told_with_the_nodes_words() -> None:
    cluster = failed_job(slack_url=HOOK)
    ((_, message),) = told(cluster)
    assert message == "run 0, due 2023-11-14T22:13:20.000Z, failed after 1 attempts, the last on n0: exit code 3"


async def test_the_bodies_that_are_posted() -> None:
    """Slack's and Mattermost's, also of a deletion, of which Chronos sent nothing; and Chronos' own, all texts."""
    members: dict[str, Any] = {"command": "work", "cpus": 0.5, "mem": 64, "retries": 0, "softError": True}
    members |= {"executor": "e", "executorFlags": "f", "uris": ["http://h/a", "http://h/b"], "successCount": 7}
    async with webhook() as (url, seen):
        cluster = ChronosCluster(slack_url=url, mattermost_url=url, http_notification_url=url)
        cluster.put("a", schedule="R/2999-01-01T00:00:00Z/P1D", owner=OWNER, **members)
        cluster.give(orders.StartJob(name="a"))
        cluster.finish("a", code=3)
        await deliver(cluster, lambda: not waiting(cluster))
        failed = [body for _, body in seen]
        seen.clear()
        cluster.give(orders.DeleteJob(name="a"))
        await deliver(cluster, lambda: not waiting(cluster))
        deleted = [body for _, body in seen]
    message = "run 0, due 2023-11-14T22:13:20.000Z, failed after 1 attempts, the last on n0: exit code 3"
    assert [body for body in failed if "text" in body] == [{"text": f"[Chronos] job 'a' failed!: {message}"}] * 2
    assert [body for body in failed if "text" not in body] == [
        {
            "subject": "[Chronos] job 'a' failed!", "message": message, "to": OWNER, "job": "a", "command": "work",
            "cpus": "0.5", "mem": "64", "softError": "true", "retries": "0", "executor": "e", "executorFlags": "f",
            "uris": "http://h/a,http://h/b", "successCount": "7", "errorCount": "1", "errorsSinceLastSuccess": "1",
            "lastSuccess": "", "lastError": "2023-11-14T22:13:20.000Z",
        }
    ]  # fmt: skip
    texts = [body["text"] for body in deleted if "text" in body]
    assert texts == ["[Chronos] Your job 'a' was deleted!: it was deleted"] * 2
    assert [body["subject"] for body in deleted if "text" not in body] == ["[Chronos] Your job 'a' was deleted!"]


class Mailbox:
    """Takes mails of whoever logs in."""

    def __init__(self) -> None:
        self.known: list[tuple[bytes, bytes]] = []
        self.mails: list[tuple[str, EmailMessage]] = []

    def authenticate(self, _: Any, __: Any, ___: Any, ____: str, data: Any) -> AuthResult:
        self.known.append((data.login, data.password))
        return AuthResult(success=data.password == b"secret", handled=False)

    async def handle_DATA(self, _: Any, __: Any, envelope: Any) -> str:  # noqa: N802
        parsed = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        self.mails.append((envelope.mail_from, parsed))
        return "250 OK"


async def mailed(password: str, until: Any) -> tuple[Mailbox, ChronosCluster]:
    mailbox = Mailbox()
    server = Controller(
        mailbox, hostname="127.0.0.1", port=free_port(), authenticator=mailbox.authenticate, auth_required=True,
        auth_require_tls=False,
    )  # fmt: skip
    server.start()
    try:
        cluster = failed_job(
            mail_server=f"127.0.0.1:{server.port}", mail_from="Chronos <cron@example.org>", cluster_name="blue",
            mail_user="me", mail_password=password,
        )  # fmt: skip
        await deliver(cluster, lambda: until(waiting(cluster)))
    finally:
        server.stop()
        server.loop.close()
    return mailbox, cluster


#: The server of these tests takes passwords without TLS.
WARNS = "ignore:Requiring AUTH while not requiring TLS:UserWarning"


@pytest.mark.filterwarnings(WARNS)
async def test_a_mail_as_it_arrives() -> None:
    mailbox, _ = await mailed("secret", lambda left: not left)
    assert mailbox.known == [(b"me", b"secret")] * 2
    assert [sender for sender, _ in mailbox.mails] == ["cron@example.org"] * 2
    mails = {mail["To"]: mail for _, mail in mailbox.mails}
    mail = mails[OWNER]
    assert mail["Subject"] == "[blue] [Chronos] job 'a' failed!"
    assert mail["From"] == "Chronos <cron@example.org>"
    assert mail.get_content_type() == "text/plain"
    assert "failed after 1 attempts, the last on n0: exit code 3" in mail.get_content()
    assert parsedate_to_datetime(mail["Date"]).isoformat() == "2023-11-14T22:13:20+00:00"
    assert mail["Message-ID"].endswith("@example.org>")
    assert len({mail["Message-ID"] for mail in mails.values()}) == 2


@pytest.mark.filterwarnings(WARNS)
async def test_whoever_may_not_log_in_tries_again_later() -> None:
    mailbox, cluster = await mailed("wrong", lambda left: all(notice.tries for notice in left))
    assert mailbox.mails == []
    assert all(notice.due_ms == cluster.now_ms + notices.FIRST_RETRY_MS for notice in waiting(cluster))


def test_a_notice_is_given_up_after_a_day() -> None:
    cluster = failed_job(slack_url=HOOK)
    (notice,) = waiting(cluster)
    cluster.advance(86_399)
    cluster.give(orders.SettleNotice(id=notice.id, error="no"))
    assert [one.id for one in waiting(cluster)] == [notice.id]
    cluster.advance(1)
    cluster.give(orders.SettleNotice(id=notice.id, error="no"))
    assert waiting(cluster) == []
