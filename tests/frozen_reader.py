"""Reads the frozen state and records as the next version does, changes some of it, and prints what came of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import orjson
from next_version import upgrade

from orlop.agent.task_record import TaskRecord
from orlop.kernel.loading import encode
from orlop.model.documents import from_bytes, to_bytes
from orlop.server import archive
from orlop.server.loading import list_entries, state_of
from orlop.store.memory import MemoryStore


def main(folder: Path) -> None:
    """Prints one JSON object."""
    upgrade()
    from orlop_marathon.framework import Marathon

    with (folder / "v1.orlop-backup").open("rb") as file:
        backup = archive.read(file)
    store = MemoryStore()
    archive.restore(backup, store, replace=False)
    state = state_of(list_entries(store)[0], {"marathon": Marathon})
    assert state is not None
    found: dict[str, Any] = {
        "tasks": {task.id: task.status.sequence for task in state.tasks.values()},
        "written": {task.id: orjson.loads(encode(task)) for task in state.tasks.values()},
    }
    apps = state.framework("marathon").objects["app"]
    found["apps"] = {app_id: stored.value.version for app_id, stored in apps.items()}
    found["apps written"] = {app_id: orjson.loads(encode(stored)) for app_id, stored in apps.items()}
    records = json.loads((folder / "v1-agent.json").read_text())
    read = {
        key: from_bytes(orjson.dumps(document), TaskRecord, key)
        for key, document in records.items()
        if key.startswith("task/")
    }
    found["records"] = {key: record.status.sequence for key, record in read.items()}
    found["records written"] = {key: orjson.loads(to_bytes(record)) for key, record in read.items()}
    print(json.dumps(found))


main(Path(sys.argv[1]))
