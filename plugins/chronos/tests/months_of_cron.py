"""Months of Chronos on three simulated servers: jobs at times of the wall's clock, in zones that change their clocks.

Trouble comes in minutes in which jobs are due; servers are down for hours and days, and their clocks are set wrong by
minutes, hours and a day. In the end everything is held against `due_times`, which knows nothing of the plugin.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from due_times import ByCalendar, ByHours, CrontabLine, EveryHourLine, Timetable, in_ms, without
from minute_of_cron import check_parents, runs_of

from orlop.framework import Framework, View
from orlop.testing.scenario import Scenario, SimulatedCluster, run_scenario
from orlop_chronos import documents, orders, reading
from orlop_chronos.documents import Cause, JobRecord, Progress, Run, RunState
from orlop_chronos.framework import Chronos
from orlop_chronos.model import Overlap
from orlop_chronos.settings import Config

HOUR: Final = 3_600
DAY: Final = 24 * HOUR
#: The longest that a clock is set ahead.
AHEAD_MS: Final = 27 * HOUR * 1000
#: What is due so shortly before the end need not have its run yet.
PENDING_MS: Final = 60_000
#: So long after all is healed no run is late any more.
RECOVERED_S: Final = 300
HEALING_S: Final = 50 * HOUR
TROUBLE: Final = 0.5
NAMES: Final = ("daily", "weekly", "monthly", "hourly", "line", "sum", "last")
PARENTS: Final = {"sum": ["daily", "weekly"], "last": ["sum"]}
OVERLAPS: Final = ("queue", "forbid", "replace", "allow")

#: Zone → when its clocks are changed in each of the two seasons, UTC.
SPRING: Final = {
    "America/New_York": datetime(2024, 3, 10, 7, tzinfo=UTC),
    "Europe/Berlin": datetime(2024, 3, 31, 1, tzinfo=UTC),
    "Australia/Lord_Howe": datetime(2024, 4, 6, 15, tzinfo=UTC),
    "Pacific/Chatham": datetime(2024, 4, 6, 14, tzinfo=UTC),
    "America/Santiago": datetime(2024, 4, 7, 3, tzinfo=UTC),
    "Africa/Cairo": datetime(2024, 4, 25, 22, tzinfo=UTC),
}
AUTUMN: Final = {
    "America/Santiago": datetime(2024, 9, 8, 4, tzinfo=UTC),
    "Pacific/Chatham": datetime(2024, 9, 28, 14, tzinfo=UTC),
    "Australia/Lord_Howe": datetime(2024, 10, 5, 15, 30, tzinfo=UTC),
    "Europe/Berlin": datetime(2024, 10, 27, 1, tzinfo=UTC),
    "Africa/Cairo": datetime(2024, 10, 30, 21, tzinfo=UTC),
    "America/New_York": datetime(2024, 11, 3, 6, tzinfo=UTC),
}
#: (changes of clocks, beginning, days)
SEASONS: Final = (
    (SPRING, datetime(2024, 2, 28, tzinfo=UTC), 62),
    (AUTUMN, datetime(2024, 9, 1, tzinfo=UTC), 66),
)


def season(seed: int) -> tuple[Mapping[str, datetime], datetime, int]:
    return SEASONS[seed % len(SEASONS)]


def play_months(seed: int, *, trouble: float = TROUBLE, shrink: bool = False) -> str:
    """A history's digest. Raises Broken."""
    _, begins, days = season(seed)
    return run_scenario(
        seed,
        lambda: Months(seed),
        nodes=3,
        trouble=trouble,
        trouble_s=days * DAY,
        healing_s=HEALING_S,
        leaps=True,
        begins_utc_ms=in_ms(begins),
        shrink=shrink,
    )


def timetables(seed: int) -> Mapping[str, Timetable]:
    """Of the jobs without parents: most are due just when their zone's clocks are changed."""
    chance = random.Random(f"{seed}/timetables")
    changes, begins, _ = season(seed)

    def zone() -> str:
        return chance.choice(sorted(changes))

    def near(zone: str) -> time:
        """A time of day about that of the change, which clocks then skip or show twice, or not quite."""
        wall = (changes[zone] + chance.choice((-60, -30, -15, 0, 0, 15, 30, 60)) * timedelta(minutes=1)).astimezone(
            ZoneInfo(zone)
        )
        return wall.time().replace(second=0)

    def start(zone: str, days: int) -> datetime:
        return datetime.combine(begins.date() + timedelta(days=days), near(zone))

    daily, weekly, monthly, hourly, line = (zone() for _ in range(5))
    before = (changes[hourly] - timedelta(hours=chance.randint(3, 30))).astimezone(ZoneInfo(hourly))
    return {
        "daily": ByCalendar(
            zone=daily, start=start(daily, 2), days=chance.choice((1, 1, 2)), repeats=chance.choice((None, None, 25))
        ),
        "weekly": CrontabLine(zone=weekly, at=near(weekly), weekday=chance.choice((0, 0, 6, 1))),
        "monthly": chance.choice(
            (
                ByCalendar(zone=monthly, start=start(monthly, 2).replace(day=31, month=begins.month - 1), months=1),
                CrontabLine(zone=monthly, at=near(monthly), day=31),
            )
        ),
        "hourly": ByHours(
            zone=hourly, start=before.replace(tzinfo=None, minute=5, second=0), hours=1, repeats=chance.randint(20, 48)
        ),
        "line": chance.choice(
            (
                CrontabLine(zone=line, at=near(line)),
                # Where clocks change by half an hour, lines of every hour are a gap that the documentation names.
                EveryHourLine(
                    zone=line if line != "Australia/Lord_Howe" else "Europe/Berlin", minute=chance.choice((0, 15, 45))
                ),
            )
        ),
    }


def definition(name: str, seed: int, timetable: Timetable | None, begins: datetime) -> reading.Definition:
    chance = random.Random(f"{seed}/{name}")
    document: dict[str, Any] = {
        "name": name,
        "command": "work",
        "cpus": 0.1,
        "mem": 16,
        "retries": chance.randint(0, 2),
        "retryDelay": chance.choice([0, 60, 1_800]),
        "overlap": chance.choice(OVERLAPS),
        "nodeLoss": chance.choice(["at-most-once", "at-least-once"]),
        "catchUp": chance.choice(["none", "one", "all", "all"]),
        "catchUpWindow": chance.choice(["", "", "P3D"]),
        "epsilon": chance.choice(["", "", "", "PT2H"]),
        "jitter": chance.choice([0, 0, 300]),
        "exclude": chance.choice([[], [], ["SAT", "sun"], ["2024-03-31", "2024-10-06", "TUE"]]),
    }
    if timetable is None:
        document["parents"] = PARENTS[name]
    else:
        document |= {"schedule": timetable.text, "scheduleTimeZone": timetable.zone}
    return reading.read_job(document, in_ms(begins), reading.Defaults(disk=0))


class Months(Scenario):
    """Clients define jobs, and now and then start, kill, disable and pause."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.changes, self.begins, self.days = season(seed)
        self.timetables = timetables(seed)
        self.definitions = {name: definition(name, seed, self.timetables.get(name), self.begins) for name in NAMES}
        self.started: Counter[str] = Counter()
        self.answered_jobs: set[str] = set()

    def frameworks(self) -> Iterable[Framework]:
        return [Chronos(Config(history_count=100_000, history_days=1_000, most_queued_runs=50))]

    def commands(self, chance: random.Random) -> Iterable[tuple[float, str, Any]]:
        # Lines that are due every hour are there for the days around the change alone.
        for position, name in enumerate(NAMES):
            at_s = 20.0 + position
            if isinstance(self.timetables.get(name), EveryHourLine):
                at_s = self._change_s(name) - chance.uniform(3, 20) * HOUR
                yield at_s + 40 * HOUR, "chronos", orders.SetDisabled(name=name, disabled=True)
            for again in range(3):
                yield (
                    at_s + 30 * again,
                    "chronos",
                    orders.PutJob(definition=self.definitions[name], names=reading.NAMES_V3),
                )
        for _ in range(chance.randint(0, 6)):
            yield from self._disturbance(chance.choice(NAMES), chance.uniform(3 * HOUR, (self.days - 6) * DAY), chance)

    def _change_s(self, name: str) -> float:
        return (self.changes[self.timetables[name].zone] - self.begins).total_seconds()

    def _disturbance(self, name: str, at_s: float, chance: random.Random) -> Iterator[tuple[float, str, Any]]:
        until_s = at_s + chance.uniform(0.1, 5) * DAY
        match chance.choice(("start", "kill", "disable", "pause")):
            case "start":
                yield at_s, "chronos", orders.StartJob(name=name)
            case "kill":
                yield at_s, "chronos", orders.KillRuns(name=name)
            case "disable" if not isinstance(self.timetables.get(name), EveryHourLine):
                yield at_s, "chronos", orders.SetDisabled(name=name, disabled=True)
                for again in (0, 30, 60):
                    yield until_s + again, "chronos", orders.SetDisabled(name=name, disabled=False)
            case "pause":
                yield at_s, "chronos", orders.Pause(paused=True)
                for again in (0, 30, 60):
                    yield until_s + again, "chronos", orders.Pause(paused=False)

    def spells(self, chance: random.Random) -> Iterable[float]:
        """When something is due, most often about the change of the clocks."""
        begins_ms = in_ms(self.begins)
        near: list[float] = []
        all_: list[float] = []
        for name, timetable in self.timetables.items():
            for at_ms in itertools.takewhile(
                lambda at_ms: at_ms < begins_ms + self.days * DAY * 1000, timetable.due(begins_ms)
            ):
                if at_ms > begins_ms + DAY * 1000:
                    at_s = (at_ms - begins_ms) / 1000
                    (near if abs(at_s - self._change_s(name)) < DAY else all_).append(at_s)
        for times in (near, all_, near, all_)[: chance.randint(2, 4)]:
            if times:
                yield chance.choice(times) - chance.uniform(0, 50)

    def ends(self, framework: str, key: str, chance: random.Random) -> tuple[float, int]:
        self.started[key] += 1
        return chance.choice((60, 1_200, 80 * 60, 5 * HOUR)) * chance.random(), chance.choice([0, 0, 0, 0, 1])

    def answered(self, framework: str, command: Any, reply: Any) -> None:
        if isinstance(command, orders.PutJob):
            self.answered_jobs.add(command.definition.job.name)

    def check_step(self, cluster: SimulatedCluster) -> None:
        """No two programs of a job at once, where that is forbidden; but of a node that was given up."""
        of_jobs = Counter(key.partition("/")[0] for key in cluster.running("chronos"))
        if not cluster.has_leader or all(count < 2 for count in of_jobs.values()):
            return
        view = cluster.view("chronos")
        for name, count in of_jobs.items():
            record: JobRecord = view.objects(documents.JOB)[name]
            if count > 1 and record.job.overlap_policy is not Overlap.ALLOW:
                running = [key for key in cluster.running("chronos") if key.partition("/")[0] == name]
                assert sum(key in view.live for key in running) <= 1, running

    def check_end(self, cluster: SimulatedCluster) -> None:
        view = cluster.view("chronos")
        known: Mapping[str, JobRecord] = view.objects(documents.JOB)
        assert self.answered_jobs <= known.keys()
        for name, record in known.items():
            runs = runs_of(view, name)
            assert all(run.reason for run in runs if run.state in (RunState.SKIPPED, RunState.FAILED, RunState.KILLED))
            if name in self.timetables:
                self.check_due_times(cluster, view, record, runs)
            check_parents(view, record, runs)
        self.check_programs(view)

    def check_due_times(self, cluster: SimulatedCluster, view: View, record: JobRecord, runs: list[Run]) -> None:
        """Each due time is accounted for once, in order, with none left out."""
        name, job = record.job.name, record.job
        timetable = self.timetables[name]
        progress: Progress = view.objects(documents.PROGRESS)[name]
        by_time = [run for run in runs if run.cause in (Cause.TIME, Cause.CATCH_UP)]
        latest_ms = cluster.utc_ms + AHEAD_MS
        due = itertools.takewhile(lambda at_ms: at_ms <= latest_ms, timetable.due(record.since_ms))
        expected = list(without(due, timetable.zone, frozenset(day.upper() for day in job.exclude)))
        places = {at_ms: place for place, at_ms in enumerate(expected)}
        accounted: list[int] = []
        for run in by_time:
            assert run.nominal_ms in places, (name, "is not due at", _readable(run.nominal_ms, timetable))
            accounted += range(places[run.nominal_ms], places[run.nominal_ms] + run.count)
        accounted.sort()
        assert accounted == list(range(len(accounted))), (name, timetable.text, "not each once, in order", accounted)
        used = sum(self._uses(run, record) for run in by_time)
        if timetable.repeats is not None:
            assert used <= timetable.repeats, (name, used)
        if progress.left == 0:
            assert used == timetable.repeats, (name, used)
        elif not job.disabled and not view.objects(documents.CONTROL).get(documents.CLUSTER, _RUNNING).paused:
            until_ms = cluster.utc_ms - PENDING_MS - round(job.jitter * 1000)
            missing = [at_ms for at_ms in expected[len(accounted) :] if at_ms <= until_ms]
            assert not missing, (name, "has no run for", [_readable(at_ms, timetable) for at_ms in missing])
        healed_ms = in_ms(self.begins) + (self.days * DAY + RECOVERED_S) * 1000
        # Of what comes soon after, a leader whose clock was ahead may have decided in the trouble.
        surely_well_ms = healed_ms + AHEAD_MS
        late = [run.number for run in by_time if run.cause is Cause.CATCH_UP and run.nominal_ms > surely_well_ms]
        assert not late, (name, "was late though all was well, runs", late)

    @staticmethod
    def _uses(run: Run, record: JobRecord) -> int:
        """Repetitions: of due times that were passed over only with an epsilon, as Chronos 2 does."""
        passed_over = run.state is RunState.SKIPPED and run.reason.startswith("missed")
        return run.count if not passed_over or record.job.epsilon else 0

    def check_programs(self, view: View) -> None:
        """Every program is a recorded attempt's, and every attempt that ran had its program."""
        ran, recorded = set(), set()
        for name in view.objects(documents.JOB):
            for run in runs_of(view, name):
                for number, attempt in enumerate(run.attempts):
                    key = documents.task_key(run, number)
                    recorded.add(key)
                    if attempt.started_ms is not None:
                        ran.add(key)
        assert self.started.keys() <= recorded, self.started.keys() - recorded
        assert ran <= self.started.keys(), ran - self.started.keys()


_RUNNING: Final = documents.Control()


def _readable(at_ms: int, timetable: Timetable) -> str:
    return datetime.fromtimestamp(at_ms / 1000, ZoneInfo(timetable.zone)).isoformat()


# --- a week ---

WEEK_RUNS: Final = {"hourly": 168, "daily": 7, "weekly": 1}
_WEEK_SCHEDULES: Final = {"hourly": "R168/{}/PT1H", "daily": "R7/{}/P1D", "weekly": "R1/{}/P1W"}
WEEK_HEALING_S: Final = DAY


class Week(Scenario):
    """168 hourly runs, 7 daily ones, a weekly one, and a child of the daily ones, none of which may be lost."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self.successes: Counter[str] = Counter()

    def frameworks(self) -> Iterable[Framework]:
        return [Chronos(Config(history_count=1_000, history_days=1_000))]

    def commands(self, chance: random.Random) -> Iterable[tuple[float, str, Any]]:
        first = (SPRING_WEEK + timedelta(minutes=10)).isoformat().replace("+00:00", "Z")
        common = {"command": "work", "cpus": 0.1, "mem": 16, "catchUp": "all", "overlap": "allow"}
        common |= {"nodeLoss": "at-least-once", "retries": 2, "retryDelay": 5}
        documents_: list[dict[str, Any]] = [
            {"name": name, "schedule": text.format(first)} for name, text in _WEEK_SCHEDULES.items()
        ]
        documents_.append({"name": "child", "parents": ["daily"]})
        for document in documents_:
            read = reading.read_job({**common, **document}, in_ms(SPRING_WEEK), reading.Defaults(disk=0))
            for again in range(3):
                yield 30.0 + 60 * again, "chronos", orders.PutJob(definition=read, names=reading.NAMES_V3)

    def spells(self, chance: random.Random) -> Iterable[float]:
        return [chance.randrange(1, 168) * HOUR + 600 - chance.uniform(0, 50) for _ in range(4)]

    def ends(self, framework: str, key: str, chance: random.Random) -> tuple[float, int]:
        return chance.uniform(10, 1_800), 0

    def check_end(self, cluster: SimulatedCluster) -> None:
        view = cluster.view("chronos")
        for name in view.objects(documents.JOB):
            runs = runs_of(view, name)
            self.counted[name] = len(runs)
            self.successes[name] = sum(run.state is RunState.SUCCEEDED for run in runs)
            assert len({run.nominal_ms for run in runs}) == len(runs) or name == "child"
            assert all(run.final and run.count == 1 and run.attempts for run in runs)


SPRING_WEEK: Final = datetime(2024, 3, 4, tzinfo=UTC)


def play_week(seed: int, made: list[Week]) -> None:
    """Puts the scenarios that it plays into `made`. Raises Broken."""

    def make() -> Week:
        made.append(Week())
        return made[-1]

    run_scenario(
        seed,
        make,
        nodes=3,
        trouble_s=8 * DAY,
        healing_s=WEEK_HEALING_S,
        leaps=True,
        begins_utc_ms=in_ms(SPRING_WEEK),
        shrink=False,
    )
