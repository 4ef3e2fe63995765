"""Actions with members of other types than their classes say: told where they are made, whatever the plugin checks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from orlop.framework import (
    EVERYTHING,
    Action,
    Amend,
    Ask,
    Delete,
    Emit,
    Framework,
    Kill,
    PortRequest,
    Process,
    Put,
    View,
    WakeAt,
    Withdraw,
)
from orlop.server.framework_run import FrameworkRunner, InvalidAction
from orlop.testing.harness import Cluster

RUN = Process("true")

#: As authors have them who use no mypy.
ask: Any = Ask
amend: Any = Amend
kill: Any = Kill
withdraw: Any = Withdraw
put: Any = Put
delete: Any = Delete
wake_at: Any = WakeAt
emit: Any = Emit
process: Any = Process

WRONG: dict[str, Callable[[], Any]] = {
    "Ask.key: expected a text, got 5": lambda: ask(5, run=RUN),
    "Ask.run: expected Spec, got 'true'": lambda: ask("a", run="true"),
    "Ask.needs: expected None or Resources, got {'cpus': 1}": lambda: ask("a", run=RUN, needs={"cpus": 1}),
    "Ask.ports: expected None or a tuple of PortRequest, got [80]": lambda: ask("a", run=RUN, ports=[80]),
    "Ask.policies: expected None or Policies, got {}": lambda: ask("a", run=RUN, policies={}),
    "Ask.group: expected a text, got None": lambda: ask("a", run=RUN, group=None),
    "Ask.priority: expected a whole number of 64 bits, got 1.5": lambda: ask("a", run=RUN, priority=1.5),
    "Ask.priority: expected a whole number of 64 bits, got True": lambda: ask("a", run=RUN, priority=True),
    f"Ask.priority: expected a whole number of 64 bits, got {2**63}": lambda: ask("a", run=RUN, priority=2**63),
    "Ask.environment: expected texts, got 'PORT': 80": lambda: ask("a", run=RUN, environment={"PORT": 80}),
    "Ask.labels: expected a mapping of texts, got ['a']": lambda: ask("a", run=RUN, labels=["a"]),
    "Ask.not_before_utc_ms: expected a whole number of 64 bits, got 0.5": lambda: ask(
        "a", run=RUN, not_before_utc_ms=0.5
    ),
    "Ask.wait_ms: expected None or a whole number of 64 bits, got '0'": lambda: ask("a", run=RUN, wait_ms="0"),
    "Ask.desired: expected Desired, got 'running'": lambda: ask("a", run=RUN, desired="running"),
    "Process.arguments: expected several texts, got 'sleep 5'": lambda: process(arguments="sleep 5"),
    "Process.arguments: expected several texts, got ['sleep', 5]": lambda: process(arguments=["sleep", 5]),
    "Process: expected a command or arguments, got None and []": lambda: process(),
    "Process: expected a command or arguments, got 'a' and ['b']": lambda: process("a", arguments=["b"]),
    "Process.command: expected a text, got 5": lambda: process(5),
    "Process.environment: expected texts, got 'A': 1": lambda: process("a", environment={"A": 1}),
    "Amend.spec: expected Spec, got None": lambda: amend("a", None),
    "Kill.reason: expected a text, got None": lambda: kill("a", None),
    "Withdraw.key: expected a text, got 5": lambda: withdraw(5),
    "Put.id: expected a text, got 5": lambda: put("thing", 5, None),
    "Delete.id: expected a text, got 5": lambda: delete("thing", 5),
    "WakeAt.utc_ms: expected None or int, got 'soon'": lambda: wake_at("soon"),
    "Emit.details: expected texts, got 'code': 1": lambda: emit("ended", details={"code": 1}),
}


@pytest.mark.parametrize("text", WRONG)
def test_the_member_is_named(text: str) -> None:
    with pytest.raises(TypeError) as raised:
        WRONG[text]()
    assert str(raised.value) == text


def test_lists_do_where_an_ask_has_several() -> None:
    several = ask("a", run=RUN, ports=[PortRequest()], constraints=[], probes=[])
    assert several.spec() == Ask("a", run=RUN, ports=(PortRequest(),)).spec()


def test_a_handler_that_never_ends_is_stopped_before_it_has_filled_the_memory() -> None:
    class Endless(Framework):
        name = "endless"

        def reconcile(self, view: View) -> Iterable[Action]:
            return itertools.repeat(Kill("a"))

    cluster = Cluster()
    with pytest.raises(InvalidAction, match=r"endless yielded more than [0-9]+ actions"):
        FrameworkRunner(Endless()).run(cluster.state, EVERYTHING, [], cluster.now, "")


def test_a_handler_without_a_yield_is_told_so() -> None:
    class Silent(Framework):
        name = "silent"

        def reconcile(self, view: View) -> Iterable[Action]:
            return None  # type: ignore[return-value]

    cluster = Cluster()
    with pytest.raises(InvalidAction, match=r"silent returned None .* no yield"):
        FrameworkRunner(Silent()).run(cluster.state, EVERYTHING, [], cluster.now, "")
