"""A process task's folder on its node: made before the start, kept for a while after the end.

    <task>/work            where it runs, its user's own
    <task>/stdout, stderr  what it has written; `.1` is what was before, `.head` how it began (see `process_logs`)
    <task>/process.json    how it was started, for commands that are run beside it; only the agent may read it

The folder itself belongs to the agent, so that a task cannot put a link where the agent writes. Everything here
blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pwd
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import orjson

from orlop.agent.cgroups import ControlGroups
from orlop.agent.runtimes.interface import Launch
from orlop.agent.runtimes.outputs import STREAMS, Outputs
from orlop.agent.runtimes.process_logs import LogStream
from orlop.agent.runtimes.process_payload import Payload, environment_of
from orlop.agent.supervisor.spawn import open_output

_log = logging.getLogger(__name__)

#: Folders of removed tasks that are kept, at most this many and this long.
ENDED_KEPT_MAX: Final = 200
ENDED_KEPT_S: Final = 7 * 24 * 3600

FACTS: Final = "process.json"
FACTS_VERSION: Final = 1


class CannotPrepare(Exception):
    """The task cannot be started as it is wanted; the text says why, and whose fault it is."""


@attrs.frozen
class User:
    """Whom a task runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@attrs.frozen
class Facts:
    """How a task was started. user: None when it runs as the agent's. groups: its control groups."""

    environment: Mapping[str, str]
    directory: str
    user: User | None
    groups: tuple[str, ...]


def find_user(name: str) -> tuple[User | None, str]:
    """The user to become, None if it is the agent's own, and the home folder. Raises CannotPrepare."""
    own = os.geteuid()
    try:
        entry = _look_up(name) if name else pwd.getpwuid(own)
    except KeyError:
        if not name:
            return None, ""
        raise CannotPrepare(f"payload.user: there is no user {name!r} on this node") from None
    if entry.pw_uid == own:
        return None, entry.pw_dir
    if own != 0:
        raise CannotPrepare(f"payload.user: this node's agent is not root, so it cannot run a task as {name!r}")
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(entry.pw_uid, entry.pw_gid, groups), entry.pw_dir


def _look_up(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        if name.isascii() and name.isdigit() and len(name) <= 10:
            try:
                return pwd.getpwuid(int(name))
            except OverflowError:
                pass
        raise


def prepare(
    launch: Launch,
    payload: Payload,
    control_groups: ControlGroups | None,
    look_up: Callable[[str], tuple[User | None, str]],
) -> dict[str, Any]:
    """Makes the folder and the control groups. look_up: as `find_user`. Returns the supervisor's request. Raises
    CannotPrepare."""
    user, home = look_up(payload.user)
    folder = str(launch.directory)
    work = os.path.join(folder, "work")
    environment = environment_of(payload, launch.environment, task=launch.task, work=work, home=home or work)
    directory = os.path.join(work, payload.directory)
    try:
        _make_folders(folder, work, user)
        groups: tuple[str, ...] = ()
        if control_groups is not None:
            assignment = launch.assignment
            groups = control_groups.create(assignment.task, assignment.incarnation, assignment.spec.resources)
        _write_facts(folder, Facts(environment, directory, user, groups))
        _make_outputs(folder)
    except OSError as error:
        raise CannotPrepare(f"this node cannot prepare the task: {error}") from error
    return {
        "do": "start",
        "task": launch.task,
        "incarnation": launch.assignment.incarnation,
        "folder": folder,
        "arguments": list(payload.arguments),
        "environment": environment,
        "directory": directory,
        "stdout": os.path.join(folder, "stdout"),
        "stderr": os.path.join(folder, "stderr"),
        "user": _plain_user(user),
        "groups": list(groups),
    }


def _make_folders(folder: str, work: str, user: User | None) -> None:
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o711)  # noqa: S103  others pass through it to the work folder, and can list neither
    with contextlib.suppress(FileExistsError):
        os.mkdir(work, 0o700)
    if user is not None:
        os.chown(work, user.uid, user.gid, follow_symlinks=False)


def _write_facts(folder: str, facts: Facts) -> None:
    plain = {
        "v": FACTS_VERSION,
        "environment": facts.environment,
        "directory": facts.directory,
        "user": _plain_user(facts.user),
        "groups": facts.groups,
    }
    file = os.open(os.path.join(folder, FACTS), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        data = orjson.dumps(plain)
        if os.write(file, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(file)


def _make_outputs(folder: str) -> None:
    """The supervisor's child would make them, too, but the memory that the file system takes for them, and does not
    give back with them, would count as the task's then, whose control group could not go away."""
    for stream in STREAMS:
        os.close(open_output(os.fsencode(os.path.join(folder, stream))))


def _plain_user(user: User | None) -> dict[str, Any] | None:
    return {"uid": user.uid, "gid": user.gid, "groups": list(user.groups)} if user is not None else None


def read_facts(folder: Path) -> Facts:
    """Raises CannotPrepare when the folder has none that can be read."""
    try:
        plain = orjson.loads((folder / FACTS).read_bytes())
        if plain["v"] > FACTS_VERSION:
            raise CannotPrepare(f"{folder / FACTS} has version {plain['v']}, known is up to {FACTS_VERSION}")
        user = plain["user"]
        return Facts(
            environment=plain["environment"],
            directory=plain["directory"],
            user=User(user["uid"], user["gid"], tuple(user["groups"])) if user else None,
            groups=tuple(plain["groups"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotPrepare(f"{folder / FACTS} cannot be read: {error!r}") from error


def mark_removed(folder: Path) -> None:
    """The time of the facts' last change is from when the folder's age is counted."""
    try:
        os.utime(folder / FACTS)
    except OSError:
        pass  # it never got that far, or it is gone


def prune(tasks: Path, known: Collection[str], now_s: float, outputs: Outputs) -> list[Path]:
    """Removes folders of processes that are not known any more and are too old or too many, oldest first, and keeps
    an excerpt of their output. Folders of other runtimes, which have no facts, are not touched. Returns what was
    removed."""
    ended = []
    for folder in tasks.iterdir() if tasks.is_dir() else ():
        if folder.name in known:
            continue
        try:
            ended.append(((folder / FACTS).stat().st_mtime, folder))
        except OSError:
            continue
    ended.sort(reverse=True)
    gone = [
        folder
        for place, (since_s, folder) in enumerate(ended)
        if place >= ENDED_KEPT_MAX or now_s - since_s > ENDED_KEPT_S
    ]
    gone.reverse()
    for folder in gone:
        try:
            outputs.keep(folder.name, {stream: LogStream(folder / stream).excerpt() for stream in STREAMS})
        except OSError as error:
            _log.warning("the output of task %s cannot be kept: %s", folder.name, error)
        shutil.rmtree(folder, ignore_errors=True)
    return gone
