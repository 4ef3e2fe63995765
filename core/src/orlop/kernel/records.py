"""Stored documents: which key holds what. The shape that `Draft` writes and `load` reads."""

from __future__ import annotations

from typing import Final

import attrs

META_KEY: Final = "meta/state"
NODES: Final = "nodes/"
TASKS: Final = "tasks/"
SPECS: Final = "specs/"
FRAMEWORKS: Final = "frameworks/"
OBJECTS: Final = "objects/"
LOG: Final = "log/"
#: Records of changes that are larger than one transaction, see `orlop.server.redo`.
REDO: Final = "redo/"


@attrs.frozen(kw_only=True)
class Meta:
    """Written with every transaction.

    version: of the state after it. utc_ms: the last committed time, below which a leader never goes.
    next_sequence: of the next task, so that a sequence is never used twice.
    """

    cluster_id: str
    generation: int
    version: int
    utc_ms: int
    next_sequence: int


@attrs.frozen(kw_only=True)
class FrameworkRecord:
    """A framework's cursor."""

    cursor: int


def log_key(version: int) -> str:
    """Sorts like the version."""
    return f"{LOG}{version:020d}"


def object_key(framework: str, kind: str, object_id: str) -> str:
    return f"{OBJECTS}{framework}/{kind}/{object_id}"


def parse_object_key(key: str) -> tuple[str, str, str]:
    """(framework, kind, id) of an object's key; ids may contain slashes."""
    framework, kind, object_id = key.removeprefix(OBJECTS).split("/", 2)
    return framework, kind, object_id
