"""The election: at most one server believes that it leads, whatever is delayed; and once all is well, somebody does.

The store of these tests is the smallest that is one: a key, leases, virtual time. Its answers may be late or lost, and
a server may stand still for as long as it likes.
"""

from __future__ import annotations

import random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.server.election import (
    BeginTerm,
    Campaign,
    CampaignEnded,
    Effect,
    Election,
    ElectionSettings,
    Eligible,
    EndTerm,
    Event,
    GiveUp,
    LeaderSeen,
    Phase,
    Renew,
    RenewalEnded,
    Revoke,
    Tick,
)

SETTINGS = ElectionSettings.of_lease(3)
LEASE_MS = 3_000


def following(settings: ElectionSettings = SETTINGS) -> Election:
    election = Election(settings)
    assert election.handle(Eligible(), 0) == []
    return election


def leading() -> Election:
    """Won at 100 ms, with lease 7 and revision 5."""
    election = following()
    assert election.handle(LeaderSeen(0, 1), 50) == [Campaign()]
    assert election.handle(CampaignEnded(won=5, lease=7, asked_ms=60), 100) == [BeginTerm(5)]
    return election


def test_a_server_campaigns_when_it_sees_no_leader() -> None:
    election = following()
    assert election.handle(LeaderSeen(3, 3), 10) == []
    assert election.handle(Tick(), 60_000) == []
    assert election.handle(LeaderSeen(0, 4), 60_001) == [Campaign()]
    assert election.handle(Tick(), 60_100) == [], "one campaign at a time"


def test_one_that_cannot_read_the_state_does_not_campaign() -> None:
    election = Election(SETTINGS)
    assert election.handle(LeaderSeen(0, 1), 0) == []
    assert election.handle(Eligible(reason="the store cannot be read"), 10) == []
    assert election.handle(Eligible(), 20) == [Campaign()]


def test_one_without_a_plugin_leaves_the_others_time() -> None:
    election = Election(SETTINGS)
    election.handle(LeaderSeen(0, 1), 0)
    assert election.handle(Eligible(defer_ms=6_000), 10) == []
    assert election.handle(Tick(), 5_999) == []
    assert election.handle(Tick(), 6_000) == [Campaign()]


def test_it_renews_in_time_and_counts_from_before_it_asked() -> None:
    election = leading()
    due = 60 + SETTINGS.renew_every_ms
    assert election.handle(Tick(), due - 1) == []
    assert election.handle(Tick(), due) == [Renew(7)]
    assert election.handle(Tick(), due + 400) == [], "one renewal at a time"
    assert election.handle(RenewalEnded(lease=7, asked_ms=due, kept=True), due + 600) == []
    assert election.leads(due + LEASE_MS - SETTINGS.margin_ms - 1)
    assert not election.leads(due + LEASE_MS - SETTINGS.margin_ms)


def test_it_stops_by_its_own_clock_when_the_store_is_silent() -> None:
    election = leading()
    election.handle(Tick(), 1_060)
    effects = election.handle(Tick(), 60 + LEASE_MS - SETTINGS.margin_ms)
    assert [type(effect) for effect in effects] == [EndTerm, Revoke]
    assert not election.leads(3_000)


def test_one_that_was_stopped_wakes_up_as_no_leader() -> None:
    election = leading()
    assert not election.leads(500_000)
    late = election.handle(RenewalEnded(lease=7, asked_ms=1_060, kept=True), 500_000)
    assert [type(effect) for effect in late] == [EndTerm, Revoke], "a late confirmation does not bring the lead back"


def test_a_failed_renewal_is_tried_again_while_the_lease_lasts() -> None:
    election = leading()
    assert election.handle(Tick(), 1_060) == [Renew(7)]
    assert election.handle(RenewalEnded(lease=7, asked_ms=1_060, kept=False, error="timeout"), 1_200) == []
    assert election.handle(Tick(), 1_800) == [Renew(7)]
    assert election.leads(1_800)


def test_a_lease_that_has_ended_ends_the_term() -> None:
    election = leading()
    election.handle(Tick(), 1_060)
    assert election.handle(RenewalEnded(lease=7, asked_ms=1_060, kept=False), 1_100) == [EndTerm("its lease has ended")]


def test_a_campaign_of_unknown_outcome_is_given_up_with_its_lease() -> None:
    election = following()
    election.handle(LeaderSeen(0, 1), 0)
    assert election.handle(CampaignEnded(won=0, lease=9, asked_ms=0, error="no answer"), 100) == [Revoke(9)]
    assert election.phase is Phase.FOLLOWING
    assert election.handle(Tick(), 700) == [Campaign()]


def test_who_loses_a_campaign_follows() -> None:
    election = following()
    election.handle(LeaderSeen(0, 1), 0)
    assert election.handle(CampaignEnded(won=0, lease=9, asked_ms=0), 100) == [Revoke(9)]
    election.handle(LeaderSeen(8, 8), 110)
    assert election.handle(Tick(), 10_000) == []


def test_a_campaign_that_took_too_long_is_not_led_from() -> None:
    election = following()
    election.handle(LeaderSeen(0, 1), 0)
    effects = election.handle(CampaignEnded(won=5, lease=7, asked_ms=0), 60_000)
    assert [type(effect) for effect in effects] == [EndTerm, Revoke]


def test_old_news_of_the_key_does_not_end_a_term() -> None:
    election = leading()
    assert election.handle(LeaderSeen(0, 4), 200) == []
    assert election.handle(LeaderSeen(5, 5), 210) == []
    assert election.handle(LeaderSeen(0, 6), 220)[0] == EndTerm("its key in the store is gone")


def test_a_term_that_cannot_go_on_is_given_up_and_the_lead_with_it() -> None:
    election = leading()
    assert election.handle(GiveUp("the store's state is not known"), 200) == [
        EndTerm("the store's state is not known"),
        Revoke(7),
    ]
    assert election.handle(GiveUp("again"), 201) == []


def test_a_server_that_stops_gives_the_lead_away() -> None:
    election = leading()
    assert election.stop(200) == [EndTerm("this server stops"), Revoke(7)]
    election.handle(LeaderSeen(0, 9), 300)
    assert election.handle(Tick(), 10_000) == []


def test_where_nobody_else_can_lead_there_is_no_lease() -> None:
    election = Election(ElectionSettings(lease_ms=None))
    assert election.handle(Eligible(), 0) == [Campaign()]
    assert election.handle(CampaignEnded(won=2, lease=0, asked_ms=0), 10) == [BeginTerm(2)]
    assert election.leads(10**9)
    assert election.handle(GiveUp("a transaction's outcome is not known"), 20) == [
        EndTerm("a transaction's outcome is not known")
    ]
    assert election.handle(Tick(), 600) == [Campaign()]


# Histories


@attrs.define
class Key:
    """The store: who holds the key, under which lease, until when. Leases end late or in time, never early."""

    revision: int = 1
    holder: int = 0
    lease: int = 0
    ends: dict[int, int] = attrs.field(factory=dict)
    next_lease: int = 1

    def pass_to(self, now: int) -> None:
        if self.lease and self.ends.get(self.lease, 0) <= now:
            self.holder = self.lease = 0
            self.revision += 1

    def grant(self, now: int) -> int:
        self.next_lease += 1
        self.ends[self.next_lease] = now + LEASE_MS
        return self.next_lease

    def create(self, lease: int, now: int) -> int:
        self.pass_to(now)
        if self.lease or self.ends.get(lease, 0) <= now:
            return 0
        self.revision += 1
        self.holder, self.lease = self.revision, lease
        return self.revision

    def keep(self, lease: int, now: int) -> bool:
        self.pass_to(now)
        if self.ends.get(lease, 0) <= now:
            return False
        self.ends[lease] = now + LEASE_MS
        return True

    def revoke(self, lease: int, now: int) -> None:
        self.ends[lease] = now
        self.pass_to(now)


class World:
    """Three servers, one key; each call and each piece of news takes its time, or is lost."""

    def __init__(self, seed: int, trouble: float) -> None:
        self.random = random.Random(seed)
        self.trouble = trouble
        self.now = 0
        self.key = Key()
        self.servers = [Election(SETTINGS) for _ in range(3)]
        self.queue: list[tuple[int, int, int, Event | Effect, bool]] = []
        self.counter = 0
        self.asleep = [0, 0, 0]
        for server in range(3):
            self.deliver(server, Eligible())

    def later(self, delay: int, server: int, what: Event | Effect, at_store: bool) -> None:
        self.counter += 1
        self.queue.append((self.now + delay, self.counter, server, what, at_store))

    def delay(self) -> int:
        return self.random.choice([1, 5, 20]) if self.random.random() > self.trouble else self.random.randint(1, 4_000)

    def deliver(self, server: int, event: Event) -> None:
        for effect in self.servers[server].handle(event, self.now):
            self.later(self.delay(), server, (effect, self.now), True)  # type: ignore[arg-type]

    def at_store(self, server: int, effect: Effect, asked: int) -> None:
        lost = self.random.random() < self.trouble / 2
        match effect:
            case Campaign():
                lease = self.key.grant(self.now)
                won = self.key.create(lease, self.now)
                outcome = (0, "lost") if lost else (won, "")
                answer = CampaignEnded(won=outcome[0], lease=lease, asked_ms=asked, error=outcome[1])
                self.later(self.delay(), server, answer, False)
            case Renew():
                kept = self.key.keep(effect.lease, self.now)
                answer_ = RenewalEnded(
                    lease=effect.lease, asked_ms=asked, kept=kept and not lost, error="lost" if lost else ""
                )
                self.later(self.delay(), server, answer_, False)
            case Revoke():
                if not lost:
                    self.key.revoke(effect.lease, self.now)

    def run(self, until: int) -> None:
        while self.now < until:
            self.now += 10
            self.key.pass_to(self.now)
            due = sorted((item for item in self.queue if item[0] <= self.now), key=lambda item: item[:2])
            self.queue = [item for item in self.queue if item[0] > self.now]
            for _, _, server, what, at_store in due:
                if at_store:
                    effect, asked = what  # type: ignore[misc]
                    self.at_store(server, effect, asked)
                elif self.asleep[server] > self.now:
                    self.queue.append((self.asleep[server], self.counter, server, what, False))
                else:
                    self.deliver(server, what)  # type: ignore[arg-type]
            for server in range(3):
                if self.random.random() < self.trouble / 200:
                    self.asleep[server] = self.now + self.random.randint(100, 12_000)
                if self.asleep[server] <= self.now:
                    if self.now % 100 == 0:
                        self.later(self.delay(), server, LeaderSeen(self.key.holder, self.key.revision), False)
                    self.deliver(server, Tick())
            self.check()

    def check(self) -> None:
        leaders = [server for server in range(3) if self.servers[server].leads(self.now)]
        assert len(leaders) <= 1, f"at {self.now} ms servers {leaders} both believe that they lead"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.05, 0.2, 0.5]))
def test_at_most_one_leads_and_after_healing_one_does(seed: int, trouble: float) -> None:
    world = World(seed, trouble)
    world.run(20_000)
    world.trouble = 0.0
    world.run(55_000)
    leaders = [server for server in range(3) if world.servers[server].leads(world.now)]
    assert len(leaders) == 1


def counts_from_the_answer(self: Election, event: RenewalEnded, monotonic_ms: int) -> list[Effect]:
    late = attrs.evolve(event, asked_ms=monotonic_ms + SETTINGS.margin_ms)
    return RENEWAL_ENDED(self, late, monotonic_ms)


RENEWAL_ENDED = Election._renewal_ended


@pytest.mark.parametrize(
    ("method", "fault", "seed"),
    [
        ("_renewal_ended", counts_from_the_answer, 153),
        ("_is_over", lambda self, now: False, 1),
    ],
    ids=["counts from the answer", "trusts the store to tell it"],
)
def test_the_histories_find_planted_faults(
    method: str, fault: object, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    World(seed, 0.5).run(20_000)
    monkeypatch.setattr(Election, method, fault)
    with pytest.raises(AssertionError, match="both believe"):
        World(seed, 0.5).run(20_000)
