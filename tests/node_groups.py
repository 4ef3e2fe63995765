"""The control groups of nodes that tests have killed: nobody else removes them, and the kernel keeps them for ever."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import orjson
from waiting import wait_until

from orlop.agent.cgroups import ControlGroups, NoControlGroups, find_hierarchies


def groups_of_node(node_id: str) -> list[Path]:
    """Its folders, whether they are there or not; none where there are no control groups."""
    try:
        hierarchies = find_hierarchies(Path("/proc/self/mounts").read_text())
    except NoControlGroups:
        return []
    return [Path(folder).parent for folder in ControlGroups(hierarchies, node_id).supervisor()]


def remove_groups(groups: Iterable[Path]) -> None:
    """Removes them with all below; waits for the last of their processes to end."""

    def removed(group: Path) -> bool:
        for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
        return not group.exists()

    for group in groups:
        wait_until(lambda group=group: removed(group), f"{group} is empty")


def remove_groups_below(data: Path) -> None:
    """Those of all agents whose records are somewhere in the folder. They must have ended, and their tasks too."""
    for file in data.rglob("agent.db"):
        for node_id in _node_ids(file):
            remove_groups(groups_of_node(node_id))


def _node_ids(records: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(records)) as connection, contextlib.suppress(sqlite3.Error):
        rows = connection.execute("SELECT document FROM documents WHERE key = 'identity'").fetchall()
        return [orjson.loads(document)["node_id"] for (document,) in rows]
    return []
