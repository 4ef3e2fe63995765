"""The pool whose threads nobody waits for."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from orlop.agent.runtimes.daemon_threads import DaemonThreads

WITHIN_S = 30.0


def test_results_and_errors_come_back() -> None:
    pool = DaemonThreads(2, "test")
    assert pool.submit(divmod, 7, 2).result(WITHIN_S) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 7, 0).result(WITHIN_S)
    pool.shutdown()


def test_so_many_at_once_and_no_more() -> None:
    pool = DaemonThreads(3, "test")
    all_there = threading.Barrier(4)
    numbers: set[int] = set()

    def meet() -> None:
        numbers.add(threading.get_ident())
        all_there.wait(WITHIN_S)

    first = [pool.submit(meet) for _ in range(3)]
    waiting = pool.submit(threading.get_ident)
    assert not waiting.done(), "three are busy"
    all_there.wait(WITHIN_S)
    for each in first:
        each.result(WITHIN_S)
    assert waiting.result(WITHIN_S) in numbers
    pool.shutdown()


def test_an_idle_thread_is_used_again() -> None:
    pool = DaemonThreads(8, "test")
    assert len({pool.submit(threading.get_ident).result(WITHIN_S) for _ in range(50)}) == 1
    pool.shutdown()


def test_shut_down() -> None:
    pool = DaemonThreads(1, "test")
    gate = threading.Event()
    under_way, queued = pool.submit(gate.wait, WITHIN_S), pool.submit(int)
    pool.shutdown(cancel_futures=True)
    assert queued.cancelled()
    with pytest.raises(RuntimeError):
        pool.submit(int)
    gate.set()
    assert under_way.result(WITHIN_S) is True


def test_who_is_told_of_a_call_given_up_may_submit_another() -> None:
    pool = DaemonThreads(1, "test")
    gate = threading.Event()
    pool.submit(gate.wait, WITHIN_S)
    refused = threading.Event()

    def again(_: object) -> None:
        with pytest.raises(RuntimeError):
            pool.submit(int)
        refused.set()

    pool.submit(int).add_done_callback(again)
    stopping = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    stopping.start()
    stopping.join(WITHIN_S)
    assert refused.is_set()
    gate.set()


def test_the_program_ends_though_a_call_does_not() -> None:
    script = """
import threading
from orlop.agent.runtimes.daemon_threads import DaemonThreads
begun = threading.Event()
def hang():
    begun.set()
    threading.Event().wait()
DaemonThreads(1, "test").submit(hang)
begun.wait()
print("the end")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=WITHIN_S, check=True)
    assert done.stdout == "the end\n"
