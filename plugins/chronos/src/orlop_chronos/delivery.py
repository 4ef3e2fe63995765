"""Sends notices: a loop beside the routes of each server, which finds something to do on the leader only.

What is sent is taken from the framework first and settled with it afterwards, both durably; see `notices`. Each channel
is one place (the mail server, a webhook). Channels are served side by side, so that one that hangs holds up no other,
and each of them serves its notices in their order. No notice's failure ends the loop, whatever it is.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.policy
import logging
import smtplib
from collections.abc import AsyncIterator, Callable, Iterable
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import web

from orlop.framework import NotAvailable, Refused
from orlop_chronos import mailing
from orlop_chronos.framework import Chronos
from orlop_chronos.notices import TAKEN_MS, Channel, Notice
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
    sending: dict[Channel, asyncio.Task[None]] = {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SEND_WITHIN_S)) as session:
        try:
            while True:
                with host.follow(Chronos.name) as news:
                    sending = {channel: task for channel, task in sending.items() if not task.done()}
                    for channel, batch in (await _taken(host, frozenset(Channel) - sending.keys())).items():
                        sending[channel] = asyncio.create_task(_send_all(host, session, settings, batch))
                    await _next_look(news, sending.values())
        finally:
            for task in sending.values():
                task.cancel()
            await asyncio.gather(*sending.values(), return_exceptions=True)


async def _taken(host: Host, channels: frozenset[Channel]) -> dict[Channel, list[Notice]]:
    """What is to be sent by each of these channels now; channels without anything are not in it."""
    batches: dict[Channel, list[Notice]] = {}
    try:
        taken = await host.command(Chronos.name, TakeNotices(channels=channels)) if channels else []
    except (NotAvailable, Refused):
        return {}
    except Exception:  # noqa: BLE001  (a bug; notices go on when it does not come again)
        _LOG.exception("notices cannot be taken; this is a bug")
        return {}
    for notice in taken:
        batches.setdefault(notice.channel, []).append(notice)
    return batches


async def _next_look(news: asyncio.Queue[Any], sending: Iterable[asyncio.Task[None]]) -> None:
    """Returns when there is something new, when a channel has nothing more to send, or after a while."""
    heard = asyncio.create_task(news.get())
    try:
        await asyncio.wait((heard, *sending), timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        heard.cancel()


async def _send_all(host: Host, session: aiohttp.ClientSession, settings: Config, batch: Iterable[Notice]) -> None:
    """One channel's, one after the other. What would take too long is left: it will be taken again."""
    loop = asyncio.get_running_loop()
    latest = loop.time() + TAKEN_MS / 1000 - SEND_WITHIN_S
    for notice in batch:
        if loop.time() > latest:
            return
        settled = await _send(session, settings, notice)
        try:
            await host.command(Chronos.name, settled)
        except NotAvailable:
            return
        except Exception:  # noqa: BLE001  (a bug of one notice holds up no other)
            _LOG.exception("the notice of job %r to %r cannot be settled; this is a bug", _job_of(notice), notice.to)


async def _send(session: aiohttp.ClientSession, settings: Config, notice: Notice) -> SettleNotice:
    """What it has come to. Never raises."""
    about = (_job_of(notice), notice.to, notice.channel.value)
    try:
        if notice.channel is Channel.MAIL:
            _check_address(notice.to)
            await mailing.send(settings, notice, SEND_WITHIN_S)
        else:
            async with asyncio.timeout(SEND_WITHIN_S):
                error = await _call_hook(session, settings, notice)
            if error:
                _LOG.warning("the notice of job %r to %r by %s is refused: %s", *about, error)
            return SettleNotice(id=notice.id, error=error)
    except _NoAddress as error:
        _LOG.warning("the notice of job %r to %r by %s is given up: %s", *about, error)
        return SettleNotice(id=notice.id, error=str(error), hopeless=True)
    except (OSError, aiohttp.ClientError, smtplib.SMTPException, TimeoutError, ValueError) as error:
        _LOG.warning("the notice of job %r to %r by %s cannot be delivered: %s", *about, error or type(error).__name__)
        return SettleNotice(id=notice.id, error=str(error) or type(error).__name__)
    except Exception as error:  # noqa: BLE001  (a bug of one notice holds up no other)
        _LOG.exception("the notice of job %r to %r by %s cannot be delivered; this is a bug", *about)
        return SettleNotice(id=notice.id, error=f"{type(error).__name__}: {error}")
    return SettleNotice(id=notice.id)


def _job_of(notice: Notice) -> str:
    return notice.facts.get("job", "")


class _NoAddress(Exception):
    """No mail can be sent to what is there for an address."""


def _check_address(text: str) -> None:
    """Owners may be any text, as Chronos took it. Raises _NoAddress.

    The library raises exceptions of many kinds for what is no address, some while it writes the mail.
    """
    probe = EmailMessage()
    try:
        probe["To"] = text
        probe.as_bytes(policy=email.policy.SMTPUTF8)
        found = [one.username for one in probe["To"].addresses]
    except Exception as error:
        raise _NoAddress(f"expected a mail address, got {text[:80]!r}") from error
    if not found or not all(found):
        raise _NoAddress(f"expected a mail address, got {text[:80]!r}")


async def _call_hook(session: aiohttp.ClientSession, settings: Config, notice: Notice) -> str:
    """Why it was refused; empty when it was not. Raises what the client raises."""
    url, body, headers = _post(settings, notice)
    # A client that is sent elsewhere asks there for a page, and tells nothing.
    async with session.post(url, json=body, headers=headers, allow_redirects=False) as answer:
        if answer.status >= 300:
            return f"HTTP {answer.status}: {(await answer.text(errors='replace'))[:100]}"
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
