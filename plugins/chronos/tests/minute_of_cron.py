"""A minute of cron on three simulated servers and five nodes while everything breaks: a scenario, and what must hold.

After all is healed, what is recorded is held against what the schedules say and against the programs that were really
started: every due time is accounted for exactly once, by a run or with the reason why there was none; each backfill has
a run for every due time of its stretch, all of them or, if nobody was told that it was accepted, none; every program
belongs to a recorded attempt, and the other way round; children started only after their parents' successes.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from orlop.framework import Framework, View
from orlop.testing.harness import START_UTC_MS
from orlop.testing.scenario import Scenario, SimulatedCluster
from orlop_chronos import documents, instants, orders, reading
from orlop_chronos.documents import Cause, JobRecord, Progress, Run, RunState, run_id
from orlop_chronos.framework import Chronos
from orlop_chronos.model import Overlap
from orlop_chronos.settings import Config
from orlop_chronos.triggers import Due

#: Two without parents, which may be removed, and one that no client removes.
FIRST = ("fast", "slow", "lone")
STAYS = "lone"
PARENTS = {"sum": ["fast", "slow"], "last": ["sum"]}
REPEATS = (None, None, 5, 9)
OVERLAPS = ("queue", "forbid", "replace", "allow")


@attrs.frozen
class Interval:
    """A schedule in words of its own. repeats: how often in all; None: without end."""

    start_ms: int
    period_s: int
    repeats: int | None

    @property
    def text(self) -> str:
        start = instants.format_instant(instants.wall_at(self.start_ms, instants.UTC))
        return f"R{'' if self.repeats is None else self.repeats}/{start}/PT{self.period_s}S"

    def within(self, from_ms: int, until_ms: int) -> list[int]:
        """When it is due then, both ends included."""
        numbers = itertools.count() if self.repeats is None else range(self.repeats)
        due = (self.start_ms + number * self.period_s * 1000 for number in numbers)
        return [at_ms for at_ms in itertools.takewhile(lambda at_ms: at_ms <= until_ms, due) if at_ms >= from_ms]


@attrs.frozen(kw_only=True)
class Backfill(orders.Backfill):
    """Its client knows when the job is due."""

    interval: Interval

    @property
    def due_times(self) -> Counter[int]:
        return Counter(self.interval.within(self.from_ms, self.until_ms))


def definition(name: str, interval: Interval, chance: random.Random) -> reading.Definition:
    """A job of that name, which is due by that interval or after its parents."""
    document: dict[str, Any] = {
        "name": name,
        "command": "work",
        "cpus": 0.1,
        "mem": 16,
        "retries": chance.randint(0, 2),
        "retryDelay": chance.choice([0, 1, 5]),
        "overlap": chance.choice(OVERLAPS),
        "nodeLoss": chance.choice(["at-most-once", "at-least-once"]),
        "catchUp": chance.choice(["none", "one", "one", "all"]),
        "epsilon": chance.choice(["", "", "PT8S"]),
    }
    if name in PARENTS:
        document["parents"] = PARENTS[name]
    else:
        document["schedule"] = interval.text
    return reading.read_job(document, START_UTC_MS, reading.Defaults(disk=0))


class Cron(Scenario):
    """Clients define jobs, run them by hand and for stretches of time, kill, disable and enable them, and sometimes
    remove one."""

    def __init__(self) -> None:
        self.started: Counter[str] = Counter()
        self.backfilled = 0
        self.backfills: list[Backfill] = []
        self.backfills_in_doubt: list[Backfill] = []

    def frameworks(self) -> Iterable[Framework]:
        return [Chronos(Config(history_count=10_000))]

    def commands(self, chance: random.Random) -> Iterable[tuple[float, str, Any]]:
        names = [*FIRST, "sum", "last"]
        intervals = {}
        for position, name in enumerate(names):
            intervals[name] = interval = Interval(
                START_UTC_MS + chance.randint(0, 20_000), chance.randint(3, 12), chance.choice(REPEATS)
            )
            put = orders.PutJob(definition=definition(name, interval, chance), names=reading.NAMES_V3)
            # Several times: one may be refused, and a parent must be there before its child.
            for again in range(4):
                yield min(position + again * 10.0, 59), "chronos", put
        for _ in range(chance.randint(0, 8)):
            name = chance.choice(names)
            yield chance.uniform(5, 59), "chronos", self._disturbance(name, chance)
        for _ in range(chance.randint(1, 3)):
            from_ms = START_UTC_MS + chance.randint(-20_000, 60_000)
            until_ms = from_ms + chance.randint(0, 30_000)
            name = chance.choice((STAYS, *FIRST))
            order = Backfill(name=name, from_ms=from_ms, until_ms=until_ms, interval=intervals[name])
            yield chance.uniform(5, 59), "chronos", order

    @staticmethod
    def _disturbance(name: str, chance: random.Random) -> orders.Order:
        match chance.choice(("start", "start", "kill", "disable", "enable", "enable", "delete", "pause", "resume")):
            case "start":
                return orders.StartJob(name=name)
            case "kill":
                return orders.KillRuns(name=name)
            case "delete" if name != STAYS:
                return orders.DeleteJob(name=name)
            case "pause":
                return orders.Pause(paused=True)
            case "resume":
                return orders.Pause(paused=False)
            case what:
                return orders.SetDisabled(name=name, disabled=what in ("disable", "delete"))

    def answered(self, framework: str, command: Any, reply: Any) -> None:
        if isinstance(command, Backfill):
            self.backfills.append(command)
            assert reply == command.due_times.total(), (command, reply)

    def unknown(self, framework: str, command: Any) -> None:
        if isinstance(command, Backfill):
            self.backfills_in_doubt.append(command)

    def ends(self, framework: str, key: str, chance: random.Random) -> tuple[float, int]:
        self.started[key] += 1
        return chance.uniform(0, 9), chance.choice([0, 0, 0, 1])

    def check_step(self, cluster: SimulatedCluster) -> None:
        """No two programs of a job at once, where that is forbidden; but of a node that was given up."""
        of_jobs = Counter(key.partition("/")[0] for key in cluster.running("chronos"))
        if not cluster.has_leader or not any(count > 1 for count in of_jobs.values()):
            return
        view = cluster.view("chronos")
        for name, record in view.objects(documents.JOB).items():
            if record.job.overlap_policy is not Overlap.ALLOW:
                running = [key for key in cluster.running("chronos") if key.partition("/")[0] == name]
                assert sum(key in view.live for key in running) <= 1, running

    def check_end(self, cluster: SimulatedCluster) -> None:
        view = cluster.view("chronos")
        for name, record in view.objects(documents.JOB).items():
            runs = runs_of(view, name)
            check_due_times(view, record, runs)
            check_parents(view, record, runs)
        if STAYS in view.objects(documents.JOB):
            self._check_backfills(runs_of(view, STAYS))
        self._check_programs(view)

    def _check_backfills(self, runs: list[Run]) -> None:
        """Of the job that no client removes: nothing of it is forgotten."""
        found = Counter(run.nominal_ms for run in runs if run.cause is Cause.BACKFILL)
        expected = sum((order.due_times for order in self.backfills if order.name == STAYS), Counter())
        in_doubt = [order.due_times for order in self.backfills_in_doubt if order.name == STAYS]
        possible = [expected]
        for due in in_doubt:
            possible += [one + due for one in possible]
        assert found in possible, (found, expected, in_doubt)
        assert not any(run.state is RunState.SKIPPED for run in runs if run.cause is Cause.BACKFILL)
        self.backfilled += found.total()

    def _check_programs(self, view: View) -> None:
        """Every program is a recorded attempt's, and every attempt that ran had its program."""
        known: Mapping[str, JobRecord] = view.objects(documents.JOB)
        recorded = {}
        for name in known:
            for run in runs_of(view, name):
                for number, attempt in enumerate(run.attempts):
                    recorded[documents.task_key(run, number)] = attempt
        of_known = {key for key in self.started if self._uid(key) in {record.uid for record in known.values()}}
        assert of_known <= recorded.keys(), of_known - recorded.keys()
        ran = {key for key, attempt in recorded.items() if attempt.started_ms is not None}
        assert ran <= set(self.started), ran - set(self.started)

    @staticmethod
    def _uid(key: str) -> str:
        return key.split("/")[2].partition("-")[0]


def runs_of(view: View, name: str) -> list[Run]:
    progress: Progress = view.objects(documents.PROGRESS)[name]
    stored = view.objects(documents.RUN)
    return [stored[run_id(name, number)] for number in range(progress.oldest_run, progress.next_run)]


def check_due_times(view: View, record: JobRecord, runs: list[Run]) -> None:
    """Each due time so far has one run, or stands in a stretch that was passed over."""
    due = Due.of(record)
    progress: Progress = view.objects(documents.PROGRESS)[record.job.name]
    by_time = [run for run in runs if run.cause in (Cause.TIME, Cause.CATCH_UP) and run.created_ms >= record.since_ms]
    if due is None or due.first() is None:
        return
    accounted = []
    for run in by_time:
        moment = due.from_time(run.nominal_ms, due.first())  # type: ignore[arg-type]
        for _ in range(run.count):
            assert moment is not None
            accounted.append(moment.at_ms)
            moment = due.following(moment)
    # A leader's clock may be ahead of the others', and so may be what it has made.
    until_ms = max([view.now.utc_ms, *accounted])
    expected = []
    moment = due.first()
    if record.job.name in PARENTS:  # it has inherited a schedule, and goes by it from then on
        moment = due.from_time(min(accounted, default=until_ms), due.first())  # type: ignore[arg-type]
    while moment is not None and moment != progress.upcoming and moment.at_ms <= until_ms:
        expected.append(moment.at_ms)
        moment = due.following(moment)
    if progress.left == 0:
        expected = expected[: len(accounted)]
    assert sorted(accounted) == expected, (record.job.name, sorted(accounted), expected)
    if due.trigger.repeats is not None:
        ran = sum(run.state is not RunState.SKIPPED or bool(run.attempts) for run in by_time)
        assert ran <= due.trigger.repeats


def check_parents(view: View, record: JobRecord, runs: list[Run]) -> None:
    """Each run that parents led to has used up a success of every one of them."""
    known: Mapping[str, JobRecord] = view.objects(documents.JOB)
    parents = record.job.parents
    if any(parent not in known or known[parent].created_ms > record.created_ms for parent in parents):
        return  # what a removed job has done is not known any more
    # A parent that is gone may have led to some, and left its child to its own parents.
    due = sum(run.cause is Cause.PARENT and run.because_of.rpartition("/")[0] in ("", *parents) for run in runs)
    for parent in parents:
        successes = sum(run.state is RunState.SUCCEEDED for run in runs_of(view, parent))
        assert successes >= due, (record.job.name, parent, successes, due)
