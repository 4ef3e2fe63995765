"""The folder that a container with artefacts has at `/mnt/mesos/sandbox`, where Mesos had it.

    <task>/sandbox-<incarnation>        complete: what was fetched, and then what its container makes of it
    <task>/sandbox-<incarnation>.part   what is being fetched

It is complete before its container is made, so a container that is found again needs nothing. Any user of the container
may write to it; nobody else on the node reaches it, because the folder above is the agent's alone. Everything here but
`bind` blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from orlop.framework import SANDBOX

VARIABLE: Final = "MESOS_SANDBOX"
#: What no task uses is left for so long: its container may be about to be made.
ABANDONED_AFTER_S: Final = 3600.0
_PREFIX: Final = "sandbox-"
_PART: Final = ".part"


def path_of(directory: Path, incarnation: int) -> Path:
    """directory: the task's on this node."""
    return directory / f"{_PREFIX}{incarnation}"


def bind(host: dict[str, Any], path: Path) -> None:
    """Into the HostConfig of a create body."""
    mounts = host.get("Mounts") or ()
    host["Mounts"] = [*mounts, {"Type": "bind", "Source": str(path), "Target": SANDBOX}]


def begin(path: Path) -> Path | None:
    """An empty folder to fetch into; None when the sandbox is there, complete. Raises OSError."""
    if path.is_dir():
        return None
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    part = path.with_name(path.name + _PART)
    if part.is_dir():
        shutil.rmtree(part)
    part.mkdir(mode=0o700)
    return part


def finish(path: Path) -> None:
    """What was fetched is complete. Raises OSError."""
    part = path.with_name(path.name + _PART)
    part.chmod(0o777)
    part.rename(path)


def remove(directory: Path) -> None:
    """All sandboxes of one task."""
    for sandbox in _sandboxes(directory):
        shutil.rmtree(sandbox, ignore_errors=True)
    with contextlib.suppress(OSError):  # something else is in it
        directory.rmdir()


def prune(tasks: Path, known: Collection[str], now_s: float) -> None:
    """Removes sandboxes of tasks that are not known, for they were left by an agent that was killed."""
    for directory in tasks.iterdir() if tasks.is_dir() else ():
        if directory.name not in known and any(_is_old(sandbox, now_s) for sandbox in _sandboxes(directory)):
            remove(directory)


def _sandboxes(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.name.startswith(_PREFIX)]
    except OSError:
        return []


def _is_old(sandbox: Path, now_s: float) -> bool:
    try:
        return now_s - sandbox.stat().st_ctime > ABANDONED_AFTER_S
    except OSError:
        return False
