"""When a framework's thread looks at what is new."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
from terms import begin
from waiting import wait_until

from orlop.agent.agent import read_clock
from orlop.framework import Action, Changed, Framework, Reply, View
from orlop.kernel.events import Notify
from orlop.kernel.kernel import Kernel
from orlop.server import framework_host
from orlop.server.core import Core
from orlop.server.framework_host import FrameworkHost
from orlop.server.framework_run import FrameworkRunner
from orlop.store.memory import MemoryStore

WITHIN_S = 30.0
LONG_S = 3_600.0


class Noting(Framework):
    """Notes what it is told, and answers all commands."""

    name = "noting"

    def __init__(self) -> None:
        super().__init__(None)
        self.told: queue.Queue[Changed] = queue.Queue()

    def command(self, view: View, command: Any) -> Iterable[Action]:
        yield Reply(command)

    def handle(self, view: View, changed: Changed) -> Iterable[Action]:
        self.told.put(changed)
        return ()


class Failing(Noting):
    """Raises so often; and when it is commanded."""

    def __init__(self, failures: int = 0, error: type[BaseException] = ValueError) -> None:
        super().__init__()
        self.failures = failures
        self.error = error

    def command(self, view: View, command: Any) -> Iterable[Action]:
        raise self.error

    def handle(self, view: View, changed: Changed) -> Iterable[Action]:
        self.failures -= 1
        if self.failures >= 0:
            raise self.error
        return super().handle(view, changed)


class Hanging(Noting):
    """Does not return as long as it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: queue.Queue[None] = queue.Queue()
        self.go_on = threading.Event()
        self.go_on.set()

    def handle(self, view: View, changed: Changed) -> Iterable[Action]:
        if not self.go_on.is_set():
            self.begun.put(None)
            assert self.go_on.wait(WITHIN_S)
        return super().handle(view, changed)


@contextmanager
def running(
    framework: Noting, *later: Noting, given_up: Callable[[str], None] = lambda _: None, timeout_s: float = WITHIN_S
) -> Iterator[FrameworkHost]:
    """Begins when the framework has looked at everything. later: those that are made in its place."""
    makes = [framework, *later]
    store = MemoryStore()
    core = Core(Kernel(), store, begin(store), read_clock, lambda _: None, lambda error: pytest.fail(str(error)))
    host = FrameworkHost(
        "p",
        lambda: FrameworkRunner(makes.pop(0) if makes else framework),
        core,
        read_clock,
        lambda _token, _utc_ms: None,
        timeout_s,
        given_up=given_up,
    )
    core.start()
    host.start()
    try:
        assert framework.told.get(timeout=WITHIN_S).everything
        yield host
    finally:
        host.stop("the test ends")
        core.stop()


def test_news_of_tasks_that_come_together_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework_host, "GATHER_S", 1.0)
    framework = Noting()
    with running(framework) as host:
        for key in ("a", "b", "c"):
            host.notify(Notify(framework="noting", keys=frozenset({key})))
        assert framework.told.get(timeout=WITHIN_S).keys == {"a", "b", "c"}


def test_a_command_does_not_wait_for_more_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework_host, "GATHER_S", LONG_S)
    framework, answered, replies = Noting(), threading.Event(), []

    def done(reply: Any, error: Exception | None) -> None:
        replies.append(error or reply)
        answered.set()

    with running(framework) as host:
        host.notify(Notify(framework="noting", keys=frozenset({"a"})))
        host.enqueue("token", "asked", done)
        assert answered.wait(WITHIN_S)
        assert replies == ["asked"]
        assert framework.told.get(timeout=WITHIN_S).keys == {"a"}


def test_neither_does_a_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework_host, "GATHER_S", LONG_S)
    framework = Noting()
    with running(framework) as host:
        host.notify(Notify(framework="noting", keys=frozenset({"a"})))
        host.wake("due")
        changed = framework.told.get(timeout=WITHIN_S)
        assert (changed.keys, changed.wakeups) == ({"a"}, {"due"})


def told(host: FrameworkHost, command: Any) -> Any:
    """What becomes of a command: its reply or error."""
    answered, outcomes = threading.Event(), []

    def done(reply: Any, error: Exception | None) -> None:
        outcomes.append(error or reply)
        answered.set()

    host.enqueue("token", command, done)
    assert answered.wait(WITHIN_S)
    return outcomes[0]


def test_who_has_run_well_in_between_is_tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A back-off that went on growing would be over a minute in the end."""
    monkeypatch.setattr(framework_host, "BACKOFF_FIRST_S", 0.02)
    framework = Failing()
    with running(framework) as host:
        for number in range(1, 13):
            framework.failures = 1
            host.wake("due")
            assert framework.told.get(timeout=WITHIN_S).everything
            wait_until(lambda: host.status.state == "running", "it runs again")
            assert host.status.failures == number


def test_who_fails_for_very_long_is_tried_again_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework_host, "BACKOFF_FIRST_S", 0.0)
    with running(Failing(failures=1_100)) as host:
        assert host.status.failures == 1_100


def test_where_it_fails_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(framework_host, "BACKOFF_FIRST_S", 0.0)
    framework = Failing(failures=3)
    with running(framework) as host:
        framework.failures = 1
        host.wake("due")
        assert framework.told.get(timeout=WITHIN_S).everything
    quarantines = [record for record in caplog.records if "is quarantined" in record.getMessage()]
    assert [bool(record.exc_info) for record in quarantines] == [True, False, False, True]


def test_exit_is_a_failure_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework_host, "BACKOFF_FIRST_S", 0.0)
    framework = Failing(error=SystemExit)
    with running(framework) as host:
        assert "failed: SystemExit" in str(told(host, "anything"))
        assert framework.told.get(timeout=WITHIN_S).everything
        framework.failures = 1
        host.wake("due")
        assert framework.told.get(timeout=WITHIN_S).everything
        assert host.status.failures == 2


class Picky(Noting):
    """Raises of one command, and answers the others."""

    def command(self, view: View, command: Any) -> Iterable[Action]:
        if command == "bad":
            raise ValueError("not this one")
        yield Reply(command)


def test_a_command_that_raises_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    framework = Picky()
    with running(framework) as host:
        answers: queue.Queue[tuple[str, Any, Exception | None]] = queue.Queue()
        for command in ("good", "bad", "better"):

            def done(reply: Any, error: Exception | None, command: str = command) -> None:
                answers.put((command, reply, error))

            host.enqueue(command, command, done)
        found = {command: (reply, error) for command, reply, error in (answers.get(timeout=WITHIN_S) for _ in "123")}
        assert found["good"] == ("good", None)
        assert found["better"] == ("better", None)
        assert "nothing was changed: framework noting failed: ValueError: not this one" in str(found["bad"][1])
        assert (host.status.state, host.status.failures) == ("running", 1)
        assert any(framework.told.get(timeout=WITHIN_S).everything for _ in range(framework.told.qsize() or 1))
    (record,) = [one for one in caplog.records if "a command of framework noting failed" in one.getMessage()]
    assert record.exc_info is not None


def test_who_does_not_return_three_times_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework_host, "BACKOFF_FIRST_S", 0.0)
    framework, given_up = Hanging(), list[str]()
    with running(framework, given_up=given_up.append, timeout_s=0.0) as host:
        framework.go_on.clear()
        host.wake("due")
        for threads_lost in range(framework_host.LOST_THREADS_MAX):
            framework.begun.get(timeout=WITHIN_S)
            assert (given_up, host.status.state) == ([], "running" if threads_lost == 0 else "quarantined")
            host.check_hang()
        assert given_up == ["framework noting: a handler did not return within 0 s, 3 times"]
        assert host.status.state == "off"
        host.check_hang()
        assert len(given_up) == 1
        framework.go_on.set()


def test_who_does_not_return_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the lost thread still writes is seen by nobody."""
    monkeypatch.setattr(framework_host, "BACKOFF_FIRST_S", 0.0)
    framework, other = Hanging(), Noting()
    with running(framework, other, timeout_s=0.0) as host:
        framework.go_on.clear()
        host.wake("due")
        framework.begun.get(timeout=WITHIN_S)
        host.check_hang()
        assert other.told.get(timeout=WITHIN_S).everything
        framework.go_on.set()
        assert framework.told.get(timeout=WITHIN_S).wakeups == {"due"}
        host.wake("later")
        assert other.told.get(timeout=WITHIN_S).wakeups == {"later"}
        assert framework.told.empty()


def test_who_cannot_be_made_anew_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    framework, given_up = Hanging(), list[str]()
    with running(framework, given_up=given_up.append, timeout_s=0.0) as host:

        def cannot_be_made() -> FrameworkRunner:
            raise ValueError("no")

        monkeypatch.setattr(host, "_make", cannot_be_made)
        framework.go_on.clear()
        host.wake("due")
        framework.begun.get(timeout=WITHIN_S)
        host.check_hang()
        framework.go_on.set()
    assert given_up == ["framework noting: a handler did not return within 0 s, and it cannot be made anew: no"]


def test_a_process_that_was_stopped_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock has gone on, and nobody has looked meanwhile."""
    framework, passed_ms = Hanging(), [0]
    with running(framework, timeout_s=5.0) as host:
        monkeypatch.setattr(
            host, "_clock", lambda: attrs.evolve(now := read_clock(), monotonic_ms=now.monotonic_ms + passed_ms[0])
        )
        framework.go_on.clear()
        host.wake("due")
        framework.begun.get(timeout=WITHIN_S)
        passed_ms[0] = 60_000
        for _ in range(10):  # from the first to the last of eleven looks pass five seconds
            host.check_hang()
            assert host.status.state == "running"
        host.check_hang()
        assert host.status.state == "quarantined"
        framework.go_on.set()
