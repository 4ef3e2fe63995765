"""Sends notices: a loop beside the routes of each server, which finds something to do on the leader only.

What is sent is taken from the framework first and settled with it afterwards, both durably; see `notices`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import smtplib
import ssl
from collections.abc import AsyncIterator, Callable
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import web

from orlop.framework import NotAvailable, Refused
from orlop_chronos.framework import Chronos
from orlop_chronos.notices import Channel, Notice
from orlop_chronos.orders import SettleNotice, TakeNotices
from orlop_chronos.settings import Config

if TYPE_CHECKING:
    from orlop.server.routing import Host

_LOG: Final = logging.getLogger(__name__)

#: Notices of earlier leaders, and those to be tried again, are looked for so often. In seconds.
LOOK_EVERY_S: Final = 5.0
#: Sending one takes no longer. In seconds; less than `notices.TAKEN_MS`.
SEND_WITHIN_S: Final = 30.0


def beside(host: Host, settings: Config) -> Callable[[web.Application], AsyncIterator[None]]:
    """A cleanup context of the application: notices are sent while it lives."""

    async def live(_: web.Application) -> AsyncIterator[None]:
        sending = asyncio.create_task(_send_for_ever(host, settings))
        yield
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending

    return live


async def _send_for_ever(host: Host, settings: Config) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SEND_WITHIN_S)) as session:
        while True:
            with host.follow(Chronos.name) as news:
                with contextlib.suppress(NotAvailable, Refused):
                    while taken := await host.command(Chronos.name, TakeNotices()):
                        for notice in taken:
                            error = await _send(session, settings, notice)
                            await host.command(Chronos.name, SettleNotice(id=notice.id, error=error))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.get(), LOOK_EVERY_S)


async def _send(session: aiohttp.ClientSession, settings: Config, notice: Notice) -> str:
    """Why it could not be delivered; empty when it was."""
    try:
        async with asyncio.timeout(SEND_WITHIN_S):
            if notice.channel is Channel.MAIL:
                await asyncio.to_thread(_mail, settings, notice)
            else:
                url, body, headers = _post(settings, notice)
                async with session.post(url, json=body, headers=headers) as answer:
                    if answer.status >= 400:
                        return f"HTTP {answer.status}: {(await answer.text())[:100]}"
    except (OSError, aiohttp.ClientError, smtplib.SMTPException, TimeoutError, ValueError) as error:
        _LOG.warning("a notice by %s cannot be delivered: %s", notice.channel, error or type(error).__name__)
        return str(error) or type(error).__name__
    return ""


def _post(settings: Config, notice: Notice) -> tuple[str, dict[str, Any], dict[str, str]]:
    """(URL, JSON body, headers)."""
    if notice.channel is Channel.HTTP:
        body = {"subject": notice.subject, "message": notice.message, "to": notice.to, **notice.facts}
        headers = {}
        if settings.http_notification_credentials:
            encoded = base64.b64encode(settings.http_notification_credentials.encode()).decode()
            headers["Authorization"] = f"Basic {encoded}"
        return settings.http_notification_url, body, headers
    url = settings.slack_url if notice.channel is Channel.SLACK else settings.mattermost_url
    return url, {"text": f"{notice.subject}: {notice.message}"}, {}


def _mail(settings: Config, notice: Notice) -> None:
    mail = EmailMessage()
    mail["Subject"] = " ".join(notice.subject.split())
    mail["From"] = settings.mail_from
    mail["To"] = notice.to
    mail.set_content(notice.message)
    host, _, port = settings.mail_server.rpartition(":")
    if settings.mail_ssl:
        context = ssl.create_default_context()
        client: smtplib.SMTP = smtplib.SMTP_SSL(host, int(port), timeout=SEND_WITHIN_S, context=context)
    else:
        client = smtplib.SMTP(host, int(port), timeout=SEND_WITHIN_S)
    with client:
        if settings.mail_user:
            client.login(settings.mail_user, settings.mail_password)
        client.send_message(mail)
