"""The event log for people: what happened, to whom, why. One bounded record per transaction."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen(kw_only=True)
class LogEntry:
    """One thing that happened.

    type: dotted, e.g. `task.running`, `node.unreachable`, `marathon.deployment_success`.
    subject: what it happened to (a task's id, a node's id, a framework's name).
    cause: the request or event behind it. details: small, flat, for people and programs.
    """

    type: str
    utc_ms: int
    subject: str = ""
    cause: str = ""
    details: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class LogRecord:
    """The entries of one transaction. Entry ids are (revision, index); the revision is known after the commit."""

    entries: tuple[LogEntry, ...]
