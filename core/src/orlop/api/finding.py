"""Which task, node or group somebody means: by id, by the name that clients know, by the beginning of an id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from orlop.api.problems import ambiguous, not_found, printable
from orlop.kernel.state import State
from orlop.model.nodes import Node
from orlop.model.tasks import Task

CANDIDATES_NAMED_MAX: Final = 10


def find_task(state: State, wanted: str) -> Task:
    """By id, external name, or a beginning that only one id has. Raises Problem (404, 409)."""
    task = task_named(state, wanted) or task_beginning(state, wanted)
    if task is None:
        raise not_found(
            f"there is no task {_shown(wanted)}", "ended tasks are forgotten after a while; see /v1/tasks?all"
        )
    return task


def task_named(state: State, wanted: str) -> Task | None:
    """By id or external name. Raises Problem (409) when several frameworks use the name."""
    if wanted in state.tasks:
        return state.tasks[wanted]
    ids = sorted(part.names[wanted] for part in state.frameworks.values() if wanted in part.names)
    return state.tasks[_only(ids, wanted, "task")] if ids else None


def task_beginning(state: State, wanted: str) -> Task | None:
    """By a beginning of its id. Raises Problem (409) when several ids have it."""
    ids = sorted(task_id for task_id in state.tasks if wanted and task_id.startswith(wanted))
    return state.tasks[_only(ids, wanted, "task")] if ids else None


def task_of_key(state: State, wanted: str) -> Task | None:
    """The latest task of a framework's key. Raises Problem (409) when several frameworks use the key."""
    ids = sorted(part.latest[wanted] for part in state.frameworks.values() if wanted in part.latest)
    return state.tasks[_only(ids, wanted, "task")] if ids else None


def find_group(state: State, wanted: str) -> tuple[str, str] | None:
    """(framework, group) of that name, which may lack its first slash. Raises Problem (409)."""
    for name in (wanted, f"/{wanted}"):
        found = sorted(part.name for part in state.frameworks.values() if name and name in part.groups)
        if found:
            return _only(found, name, "group"), name
    return None


def find_node(state: State, wanted: str) -> Node:
    """By id, name, or a beginning that only one id has. Raises Problem (404, 409)."""
    if wanted in state.candidates:
        return state.candidates[wanted].node
    ids = [node.id for node in state.nodes() if node.info.name == wanted]
    ids = ids or [node_id for node_id in state.node_order if wanted and node_id.startswith(wanted)]
    if not ids:
        raise not_found(f"there is no node {_shown(wanted)}", "see /v1/nodes")
    return state.candidates[_only(ids, wanted, "node")].node


def _only(found: Iterable[str], wanted: str, kind: str) -> str:
    first, *others = found
    if others:
        named = ", ".join([first, *others][:CANDIDATES_NAMED_MAX])
        more = f" and {len(others) + 1 - CANDIDATES_NAMED_MAX} more" if len(others) >= CANDIDATES_NAMED_MAX else ""
        raise ambiguous(f"{_shown(wanted)} may be any {kind} of: {named}{more}", "give more of the id")
    return first


def _shown(wanted: str) -> str:
    return repr(printable(wanted[:100]))
