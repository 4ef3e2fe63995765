"""Scenarios: an author's framework, commands and checks on simulated clusters."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import pytest

from orlop.framework import (
    Action,
    Ask,
    Framework,
    Kill,
    Outcome,
    Process,
    Put,
    Refused,
    Reply,
    Resources,
    View,
    WakeAt,
)
from orlop.testing.pytest_plugin import SEEDS
from orlop.testing.scenario import Scenario, SimulatedCluster, run_scenario
from orlop.testing.simulation.world import START_UTC_MS, Broken

NEEDS = Resources(cpus=0.5, mem="64MiB")


@attrs.frozen
class Wish:
    copies: int


class Scaled(Framework):
    """As many copies as the last command said."""

    name = "scaled"
    documents = {"wish": Wish}  # noqa: RUF012

    def command(self, view: View, command: int) -> Iterator[Action]:
        if command < 0:
            raise Refused("expected 0 or more")
        yield Put("wish", "copies", Wish(command))
        yield Reply({"copies": command})

    def reconcile(self, view: View) -> Iterator[Action]:
        copies = view.objects("wish").get("copies", Wish(0)).copies
        wanted = {f"copy-{number}" for number in range(copies)}
        for key in sorted(wanted - view.live.keys()):
            yield Ask(key, run=Process("sleep 1000"), needs=NEEDS)
        for key in sorted(view.live.keys() - wanted):
            yield Kill(key)


class Once(Framework):
    """Runs its task until it has succeeded."""

    name = "once"
    documents = {"done": Wish}  # noqa: RUF012

    def reconcile(self, view: View) -> Iterator[Action]:
        if "task" in view.live or view.objects("done"):
            return
        task = view.tasks.get("task")
        if task is not None and task.status.exit is not None and task.status.exit.outcome is Outcome.FINISHED:
            yield Put("done", "task", Wish(0))
        else:
            yield Ask("task", run=Process("work"), needs=NEEDS)


class Scaling(Scenario):
    """Clients say how many copies; whatever they know must be true in the end."""

    def __init__(self) -> None:
        self.possible = [0]
        self.heard: list[str] = []

    def frameworks(self) -> Iterable[Framework]:
        return [Scaled(), Once()]

    def commands(self, chance: random.Random) -> Iterable[tuple[float, str, Any]]:
        for second in range(1, 60, 6):
            yield second, "scaled", chance.choice((-1, 0, 1, 2, 4))

    def ends(self, framework: str, key: str, chance: random.Random) -> tuple[float, int] | None:
        return (2.5, chance.choice((0, 1))) if framework == "once" else None

    def answered(self, framework: str, command: Any, reply: Any) -> None:
        assert (framework, reply) == ("scaled", {"copies": command})
        self.possible = [command]
        self.heard.append("answered")

    def refused(self, framework: str, command: Any, reason: str) -> None:
        assert command >= 0 or "leads" in reason or "nothing was changed" in reason or reason == "expected 0 or more"
        self.heard.append("refused")

    def unknown(self, framework: str, command: Any) -> None:
        self.possible.append(command)
        self.heard.append("unknown")

    def check_step(self, cluster: SimulatedCluster) -> None:
        assert 0 <= cluster.time_s <= 135
        if cluster.has_leader:
            assert len(cluster.view("scaled").live) <= 4
        else:
            with pytest.raises(LookupError, match="nobody leads"):
                cluster.view("scaled")

    def check_end(self, cluster: SimulatedCluster) -> None:
        wish = cluster.view("scaled").objects("wish").get("copies", Wish(0))
        assert wish.copies in self.possible
        assert cluster.running("scaled") == [f"copy-{number}" for number in range(wish.copies)]
        assert cluster.running("once") == []
        assert "task" in cluster.view("once").objects("done")
        assert cluster.running() == cluster.running("scaled")


def test_a_scenario_hears_what_became_of_its_commands() -> None:
    heard: set[str] = set()

    def make() -> Scaling:
        made = Scaling()
        made.heard = Collector(heard)
        return made

    for seed in range(12):
        run_scenario(seed, make)
    assert heard == {"answered", "refused", "unknown"}


class Collector(list[str]):
    """A list whose items are also in a set that outlives it."""

    def __init__(self, into: set[str]) -> None:
        super().__init__()
        self._into = into

    def append(self, item: str) -> None:
        super().append(item)
        self._into.add(item)


def test_without_trouble_every_command_is_answered_or_refused() -> None:
    made: list[Scaling] = []

    def make() -> Scaling:
        made.append(Scaling())
        return made[-1]

    run_scenario(3, make, servers=1, nodes=1, trouble=0)
    assert len(made[-1].heard) == 10
    assert set(made[-1].heard) <= {"answered", "refused"}


def test_a_history_depends_on_its_seed_alone() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_scenario import Scaling\n"
        "from orlop.testing.scenario import run_scenario\n"
        "print(*(run_scenario(seed, Scaling) for seed in (1, 2)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, os.path.dirname(__file__)],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for hash_seed in ("0", "77")
    }
    (output,) = outputs
    assert len(set(output.split())) == 2


def test_what_a_step_breaks_is_shown_with_its_time_and_the_line_that_found_it() -> None:
    class Impatient(Scaling):
        def check_step(self, cluster: SimulatedCluster) -> None:
            assert "copy-0" not in cluster.running("scaled"), "a copy runs"

        def commands(self, chance: random.Random) -> Iterable[tuple[float, str, Any]]:
            return [(5, "scaled", 0), (40.25, "scaled", 1), (50, "scaled", 2)]

    with pytest.raises(Broken) as found:
        run_scenario(4, Impatient)
    text = str(found.value)
    assert text.startswith("seed 4: AssertionError: a copy runs")
    (where,) = (line for line in text.splitlines() if line.startswith("at "))
    assert "test_scenario.py:" in where
    assert where.endswith('assert "copy-0" not in cluster.running("scaled"), "a copy runs"')
    plan = text.split("break it (seconds, what):\n")[1].split("the end of its history")[0].splitlines()
    assert len(plan) == 1
    assert "command('scaled'" in plan[0]


def test_a_handler_that_raises_breaks_the_history() -> None:
    class Raises(Framework):
        name = "raises"

        def reconcile(self, view: View) -> Iterator[Action]:
            raise RuntimeError("not today")

    class Raising(Scenario):
        def frameworks(self) -> Iterable[Framework]:
            return [Raises()]

    with pytest.raises(Broken, match="RuntimeError: not today"):
        run_scenario(0, Raising, trouble=0)


WEEK_MS = 7 * 86_400_000


class Weekly(Framework):
    """Runs its task once a week, by its wake-ups alone."""

    name = "weekly"
    documents = {"done": Wish}  # noqa: RUF012

    def reconcile(self, view: View) -> Iterator[Action]:
        done = view.objects("done").get("weeks", Wish(0)).copies
        week = (view.now.utc_ms - START_UTC_MS) // WEEK_MS
        if week > done:
            yield Put("done", "weeks", Wish(week))
            yield Ask(f"week-{week}", run=Process("work"), needs=NEEDS)
        yield WakeAt(START_UTC_MS + (max(week, done) + 1) * WEEK_MS)


class Weeks(Scenario):
    def __init__(self) -> None:
        self.started_s: dict[str, float] = {}
        self.ended_s: dict[str, float] = {}

    def frameworks(self) -> Iterable[Framework]:
        return [Weekly()]

    def spells(self, chance: random.Random) -> Iterable[float]:
        return [week * WEEK_MS / 1000 - chance.uniform(0, 60) for week in (2, 5)]

    def ends(self, framework: str, key: str, chance: random.Random) -> tuple[float, int]:
        return 86_400, 0

    def check_step(self, cluster: SimulatedCluster) -> None:
        running = cluster.running("weekly")
        for key in running:
            self.started_s.setdefault(key, cluster.time_s)
        for key in self.started_s.keys() - set(running):
            self.ended_s.setdefault(key, cluster.time_s)

    def check_end(self, cluster: SimulatedCluster) -> None:
        assert cluster.utc_ms == START_UTC_MS + 8.5 * WEEK_MS
        assert cluster.view("weekly").objects("done")["weeks"].copies == 8


EIGHT_WEEKS: dict[str, Any] = {"trouble_s": 8 * WEEK_MS / 1000, "healing_s": 0.5 * WEEK_MS / 1000, "leaps": True}


@pytest.mark.parametrize("trouble", [0, 1.0])
def test_weeks_are_leapt_over_and_nothing_that_is_due_is(trouble: float) -> None:
    for seed in range(3):
        assert run_scenario(seed, Weeks, trouble=trouble, **EIGHT_WEEKS) == run_scenario(
            seed, Weeks, trouble=trouble, **EIGHT_WEEKS
        )


def test_a_day_of_work_is_leapt_over_too_and_takes_its_day() -> None:
    made: list[Weeks] = []

    def make() -> Weeks:
        made.append(Weeks())
        return made[-1]

    run_scenario(0, make, trouble=0, **EIGHT_WEEKS)
    assert set(made[-1].ended_s) == {f"week-{week}" for week in range(1, 9)}
    for week in range(1, 9):
        started_s, ended_s = made[-1].started_s[f"week-{week}"], made[-1].ended_s[f"week-{week}"]
        assert started_s == pytest.approx(week * WEEK_MS / 1000, abs=5)
        assert ended_s == pytest.approx(started_s + 86_400, abs=5)


def test_a_scenario_without_frameworks_is_none() -> None:
    with pytest.raises(NotImplementedError, match=r"Scenario has no frameworks\(\)"):
        run_scenario(0, Scenario)


@pytest.mark.parametrize("at_s", [-1, 60, 61.5])
def test_a_command_outside_the_time_of_trouble_is_refused(at_s: float) -> None:
    class Late(Scaling):
        def commands(self, chance: random.Random) -> Iterable[tuple[float, str, Any]]:
            return [(at_s, "scaled", 1)]

    with pytest.raises(ValueError, match="expected seconds from 0 to below 60"):
        run_scenario(0, Late)


def test_what_does_not_break_twice_is_called_so() -> None:
    left = [1]

    class Flickers(Scaling):
        def check_end(self, cluster: SimulatedCluster) -> None:
            assert not left or not left.pop()

    with pytest.raises(Broken, match="seed 2 broke, and did not break again"):
        run_scenario(2, Flickers)


# What authors get wrong is found within the seeds that are played by default.


class Remembers(Scaled):
    """Keeps what it was told in the instance."""

    copies = 0

    def command(self, view: View, command: int) -> Iterator[Action]:
        self.copies = command
        yield Reply({"copies": command})

    def reconcile(self, view: View) -> Iterator[Action]:
        wanted = {f"copy-{number}" for number in range(self.copies)}
        for key in sorted(wanted - view.live.keys()):
            yield Ask(key, run=Process("sleep 1000"), needs=NEEDS)
        for key in sorted(view.live.keys() - wanted):
            yield Kill(key)


class GivesUp(Scaled):
    """Starts no copy a second time."""

    def reconcile(self, view: View) -> Iterator[Action]:
        asked = view.tasks.keys() - view.live.keys()
        return (one for one in super().reconcile(view) if not isinstance(one, Ask) or one.key not in asked)


class Doubles(Scaled):
    """Starts another copy of what is not heard of, and lets both be when it returns."""

    def reconcile(self, view: View) -> Iterator[Action]:
        more = {f"{key}-again" for key, task in view.live.items() if task.unreachable and not key.endswith("again")}
        for key in sorted(more - view.live.keys()):
            yield Ask(key, run=Process("sleep 1000"), needs=NEEDS)
        for action in super().reconcile(view):
            if not isinstance(action, Kill) or not action.key.endswith("again"):
                yield action


class Hurries(Scaled):
    """Counts a command as done that it has not stored: the reply leaves with what an earlier command has stored."""

    def command(self, view: View, command: int) -> Iterator[Action]:
        if view.objects("wish"):
            yield Reply({"copies": command})
        else:
            yield from super().command(view, command)


@pytest.mark.parametrize("framework", [Remembers, GivesUp, Doubles, Hurries])
def test_what_authors_get_wrong_is_found(framework: type[Framework]) -> None:
    class Wrong(Scaling):
        def frameworks(self) -> Iterable[Framework]:
            return [framework(), Once()]

    def play() -> None:
        for seed in range(SEEDS):
            run_scenario(seed, Wrong, shrink=False)

    with pytest.raises(Broken, match=r"^seed \d+: AssertionError"):
        play()
