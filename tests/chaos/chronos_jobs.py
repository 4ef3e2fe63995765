"""Clients that define jobs, run them by hand, disable, enable and delete them, through any server in both dialects.

Each job's program writes down its start and its end in a file of its node. In the end everything is paused, what has
begun is waited for, and the history is held against the files by the `checker`.
"""

from __future__ import annotations

import functools
import random
import re
import statistics
import urllib.error
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs
from hosts import CHRONOS_PORT

from chaos import checker
from chaos.cluster import SPARE, Cluster, utc_ms
from chaos.evidence import Attempt, Evidence, Job, Kind, Limits, Order, Program, Run, Verdict

CLIENTS: Final = 2
JOBS_SOON: Final = 40
#: The share of further ones that are defined.
LATER_JOBS: Final = 0.05
#: The longest stretch of a backfill. Its runs go one after the other, and only while no other waits.
BACKFILLED_MS: Final = 8_000
ORDER_EVERY_S: Final = (0.3, 1.5)
#: Of jobs that are defined without an epsilon below /scheduler, by the default settings.
EPSILON_OF_2X_MS: Final = 60_000
GOES_ON_S: Final = 10.0
RUNS_END_WITHIN_S: Final = 180.0
#: A node may be in trouble for 8 s, wait 15 s until it dials again, and meet a server that is in trouble itself.
LIMITS: Final = Limits(late_ms=45_000, undecided_ms=30_000)
_PROGRAM: Final = Path(__file__).with_name("program.sh")


@attrs.frozen
class _Definition:
    """doomed: it will be deleted, and is nobody's parent."""

    job: Job
    doomed: bool


class ChronosJobs:
    """See the module."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._defined: dict[str, _Definition] = {}
        self.orders: list[Order] = []
        self.wrong: list[str] = []

    def meanwhile(self) -> Sequence[Callable[[], None]]:
        return [functools.partial(self._client, f"job{number}-") for number in range(CLIENTS)]

    def _client(self, prefix: str) -> None:
        chance = self._cluster.chance()
        made = 0
        while not self._cluster.over.wait(chance.uniform(*ORDER_EVERY_S)):
            kind = chance.choices(list(Kind), (8, 4, 1, 3, 1, 1))[0]
            if kind is Kind.CREATE:
                if made < JOBS_SOON // CLIENTS or chance.random() < LATER_JOBS:
                    self._create(f"{prefix}{made}", chance)
                    made += 1
                continue
            known = [one for one in list(self._defined.values()) if _may_be(kind, one)]
            if known:
                self._disturb(kind, chance.choice(known).job.name, chance)

    # Orders

    def _create(self, name: str, chance: random.Random) -> None:
        dialect = chance.choice(["/scheduler", "/v1/scheduler"])
        parents = [one.job.name for one in list(self._defined.values()) if not one.doomed and self._certain(one)]
        wanted = tuple(chance.sample(parents, min(len(parents), chance.randint(1, 2)))) if chance.random() < 0.3 else ()
        epsilon_s = chance.choice([None, None, 5, 20])
        job = Job(
            name=name,
            start_ms=0 if wanted else (utc_ms() // 1000 + chance.randint(2, 10)) * 1000,
            interval_ms=0 if wanted else chance.randint(3, 15) * 1000,
            count=None if wanted else chance.choice([None, None, None, 3, 8]),
            epsilon_ms=epsilon_s * 1000 if epsilon_s else EPSILON_OF_2X_MS if dialect == "/scheduler" else None,
            overlap=chance.choice(["queue", "forbid", "replace", "allow"]),
            catch_up=chance.choice(["none", "one", "one", "all"]),
            node_loss=chance.choice(["at-most-once", "at-least-once"]),
            retries=chance.randint(0, 2),
            retry_delay_ms=chance.choice([0, 1000, 5000]),
            soft_error=chance.random() < 0.2,
            parents=wanted,
        )
        command = f"exec sh {_PROGRAM} {self._folder} {chance.choice([0, 0.5, 2, 6])} {chance.choice([0, 0, 2, 5])}"
        document = _document(job, command) | ({"epsilon": f"PT{epsilon_s}S"} if epsilon_s else {})
        if chance.random() < 0.3:
            document["constraints"] = [["hostname", "UNLIKE", SPARE]]
        path = f"{dialect}/{'dependency' if wanted else 'iso8601'}"
        self._defined[name] = _Definition(job, doomed=chance.random() < 0.15)
        self._send(Kind.CREATE, name, chance, "POST", path, document)

    def _certain(self, definition: _Definition) -> bool:
        name = definition.job.name
        return any(one.kind is Kind.CREATE and one.job == name and one.acknowledged for one in list(self.orders))

    def _disturb(self, kind: Kind, name: str, chance: random.Random) -> None:
        prefix = chance.choice(["/scheduler", "/v1/scheduler"]) + f"/job/{name}"
        match kind:
            case Kind.START:
                self._send(kind, name, chance, "PUT", prefix)
            case Kind.DELETE:
                self._send(kind, name, chance, "DELETE", prefix)
            case Kind.BACKFILL:
                from_ms = utc_ms() - chance.randint(0, 30_000)
                until_ms = from_ms + chance.randint(0, BACKFILLED_MS)
                stretch = urllib.parse.urlencode({"from": _instant(from_ms), "until": _instant(until_ms)})
                self._send(kind, name, chance, "POST", f"{prefix}/backfill?{stretch}", stretch_ms=(from_ms, until_ms))
            case _:
                self._send(kind, name, chance, "PUT", f"{prefix}/{kind}")

    def _send(
        self,
        kind: Kind,
        name: str,
        chance: random.Random,
        method: str,
        path: str,
        document: Any = None,
        stretch_ms: tuple[int, int] = (0, 0),
    ) -> None:
        """Through any server, with a note of what was answered. What was refused leaves no order."""
        sent_ms = utc_ms()
        answered_ms = None
        try:
            self._cluster.call(chance.choice(self._cluster.servers), method, path, document, CHRONOS_PORT)
            answered_ms = utc_ms()
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            if "nothing was changed" in text:
                return
            if error.code == 400 and "not found" in text and not self._must_exist(name, sent_ms):
                return
            if error.code not in (502, 503):
                self.wrong.append(f"{method} {path}: {error.code} {text}")
        except (OSError, ValueError):
            pass
        order = Order(kind=kind, job=name, sent_ms=sent_ms, answered_ms=answered_ms, stretch_ms=stretch_ms)
        self.orders.append(order)

    def _must_exist(self, name: str, at_ms: int) -> bool:
        orders = [one for one in list(self.orders) if one.job == name]
        created = any(one.kind is Kind.CREATE and (one.answered_ms or at_ms) < at_ms for one in orders)
        return created and not self._defined[name].doomed

    # What has come of it

    def check(self) -> None:
        healed_ms = utc_ms()
        cluster = self._cluster
        enough_ms = healed_ms + round(GOES_ON_S * 1000)
        cluster.until(lambda: any(one.nominal_ms > enough_ms for one in self._programs()), "the schedule goes on")
        paused_ms = cluster.until(self._pause, "all is paused")
        cluster.until(lambda: self._all_over(paused_ms[1]), "all runs end", RUNS_END_WITHIN_S)
        evidence = Evidence(
            jobs={name: one.job for name, one in self._defined.items()},
            orders=tuple(self.orders),
            programs=tuple(self._programs()),
            histories=cluster.until(self._histories, "the history can be read"),
            paused_ms=paused_ms,
            limits=LIMITS,
            power_failures=tuple(cluster.power_failures),
        )
        verdicts = checker.check(evidence)
        print(summary(verdicts, evidence))
        assert not self.wrong, self.wrong
        bad = [one for one in verdicts if one.reasons]
        assert not bad, "\n\n".join(story(one, evidence) for one in bad)
        assert sum(one.targets - one.excused for one in verdicts), "nothing was ever due"

    def _pause(self) -> tuple[int, int]:
        sent_ms = utc_ms()
        self._cluster.call(self._cluster.servers[0], "PUT", "/v1/scheduler/pause", port=CHRONOS_PORT)
        return sent_ms, utc_ms()

    def _get(self, path: str) -> Any:
        return self._cluster.call(self._cluster.servers[1], "GET", f"/v1/scheduler{path}", port=CHRONOS_PORT)

    def _all_over(self, paused_ms: int) -> bool:
        """Nothing goes on any more; what was decided before the pause had time to."""
        histories = self._histories()
        return utc_ms() > paused_ms + 2000 and all(
            run.over or run.held_by_pause for runs in histories.values() for run in runs
        )

    def _histories(self) -> dict[str, tuple[Run, ...]]:
        return {
            name: tuple(map(read_run, reversed(self._get(f"/job/{urllib.parse.quote(name)}/runs?limit=1000"))))
            for name in [job["name"] for job in self._get("/jobs")]
        }

    def _programs(self) -> list[Program]:
        return [one for file in sorted(self._folder.iterdir()) for one in read_programs(file.name, file.read_text())]


def _may_be(kind: Kind, definition: _Definition) -> bool:
    """May a client ask for that?"""
    match kind:
        case Kind.DELETE:
            return definition.doomed
        case Kind.BACKFILL:
            return not definition.job.parents
    return True


def _instant(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _document(job: Job, command: str) -> dict[str, Any]:
    """As clients write it."""
    document: dict[str, Any] = {
        "name": job.name,
        "command": command,
        "cpus": 0.01,
        "mem": 4,
        "disk": 0,
        "retries": job.retries,
        "retryDelay": job.retry_delay_ms / 1000,
        "softError": job.soft_error,
        "overlap": job.overlap,
        "catchUp": job.catch_up,
        "nodeLoss": job.node_loss,
    }
    if job.parents:
        document["parents"] = list(job.parents)
    else:
        start = datetime.fromtimestamp(job.start_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        document["schedule"] = f"R{job.count or ''}/{start}/PT{job.interval_ms // 1000}S"
    return document


def read_programs(node: str, text: str) -> Iterator[Program]:
    """From a node's file. Raises ValueError for a line that no program writes."""
    open_programs: dict[str, Program] = {}
    for line in text.splitlines():
        what, at, run_id, attempt, nominal, cause, task, code = line.split()
        job, _, run = run_id.rpartition("/")
        if what == "start":
            if task in open_programs:
                yield open_programs.pop(task)
            open_programs[task] = Program(
                job=job,
                run=int(run),
                attempt=int(attempt),
                nominal_ms=int(nominal),
                cause=cause,
                node=node,
                task=task,
                start_ms=int(at),
            )
        else:
            begun = open_programs.pop(task)
            yield attrs.evolve(begun, end_ms=int(at), code=int(code), stopped=what == "stopped")
    yield from open_programs.values()


def read_run(document: dict[str, Any]) -> Run:
    """From the API's history."""
    return Run(
        number=document["run"],
        nominal_ms=_ms(document["nominalTime"]) or 0,
        cause=document["cause"],
        state=document["state"],
        ended_ms=_ms(document["endTime"]),
        count=document["count"],
        reason=document["reason"],
        attempts=tuple(
            Attempt(
                task=one["task"],
                asked_ms=_ms(one["askedTime"]) or 0,
                started_ms=_ms(one["startTime"]),
                ended_ms=_ms(one["endTime"]),
                node=one["node"],
                outcome=one["outcome"],
                code=one["exitCode"],
            )
            for one in document["attempts"]
        ),
    )


def _ms(text: str) -> int | None:
    return round(datetime.fromisoformat(text).timestamp() * 1000) if text else None


def story(verdict: Verdict, evidence: Evidence) -> str:
    """All that is known of a job, and what is wrong with it."""
    job = evidence.jobs[verdict.job]
    programs = evidence.programs_of(job.name)
    orders = evidence.of_kind(job.name, *Kind)
    lines = [*verdict.reasons, str(job), *map(str, (*orders, *programs, *evidence.histories.get(job.name, ())))]
    for parent in job.parents:
        lines += map(str, evidence.histories.get(parent, ()))
    return "\n  ".join(lines)


def _why_not(runs: Sequence[Run]) -> Counter[str]:
    """Due times without a run, by what the history says of them."""
    found: Counter[str] = Counter()
    for run in runs:
        if run.state == "skipped":
            found[re.sub(r"\d+ |\(.*\)", "", run.reason).strip()] += run.count
    return found


def summary(verdicts: Sequence[Verdict], evidence: Evidence) -> str:
    """For people."""
    late = sorted(one for verdict in verdicts for one in verdict.lateness_ms)
    runs = [run for history in evidence.histories.values() for run in history]
    lost = sum(attempt.outcome == "lost" for run in runs for attempt in run.attempts)
    quantiles = statistics.quantiles(late, n=100, method="inclusive") if len(late) > 1 else [0.0] * 99
    unknown = sum(not order.acknowledged for order in evidence.orders)
    return (
        f"Chronos: {len(evidence.jobs)} jobs, {len(evidence.orders)} orders ({unknown} of unknown outcome), "
        f"{sum(one.targets for one in verdicts)} due times ({sum(one.excused for one in verdicts)} excused), "
        f"{len(runs)} runs recorded, {len(evidence.programs)} programs, {lost} attempts lost in "
        f"{len(evidence.power_failures)} power failures, {sum(one.doubled for one in verdicts)} doubled; "
        f"late by {quantiles[49]:.0f} ms (median), {quantiles[89]:.0f} (p90), {quantiles[98]:.0f} (p99), "
        f"{late[-1] if late else 0} (most); not run: "
        + (", ".join(f"{count} {why}" for why, count in _why_not(runs).most_common()) or "none")
    )
