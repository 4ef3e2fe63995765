"""The supervisor's words in those of the cluster: how a process is, how it has ended, what signals are called."""

from __future__ import annotations

import logging
import signal

from orlop.agent.runtimes.interface import Phase, Report
from orlop.agent.supervisor.journal import Entry
from orlop.agent.supervisor.journal import Exit as ProcessExit
from orlop.model.tasks import Exit, Outcome

_log = logging.getLogger(__name__)


def report_of(entry: Entry) -> Report:
    """What is told of a task that the supervisor has."""
    if entry.exit is not None:
        phase = Phase.ENDED
    else:
        phase = Phase.RUNNING if entry.running else Phase.STARTING
    return Report(
        task=entry.task,
        incarnation=entry.incarnation,
        phase=phase,
        exit=exit_of(entry.exit) if entry.exit is not None else None,
        external_id=str(entry.pid),
    )


def exit_of(ended: ProcessExit) -> Exit:
    """What the supervisor saw, in the words of the cluster. An unknown code stays unknown."""
    if ended.error:
        return Exit(outcome=Outcome.ERROR, reason=ended.error)
    if ended.lost:
        return Exit(outcome=Outcome.LOST, reason=ended.lost)
    if ended.code == 0:
        return Exit(outcome=Outcome.FINISHED, code=0)
    if ended.signal is not None:
        reason = f"ended by {signal_text(ended.signal)}"
    else:
        reason = f"exited with code {ended.code}"
    if ended.oom:
        reason = f"out of memory: the kernel killed at the task's memory limit; {reason}"
    return Exit(outcome=Outcome.FAILED, code=ended.code, signal=ended.signal, reason=reason)


def signal_text(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def signal_number(name: str) -> int:
    """Of `SIGTERM`, `TERM` or `15`. A misspelt signal must not keep a task from being stopped: it counts as SIGTERM."""
    plain = name.strip().upper().removeprefix("SIG")
    if plain.isascii() and plain.isdigit() and int(plain[:4]) in signal.valid_signals():
        return int(plain)
    try:
        return signal.Signals[f"SIG{plain}"]
    except KeyError:
        _log.warning("there is no signal %r: SIGTERM is sent instead", name)
        return signal.SIGTERM
