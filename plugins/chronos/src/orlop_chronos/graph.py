"""Who depends on whom: no circles, and the graph as clients draw it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from orlop_chronos.desk import Desk
from orlop_chronos.errors import bad_request

#: Names of a job's children together, for they are one document, of which a store takes 1.5 MB.
CHILDREN_BYTES_MAX: Final = 1_000_000


def check_parents(desk: Desk, name: str, parents: Iterable[str]) -> None:
    """Raises ChronosError when a parent does not exist or has too many children, or when the job would wait for
    itself."""
    parents = list(parents)
    for position, parent in enumerate(parents):
        if parent != name and desk.job(parent) is None:
            raise bad_request(f"parents[{position}]: there is no job '{parent}'")
        children = desk.children(parent)
        if name not in children and sum(map(len, children)) + len(name) > CHILDREN_BYTES_MAX:
            raise bad_request(f"parents[{position}]: job '{parent}' has {len(children)} children, which is the most")
    path = _path_to(desk, name, parents)
    if path is not None:
        raise bad_request(f"parents: the job would wait for itself: {' -> '.join([*path, name])}")


def _path_to(desk: Desk, name: str, parents: Iterable[str]) -> list[str] | None:
    """The way from `name` to itself through ancestors, if `parents` were its own."""
    came_from: dict[str, str] = dict.fromkeys(parents, name)
    unseen = list(came_from)
    while unseen:
        current = unseen.pop()
        if current == name:
            break
        record = desk.job(current)
        for parent in record.job.parents if record is not None else ():
            if parent not in came_from:
                came_from[parent] = current
                unseen.append(parent)
    if name not in came_from:
        return None
    path = [name]
    while (following := came_from[path[-1]]) != name:
        path.append(following)
    return path


def set_parents(desk: Desk, changes: Mapping[str, tuple[Iterable[str], Iterable[str]]]) -> None:
    """Brings the lists of children up to the new parents of jobs. changes: by name, the parents before and after.

    Each list is written once, however many come and go: there may be very many in it.
    """
    leaving: dict[str, set[str]] = {}
    joining: dict[str, set[str]] = {}
    for name, (before, after) in changes.items():
        for parent in set(before).difference(after):
            leaving.setdefault(parent, set()).add(name)
        for parent in set(after).difference(before):
            joining.setdefault(parent, set()).add(name)
    for parent in sorted({*leaving, *joining}):
        remaining = set(desk.children(parent)) - leaving.get(parent, set())
        desk.put_children(parent, remaining | joining.get(parent, set()))
