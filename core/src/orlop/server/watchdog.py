"""Sees when a server decides or answers nothing any more, and in whose code it is.

Nobody can take a thread back from code that does not return: from a plugin's filter in the middle of a decision, say,
or from a route on the event loop. What is left is to begin anew as a process, without the plugin whose code it is.

A thread of its own looks once a second at what is under way, and counts its looks (see `patience`). A plugin is to
blame where one and the same call of its code is under way at all of them; where there is none, the server is merely
slow, and to begin anew would not make it faster.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final

import attrs

from orlop.server.patience import Patience, Work

LOOK_EVERY_S: Final = 1.0
#: A decision takes milliseconds.
DECIDE_WITHIN_S: Final = 10.0
#: The event loop waits for hooks of plugins that are called while a server begins, for so long each.
ANSWER_WITHIN_S: Final = 30.0


@attrs.frozen(kw_only=True)
class Hang:
    """reason: what takes how long, and where. plugin: whose call does not return; empty: nobody's. stack: the last line
    is the innermost."""

    reason: str
    plugin: str
    stack: str


class Watchdog:
    """See the module. Make it on the event loop.

    deciding: what the kernel decides at this moment. plugin_of: whose code a module's is; empty: no plugin's.
    hung: called on the watchdog's thread, once for whatever hangs.
    """

    def __init__(
        self, deciding: Callable[[], Work | None], plugin_of: Callable[[str], str], hung: Callable[[Hang], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._deciding = deciding
        self._plugin_of = plugin_of
        self._hung = hung
        self._turn = self._done = Work(threading.get_ident(), 0)
        self._for_decisions = Patience(round(DECIDE_WITHIN_S / LOOK_EVERY_S))
        self._for_turns = Patience(round(ANSWER_WITHIN_S / LOOK_EVERY_S))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_forever, name="orlop-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Before the loop is closed."""
        self._stopping.set()
        self._thread.join()

    def look(self) -> None:
        """Once."""
        self._look(self._deciding(), self._for_decisions, f"a decision takes more than {DECIDE_WITHIN_S:g} s")
        self._look(self._turn_under_way(), self._for_turns, f"nothing is answered for more than {ANSWER_WITHIN_S:g} s")

    def _look(self, work: Work | None, patience: Patience, what: str) -> None:
        if work is None:
            patience.rest()
            return
        stack = _stack(work.thread)
        if patience.is_over(work, stack):
            self._hung(self._found(patience.calls, what, "".join(traceback.format_stack(stack[0])) if stack else ""))

    def _look_forever(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            self.look()

    def _turn_under_way(self) -> Work | None:
        """The turn of the loop that has not come to an end since it was asked for; None: it was quick."""
        turn = self._turn
        if turn != self._done:
            return turn
        self._turn = turn = attrs.evolve(turn, number=turn.number + 1)
        self._loop.call_soon_threadsafe(self._note, turn)
        return None

    def _note(self, turn: Work) -> None:
        self._done = turn

    def _found(self, calls: Sequence[FrameType], what: str, stack: str) -> Hang:
        for call in calls:
            if plugin := self._plugin_of(call.f_globals.get("__name__", "")):
                return Hang(reason=f"{what}, in {_place(call)}", plugin=plugin, stack=stack)
        return Hang(reason=what, plugin="", stack=stack)


def _stack(thread: int) -> list[FrameType]:
    """The innermost call first."""
    frames = []
    frame = sys._current_frames().get(thread)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
