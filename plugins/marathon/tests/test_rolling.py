"""The table of the reference, and what must hold on every course."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_marathon import rolling
from orlop_marathon.model import App, Container, PersistentVolume, UpgradeStrategy, Volume
from orlop_marathon.rolling import Bounds, Situation

KEEPS_DATA = Container(volumes=(Volume(container_path="data", persistent=PersistentVolume(size=10)),))


def app(n: int, minimum: float, over: float, resident: bool = False) -> App:
    return App(
        id="/a",
        instances=n,
        upgrade_strategy=UpgradeStrategy(minimum_health_capacity=minimum, maximum_over_capacity=over),
        container=KEEPS_DATA if resident else None,
    )


@attrs.define
class Instance:
    new: bool
    ready: bool
    leaving: bool = False
    ready_when_chosen: bool = False


@attrs.define
class Course:
    """A restart, played through: the world as the arithmetic sees it, moved on by the test."""

    limit: Bounds
    instances: list[Instance]
    killed: int = 0
    started: int = 0

    def situation(self) -> Situation:
        old = [one for one in self.instances if not one.new and not one.leaving]
        leaving = [one for one in self.instances if one.leaving]
        new = [one for one in self.instances if one.new]
        return Situation(
            old_ready=sum(one.ready for one in old),
            old_unready=sum(not one.ready for one in old),
            leaving_ready=sum(one.ready_when_chosen for one in leaving),
            leaving_unready=sum(not one.ready_when_chosen for one in leaving),
            new=len(new),
            new_ready=sum(one.ready for one in new),
        )

    def decide(self) -> tuple[int, int]:
        """Takes the decisions of this moment; (kills, starts)."""
        now = self.situation()
        kills, starts = rolling.kills(self.limit, now), rolling.starts(self.limit, now)
        old = sorted((one for one in self.instances if not one.new and not one.leaving), key=lambda one: one.ready)
        assert kills <= len(old)
        for one in old[:kills]:
            one.leaving, one.ready_when_chosen = True, one.ready
        self.instances += [Instance(new=True, ready=False) for _ in range(starts)]
        return kills, starts

    def kills_done(self) -> None:
        self.instances = [one for one in self.instances if not one.leaving]

    def done(self) -> bool:
        now = self.situation()
        return now.new == now.new_ready == self.limit.instances and not now.old and not now.leaving


def course(definition: App, old: int, healthy: int | None = None) -> Course:
    ready = old if healthy is None else healthy
    instances = [Instance(new=False, ready=position < ready) for position in range(old)]
    return Course(limit=rolling.bounds(definition), instances=instances)


# n, minimum, over, resident, old, healthy → minHealthy, maxCapacity, kill now, first start, start after the kills
TABLE = [
    (4, 1.0, 1.0, False, 4, 4, 4, 8, 0, 4, 4),
    (4, 1.0, 0.0, False, 4, 4, 4, 4, 0, 1, 1),
    (4, 0.5, 0.0, False, 4, 4, 2, 4, 2, 0, 2),
    (4, 0.0, 0.0, False, 4, 4, 0, 4, 4, 0, 4),
    (4, 0.5, 0.5, False, 4, 4, 2, 6, 2, 2, 4),
    (3, 0.7, 0.0, False, 3, 3, 3, 3, 0, 1, 1),
    (3, 0.5, 0.5, False, 3, 3, 2, 4, 1, 1, 2),
    (10, 0.8, 0.2, False, 10, 10, 8, 12, 2, 2, 4),
    (1, 1.0, 0.0, False, 1, 1, 1, 1, 0, 1, 1),
    (1, 0.5, 0.0, False, 1, 1, 1, 1, 0, 1, 1),
    (1, 0.0, 0.0, False, 1, 1, 0, 1, 1, 0, 1),
    (2, 0.5, 0.0, True, 2, 2, 1, 2, 1, 0, 1),
    (2, 1.0, 0.0, True, 2, 2, 2, 2, 1, 0, 1),
    (4, 1.0, 0.25, False, 4, 2, 4, 5, 0, 1, 1),
    (3, 1.0, 1.0, False, 5, 5, 3, 6, 2, 1, 3),
]


@pytest.mark.parametrize(
    ("n", "minimum", "over", "resident", "old", "healthy", "least", "most", "kill", "first", "then"), TABLE
)
def test_first_wave(
    n: int,
    minimum: float,
    over: float,
    resident: bool,
    old: int,
    healthy: int,
    least: int,
    most: int,
    kill: int,
    first: int,
    then: int,
) -> None:
    found = course(app(n, minimum, over, resident), old, healthy)
    assert (found.limit.minimum_healthy, found.limit.maximum) == (least, most)
    assert found.decide() == (kill, first)
    assert found.decide() == (0, 0), "asked again about the same moment"
    found.kills_done()
    starts = first
    for _ in range(3):
        starts += found.decide()[1]
    assert starts == then


def test_shares_are_decimals_not_binary_fractions():
    assert rolling.bounds(app(10, 0.7, 0.1)).minimum_healthy == 7
    assert rolling.bounds(app(10, 0.7, 0.1)).maximum == 11
    assert rolling.bounds(app(100, 0.29, 0.29)) == Bounds(instances=100, minimum_healthy=29, maximum=129)


def test_an_unhealthy_old_one_goes_when_a_new_one_is_healthy():
    found = course(app(4, 1, 0.25), old=4, healthy=2)
    assert found.decide() == (0, 1)
    next(one for one in found.instances if one.new).ready = True
    assert found.decide() == (1, 0)
    assert [one.ready_when_chosen for one in found.instances if one.leaving] == [False]


def test_old_ones_that_never_get_well_do_not_block():
    """Marathon's arithmetic alone would wait for ever: 2 healthy of 4 are no more than the minimum, 4 the maximum."""
    found = course(app(4, 0.5, 0), old=4, healthy=2)
    assert found.decide() == (2, 0)
    assert all(not one.ready_when_chosen for one in found.instances if one.leaving)


@given(
    n=st.integers(1, 12),
    minimum=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]),
    over=st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]),
    resident=st.booleans(),
    old=st.integers(0, 15),
    data=st.data(),
)
def test_every_course_keeps_its_bounds_and_ends(
    n: int, minimum: float, over: float, resident: bool, old: int, data: st.DataObject
) -> None:
    found = course(app(n, minimum, over, resident), old, data.draw(st.integers(0, old)))
    limit = found.limit
    most = limit.maximum + (limit.forced and not resident)
    least = limit.minimum_healthy - (limit.forced and resident)
    for _ in range(200):
        before = found.situation()
        _, starts = found.decide()
        after = found.situation()
        assert after.healthy >= min(before.healthy, least), "our own kills went below the minimum"
        if starts:
            assert len(found.instances) <= most
        assert after.new <= n
        assert found.decide() == (0, 0)
        if found.done():
            return
        # Something happens in the world: one killed instance is gone, or one new one gets ready.
        movable = [one for one in found.instances if one.leaving or (one.new and not one.ready)]
        assert movable, "nothing is under way, and the restart is not done"
        moved = movable[data.draw(st.integers(0, len(movable) - 1))]
        if moved.leaving:
            found.instances.remove(moved)
        else:
            moved.ready = True
    raise AssertionError("the restart does not end")
