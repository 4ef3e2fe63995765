"""Which nodes are silent: each transition is told once, and a server that did not listen blames nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hypothesis import given
from hypothesis import strategies as st

from orlop.kernel.events import NodeSilent
from orlop.server.liveness import DEAF_AFTER_MS, Liveness, LivenessSettings

SETTINGS = LivenessSettings(unreachable_after_ms=15_000, gone_after_ms=60_000, restart_grace_ms=120_000)


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
        (505_000, silent(15_000)),
        (550_000, silent(60_000, gone=True)),
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
        elif step <= DEAF_AFTER_MS:
            listened += step
        for event in liveness.tick(now):
            assert listened >= (SETTINGS.gone_after_ms if event.gone else SETTINGS.unreachable_after_ms)
