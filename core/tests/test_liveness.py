"""Which nodes are silent: each transition is told once, and a server that did not listen blames nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
from hypothesis import given
from hypothesis import strategies as st

from orlop.kernel.events import NodeSilent
from orlop.server.liveness import Last, Liveness, LivenessSettings

SETTINGS = LivenessSettings(
    unreachable_after_ms=15_000,
    gone_after_ms=60_000,
    crash_grace_ms=20_000,
    restart_grace_ms=120_000,
    takeover_grace_ms=15_000,
    deaf_after_ms=1_000,
)


def watched(
    liveness: Liveness, start_ms: int, end_ms: int, times: Callable[[str], Iterable[int]] = lambda _: ()
) -> list[tuple[int, NodeSilent]]:
    """What is told, and when, while somebody looks regularly."""
    return [(at, event) for at in range(start_ms, end_ms + 1, 1_000) for event in liveness.tick(at, times)]


def silent(silent_ms: int, gone: bool = False) -> NodeSilent:
    return NodeSilent(node="n1", gone=gone, silent_ms=silent_ms)


def test_silence_is_told_once_for_each_transition() -> None:
    liveness = Liveness(SETTINGS, iter(["n1"]), 0)
    assert watched(liveness, 1_000, 200_000) == [
        (15_000, silent(15_000)),
        (60_000, silent(60_000, gone=True)),
    ]
    liveness.heard("n1", 200_000)
    assert watched(liveness, 201_000, 220_000) == [(215_000, silent(15_000))]


def test_tasks_may_have_times_of_their_own() -> None:
    liveness = Liveness(SETTINGS, iter(["n1"]), 0)
    times = {"n1": [0, 5_000, 20_000, 90_000]}
    assert watched(liveness, 1_000, 200_000, times.__getitem__) == [
        (15_000, silent(15_000)),
        (20_000, silent(20_000)),
        (60_000, silent(60_000, gone=True)),
        (90_000, silent(90_000, gone=True)),
    ]
    liveness.refused(silent(90_000, gone=True))
    assert watched(liveness, 201_000, 203_000, times.__getitem__) == [(201_000, silent(201_000, gone=True))]
    liveness.heard("n1", 203_000)
    assert not watched(liveness, 204_000, 210_000, times.__getitem__)


def test_a_node_that_speaks_is_never_silent() -> None:
    liveness = Liveness(SETTINGS, iter(["n1"]), 0)
    for at in range(1_000, 200_000, 1_000):
        if at % 14_000 == 0:
            liveness.heard("n1", at)
        assert not liveness.tick(at)


def test_a_planned_stop_has_a_longer_grace() -> None:
    liveness = Liveness(SETTINGS, iter([]), 0)
    liveness.heard("n1", 0)
    liveness.goodbye("n1", 1_000)
    assert watched(liveness, 1_000, 200_000) == [
        (121_000, silent(120_000)),
        (121_000, silent(120_000, gone=True)),
    ]


def test_a_node_whose_connection_was_closed_has_time_to_start_its_agent_again() -> None:
    liveness = Liveness(SETTINGS, iter([]), 0)
    liveness.heard("n1", 1_000)
    liveness.closed("n1")
    assert watched(liveness, 1_000, 100_000) == [(21_000, silent(20_000)), (61_000, silent(60_000, gone=True))]
    liveness.heard("n1", 100_000)
    assert watched(liveness, 101_000, 120_000) == [(115_000, silent(15_000))]
    liveness.closed("n1")
    assert not watched(liveness, 120_000, 150_000), "what was told stays told"


def test_a_connection_that_ends_after_a_goodbye_or_before_a_word_takes_no_grace_away() -> None:
    liveness = Liveness(SETTINGS, iter(["n2"]), 0)
    liveness.goodbye("n1", 0)
    for node in ("n1", "n2", "unknown"):
        liveness.closed(node)
    told = [(at, event.node) for at, event in watched(liveness, 1_000, 119_000)]
    assert told == [(15_000, "n2"), (60_000, "n2")]
    assert [event.node for event in liveness.tick(120_000)] == ["n1", "n1"]


def test_agents_have_time_to_find_a_new_leader() -> None:
    settings = attrs.evolve(SETTINGS, takeover_grace_ms=30_000)
    liveness = Liveness(settings, iter(["n1", "n2"]), 0)
    liveness.heard("n2", 5_000)
    told = [(at, event.node, event.gone) for at, event in watched(liveness, 1_000, 70_000)]
    assert told == [(20_000, "n2", False), (30_000, "n1", False), (60_000, "n1", True), (65_000, "n2", True)]


def test_no_grace_is_shorter_than_what_is_usual() -> None:
    settings = LivenessSettings(unreachable_after_ms=300_000, gone_after_ms=1_000)
    for last in (Last.NEVER, Last.SPOKE, Last.CLOSED):
        assert settings.unreachable_ms(last) == settings.gone_ms(last) == 300_000


def test_what_was_refused_is_told_again() -> None:
    liveness = Liveness(SETTINGS, iter(["n1"]), 0)
    ((_, event),) = watched(liveness, 1_000, 20_000)
    liveness.refused(event)
    assert liveness.tick(21_000) == [silent(21_000)]


def test_a_server_that_was_stopped_blames_nobody() -> None:
    liveness = Liveness(SETTINGS, iter(["n1"]), 0)
    assert not watched(liveness, 1_000, 10_000)
    assert not liveness.tick(500_000)
    assert watched(liveness, 501_000, 600_000) == [
        (504_000, silent(15_000)),  # 10 s and 1 s of those that nobody listened, and 4 s
        (549_000, silent(60_000, gone=True)),
    ]


@given(st.lists(st.integers(1, 100_000), max_size=60), st.sets(st.integers(0, 59)))
def test_nobody_is_blamed_for_less_than_was_listened_to(steps: list[int], spoken: set[int]) -> None:
    liveness = Liveness(SETTINGS, iter(["n1"]), 0)
    now = listened = 0
    for number, step in enumerate(steps):
        now += step
        if number in spoken:
            liveness.heard("n1", now)
            listened = 0
        else:
            listened += min(step, SETTINGS.deaf_after_ms)
        for event in liveness.tick(now):
            assert listened >= (SETTINGS.gone_after_ms if event.gone else SETTINGS.unreachable_after_ms)
