"""What is told to people: notices wait in the store until they have been delivered. Pure; `delivery` sends them.

At least once: a notice is taken for a while, delivered, and only then deleted, so that one whose server dies meanwhile
is sent again by the next.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator
from typing import Final

import attrs

from orlop.framework import Emit
from orlop_chronos import documents, rendering
from orlop_chronos.desk import Desk
from orlop_chronos.documents import JobRecord, Run
from orlop_chronos.model import Counters
from orlop_chronos.settings import Config

#: How long a notice that is being sent is left alone. Longer than sending may take. In milliseconds.
TAKEN_MS: Final = 60_000
FIRST_RETRY_MS: Final = 5_000
LONGEST_RETRY_MS: Final = 3_600_000
#: After which a notice that cannot be delivered is given up, which the event log tells. In milliseconds.
GIVEN_UP_AFTER_MS: Final = 86_400_000
#: Of one channel, at once.
MOST_TAKEN: Final = 20


class Channel(enum.StrEnum):
    MAIL = "mail"
    SLACK = "slack"
    MATTERMOST = "mattermost"
    HTTP = "http"


class Happening(enum.StrEnum):
    """What a notice is about."""

    FAILED = "failed"
    DISABLED = "disabled"
    DELETED = "deleted"
    OVERDUE = "overdue"


@attrs.frozen(kw_only=True)
class Notice:
    """One message, to one address or place. to: an owner's address; empty where there is none.

    facts: of the job, all as texts (Chronos), for the HTTP channel. due_ms: when it may be taken (next).
    """

    id: str
    channel: Channel
    subject: str
    message: str
    to: str = ""
    facts: dict[str, str] = attrs.field(factory=dict)
    created_ms: int
    due_ms: int
    tries: int = 0


def tell(desk: Desk, record: JobRecord, happening: Happening, message: str, run: Run | None = None) -> None:
    """Puts a notice for each channel that is set up and each owner."""
    for channel, to in _addresses(record, desk.settings):
        notice_id = str(desk.view.unique("notice", record.job.name, happening, channel, to, str(run and run.number)))
        notice = Notice(
            id=notice_id,
            channel=channel,
            subject=_subject(record, happening, desk.settings),
            message=message,
            to=to,
            facts=_facts(record, desk.progress(record.job.name).counters),
            created_ms=desk.now_ms,
            due_ms=desk.now_ms,
        )
        desk.put(documents.NOTICE, notice_id, notice)
        desk.do(Emit("notice", subject=record.job.name, details={"channel": channel.value}, live=notice_id))


def take(desk: Desk, channels: Collection[Channel]) -> list[Notice]:
    """Those that are to be sent now; they are left alone for a while. `MOST_TAKEN` of each channel."""
    due = [notice for notice in desk.stored(documents.NOTICE).values() if notice.due_ms <= desk.now_ms]
    due.sort(key=lambda notice: (notice.due_ms, notice.created_ms, notice.id))
    taken: list[Notice] = []
    for channel in sorted(channels):
        taken += [notice for notice in due if notice.channel is channel][:MOST_TAKEN]
    for notice in taken:
        desk.put(documents.NOTICE, notice.id, attrs.evolve(notice, due_ms=desk.now_ms + TAKEN_MS))
    return taken


def settle(desk: Desk, notice_id: str, error: str, hopeless: bool = False) -> None:
    """What sending has come to. error: empty when it was delivered. hopeless: trying again would not help."""
    notice: Notice | None = desk.stored(documents.NOTICE).get(notice_id)
    if notice is None:
        return
    if error and not hopeless and desk.now_ms - notice.created_ms < GIVEN_UP_AFTER_MS:
        wait_ms = min(FIRST_RETRY_MS * 2 ** min(notice.tries, 20), LONGEST_RETRY_MS)
        desk.put(
            documents.NOTICE, notice_id, attrs.evolve(notice, tries=notice.tries + 1, due_ms=desk.now_ms + wait_ms)
        )
        return
    if error:
        details = {"channel": notice.channel.value, "subject": notice.subject[:200], "reason": error[:200]}
        desk.do(Emit("notice.lost", subject=notice.to[:200], details=details))
    desk.delete(documents.NOTICE, notice_id)


def _addresses(record: JobRecord, settings: Config) -> Iterator[tuple[Channel, str]]:
    owners = [owner.strip() for owner in record.job.owner.split(",") if owner.strip()]
    if settings.mail_server:
        yield from ((Channel.MAIL, owner) for owner in owners)
    if settings.slack_url:
        yield Channel.SLACK, ""
    if settings.mattermost_url:
        yield Channel.MATTERMOST, ""
    if settings.http_notification_url:
        yield from ((Channel.HTTP, owner) for owner in owners or [""])


def _subject(record: JobRecord, happening: Happening, settings: Config) -> str:
    """Chronos' subjects, and one that it has not."""
    name = record.job.name
    told = {
        Happening.FAILED: f"job '{name}' failed!",
        Happening.DISABLED: f"job '{name}' disabled",
        Happening.DELETED: f"Your job '{name}' was deleted!",
        Happening.OVERDUE: f"job '{name}' has not succeeded in time",
    }[happening]
    prefix = f"[{settings.cluster_name}] " if settings.cluster_name else ""
    return f"{prefix}[Chronos] {told}"


def _facts(record: JobRecord, counters: Counters) -> dict[str, str]:
    job = record.job
    return {
        "job": job.name,
        "command": job.command,
        "cpus": f"{job.cpus:g}",
        "mem": f"{job.mem:g}",
        "retries": str(job.retries),
        "softError": str(job.soft_error).lower(),
        "executor": job.executor,
        "executorFlags": job.executor_flags,
        "uris": ",".join(job.uris),
        "successCount": str(counters.success_count),
        "errorCount": str(counters.error_count),
        "errorsSinceLastSuccess": str(counters.errors_since_last_success),
        "lastSuccess": rendering.instant(counters.last_success),
        "lastError": rendering.instant(counters.last_error),
    }
