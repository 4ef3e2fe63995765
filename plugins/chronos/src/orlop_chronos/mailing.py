"""Sends one mail, within a time, whatever the mail server does.

The library's time-out is one of each read: a server that goes on greeting holds it for ever. So a mail has a thread of
its own, and its connection is cut when the time is over, by which the thread ends. The event loop's threads, of which
the server has few, take no part in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import socket
import ssl
import threading
from concurrent.futures import Future
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr

from orlop_chronos.notices import Notice
from orlop_chronos.settings import Config


async def send(settings: Config, notice: Notice, within_s: float) -> None:
    """Returns when the server has taken it, and not before its thread has ended. Raises OSError, which TimeoutError is,
    SMTPException and ValueError.

    Names are resolved for as long as the system takes, which can be longer.
    """
    connection = _Connection(within_s)
    result: Future[Exception | None] = Future()
    # Nobody can withdraw it any more.
    result.set_running_or_notify_cancel()
    threading.Thread(
        target=_settle, args=(result, settings, notice, connection), name="orlop-chronos-mail", daemon=True
    ).start()
    ended = asyncio.wrap_future(result)
    try:
        await asyncio.wait((ended,), timeout=within_s)
        in_time = ended.done()
        if not in_time:
            connection.cut()
            await asyncio.wait((ended,))
    except asyncio.CancelledError:
        connection.cut()
        # The event loop may be gone when the thread ends.
        ended.cancel()
        raise
    error = ended.result()
    if error is not None:
        raise error if in_time else TimeoutError(f"the mail server has not taken it within {within_s:g} s") from error


def _settle(result: Future[Exception | None], settings: Config, notice: Notice, connection: _Connection) -> None:
    error: Exception | None = None
    try:
        _mail(settings, notice, connection)
    except Exception as raised:  # noqa: BLE001  (whoever waits for the thread raises it)
        error = raised
    finally:
        connection.close()
    result.set_result(error)


def _mail(settings: Config, notice: Notice, connection: _Connection) -> None:
    mail = EmailMessage()
    mail["Subject"] = " ".join(notice.subject.split())
    mail["From"] = settings.mail_from
    mail["To"] = notice.to
    mail["Date"] = format_datetime(datetime.fromtimestamp(notice.created_ms / 1000, UTC))
    # The same however often it is sent: mail programs show one of several.
    mail["Message-ID"] = f"<{notice.id}@{parseaddr(settings.mail_from)[1].rpartition('@')[2] or 'localhost'}>"
    mail.set_content(notice.message)
    host, _, port = settings.mail_server.rpartition(":")
    with smtplib.SMTP() as client:
        client.sock = connection.open(host, int(port), ssl.create_default_context() if settings.mail_ssl else None)
        code, greeting = client.getreply()
        if code != 220:
            client.close()
            raise smtplib.SMTPConnectError(code, greeting)
        if settings.mail_user:
            client.login(settings.mail_user, settings.mail_password)
        client.send_message(mail)


class _Connection:
    """To the mail server. Another thread may cut it at any time, whatever is being done with it.

    That is done by a duplicate of its socket, for the socket itself is somebody else's, who may close it meanwhile.
    """

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._lock = threading.Lock()
        self._duplicate: socket.socket | None = None
        self._is_cut = False

    def open(self, host: str, port: int, tls: ssl.SSLContext | None) -> socket.socket:
        """tls: TLS from the first byte on. Raises OSError."""
        failure = OSError(f"{host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(self._within_s)
                self._keep(connection)
                connection.connect(address)
                return connection if tls is None else tls.wrap_socket(connection, server_hostname=host)
            except OSError as error:
                connection.close()
                failure = error
        raise failure

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            if self._is_cut:
                raise TimeoutError("it was cut")
            self._close()
            self._duplicate = connection.dup()

    def cut(self) -> None:
        """Whoever reads from it or writes to it fails now. So does whoever opens it later."""
        with self._lock:
            self._is_cut = True
            if self._duplicate is not None:
                # It may not be connected yet, or not any more.
                with contextlib.suppress(OSError):
                    self._duplicate.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._duplicate is not None:
            self._duplicate.close()
            self._duplicate = None
