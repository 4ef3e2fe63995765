"""Brings a task's artefacts to this node before it starts: the agent's end of the fetcher (see `orlop.agent.fetcher`).

One program per task that has any, so that nothing of it runs on the agent's loop, and ending it ends the fetch at
once. A fetch is bounded in bytes, in time and in what it keeps; whoever waits for it may be cancelled at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from orlop.agent.artefacts import Artefact, shown
from orlop.agent.runtimes.interface import RuntimeContext

PROGRAM: Final = Path(__file__).parent / "fetcher" / "__main__.py"
#: More of them wait for their turn.
TOGETHER_MAX: Final = 32
#: What it sees of the agent's environment: how this node reaches others, and whom it trusts.
_PASSED: Final = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")
_OWN_ENVIRONMENT: Final = {"PATH": os.defpath, "LANG": "C.UTF-8"}


class CannotFetch(Exception):
    """An artefact cannot be brought here; the text names it and says why."""


class Fetching:
    """Of one runtime. Lives on the event loop."""

    def __init__(self, context: RuntimeContext) -> None:
        self._settings = context.fetch
        self._cache = context.data / "fetched"
        self._slots = asyncio.Semaphore(TOGETHER_MAX)

    async def fetch(
        self,
        artefacts: Sequence[Artefact],
        folder: Path,
        user: dict[str, Any] | None,
        progress: Callable[[str], None],
    ) -> None:
        """Into the folder, as the user (uid, gid, groups; None: the agent's own). progress: gets one line for people
        for each artefact. Raises CannotFetch."""
        order = {
            "artefacts": [attrs.asdict(artefact) for artefact in artefacts],
            "folder": str(folder),
            "user": user,
            "bytes_max": self._settings.bytes_max,
            "local": list(self._settings.local),
            "cache": str(self._cache),
            "cache_bytes_max": self._settings.cache_bytes_max,
        }
        current = artefacts[0]

        def turn_to(number: int) -> None:
            nonlocal current
            current = artefacts[number]
            progress(f"fetching {shown(current.uri)}")

        if self._slots.locked():
            progress(f"waiting to fetch {shown(current.uri)}: {TOGETHER_MAX} others are under way")
        async with self._slots:
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    failure = await _run(order, turn_to)
            except TimeoutError:
                failure = f"it takes longer than {self._settings.timeout_s:g} s"
            except OSError as error:
                failure = f"on this node: {error}"
        if failure:
            raise CannotFetch(f"{shown(current.uri)} cannot be fetched: {failure}")


async def _run(order: dict[str, Any], turn_to: Callable[[int], None]) -> str:
    """Why it has failed; empty when all is there. Raises OSError when there can be no more processes."""
    variables = {name: value for name, value in os.environ.items() if name in _PASSED or name.lower() in _PASSED}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(PROGRAM)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=_OWN_ENVIRONMENT | variables,
        cwd="/",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    failure: str | None = None
    try:
        with contextlib.suppress(ConnectionError):  # it has ended already; its output says why
            process.stdin.write(json.dumps(order).encode() + b"\n")
            await process.stdin.drain()
        async for line in process.stdout:
            match json.loads(line):
                case {"fetching": int(number)}:
                    turn_to(number)
                case {"failed": str(reason)}:
                    failure = reason or "for no known reason"
                case {"done": True}:
                    failure = ""
        code = await process.wait()
        return f"the fetcher ended with code {code}" if failure is None else failure
    finally:
        # Not a process that has ended: asking for its end, `kill` takes it from asyncio, which warns of that.
        if process.returncode is None:
            process.kill()
            await process.wait()
