"""When a server looks for garbage, and what it does not look at again."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from orlop.framework import Action, Ask, Changed, Framework, PortRequest, Process, Resources, View
from orlop.processes import collecting
from orlop.processes.collecting import EVERYTHING_S, LONG_LOOK_S, NEW_OBJECTS, Collector
from orlop.testing.harness import Cluster


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    threshold = gc.get_threshold()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


class Looks:
    """A clock, and what is collected: each look at everything takes as long as is said."""

    def __init__(self, patch: pytest.MonkeyPatch, took_s: float) -> None:
        self.now_s = 0.0
        self.looks: list[int] = []
        self._took_s = took_s
        self._collect = gc.collect
        patch.setattr(collecting.gc, "collect", self.collect)

    def collect(self, generation: int = 2) -> int:
        self.looks.append(generation)
        self.now_s += self._took_s
        return self._collect(generation)


@pytest.mark.parametrize(("took_s", "left_alone"), [(LONG_LOOK_S / 2, False), (LONG_LOOK_S * 2, True)])
def test_what_has_survived_a_long_look_is_not_looked_at_again(
    took_s: float, left_alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch, took_s)
    collector = Collector(lambda: looks.now_s)
    collector.look()
    assert not looks.looks
    looks.now_s = EVERYTHING_S
    collector.look()
    collector.look()
    assert looks.looks == [2], "and the next is as long after its end"
    assert bool(gc.get_freeze_count()) is left_alone


def test_what_is_new_is_looked_at_when_there_is_enough_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch, 0.001)
    collector = Collector(lambda: looks.now_s)
    collector.begin()
    gc.set_threshold(10 * NEW_OBJECTS)
    kept: list[list[None]] = [[] for _ in range(NEW_OBJECTS + 1_000)]
    collector.look()
    assert looks.looks == [1]
    kept.clear()


def test_a_state_that_is_being_loaded_is_left_alone() -> None:
    collector = Collector(lambda: 2 * EVERYTHING_S)
    collector._everything_at_s = 0
    gc.disable()
    try:
        collector.look()
        assert collector._everything_at_s == 0
    finally:
        gc.enable()


class Many(Framework):
    """Asks for so many tasks."""

    name = "many"

    def command(self, view: View, command: int) -> Iterator[Action]:
        for number in range(command):
            yield Ask(f"{command}-{number}", Process("true"), needs=Resources(cpus=0.001), ports=(PortRequest(),))

    def handle(self, view: View, changed: Changed) -> Iterator[Action]:
        return iter(())


def test_a_step_leaves_nothing_for_the_collector() -> None:
    """A ring through a draft keeps a whole step's objects until they are looked for, which holds everything up."""
    cluster = Cluster(Many())
    cluster.add_nodes(5, cpus=100)
    for count in (50, 2_000):  # what there is no room for waits
        cluster.command("many", count // 10)
        cluster.settle()
        gc.collect()
        gc.disable()
        try:
            cluster.command("many", count)
            cluster.settle()
            assert gc.collect() == 0
        finally:
            gc.enable()
