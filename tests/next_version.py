"""Orlop as its next version could be, run as a program: `python tests/next_version.py server …`.

What changes is what a version may change: a member of something that is stored, recorded by nodes and sent has another
name; so have members of a plugin's objects. The mechanism by which such a version reads and speaks the present one is
Orlop's own; only these changes are made up.
"""

from __future__ import annotations

from typing import Any

import attrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from orlop.agent.task_record import TaskRecord
from orlop.model import wire
from orlop.model.documents import CONVERTER
from orlop.model.tasks import Status, Task
from orlop.model.versions import VERSIONS

OLD, NEW = "sequence", "number"


def call(cls: type, old: str, new: str) -> None:
    """The class's member has another name in JSON."""
    renamed: dict[str, Any] = {old: override(rename=new)}
    assert old in {field.name for field in attrs.fields(cls)}
    CONVERTER.register_unstructure_hook(
        cls, make_dict_unstructure_fn(cls, CONVERTER, _cattrs_omit_if_default=True, **renamed)
    )
    CONVERTER.register_structure_hook(
        cls, make_dict_structure_fn(cls, CONVERTER, _cattrs_forbid_extra_keys=True, **renamed)
    )


def rename(members: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """A step: the member under its other name."""
    if old in members:
        members[new] = members.pop(old)
    return members


def with_status(document: dict[str, Any]) -> dict[str, Any]:
    """Of a task, in the state or in a node's records."""
    rename(document["status"], OLD, NEW)
    return document


def of_message(kind: str, members: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """Of a message that holds statuses."""
    for status in members.get({"hello": "statuses", "statuses": "items"}.get(kind, ""), ()):
        rename(status, old, new)
    return members


def upgrade() -> None:
    """This process is of the next version from now on."""
    from orlop_marathon.framework import Marathon
    from orlop_marathon.model import AppRecord

    call(Status, OLD, NEW)
    VERSIONS.add(Task, 1, with_status)
    VERSIONS.add(TaskRecord, 1, with_status)
    step = wire.Step(
        up=lambda kind, members: of_message(kind, members, OLD, NEW),
        down=lambda kind, members: of_message(kind, members, NEW, OLD),
    )
    wire.LANGUAGE = wire.Language(steps=(step,))  # type: ignore[misc]  # what another version would have

    call(AppRecord, "version", "known_as")

    def app(document: dict[str, Any]) -> dict[str, Any]:
        return rename(document, "version", "known_as")

    Marathon.version = 2
    Marathon.migrations = {1: {"app": app, "version": app}}


if __name__ == "__main__":
    upgrade()

    from orlop.cli.main import main

    main()
