"""Ids of apps and groups: paths of segments, absolute (`/shop/db`) or relative to a group (`db`, `../db`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

ROOT: Final = "/"
#: The longest path, in characters. Marathon sets none; names of containers and files are made of paths.
LONGEST_PATH: Final = 1024

SEGMENT_PATTERN: Final = (
    r"^(([a-z0-9]|[a-z0-9][a-z0-9\-]*[a-z0-9])\.)*([a-z0-9]|[a-z0-9][a-z0-9\-]*[a-z0-9])|(\.|\.\.)$"
)
RESERVED_LAST_SEGMENTS: Final = ("restart", "tasks", "versions", ".", "..")

# The same language as SEGMENT_PATTERN, written so that it cannot be slow on hostile input.
_ONE: Final = r"(?:[a-z0-9]+(?:-+[a-z0-9]+)*(?:\.[a-z0-9]+(?:-+[a-z0-9]+)*)*|\.\.?)"
_SEGMENT: Final = re.compile(_ONE)
#: What may be written for a path: segments between any number of slashes.
PATTERN: Final = re.compile(rf"/*(?:{_ONE}(?:/+{_ONE})*/*)?")


def segments(path: str) -> list[str]:
    """The segments of a path; repeated, leading and trailing slashes count for nothing."""
    return [segment for segment in path.split("/") if segment]


def resolve(id: str, base: str = ROOT) -> str:  # noqa: A002  (what the API calls it)
    """The absolute path of an id: relative ones start at `base`, `.` and `..` are followed. Never fails."""
    parts: list[str] = []
    for segment in segments(id) if id.startswith("/") else segments(base) + segments(id):
        if segment == "..":
            del parts[-1:]
        elif segment != ".":
            parts.append(segment)
    return join(parts)


def join(parts: list[str]) -> str:
    """The absolute path of these segments."""
    return ROOT + "/".join(parts)


def parent(path: str) -> str:
    """The path of the group around; the root is its own parent."""
    return path.rpartition("/")[0] or ROOT


def parents(path: str) -> Iterator[str]:
    """All groups around, the innermost first, ending with the root. None for the root itself."""
    while path != ROOT:
        path = parent(path)
        yield path


def is_below(path: str, group: str) -> bool:
    """Is `path` somewhere below `group`, at any depth? Nothing is below itself."""
    return path != ROOT and (group == ROOT or path.startswith(group + "/"))


def top_level(path: str) -> str:
    """The outermost group but the root (`/a` of `/a/b/c`); the root of the root."""
    return join(segments(path)[:1])


def violations(id: str) -> list[str]:  # noqa: A002
    """What is wrong with an id as it was given, in Marathon's words; empty when nothing is."""
    parts = segments(id)
    found = []
    if len(id) > LONGEST_PATH:
        return [f"must have at most {LONGEST_PATH} characters"]
    if not all(_SEGMENT.fullmatch(part) for part in parts):
        found.append(f"must fully match regular expression '{SEGMENT_PATTERN}'")
    if parts and parts[-1] in RESERVED_LAST_SEGMENTS:
        reserved = ", ".join(RESERVED_LAST_SEGMENTS)
        found.append(f"must not end with any of the following reserved keywords: {reserved}")
    return found
