"""Commands that are run beside a process task: as its user, in its folder, within its control groups."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from typing import Final

from orlop.agent.runtimes.process_folders import Facts

OUTPUT_BYTES_MAX: Final = 4096
#: What a shell answers for a command that was found and cannot be run.
CANNOT_RUN: Final = 126
#: A process that has left the group may hold the output open for ever; nobody waits for it longer than this.
LATE_OUTPUT_S: Final = 0.5
_READ_BYTES: Final = 64 * 1024
#: The command waits until its process is in the task's control groups, so that all it starts is there too.
_AFTER_THE_WORD: Final = 'read -r go && exec /bin/sh -c "$1" </dev/null'


async def run_beside(facts: Facts, command: str, timeout_s: float) -> tuple[int, str]:
    """The exit code (128 + n for signal n) and the last 4 kB of both outputs. What the command leaves running is
    killed, at its end as well as at the timeout. Raises TimeoutError."""
    word_read, word = os.pipe()
    output_read, output_write = os.pipe()
    with contextlib.closing(os.fdopen(word, "wb", buffering=0)) as word_pipe:
        reader, transport = await _reader_of(output_read)
        try:
            process = await _spawn(facts, command, word_read, output_write)
        except (OSError, ValueError) as error:
            transport.close()
            return CANNOT_RUN, f"the command cannot be run: {error}"
        finally:
            os.close(word_read)
            os.close(output_write)
        output = bytearray()
        reading = asyncio.create_task(_read_end(reader, output))
        try:
            async with asyncio.timeout(timeout_s):
                _join(process.pid, facts.groups)
                with contextlib.suppress(BrokenPipeError):
                    word_pipe.write(b"\n")
                code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await asyncio.wait([reading], timeout=LATE_OUTPUT_S)
            reading.cancel()
            transport.close()
    return (code if code >= 0 else 128 - code), output.decode(errors="replace")


async def _spawn(facts: Facts, command: str, standard_input: int, output: int) -> asyncio.subprocess.Process:
    user = facts.user
    return await asyncio.create_subprocess_exec(
        "/bin/sh",
        *("-c", _AFTER_THE_WORD, "sh", command),
        stdin=standard_input,
        stdout=output,
        stderr=output,
        cwd=facts.directory,
        env=dict(facts.environment),
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=list(user.groups) if user else None,
        start_new_session=True,
    )


async def _reader_of(pipe: int) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
    )
    return reader, transport


async def _read_end(reader: asyncio.StreamReader, output: bytearray) -> None:
    while data := await reader.read(_READ_BYTES):
        output += data
        del output[:-OUTPUT_BYTES_MAX]


def _join(pid: int, groups: Iterable[str]) -> None:
    for group in groups:
        with contextlib.suppress(OSError), open(f"{group}/cgroup.procs", "w") as file:
            file.write(str(pid))
