"""Who leads: a pure state machine for one server. Events and time in, effects out; `candidate.py` is its shell.

Theory of operation. The leader is whoever made the key `leader`, under a lease that it keeps alive. A server campaigns
when it sees no such key: it takes a lease, and creates the key if it is absent, as one transaction. The key's create
revision is the leader's fencing token: every transaction of the leader compares it, so that whatever a leader believes
of itself, the store takes nothing more from it once another one has the key.

A lease says only that nobody else leads *yet*. So a leader counts its lease from before it asked for the renewal, on
its own monotonic clock, and stops leading a margin before it may have ended, whether or not the store has said so. A
process that was stopped for longer wakes up to find its lease over before it does anything else: the shell asks
`leads` before it releases effects, and the store and the agents compare the epoch in any case.

A campaign whose outcome is not known is given up together with its lease: the key, if it was made, vanishes with it.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

CAMPAIGN_AGAIN_MS: Final = 500
#: Why a term ends whose shell has asked `leads` before an effect, and it does not.
TOO_LATE: Final = "its lease may have ended before it told what it had decided"


@attrs.frozen(kw_only=True)
class ElectionSettings:
    """lease_ms: a silent leader's lease ends after it. None: the store serves one process, and nobody else can lead.

    renew_every_ms: between renewals. margin_ms: so long before its lease may end, a leader counts as none.
    """

    lease_ms: int | None
    renew_every_ms: int = 1_000
    margin_ms: int = 500

    @classmethod
    def of_lease(cls, lease_s: float) -> ElectionSettings:
        """Three renewals fit into what is left of a lease after the margin, which is a quarter.

        etcd's own leader confirms leases without asking the other members; one that was cut off may do so for about a
        second, until it knows. The margin is for that.
        """
        lease_ms = round(lease_s * 1000)
        return cls(lease_ms=lease_ms, renew_every_ms=lease_ms // 4, margin_ms=lease_ms // 4)


# Events


@attrs.frozen
class LeaderSeen:
    """What the store shows: the create revision of the leader's key, 0 when there is none, and as of which revision."""

    revision: int
    at: int


@attrs.frozen(kw_only=True)
class CampaignEnded:
    """How it went. won: the key's create revision; 0: another one was faster. error: neither is known.

    lease: of the campaign, 0 without one. asked_ms: monotonic, before the lease was asked for.
    """

    won: int
    lease: int
    asked_ms: int
    error: str = ""


@attrs.frozen(kw_only=True)
class RenewalEnded:
    """kept: the lease has its full time from `asked_ms` on. Otherwise it has ended, or, with `error`, nobody knows."""

    lease: int
    asked_ms: int
    kept: bool
    error: str = ""


@attrs.frozen(kw_only=True)
class Eligible:
    """May this server lead? reason: why not; empty: it may.

    defer_ms: how long the key must have been absent before it does, so that better suited servers go first.
    """

    reason: str = ""
    defer_ms: int = 0


@attrs.frozen
class GiveUp:
    """The term cannot go on (the store's state is not known, say), or the server stops."""

    reason: str


@attrs.frozen
class Tick:
    """Time has passed."""


Event = LeaderSeen | CampaignEnded | RenewalEnded | Eligible | GiveUp | Tick


# Effects


@attrs.frozen
class Campaign:
    """Take a lease, create the key if it is absent; then tell `CampaignEnded`."""


@attrs.frozen
class Renew:
    """Keep the lease alive; then tell `RenewalEnded`."""

    lease: int


@attrs.frozen
class Revoke:
    """End the lease, and so the key, if that is possible; nobody waits for it."""

    lease: int


@attrs.frozen
class BeginTerm:
    """Lead, from now on, with this fencing token."""

    revision: int


@attrs.frozen
class EndTerm:
    """Stop leading, now: drop everything that is not durable."""

    reason: str


Effect = Campaign | Renew | Revoke | BeginTerm | EndTerm


class Phase(enum.StrEnum):
    """What this server does about leadership."""

    FOLLOWING = "following"
    CAMPAIGNING = "campaigning"
    LEADING = "leading"


class Election:
    """See the module. `handle` is called with each event, and with a `Tick` at least once per `next_tick_ms`."""

    def __init__(self, settings: ElectionSettings) -> None:
        self._settings = settings
        self.phase = Phase.FOLLOWING
        self.not_eligible = "the state is not loaded yet"
        self._defer_ms = 0
        self._seen: int | None = None
        self._seen_since_ms = 0
        self._revision = 0
        self._lease = 0
        self._valid_until_ms: int | None = None
        self._renewing = False
        self._renew_at_ms = 0
        self._campaign_at_ms = 0
        self._stopped = False
        #: When the store last confirmed that this server leads, counted from before it was asked.
        self.certain_until_ms = 0

    def leads(self, monotonic_ms: int) -> bool:
        """Does this server lead at this moment, as far as it can know?"""
        return self.phase is Phase.LEADING and not self._is_over(monotonic_ms)

    @property
    def next_tick_ms(self) -> int:
        """How long at most until the next `Tick`, in milliseconds."""
        return min(self._settings.renew_every_ms, self._settings.margin_ms, CAMPAIGN_AGAIN_MS) // 2 or 1

    def handle(self, event: Event, monotonic_ms: int) -> list[Effect]:
        """What to do about it, in this order."""
        effects: list[Effect] = []
        if self.phase is Phase.LEADING and self._is_over(monotonic_ms):
            effects += self._end("its lease may have ended: the store did not confirm it in time", monotonic_ms)
        match event:
            case LeaderSeen():
                effects += self._leader_seen(event, monotonic_ms)
            case CampaignEnded():
                effects += self._campaign_ended(event, monotonic_ms)
            case RenewalEnded():
                effects += self._renewal_ended(event, monotonic_ms)
            case Eligible():
                self.not_eligible, self._defer_ms = event.reason, event.defer_ms
            case GiveUp():
                effects += self._end(event.reason, monotonic_ms)
            case Tick():
                pass
        return effects + self._due(monotonic_ms)

    def stop(self, monotonic_ms: int) -> list[Effect]:
        """The server ends: it leads no more, and the next leader need not wait."""
        self._stopped = True
        return self._end("this server stops", monotonic_ms)

    def _is_over(self, monotonic_ms: int) -> bool:
        return self._valid_until_ms is not None and monotonic_ms >= self._valid_until_ms

    def _due(self, monotonic_ms: int) -> list[Effect]:
        if self.phase is Phase.LEADING:
            if self._lease and not self._renewing and monotonic_ms >= self._renew_at_ms:
                self._renewing = True
                return [Renew(self._lease)]
        elif self._may_campaign(monotonic_ms):
            self.phase = Phase.CAMPAIGNING
            return [Campaign()]
        return []

    def _may_campaign(self, monotonic_ms: int) -> bool:
        absent_long_enough = self._seen == 0 and monotonic_ms >= self._seen_since_ms + self._defer_ms
        return (
            self.phase is Phase.FOLLOWING
            and (self._settings.lease_ms is None or absent_long_enough)
            and not self.not_eligible
            and not self._stopped
            and monotonic_ms >= self._campaign_at_ms
        )

    def _leader_seen(self, event: LeaderSeen, monotonic_ms: int) -> list[Effect]:
        if event.revision != self._seen:
            self._seen, self._seen_since_ms = event.revision, monotonic_ms
        if self.phase is not Phase.LEADING or self._settings.lease_ms is None:
            return []
        if event.at < self._revision or event.revision == self._revision:
            return []  # from before this server won, or of its own key
        return self._end("another server leads" if event.revision else "its key in the store is gone", monotonic_ms)

    def _campaign_ended(self, event: CampaignEnded, monotonic_ms: int) -> list[Effect]:
        if self.phase is not Phase.CAMPAIGNING:
            return [Revoke(event.lease)] if event.lease else []
        if not event.won or self._stopped:
            self.phase = Phase.FOLLOWING
            self._campaign_at_ms = monotonic_ms + CAMPAIGN_AGAIN_MS
            return [Revoke(event.lease)] if event.lease else []
        self.phase = Phase.LEADING
        self._revision, self._lease, self._renewing = event.won, event.lease, False
        self._extend(event.asked_ms)
        if self._is_over(monotonic_ms):
            return self._end("its campaign took longer than its lease", monotonic_ms)
        return [BeginTerm(event.won)]

    def _renewal_ended(self, event: RenewalEnded, monotonic_ms: int) -> list[Effect]:
        if self.phase is not Phase.LEADING or event.lease != self._lease:
            return []
        self._renewing = False
        if event.kept:
            self._extend(event.asked_ms)
            return []
        if event.error:
            self._renew_at_ms = monotonic_ms + min(CAMPAIGN_AGAIN_MS, self._settings.renew_every_ms)
            return []
        self._lease = 0
        return self._end("its lease has ended", monotonic_ms)

    def _extend(self, asked_ms: int) -> None:
        self.certain_until_ms = asked_ms
        if self._settings.lease_ms is None:
            return
        self._valid_until_ms = asked_ms + self._settings.lease_ms - self._settings.margin_ms
        self._renew_at_ms = asked_ms + self._settings.renew_every_ms

    def _end(self, reason: str, monotonic_ms: int) -> list[Effect]:
        if self.phase is not Phase.LEADING:
            return []
        self.phase = Phase.FOLLOWING
        lease, self._lease = self._lease, 0
        self._valid_until_ms = None
        self._campaign_at_ms = monotonic_ms + CAMPAIGN_AGAIN_MS
        return [EndTerm(reason), Revoke(lease)] if lease else [EndTerm(reason)]
