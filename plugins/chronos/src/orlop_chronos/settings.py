"""The settings of `[plugins.chronos]`."""

from __future__ import annotations

from typing import Any, Final

import attrs

from orlop_chronos.periods import Period

MEBIBYTE: Final = 1024 * 1024
#: What a store takes at once is 1.5 MB, for a job and what belongs to it.
BODY_BYTES_MAX: Final = 1_400_000


def _at_least(least: float) -> Any:
    return attrs.validators.ge(least)


def _at_most(most: float) -> Any:
    return attrs.validators.le(most)


def _period(_: object, field: attrs.Attribute[str], value: str) -> None:
    if value:
        try:
            Period.parse(value)
        except ValueError as error:
            raise ValueError(f"{field.name}: {error}") from error


def _host_and_port(_: object, field: attrs.Attribute[str], value: str) -> None:
    host, _, port = value.rpartition(":")
    if value and not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{field.name}: expected host:port, got {value!r}")


def _url(_: object, field: attrs.Attribute[str], value: str) -> None:
    if value and not value.startswith(("http://", "https://")):
        raise ValueError(f"{field.name}: expected a URL that begins with http:// or https://")


@attrs.frozen(kw_only=True)
class Config:
    """Where Chronos' clients look, and Chronos' own flags, where they still mean something.

    listen: "host:port" of Chronos' API; empty: only under /chronos on the server's address.
    hostname: what `/leader` calls this server, before the port of `listen`; empty: as `listen` does.
    task_epsilon: a period; of jobs that clients of Chronos 2 define without one. Empty: as late as it gets.
    task_cpus; task_mem, task_disk: MiB. Of jobs that say nothing.
    failure_retry_s: until a failed run is tried again, for jobs that say nothing.
    disable_after_failures: of so many failed runs in a row; 0: never.
    retry_only_after_success: no further attempts in runs after a failed one, until one succeeds (Chronos).
    user: whom processes run as, for jobs that say nothing; empty: as Orlop's agents decide.
    history_count: runs kept of each job. history_days: and no longer than that.
    most_catch_up_runs: of one job and one outage, with `"catchUp": "all"`. most_queued_runs: waiting for an earlier
    one of the same job, or where they may overlap, for a node or for somebody to say how an `async` one has ended.
    cluster_name: stands before the subjects of notices.
    mail_server: "host:port"; empty: no mail. mail_from: its sender. mail_user, mail_password: empty for none.
    mail_ssl: TLS from the first byte on. slack_url, mattermost_url: of an incoming webhook; empty for none.
    http_notification_url: takes notices as JSON. http_notification_credentials: "user:password".
    max_body_bytes: of a request; a job is one document, of which a store takes 1.5 MB.
    """

    listen: str = "127.0.0.1:4400"
    hostname: str = ""
    task_epsilon: str = attrs.field(default="PT60S", validator=_period)
    task_cpus: float = attrs.field(default=0.1, validator=_at_least(0))
    task_mem: float = attrs.field(default=128.0, validator=_at_least(0))
    task_disk: float = attrs.field(default=256.0, validator=_at_least(0))
    failure_retry_s: float = attrs.field(default=60.0, validator=_at_least(0))
    disable_after_failures: int = attrs.field(default=0, validator=_at_least(0))
    retry_only_after_success: bool = False
    user: str = ""
    history_count: int = attrs.field(default=100, validator=_at_least(1))
    history_days: float = attrs.field(default=30.0, validator=_at_least(0))
    most_catch_up_runs: int = attrs.field(default=1000, validator=_at_least(1))
    most_queued_runs: int = attrs.field(default=1000, validator=_at_least(1))
    cluster_name: str = ""
    mail_server: str = attrs.field(default="", validator=_host_and_port)
    mail_from: str = "chronos@localhost"
    mail_user: str = ""
    mail_password: str = attrs.field(default="", repr=False)
    mail_ssl: bool = False
    slack_url: str = attrs.field(default="", validator=_url, repr=False)
    mattermost_url: str = attrs.field(default="", validator=_url, repr=False)
    http_notification_url: str = attrs.field(default="", validator=_url)
    http_notification_credentials: str = attrs.field(default="", repr=False)
    max_body_bytes: int = attrs.field(default=MEBIBYTE, validator=[_at_least(1024), _at_most(BODY_BYTES_MAX)])
