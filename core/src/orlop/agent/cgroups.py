"""Control groups: where the kernel counts and limits what a task uses, and where none of its processes can hide.

A node's tasks live in `orlop/<node id>/<task id>`, the supervisor beside them in `orlop/<node id>/_supervisor`. With
version 1 there is such a folder in the hierarchy of each controller (cpu, memory, pids), with version 2 just one.
Where they cannot be made (no root, a read-only mount), tasks run without limits, and the agent says so once.

The agent makes a task's groups and sets their limits; the task's process joins them by itself before it becomes its
program; the supervisor empties and removes them when the task has ended (`supervisor.remains`).

cpus is a share, not a quota: a task may use what others leave. mem is a limit, swap included.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import attrs

from orlop.model.resources import Resources

CONTROLLERS: Final = ("cpu", "memory", "pids")
#: Processes and threads of one task: far beyond any use, far below what would harm the node.
TASK_PIDS_MAX: Final = 32_768

SUPERVISOR_GROUP: Final = "_supervisor"
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_RESERVED_NAME: Final = re.compile(
    r"(cgroup|cpu\w*|memory|pids|io|blkio|hugetlb|rdma|misc|devices|freezer|notify.*)\..*"
)


class NoControlGroups(Exception):
    """There are none that the agent may use; the text says why."""


@attrs.frozen
class Hierarchies:
    """Where the kernel's control groups are mounted: a folder per controller (version 1) or one for all (version 2)."""

    version: int
    folders: Mapping[str, Path]

    @property
    def distinct(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(self.folders.values()))


def find_hierarchies(mounts: str) -> Hierarchies:
    """From the text of /proc/self/mounts. Version 1 is used if its memory or pids controller is mounted: then version
    2, mounted beside it, has none of them. Raises NoControlGroups."""
    first: dict[str, Path] = {}
    second: Path | None = None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        folder = Path(fields[1].encode().decode("unicode_escape"))
        if fields[2] == "cgroup":
            for controller in CONTROLLERS:
                if controller in fields[3].split(","):
                    first.setdefault(controller, folder)
        elif fields[2] == "cgroup2" and second is None:
            second = folder
    if "memory" in first or "pids" in first:
        return Hierarchies(1, first)
    if second is not None:
        return Hierarchies(2, dict.fromkeys(CONTROLLERS, second))
    raise NoControlGroups("no control groups are mounted")


def group_name(task: str, incarnation: int = 1) -> str:
    """A folder's name for the task. Names that the kernel could take for its own, or a path, are hashed; later
    incarnations get a group of their own, since the last one's may still be emptied."""
    if _PLAIN_NAME.fullmatch(task) and not _RESERVED_NAME.fullmatch(task):
        plain = task
    else:
        plain = "h-" + hashlib.sha256(task.encode(errors="surrogatepass")).hexdigest()[:32]
    return plain if incarnation == 1 else f"{plain}~{incarnation}"


def limits(version: int, resources: Resources) -> Mapping[str, Mapping[str, str]]:
    """What to write for these resources: controller → file → text, in the order of writing."""
    cpus, memory = resources.get("cpus"), resources.get("mem")
    shares = max(2, min(262_144, cpus * 1024 // 1000))
    if version == 1:
        return {
            "cpu": {"cpu.shares": str(shares)} if cpus else {},
            "memory": {"memory.limit_in_bytes": str(memory), "memory.memsw.limit_in_bytes": str(memory)}
            if memory
            else {},
            "pids": {"pids.max": str(TASK_PIDS_MAX)},
        }
    weight = 1 + (shares - 2) * 9_999 // 262_142  # the OCI runtimes' translation
    return {
        "cpu": {"cpu.weight": str(weight)} if cpus else {},
        "memory": {"memory.max": str(memory), "memory.swap.max": "0"} if memory else {},
        "pids": {"pids.max": str(TASK_PIDS_MAX)},
    }


class ControlGroups:
    """The groups of one node. Methods block for some system calls; they raise OSError."""

    def __init__(self, hierarchies: Hierarchies, node_id: str) -> None:
        self._version = hierarchies.version
        self._controllers = {
            controller: folder / "orlop" / group_name(node_id) for controller, folder in hierarchies.folders.items()
        }
        self._folders = tuple(dict.fromkeys(self._controllers.values()))

    @classmethod
    def open(cls, node_id: str, mounts: str | None = None) -> ControlGroups:
        """Makes the node's own groups. Raises NoControlGroups."""
        if mounts is None:
            mounts = Path("/proc/self/mounts").read_text()
        hierarchies = find_hierarchies(mounts)
        groups = cls(hierarchies, node_id)
        try:
            for folder in groups._folders:
                (folder / SUPERVISOR_GROUP).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NoControlGroups(f"control groups cannot be made: {error}") from error
        if hierarchies.version == 2:
            for root in hierarchies.distinct:
                _delegate(root, root / "orlop", *groups._folders)
        return groups

    def supervisor(self) -> tuple[str, ...]:
        """Where the supervisor shall live, apart from the agent that starts it."""
        return tuple(str(folder / SUPERVISOR_GROUP) for folder in self._folders)

    def create(self, task: str, incarnation: int, resources: Resources) -> tuple[str, ...]:
        """Makes a task's groups and sets their limits. Limits that this kernel does not know are left out, a memory
        limit that it refuses is an error."""
        name = group_name(task, incarnation)
        groups = {controller: f"{folder}/{name}" for controller, folder in self._controllers.items()}
        made = tuple(dict.fromkeys(groups.values()))
        for group in made:
            with contextlib.suppress(FileExistsError):
                os.mkdir(group)
        wanted = limits(self._version, resources)
        for controller, group in groups.items():
            for file, text in wanted[controller].items():
                _set_limit(f"{group}/{file}", text)
        return made

    def sweep(self, kept: Collection[tuple[str, ...]]) -> None:
        """Removes empty groups of tasks that are not among the kept (as `create` has returned them)."""
        keep = {path for paths in kept for path in paths} | set(self.supervisor())
        for folder in self._folders:
            with contextlib.suppress(OSError):  # somebody has removed the node's own group
                for found in list(os.scandir(folder)):
                    if found.is_dir() and found.path not in keep:
                        remove((found.path,))


def remove(groups: Collection[str]) -> None:
    """Removes a task's groups as far as they are empty."""
    for group in groups:
        try:
            os.rmdir(group)
        except OSError:
            pass


def _set_limit(path: str, text: str) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # no swap accounting, a controller that is not delegated
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _delegate(*folders: Path) -> None:
    """Version 2: what a folder's children may be limited in is said in the folder itself, from the top down."""
    for folder in folders:
        for controller in CONTROLLERS:
            try:
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")
            except OSError:
                pass  # not in this kernel, or not for us: then without its limits
