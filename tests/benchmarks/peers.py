"""Many processes at once through Orlop beside Slurm on the same machine, in turns, so that both meet the same load.

Slurm calls a job running as soon as it has a place, before its process exists; Orlop does so afterwards. So two times
are taken of each: until it says that all run, and until all the processes exist. Only the second is like for like.
Slurm keeps no more than it must here: no accounting, no control groups, no wait before a batch of jobs is placed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import attrs
from ports import free_port
from running import RunningOrlop, wait_until

from .figures import Figure
from .processes import command_line, end_all_in, processes_in, supervisor
from .services import DEADLINE_S, LOG_TAIL_CHARACTERS, SLEEP, remove, running_orlop, seconds_to_run, sleepers

COUNTS: Final = (20, 50, 100)
ROUNDS: Final = 3
POLL_S: Final = 0.02
STOP_S: Final = 20.0
COMMAND_S: Final = 60.0
NEEDED_PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
INSTALL: Final = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
CONFIGURATION: Final = """\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
NodeName=bench NodeHostname={host} NodeAddr=127.0.0.1 CPUs=200 State=UNKNOWN
PartitionName=all Nodes=bench Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no Slurm can be started here; empty when one can."""
    if os.geteuid() != 0:
        return "needs root, to run Slurm's daemons"
    absent = [name for name in NEEDED_PROGRAMS if shutil.which(name) is None]
    return f"needs {', '.join(absent)} (Debian: {INSTALL})" if absent else ""


@attrs.frozen
class Took:
    """Seconds from the order of many processes: until it is said that all run, and until all of them exist."""

    said: float
    exist: float


class Slurm:
    """A cluster of one node on loopback, as processes of ours. All that it starts works in its folder, by which it is
    found again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._environment = {**os.environ, "SLURM_CONF": str(self._folder / "slurm.conf")}

    def start(self) -> None:
        """Until its node takes jobs."""
        for name in ("state", "spool"):
            (self._folder / name).mkdir()
        key = self._folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        values = {"host": socket.gethostname().partition(".")[0], "folder": self._folder}
        ports = {"controller_port": free_port(), "node_port": free_port()}
        (self._folder / "slurm.conf").write_text(CONFIGURATION.format(**values, **ports))
        files = [f"--{name}-file={self._folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._launch("munged", "--foreground", "--force", f"--socket={self._folder}/munge.socket", *files)
        wait_until((self._folder / "munge.socket").exists, "munged listens")
        self._launch("slurmctld", "-D", "-c")
        self._launch("slurmd", "-D", "-N", "bench")
        wait_until(self._idle, "Slurm's node is idle")

    def _launch(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.log").open("wb") as log:
            self._daemons.append(
                subprocess.Popen(command, cwd=self._folder, env=self._environment, stdout=log, stderr=subprocess.STDOUT)
            )

    def _call(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}, {done.stdout}{done.stderr}"
        return done.stdout

    def _idle(self) -> bool:
        for daemon in self._daemons:
            assert daemon.poll() is None, f"{daemon.args!r} ended; the ends of the logs:\n{self.logs()}"
        return self._call("sinfo", "-h", "-o", "%T", check=False).strip() == "idle"

    def run(self, count: int) -> Took:
        """An array of so many jobs, each one process of `sleep`."""
        began = time.perf_counter()
        self._call("sbatch", f"--array=1-{count}", "--output=/dev/null", "--wrap", "sleep 1000")
        while len(self._call("squeue", "-h", "-r", "-t", "R", "-o", "%i").split()) < count:
            assert time.perf_counter() - began < DEADLINE_S, f"Slurm: not all run within {DEADLINE_S:g} s"
            time.sleep(POLL_S)
        said = time.perf_counter() - began
        while len(self._sleepers()) < count:
            assert time.perf_counter() - began < DEADLINE_S, f"Slurm: not all exist within {DEADLINE_S:g} s"
            time.sleep(POLL_S)
        return Took(said, time.perf_counter() - began)

    def cancel(self) -> None:
        """Ends all jobs and waits until the last of their processes has ended and the node is idle again."""
        self._call("scancel", "-u", "root")
        wait_until(lambda: not self._call("squeue", "-h").strip(), "Slurm has no jobs", DEADLINE_S)
        wait_until(lambda: not self._of_jobs(), "the processes of Slurm's jobs end", DEADLINE_S)
        wait_until(self._idle, "Slurm's node is idle", DEADLINE_S)

    def _processes(self) -> list[int]:
        """Daemons with their helpers, `slurmstepd`s and jobs."""
        return processes_in(self._folder)

    def _of_jobs(self) -> list[int]:
        marks = ("sleep ", "slurmstepd", "slurm_script")
        return [pid for pid in self._processes() if any(mark in command_line(pid) for mark in marks)]

    def _sleepers(self) -> list[int]:
        return [pid for pid in self._processes() if command_line(pid).startswith("sleep ")]

    def logs(self) -> str:
        return "\n".join(
            f"{path.name}:\n{path.read_text(errors='replace')[-LOG_TAIL_CHARACTERS:]}"
            for path in sorted(self._folder.glob("*.log"))
        )

    def close(self) -> None:
        """Ends the daemons, the last one first, and whatever else is left, without asking."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(STOP_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        end_all_in(self._folder, "Slurm")


S = TypeVar("S", bound=Slurm)


@contextlib.contextmanager
def running_slurm(kind: type[S]) -> Iterator[S]:
    """One that takes jobs; it, its jobs and its folder are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="slurm-bench-", ignore_cleanup_errors=True) as folder:
        slurm = kind(Path(folder))
        try:
            slurm.start()
            yield slurm
        except BaseException:
            print(f"the ends of Slurm's logs:\n{slurm.logs()}", file=sys.stderr)
            raise
        finally:
            slurm.close()


def through_orlop(orlop: RunningOrlop, app_id: str, count: int) -> Took:
    """The same as one app; it is removed again."""
    began = time.perf_counter()
    said = seconds_to_run(orlop, SLEEP | {"id": app_id, "instances": count})
    parent = supervisor(orlop)
    while len(sleepers(parent)) < count:
        assert time.perf_counter() - began < DEADLINE_S, f"{app_id}: not all exist within {DEADLINE_S:g} s"
        time.sleep(POLL_S)
    took = Took(said, time.perf_counter() - began)
    remove(orlop, app_id)
    return took


def through_slurm(slurm: Slurm, count: int) -> Took:
    took = slurm.run(count)
    slurm.cancel()
    return took


def count_figures(orlop: RunningOrlop, slurm: Slurm, count: int) -> Iterator[Figure]:
    """Rounds of both in turns; who is first changes."""
    mine: list[Took] = []
    theirs: list[Took] = []
    for attempt in range(ROUNDS):
        turns: list[tuple[list[Took], Callable[[], Took]]] = [
            (mine, partial(through_orlop, orlop, f"/many-{count}-{attempt}", count)),
            (theirs, partial(through_slurm, slurm, count)),
        ]
        for taken, measure in turns if attempt % 2 == 0 else reversed(turns):
            taken.append(measure())
    median = statistics.median
    pairs = list(zip(mine, theirs, strict=True))
    yield Figure(f"{count} processes: Orlop says that all run, median", median(took.said for took in mine), "s")
    yield Figure(f"{count} processes: Slurm says that all run, median", median(took.said for took in theirs), "s")
    ratio = median(own.said / peer.said for own, peer in pairs)
    yield Figure(f"{count} processes: said, Orlop over Slurm, median of the rounds", ratio, "x")
    yield Figure(f"{count} processes: Orlop's all exist, median", median(took.exist for took in mine), "s")
    yield Figure(f"{count} processes: Slurm's all exist, median", median(took.exist for took in theirs), "s")
    ratio = median(own.exist / peer.exist for own, peer in pairs)
    yield Figure(f"{count} processes: exist, Orlop over Slurm, median of the rounds", ratio, "x")


def run() -> Iterator[Figure]:
    """All figures of this module."""
    with running_slurm(Slurm) as slurm, running_orlop() as orlop:
        orlop.start()
        orlop.wait_ready()
        through_orlop(orlop, "/warm-up", 1)
        through_slurm(slurm, 1)
        for count in COUNTS:
            yield from count_figures(orlop, slurm, count)
