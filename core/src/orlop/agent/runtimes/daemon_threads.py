"""A thread pool that the end of the program does not wait for.

The standard library's pools are joined at exit, so that a program with a call to a hung engine under way would not
end before that call does.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")

_Call = tuple[Future[Any], Callable[[], Any]]


class DaemonThreads(Executor):
    """At most so many threads, started as they are needed. Calls that are not waited for are lost at exit."""

    def __init__(self, threads_max: int, name: str) -> None:
        self._threads_max = threads_max
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._threads = 0
        self._closed = False

    def submit(self, function: Callable[..., T], /, *arguments: Any, **options: Any) -> Future[T]:
        """Raises RuntimeError after `shutdown`."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the threads {self._name} are shut down")
            self._calls.put((future, lambda: function(*arguments, **options)))
            if not self._idle.acquire(blocking=False) and self._threads < self._threads_max:
                self._threads += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        return future

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            self._answer(*call)
            del call  # an idle thread keeps nothing alive
        self._calls.put(None)  # for the next one

    def _answer(self, future: Future[Any], function: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            self._idle.release()
            return
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - it is whoever waits who must see it
            self._idle.release()
            future.set_exception(error)
        else:
            self._idle.release()  # before anybody learns of the result, and may have something else to do
            future.set_result(result)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Never waits. What was submitted is still done unless `cancel_futures`."""
        given_up: list[Future[Any]] = []
        with self._lock:
            self._closed = True
            while cancel_futures:
                try:
                    call = self._calls.get_nowait()
                except queue.Empty:
                    break
                if call is not None:
                    given_up.append(call[0])
            self._calls.put(None)
        for future in given_up:  # who waits for it may submit something, and is to be refused
            future.cancel()
