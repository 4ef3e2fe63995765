"""Chronos beside Slurm and Airflow on the same machine, in turns, so that all meet the same load.

Two things of each: no-op jobs that are handed over one by one, until all of them have run; and from the start of a
parent that does nothing else to the start of its child. Each is used as its users do: Slurm by `sbatch`, one call for
each job, dependencies as `afterok`; Airflow by its REST API, one run of a DAG for each job, and a DAG of two tasks.

Slurm is that of `peers`. Airflow is installed when it is wanted for the first time, into a virtual environment in the
user's cache folder, where it stays: some hundred packages. What cannot be had is left out, with the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from ports import free_port
from running import wait_until

from . import peers
from .cron import SUBMITTED, Chronos, chain, submitted
from .figures import Figure
from .peers import LOG_TAIL_CHARACTERS, Slurm, running_slurm
from .postgres import USER, running_postgres
from .processes import end_all_in
from .services import DEADLINE_S, running_orlop

ROUNDS: Final = 3
CHAINS: Final = 5
POLL_S: Final = 0.02
#: Of PostgreSQL: with SQLite its scheduler ends when a hundred runs are asked for at once.
AIRFLOW_DRIVERS: Final = ("psycopg2-binary", "asyncpg")
AIRFLOW: Final = "apache-airflow>=3,<4"
INSTALL_WITHIN_S: Final = 1_200.0
STARTS_WITHIN_S: Final = 180.0
AIRFLOW_DEADLINE_S: Final = 300.0
ENDS_WITHIN_S: Final = 30.0
DAGS: Final = """\
from airflow import DAG
from airflow.providers.standard.operators.bash import BashOperator

with DAG("noop", schedule=None, max_active_runs=1000, max_active_tasks=1000):
    BashOperator(task_id="noop", bash_command="true")

with DAG("family", schedule=None):
    parent = BashOperator(task_id="parent", bash_command=": > {folder}/parent@{{{{ run_id }}}}")
    parent >> BashOperator(task_id="child", bash_command=": > {folder}/child@{{{{ run_id }}}}")
"""


class SlurmJobs(Slurm):
    """Slurm, for jobs that end."""

    def submitted(self, count: int) -> float:
        """Seconds from the first `sbatch` until the last job has ended."""
        began = time.perf_counter()
        for _ in range(count):
            self._call("sbatch", "--output=/dev/null", "--wrap", "true")
        while self._call("squeue", "-h").strip():
            assert time.perf_counter() - began < DEADLINE_S, f"Slurm: not all have run within {DEADLINE_S:g} s"
            time.sleep(POLL_S)
        return time.perf_counter() - began

    def chain(self, folder: Path, count: int) -> list[float]:
        """Milliseconds from the start of each parent to that of its child."""
        found = []
        for number in range(count):
            parent, child = (folder / f"{name}-{number}" for name in ("parent", "child"))
            first = self._batch(f": > {parent}").strip()
            self._batch(f": > {child}", f"--dependency=afterok:{first}")
            wait_until(child.exists, "Slurm has started the child", DEADLINE_S)
            found.append((child.stat().st_mtime - parent.stat().st_mtime) * 1000)
            parent.unlink()
            child.unlink()
        return found

    def _batch(self, command: str, *options: str) -> str:
        """The job's number."""
        return self._call("sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", command)


def airflow_program() -> Path:
    """Installs it when it is not there. Raises RuntimeError: it cannot be had, and why."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    environment = cache / "orlop-benchmarks" / "airflow"
    ready = environment / "ready"
    if not ready.exists():
        print(f"installing {AIRFLOW} into {environment} ...", file=sys.stderr, flush=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True, capture_output=True)
            subprocess.run(
                [str(environment / "bin" / "pip"), "install", "--quiet", AIRFLOW, *AIRFLOW_DRIVERS],
                check=True,
                capture_output=True,
                text=True,
                timeout=INSTALL_WITHIN_S,
            )
        except subprocess.CalledProcessError as error:
            lines = str(error.stderr or "").strip().splitlines() or ["no reason was given"]
            raise RuntimeError(f"Airflow cannot be installed: {lines[-1]}") from error
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"Airflow was not installed within {INSTALL_WITHIN_S:g} s") from None
        ready.touch()
    return environment / "bin" / "airflow"


class Airflow:
    """`airflow standalone` on loopback, with its files in a folder of its own. sockets: of its PostgreSQL."""

    def __init__(self, program: Path, folder: Path, sockets: str) -> None:
        self._sockets = sockets
        self._program = program
        self._folder = folder.resolve()
        self._url = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._token = ""
        self.starts = self._folder / "starts"

    def start(self) -> None:
        """Until it knows the DAGs."""
        self.starts.mkdir()
        (self._folder / "dags").mkdir()
        (self._folder / "dags" / "bench.py").write_text(DAGS.format(folder=self.starts))
        port = self._url.rpartition(":")[2]
        environment = {
            **os.environ,
            "PATH": f"{self._program.parent}:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(self._folder),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": port,
            "AIRFLOW__API__BASE_URL": self._url,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self._url}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{USER}@/airflow?host={self._sockets}",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg://{USER}@/airflow?host={self._sockets}",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        }
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(self._program), "standalone"],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._knows_all, "Airflow knows the DAGs", STARTS_WITHIN_S)

    def _knows_all(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Airflow ended; its log:\n{self.log()}"
        try:
            self._token = self._token or self._call("GET", "/auth/token")["access_token"]
            return len(self._call("GET", "/api/v2/dags")["dags"]) == 2
        except OSError:
            return False

    def _call(self, method: str, path: str, document: Any = None) -> Any:
        """On a busy machine Airflow answers with 500 now and then, for SQLite was locked for too long: once more."""
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = json.dumps(document).encode() if document is not None else None
        began = time.perf_counter()
        while True:
            request = urllib.request.Request(self._url + path, data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code < 500 or time.perf_counter() - began > AIRFLOW_DEADLINE_S:
                    raise
                time.sleep(POLL_S)

    def _trigger(self, dag: str) -> str:
        """The run's id."""
        return str(self._call("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"])

    def _ended(self, dag: str) -> int:
        """Runs that are over; those that have failed, for the same reason, count too."""
        states = "state=success&state=failed"
        return int(self._call("GET", f"/api/v2/dags/{dag}/dagRuns?{states}&limit=1")["total_entries"])

    def submitted(self, count: int) -> float:
        """Seconds from the first run that is asked for until the last one has ended."""
        before = self._ended("noop")
        began = time.perf_counter()
        for _ in range(count):
            self._trigger("noop")
        while self._ended("noop") < before + count:
            assert time.perf_counter() - began < AIRFLOW_DEADLINE_S, "Airflow: not all have run"
            time.sleep(POLL_S)
        return time.perf_counter() - began

    def chain(self, count: int) -> list[float]:
        """Milliseconds from the start of each parent to that of its child."""
        found = []
        for _ in range(count):
            run = self._trigger("family")
            parent, child = (self.starts / f"{name}@{run}" for name in ("parent", "child"))
            wait_until(child.exists, "Airflow has started the child", AIRFLOW_DEADLINE_S)
            found.append((child.stat().st_mtime - parent.stat().st_mtime) * 1000)
        return found

    def log(self) -> str:
        file = self._folder / "log"
        return file.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:] if file.exists() else ""

    def close(self) -> None:
        """Ends it and all that it has started, which works in its folder."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDS_WITHIN_S)
        end_all_in(self._folder, "Airflow")


@contextlib.contextmanager
def running_airflow(program: Path) -> Iterator[Airflow]:
    """One that knows its DAGs; it and its folder are gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="airflow-bench-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryDirectory(prefix="postgres-bench-", ignore_cleanup_errors=True) as store,
        contextlib.ExitStack() as stack,
    ):
        Path(store).chmod(0o755)
        airflow = Airflow(program, Path(folder), stack.enter_context(running_postgres(Path(store), "airflow")))
        try:
            airflow.start()
            yield airflow
        except BaseException:
            print(f"the end of Airflow's log:\n{airflow.log()}", file=sys.stderr)
            raise
        finally:
            airflow.close()


def compare(
    what: str, unit: str, ours: Callable[[], float], theirs: dict[str, Callable[[], float]], better: str
) -> Iterator[Figure]:
    """Rounds of all in turns; who is first changes. better: is `higher` or `lower`."""
    found: dict[str, list[float]] = {name: [] for name in ("Orlop", *theirs)}
    measures = {"Orlop": ours, **theirs}
    for attempt in range(ROUNDS):
        names = list(measures)
        for name in names if attempt % 2 == 0 else reversed(names):
            found[name].append(measures[name]())
    for name, values in found.items():
        yield Figure(f"{what}: {name}, median of {ROUNDS} rounds", statistics.median(values), unit)
    for name in theirs:
        pairs = zip(found["Orlop"], found[name], strict=True)
        ratio = statistics.median(own / peer if better == "higher" else peer / own for own, peer in pairs)
        yield Figure(f"{what}: Orlop is better than {name} by, median of the rounds", ratio, "x", at_least=1)


def run() -> Iterator[Figure]:
    """All figures of this module."""
    with contextlib.ExitStack() as stack:
        slurm = airflow = None
        if reason := peers.missing():
            print(f"without Slurm: {reason}", file=sys.stderr)
        else:
            slurm = stack.enter_context(running_slurm(SlurmJobs))
        try:
            airflow = stack.enter_context(running_airflow(airflow_program()))
        except RuntimeError as error:
            print(f"without Airflow: {error}", file=sys.stderr)
        orlop = stack.enter_context(running_orlop())
        orlop.start()
        orlop.wait_ready()
        folder = orlop.data.parent / "starts"
        folder.mkdir()
        chronos = Chronos(orlop, folder)
        rates: dict[str, Callable[[], float]] = {}
        gaps: dict[str, Callable[[], float]] = {}
        if slurm is not None:
            rates["Slurm"] = lambda: SUBMITTED * 60 / slurm.submitted(SUBMITTED)
            gaps["Slurm"] = lambda: statistics.median(slurm.chain(folder, CHAINS))
        if airflow is not None:
            rates["Airflow"] = lambda: SUBMITTED * 60 / airflow.submitted(SUBMITTED)
            gaps["Airflow"] = lambda: statistics.median(airflow.chain(CHAINS))
        submitted(chronos)  # a warm-up
        what = f"{SUBMITTED} no-op jobs sent one by one, until all have run"
        yield from compare(what, "/min", lambda: SUBMITTED * 60 / submitted(chronos), rates, "higher")
        what = "parent's start to child's start"
        yield from compare(what, "ms", lambda: statistics.median(chain(chronos)), gaps, "lower")
