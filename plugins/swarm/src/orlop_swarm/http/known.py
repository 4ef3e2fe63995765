"""What the kernel knows of the pool's containers, whether their nodes can be reached or not. Pure.

A container's name is that of the framework's own documents, for a rename is nothing that its task tells of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from typing import Final

from orlop.framework import Exit, Task, View
from orlop_swarm.documents import CONTAINER, NAME
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.services import Known

_HEXADECIMAL: Final = re.compile(r"[0-9a-f]{3,64}")


def known(task: Task, view: View) -> Known:
    """A container's."""
    payload = view.spec(task).payload
    command = payload.get("Cmd") or ()
    entrypoint = payload.get("Entrypoint") or ()
    words = [*([entrypoint] if isinstance(entrypoint, str) else entrypoint)]
    words += [command] if isinstance(command, str) else command
    document = view.objects(CONTAINER).get(task.key)
    return Known(
        id=task.status.external_id,
        name=document.name if document is not None else task.name,
        node=task.node or "",
        image=str(payload.get("Image", "")),
        command=" ".join(map(str, words)),
        created=task.created_utc_ms // 1000,
        state="running" if task.running else "exited" if task.status.incarnation > 1 else "created",
        labels=payload.get("Labels") or {},
        body=payload,
        exit_code=_exit_code(task.status.exit),
        since_ms=task.status.at_utc_ms,
    )


def _exit_code(exit_: Exit | None) -> int:
    """As engines tell it."""
    if exit_ is None:
        return 0
    return 128 + exit_.signal if exit_.signal is not None else exit_.code or 0


def meant(reference: str, view: View) -> Task | None:
    """By its name, its Swarm id, its engine's id, or a prefix of either. Raises Problem (400): of several."""
    live = view.live
    name = view.objects(NAME).get(reference)
    for key in (name.key if name is not None else "", reference):
        if key in live:
            return live[key]
    if not _HEXADECIMAL.fullmatch(reference):
        return None
    found = [task for task in live.values() if _begins(task, reference)]
    whole = [task for task in found if task.status.external_id == reference]
    if len(found) > 1 and not whole:
        raise Problem(400, f"Multiple IDs found with provided prefix: {reference}")
    return next(iter(whole or found), None)


def _begins(task: Task, prefix: str) -> bool:
    return task.status.external_id.startswith(prefix) or task.key.startswith(prefix)


def on_nodes(nodes: Set[str], view: View) -> Iterator[Known]:
    """Those on nodes of these ids that have been made."""
    return (known(task, view) for task in view.live.values() if task.node in nodes and task.status.external_id)
