"""The agent's end of the fetcher: the program's life."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import attrs
import pytest

from orlop.agent import fetching
from orlop.agent.artefacts import Artefact


def order(tmp_path: Path, *uris: str) -> dict[str, Any]:
    return {
        "artefacts": [attrs.asdict(Artefact(uri=uri, name="artefact")) for uri in uris],
        "folder": str(tmp_path),
        "user": None,
        "bytes_max": 2**20,
        "local": [],
        "cache": str(tmp_path / "cache"),
        "cache_bytes_max": 0,
    }


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids of the processes that were told to end."""
    pids = []
    kill = asyncio.subprocess.Process.kill

    def noted(process: asyncio.subprocess.Process) -> None:
        pids.append(process.pid)
        kill(process)

    monkeypatch.setattr(asyncio.subprocess.Process, "kill", noted)
    return pids


async def test_what_has_ended_is_not_killed(tmp_path: Path, killed: list[int]) -> None:
    assert await fetching._run(order(tmp_path), lambda _: None) == ""
    refused = await fetching._run(order(tmp_path, "http://127.0.0.1:1/x"), lambda _: None)
    assert refused == "it cannot be reached: Connection refused"
    assert killed == []


async def test_who_no_longer_waits_ends_the_program(tmp_path: Path, killed: list[int]) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    asked = asyncio.Event()
    async with await asyncio.start_server(silence, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        running = asyncio.create_task(fetching._run(order(tmp_path, f"http://127.0.0.1:{port}/x"), lambda _: None))
        async with asyncio.timeout(20):
            await asked.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
    (pid,) = killed
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
