"""What no store takes: whoever asks for it is refused, or at fault, and nobody else notices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import attrs
import pytest

from orlop.framework import (
    EVERYTHING,
    Action,
    Ask,
    Changed,
    Emit,
    Framework,
    Kill,
    PortRequest,
    Process,
    Put,
    Refused,
    Reply,
    View,
)
from orlop.server.framework_run import Command, FrameworkRunner
from orlop.server.redo import document_bytes_max, plan, size_of
from orlop.server.storable import NAME_BYTES_MAX, Storable, Unstorable
from orlop.store.interface import Limits
from orlop.store.interface import Put as Write
from orlop.testing.harness import Cluster

SURROGATE = "a\ud800"
LONG = "n" * (NAME_BYTES_MAX + 1)
RUN = Process("true")


@attrs.frozen(kw_only=True)
class Thing:
    text: str = ""


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"in": value}
    return value


WRONG: dict[str, Action] = {
    "zero in an id": Put("thing", "a\0b", Thing()),
    "surrogate in an id": Put("thing", SURROGATE, Thing()),
    "surrogate in an object": Put("thing", "a", Thing(text=SURROGATE)),
    "long id": Put("thing", LONG, Thing()),
    "large object": Put("thing", "a", Thing(text="x" * 20_000)),
    "surrogate in a key": Ask(SURROGATE, run=RUN),
    "long key": Ask(LONG, run=RUN),
    "surrogate in a name": Ask("a", run=RUN, name=SURROGATE),
    "surrogate in a group": Ask("a", run=RUN, group=SURROGATE),
    "surrogate in a label": Ask("a", run=RUN, labels={"a": SURROGATE}),
    "large environment": Ask("a", run=RUN, environment={"A": "x" * 20_000}),
    "surrogate in a spec": Ask("a", run=Process(SURROGATE)),
    "large spec": Ask("a", run=Process("x" * 20_000)),
    "spec that is too deep": Ask("a", run=attrs.evolve(RUN, payload=deep(300))),
    "member of an object that is of another type": Put("thing", "a", Thing(text=5)),  # type: ignore[arg-type]
    "list for a tuple": Ask("a", run=attrs.evolve(RUN, ports=[PortRequest()])),  # type: ignore[arg-type]
    "member of a port that is of another type": Ask("a", run=RUN, ports=(PortRequest(number="80"),)),  # type: ignore[arg-type]
    "resources that are none": Ask("a", run=attrs.evolve(RUN, resources={"cpus": 100})),  # type: ignore[arg-type]
    "surrogate in a reason": Kill("a", SURROGATE),
    "surrogate in an event": Emit("happened", "a", {"what": SURROGATE}),
}


class Asking(Framework):
    """Does what it is commanded, and, as its handler, what it was made with."""

    name = "asking"
    documents: ClassVar[dict[str, type]] = {"thing": Thing}

    def __init__(self, handled: Iterable[Action] = ()) -> None:
        super().__init__(None)
        self._handled = handled

    def command(self, view: View, command: Any) -> Iterable[Action]:
        yield Put("thing", "before", Thing())
        yield from command
        yield Reply("done")

    def handle(self, view: View, changed: Changed) -> Iterable[Action]:
        return self._handled


def runner(framework: Framework) -> FrameworkRunner:
    return FrameworkRunner(framework, storable=Storable(10_000))


@pytest.mark.parametrize("action", WRONG.values(), ids=WRONG.keys())
def test_a_command_is_refused_and_takes_nothing_back_of_others(action: Action) -> None:
    cluster = Cluster(Asking())
    good = [Put("thing", "good", Thing())]
    commands = [Command(token="bad", value=[action]), Command(token="good", value=good)]
    result = runner(Asking()).run(cluster.state, Changed(), commands, cluster.now, "")
    assert isinstance(result.refusals["bad"], Refused)
    assert result.refusals.keys() == {"bad"}
    assert result.actions is not None
    assert result.actions.puts.keys() == {("thing", "before"), ("thing", "good")}
    assert result.actions.replies == {"good": "done"}
    assert not result.actions.asks


@pytest.mark.parametrize("action", WRONG.values(), ids=WRONG.keys())
def test_a_handler_is_at_fault(action: Action) -> None:
    cluster = Cluster(Asking())
    with pytest.raises(Unstorable):
        runner(Asking([action])).run(cluster.state, EVERYTHING, [], cluster.now, "")


def test_the_refusal_names_the_key() -> None:
    cluster = Cluster(Asking())
    commands = [Command(token="bad", value=[WRONG["zero in an id"]])]
    result = runner(Asking()).run(cluster.state, Changed(), commands, cluster.now, "")
    assert "objects/asking/thing/a" in str(result.refusals["bad"])


@pytest.mark.parametrize("bytes_max", [10_000, 1_500_000])
def test_what_is_just_small_enough_can_be_written(bytes_max: int) -> None:
    limits = Limits(operations=128, bytes=bytes_max)
    key = "objects/f/thing/a"
    write = Write(key, b'"' + b"x" * (document_bytes_max(limits) - len(key) - 2) + b'"')
    planned = plan([write, Write("b", b"1")], Write("meta/state", b"{}"), 1, limits)
    for part in (*planned.before, planned.commit, *planned.after):
        assert sum(map(size_of, part)) <= limits.bytes
