"""Runs each framework on a thread of its own, and keeps the others going when one raises or hangs.

A thread waits until its framework has something to look at, takes the newest committed state, runs the handlers, and
waits until the result is durable before it looks again. A command that raises fails alone. What else raises is
quarantined: its error is shown, its commands are refused, and it runs again after a back-off, with everything to look
at. What does not return within `handler_timeout_s` loses its thread and its result, and the framework is made anew, for
what it keeps beside the state may still be written by the lost one. Lost threads go on as long as their process, so
that after three of them the framework is off, and the server begins anew without its plugin.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from orlop.framework import EVERYTHING, Changed, NotAvailable
from orlop.kernel.events import Notify
from orlop.model.clock import Now
from orlop.server.core import Core
from orlop.server.framework_run import Command, FrameworkRunner, RunResult
from orlop.server.patience import Patience, Work
from orlop.server.pipeline import Failure

log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0
LOST_THREADS_MAX: Final = 3
QUEUED_COMMANDS_MAX: Final = 1_000
COMMANDS_PER_RUN_MAX: Final = 50
#: News of tasks are looked at together that come within so long, and not before what was just decided is on its way to
#: nodes and clients. A command does not wait for that.
GATHER_S: Final = 0.002
#: How often it is looked for handlers that do not return.
LOOK_EVERY_S: Final = 0.5

Done = Callable[[Any, Exception | None], None]
SetWakeup = Callable[[str, int | None], None]


@attrs.frozen(kw_only=True)
class FrameworkStatus:
    """What operators see of a framework. state: running, quarantined, or off. failures: since it was made."""

    name: str
    plugin: str
    state: str
    error: str = ""
    failures: int = 0
    runs: int = 0
    last_run_ms: float = 0.0
    retry_at_utc_ms: int = 0


class FrameworkHost:
    """One framework. `enqueue`, `notify` and `wake` may be called from any thread."""

    def __init__(
        self,
        plugin: str,
        make: Callable[[], FrameworkRunner],
        core: Core,
        clock: Callable[[], Now],
        set_wakeup: SetWakeup,
        handler_timeout_s: float,
        refusal: Callable[[], str] = lambda: "",
        given_up: Callable[[str], None] = lambda _: None,
    ) -> None:
        """make: its runner, with a new instance of it each time; raises whatever its code raises. refusal: why commands
        are not taken at present; empty when they are. given_up: called with the reason when the framework is off, by
        whom `check_hang` is."""
        self.runner = make()
        self._make = make
        self._plugin = plugin
        self._core = core
        self._clock = clock
        self._set_wakeup = set_wakeup
        self._timeout_s = handler_timeout_s
        # From the first of so many looks to the last passes at least that time.
        self._patience = Patience(math.ceil(handler_timeout_s / LOOK_EVERY_S) + 1)
        self._refusal = refusal
        self._given_up = given_up
        self._condition = threading.Condition()
        self._changed = EVERYTHING
        self._keys: set[str] = set()
        self._commands: list[tuple[Command, Done]] = []
        self._generation = 0
        self._status = FrameworkStatus(name=self.name, plugin=plugin, state="running")
        self._resume_at_ms = 0
        self._under_way: Work | None = None
        self._begun = 0
        self._running_commands: list[tuple[Command, Done]] = []
        self._stopping = False
        self._lost_threads = 0
        self._backoff_s = BACKOFF_FIRST_S

    @property
    def name(self) -> str:
        return self.runner.framework.name

    @property
    def status(self) -> FrameworkStatus:
        return self._status

    def start(self) -> None:
        self._generation += 1
        threading.Thread(
            target=self._run_forever, args=(self._generation,), name=f"orlop-{self.name}", daemon=True
        ).start()

    def stop(self, reason: str) -> None:
        """No more runs; commands that wait are refused."""
        with self._condition:
            self._stopping = True
            waiting, self._commands = self._commands, []
            self._condition.notify_all()
        for _, done in waiting:
            done(None, NotAvailable(f"nothing was changed: {reason}"))

    # From other threads

    def notify(self, effect: Notify) -> None:
        """Its tasks or the nodes may have changed."""
        with self._condition:
            self._keys |= effect.keys  # apart: thousands may come while a handler runs
            before = self._changed
            if effect.nodes or effect.rejected:
                self._changed = attrs.evolve(
                    before,
                    nodes=before.nodes or effect.nodes,
                    rejected={**before.rejected, **effect.rejected},
                )
            self._condition.notify_all()

    def wake(self, token: str) -> None:
        """A wake-up is due."""
        with self._condition:
            self._changed = attrs.evolve(self._changed, wakeups=self._changed.wakeups | {token})
            self._condition.notify_all()

    def enqueue(self, token: str, value: Any, done: Done) -> None:
        """Queues a command; `done(reply, None)` after the commit, or `done(None, error)`."""
        with self._condition:
            if reason := self._refusal():
                done(None, NotAvailable(f"nothing was changed: {reason}"))
            elif self._stopping:
                done(None, NotAvailable("nothing was changed: this server stops to lead"))
            elif self._status.state != "running":
                done(None, NotAvailable(f"framework {self.name} is {self._status.state}: {self._status.error}"))
            elif len(self._commands) >= QUEUED_COMMANDS_MAX:
                done(None, NotAvailable(f"framework {self.name} has {QUEUED_COMMANDS_MAX} commands waiting"))
            else:
                self._commands.append((Command(token=token, value=value), done))
                self._condition.notify_all()

    def check_hang(self) -> None:
        """To be called each `LOOK_EVERY_S`: gives up a thread whose handler does not return."""
        with self._condition:
            if self._under_way is None or not self._patience.is_over(self._under_way):
                return
            self._under_way = None
            self._lost_threads += 1
            self._generation += 1
            commands, self._running_commands = self._running_commands, []
            off = self._lost_threads >= LOST_THREADS_MAX
            reason = f"a handler did not return within {self._timeout_s:g} s"
            self._quarantine(reason, off=off)
        log.error("framework %s: %s; its thread is given up", self.name, reason)
        for _, done in commands:
            done(None, NotAvailable(f"framework {self.name}: {reason}"))
        if off:
            self._given_up(f"framework {self.name}: {reason}, {LOST_THREADS_MAX} times")
            return
        try:
            self.runner = self._make()
        except Exception as error:
            log.exception("framework %s cannot be made anew", self.name)
            self._given_up(f"framework {self.name}: {reason}, and it cannot be made anew: {error}")
        else:
            self.start()

    # The thread

    def _run_forever(self, generation: int) -> None:
        while True:
            work = self._wait(generation)
            if work is None:
                return
            changed, commands = work
            self._run_once(generation, changed, commands)

    def _wait(self, generation: int) -> tuple[Changed, list[tuple[Command, Done]]] | None:
        with self._condition:
            while True:
                if self._stopping or generation != self._generation:
                    return None
                pause_ms = self._resume_at_ms - self._clock().monotonic_ms
                if pause_ms > 0:
                    self._condition.wait(pause_ms / 1000)
                elif self._is_urgent():
                    break
                elif not self._keys:
                    self._condition.wait()
                elif not self._condition.wait_for(self._is_urgent, GATHER_S):
                    break
            changed = attrs.evolve(self._changed, keys=frozenset(self._keys))
            self._changed, self._keys = Changed(), set()
            commands = self._commands[:COMMANDS_PER_RUN_MAX]
            del self._commands[: len(commands)]
            self._begun += 1
            self._under_way = Work(threading.get_ident(), self._begun)
            self._running_commands = commands
            return changed, commands

    def _is_urgent(self) -> bool:
        return self._stopping or bool(self._commands) or self._changed != Changed()

    def _run_once(self, generation: int, changed: Changed, commands: list[tuple[Command, Done]]) -> None:
        started = self._clock()
        state = self._core.committed
        try:
            result = self.runner.run(
                state, changed, [command for command, _ in commands], started, secrets.token_hex(16)
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001  (a plugin's fault never spreads)
            self._failed(generation, error, commands)
            return
        for bug in result.failures.values():
            log.error("a command of framework %s failed: %s", self.name, _text_of(bug), exc_info=bug)
        with self._condition:
            if generation != self._generation:
                return
            self._under_way = None
            self._running_commands = []
            self._backoff_s = BACKOFF_FIRST_S
            self._status = attrs.evolve(
                self._status,
                state="running",
                error="",
                failures=self._status.failures + len(result.failures),
                retry_at_utc_ms=0,
                runs=self._status.runs + 1,
                last_run_ms=float(self._clock().monotonic_ms - started.monotonic_ms),
            )
        for token, utc_ms in result.wakeups.items():
            self._set_wakeup(token, utc_ms)
        self._commit(result, commands)

    def _commit(self, result: RunResult, commands: list[tuple[Command, Done]]) -> None:
        committed = threading.Event()
        outcome: list[Failure | None] = [None]

        def done(failure: Failure | None) -> None:
            outcome[0] = failure
            committed.set()

        if result.actions is not None:
            self._core.submit(result.actions, done)
            committed.wait()
        failure = outcome[0]
        if failure is not None:
            self._refused()
        replies: Mapping[str, Any] = result.actions.replies if result.actions is not None else {}
        for command, tell in commands:
            if command.token in result.refusals:
                tell(None, result.refusals[command.token])
            elif command.token in result.failures:
                text = _text_of(result.failures[command.token])
                tell(None, NotAvailable(f"nothing was changed: framework {self.name} failed: {text}"))
            elif failure is not None:
                tell(None, NotAvailable(str(failure)))
            else:
                tell(replies.get(command.token), None)

    def _refused(self) -> None:
        with self._condition:
            self._changed = EVERYTHING
            self._resume_at_ms = self._clock().monotonic_ms + round(BACKOFF_FIRST_S * 1000)

    def _failed(self, generation: int, error: BaseException, commands: Iterable[tuple[Command, Done]]) -> None:
        text = _text_of(error)
        again = text == self._status.error  # where it was raised stands in the log already
        log.error("framework %s is quarantined: %s", self.name, text, exc_info=None if again else error)
        with self._condition:
            if generation != self._generation:
                return
            self._under_way = None
            self._running_commands = []
            self._quarantine(text, off=False)
        for _, done in commands:
            done(None, NotAvailable(f"framework {self.name} failed: {text}"))

    def _quarantine(self, error: str, *, off: bool) -> None:
        delay_s = self._backoff_s
        self._backoff_s = min(BACKOFF_MAX_S, 2 * delay_s)
        now = self._clock()
        self._changed = EVERYTHING
        self._resume_at_ms = now.monotonic_ms + round(delay_s * 1000)
        self._status = attrs.evolve(
            self._status,
            state="off" if off else "quarantined",
            error=error,
            failures=self._status.failures + 1,
            retry_at_utc_ms=0 if off else now.utc_ms + round(delay_s * 1000),
        )
        waiting, self._commands = self._commands, []
        for _, done in waiting:
            done(None, NotAvailable(f"framework {self.name} is quarantined: {error}"))


def _text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()
