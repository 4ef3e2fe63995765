"""Commands to the framework: what the API's routes, and the command line through them, ask for.

Each is answered after the commit, or refused with a ChronosError and changes nothing.
"""

from __future__ import annotations

import enum
import re

import attrs

from orlop_chronos.notices import Channel
from orlop_chronos.reading import Definition


class Children(enum.StrEnum):
    """What becomes of the children of a deleted job.

    INHERIT: they wait for its parents instead; if it had none, one without other parents takes its schedule. DETACH:
    they lose this parent; one without others is disabled. REFUSE: a job with children is not deleted. DELETE: they are
    deleted too, and theirs.
    """

    INHERIT = "inherit"
    DETACH = "detach"
    REFUSE = "refuse"
    DELETE = "delete"


@attrs.frozen(kw_only=True)
class PutJob:
    """Creates or replaces. names: what a new job's name may be."""

    definition: Definition
    names: re.Pattern[str]


@attrs.frozen(kw_only=True)
class DeleteJob:
    name: str
    children: Children = Children.INHERIT


@attrs.frozen(kw_only=True)
class StartJob:
    """arguments: in place of the job's. Answers with the run's number."""

    name: str
    arguments: str | None = None


@attrs.frozen(kw_only=True)
class KillRuns:
    """Stops what the job runs, and forgets what waits. number: of one run; None: all.

    Answers with the numbers of the runs that did not have an end yet.
    """

    name: str
    number: int | None = None


@attrs.frozen(kw_only=True)
class MarkSucceeded:
    """As after a successful run. Answers whether there is such a job."""

    name: str


@attrs.frozen(kw_only=True)
class SetDisabled:
    name: str
    disabled: bool


@attrs.frozen(kw_only=True)
class Pause:
    """Of everything: nothing is started by time or by a parent."""

    paused: bool


@attrs.frozen(kw_only=True)
class Backfill:
    """Runs for all due times from `from_ms` until `until_ms` (UTC, both inclusive). Answers with how many."""

    name: str
    from_ms: int
    until_ms: int


@attrs.frozen(kw_only=True)
class ReportTask:
    """How the run of an `async` job has ended. task: Chronos' id of its task. code: 0 for well."""

    task: str
    code: int


@attrs.frozen(kw_only=True)
class TakeNotices:
    """Answers with the notices that are to be sent now; the asker sends them and settles each.

    channels: by which they are sent; others are left where they are.
    """

    channels: frozenset[Channel] = frozenset(Channel)


@attrs.frozen(kw_only=True)
class SettleNotice:
    """error: why it could not be delivered; empty when it was. hopeless: it never can be, and is given up."""

    id: str
    error: str = ""
    hopeless: bool = False


JobOrder = PutJob | DeleteJob | StartJob | KillRuns | MarkSucceeded | SetDisabled | Backfill
Order = JobOrder | ReportTask | Pause | TakeNotices | SettleNotice
