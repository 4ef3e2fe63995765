"""When the garbage collector of a server looks for cycles.

States are large and have no cycles: looking at them is in vain, and holds everything up meanwhile. By itself the
interpreter looks at each new object twice, and at all of them again whenever a quarter has been added; with 100,000
tasks the latter takes most of a second. So it is done here instead: once at what is new, as soon as there is enough of
it, and at everything only now and then, for what became garbage after it had grown old (connections, mostly). If that
took long, what has survived it is not looked at again: most of it is the state, and a lease does not wait.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

from orlop.server.ticks import next_tick

#: New objects that are looked at at once: some milliseconds.
NEW_OBJECTS: Final = 50_000
LOOK_S: Final = 0.1
#: As long as hardly anything is made, so many new objects between two looks.
QUIET_LOOK_S: Final = 0.25
QUIET_OBJECTS_MAX: Final = 2_000
EVERYTHING_S: Final = 600.0
#: A look at everything that took longer is not to be had a second time.
LONG_LOOK_S: Final = 0.25
#: Where the interpreter itself still steps in, should nobody look.
NEW_OBJECTS_MAX: Final = 1_000_000


class Collector:
    """See the module. There should be one in a process. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._everything_at_s = clock() + EVERYTHING_S
        self._pause_s = LOOK_S

    def begin(self) -> None:
        """Leaves alone what is there now: modules and classes stay for good. Once: what a later life of the server
        finds may be the last one's garbage."""
        if not gc.get_freeze_count():
            gc.freeze()
        gc.set_threshold(NEW_OBJECTS_MAX)

    def look(self) -> None:
        """Collects what is due. Nothing while the collector is off, for a state is being loaded."""
        if not gc.isenabled():
            return
        if self._clock() >= self._everything_at_s:
            began_s = self._clock()
            gc.collect()
            ended_s = self._clock()
            self._everything_at_s = ended_s + EVERYTHING_S
            if ended_s - began_s > LONG_LOOK_S:
                gc.freeze()
        elif gc.get_count()[0] >= NEW_OBJECTS:
            gc.collect(1)

    async def look_forever(self) -> None:
        """For ever."""
        while True:
            before = gc.get_count()[0]
            await next_tick(self._pause_s)
            self._pause_s = LOOK_S if gc.get_count()[0] - before > QUIET_OBJECTS_MAX else QUIET_LOOK_S
            self.look()
