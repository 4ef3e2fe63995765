"""The commit pipeline's threads: who is told what, and when."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from terms import begin

from orlop.agent.agent import read_clock
from orlop.kernel.events import AgentHello
from orlop.kernel.kernel import Kernel
from orlop.model.messages import Hello
from orlop.model.nodes import NodeInfo
from orlop.model.resources import Resources
from orlop.server.core import Core
from orlop.server.pipeline import Failure
from orlop.store.memory import MemoryStore

WITHIN_S = 30.0
NODE = NodeInfo(id="n", name="n", address="", resources=Resources(cpus=1), runtimes=("process",))
HELLO = AgentHello(session="s", hello=Hello(node=NODE))


@contextmanager
def running(**options: Any) -> Iterator[Core]:
    store = MemoryStore()
    core = Core(
        Kernel(), store, begin(store), read_clock, lambda _: None, lambda error: pytest.fail(str(error)), **options
    )
    core.start()
    try:
        yield core
    finally:
        core.stop()


def test_what_is_decided_is_written_when_whoever_waits_for_the_decision_has_been_told() -> None:
    begins: queue.Queue[Callable[[], None]] = queue.Queue()
    durable: queue.Queue[Failure | None] = queue.Queue()
    with running(decided=begins.put) as core:
        core.submit(HELLO, durable.put)
        write = begins.get(timeout=WITHIN_S)
        assert "n" in core.head.node_order
        assert "n" not in core.committed.node_order
        assert durable.empty()
        write()
        assert durable.get(timeout=WITHIN_S) is None
        assert "n" in core.committed.node_order


def test_what_was_decided_is_written_before_the_end_whoever_was_to_begin_it() -> None:
    durable: queue.Queue[Failure | None] = queue.Queue()
    with running(decided=lambda write: None) as core:
        core.submit(HELLO, durable.put)
    assert durable.get(timeout=WITHIN_S) is None
    assert "n" in core.committed.node_order


def test_what_is_being_decided_is_told_with_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop.server.core.DECIDE_WITHIN_S", 0.0)
    begun, go_on = threading.Event(), threading.Event()
    durable: queue.Queue[Failure | None] = queue.Queue()

    with running() as core:
        assert (core.deciding, core.slow_reason) == (None, "")
        decide = core.kernel.step

        def hang(*arguments: Any) -> Any:
            begun.set()
            assert go_on.wait(WITHIN_S)
            return decide(*arguments)

        monkeypatch.setattr(core.kernel, "step", hang)
        core.submit(HELLO, durable.put)
        assert begun.wait(WITHIN_S)
        work = core.deciding
        assert work is not None
        (thread,) = [one for one in threading.enumerate() if one.ident == work.thread]
        assert thread.name == "orlop-kernel"
        assert core.deciding == work
        assert core.slow_reason == "a decision takes more than 0 s"
        go_on.set()
        assert durable.get(timeout=WITHIN_S) is None
        assert (core.deciding, core.slow_reason) == (None, "")
