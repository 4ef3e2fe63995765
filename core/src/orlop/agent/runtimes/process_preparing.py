"""Launches are prepared on a thread, those that wait at the same time in one go.

Preparing is a few dozen short system calls. Handing a launch to a thread, and having several such threads wait for
one another and for the event loop's, costs more than that, so one thread at a time takes all that has come.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Any, Final

import attrs

from orlop.agent.cgroups import ControlGroups
from orlop.agent.runtimes.interface import Launch
from orlop.agent.runtimes.process_folders import find_user, prepare
from orlop.agent.runtimes.process_payload import Payload

#: The first of many are started while the next ones are being prepared.
TOGETHER_MAX: Final = 16


@attrs.frozen(eq=False)
class _Waiting:
    launch: Launch
    payload: Payload
    done: asyncio.Future[dict[str, Any]]


class Preparer:
    """Lives on the event loop. control_groups: None where tasks run without."""

    def __init__(self, control_groups: ControlGroups | None) -> None:
        self._control_groups = control_groups
        self._waiting: list[_Waiting] = []
        self._work: asyncio.Task[None] | None = None

    async def prepare(self, launch: Launch, payload: Payload) -> dict[str, Any]:
        """The supervisor's request, when all that it names is there. Raises CannotPrepare."""
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(launch, payload, done))
        if self._work is None:
            self._work = asyncio.create_task(self._prepare_waiting(), name="preparing processes")
        return await done

    async def close(self) -> None:
        """What is being prepared is given up; its callers are told so."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    async def _prepare_waiting(self) -> None:
        taken: list[_Waiting] = []
        try:
            while self._waiting:
                taken, self._waiting = self._waiting[:TOGETHER_MAX], self._waiting[TOGETHER_MAX:]
                results = await asyncio.to_thread(_prepare_each, taken, self._control_groups)
                for waiting, result in zip(taken, results, strict=True):
                    if waiting.done.done():
                        continue
                    if isinstance(result, Exception):
                        waiting.done.set_exception(result)
                    else:
                        waiting.done.set_result(result)
        finally:
            self._work = None
            for waiting in taken + self._waiting:
                waiting.done.cancel()


def _prepare_each(taken: Sequence[_Waiting], control_groups: ControlGroups | None) -> list[dict[str, Any] | Exception]:
    """Blocks. Nothing is raised: what one launch lacks is no reason for the others to fail."""
    look_up = functools.cache(find_user)
    results: list[dict[str, Any] | Exception] = []
    for waiting in taken:
        try:
            results.append(prepare(waiting.launch, waiting.payload, control_groups, look_up))
        except Exception as error:  # noqa: BLE001  raised where it is waited for
            results.append(error)
    return results
