"""The state and the records of a node as version 1 wrote them, frozen: every later program must read them.

When a document's shape changes, its version is raised (`orlop.model.versions`, `Framework.version`), and these files
stay as they are; `shapes.json` gets the new version's shape beside the old one's.
"""

from __future__ import annotations

import enum
import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import attrs
import orjson

from orlop.agent.records import NodeIdentity
from orlop.agent.task_record import TaskRecord
from orlop.agent.worker import Worker
from orlop.configuration import Settings
from orlop.framework import EVERYTHING
from orlop.kernel import invariants, records
from orlop.kernel.events import AgentHello
from orlop.kernel.kernel import Kernel
from orlop.kernel.loading import CLASSES, encode
from orlop.model.clock import Now
from orlop.model.documents import from_bytes
from orlop.model.log_entries import LogRecord
from orlop.model.messages import Assignments, Epoch, Hello
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.tasks import TaskState
from orlop.model.versions import VERSIONS
from orlop.server import archive
from orlop.server.admission import Admission
from orlop.server.framework_run import FrameworkRunner
from orlop.server.loading import LeaderRecord, list_entries, state_of
from orlop.server.plugin_host import PluginHost
from orlop.store.memory import MemoryStore
from orlop_chronos.framework import Chronos
from orlop_marathon.framework import Marathon
from orlop_swarm.framework import Swarm

FROZEN = Path(__file__).parent / "frozen"
APPS = {"/shop/api": 2, "/shop/web": 1, "/big": 1}


def frozen_store(name: str = "v1") -> MemoryStore:
    with (FROZEN / f"{name}.orlop-backup").open("rb") as file:
        backup = archive.read(file)
    store = MemoryStore()
    archive.restore(backup, store, replace=False)
    return store


def frozen_records() -> dict[str, bytes]:
    return {key: orjson.dumps(document) for key, document in json.loads((FROZEN / "v1-agent.json").read_text()).items()}


def test_a_state_of_version_1_is_read_and_goes_on() -> None:
    entries, _ = list_entries(frozen_store())
    state = state_of(entries, {"marathon": Marathon})
    assert state is not None
    invariants.check(state)
    apps = {group: len(keys) for group, keys in state.framework("marathon").groups.items()}
    assert apps == APPS
    states = sorted(task.state for task in state.tasks.values())
    assert states == [TaskState.PENDING, TaskState.RUNNING, TaskState.RUNNING, TaskState.RUNNING]
    assert state.generation == 2, "it was restored"
    (node,) = state.nodes()
    assert node.info.name == "node7"
    hello = Hello(node=node.info, cluster_id=state.cluster_id)
    step = Kernel().step(state, [AgentHello(session="s", hello=hello)], Now(state.utc_ms, 1), Epoch(2, 9))
    assert len(step.state.tasks) == 4


def test_a_chronos_of_version_1_is_read_and_goes_on() -> None:
    """Jobs of all kinds, one of them running, one with a failed run and a notice of it; all is paused."""
    entries, _ = list_entries(frozen_store("v1-chronos"))
    state = state_of(entries, {"chronos": Chronos})
    assert state is not None
    invariants.check(state)
    objects = state.framework("chronos").objects
    assert {kind: len(objects[kind]) for kind in Chronos.documents} == {
        "job": 5, "progress": 5, "run": 4, "children": 1, "notice": 2, "control": 1
    }  # fmt: skip
    for key, entry in entries.items():
        if key.startswith("objects/chronos/"):
            kind, object_id = key.removeprefix("objects/chronos/").split("/", 1)
            written = orjson.loads(encode(objects[kind][object_id]))
            assert written == orjson.loads(entry.value), "it is written as it was"
    run = FrameworkRunner(Chronos()).run(state, EVERYTHING, [], Now(state.utc_ms, 1), "run")
    assert run.actions is None or not run.actions.asks, "what runs is known, and nothing else is due"


def test_the_records_of_a_node_of_version_1_are_read_and_its_tasks_adopted() -> None:
    found = frozen_records()
    identity = from_bytes(found["identity"], NodeIdentity, "identity")
    entries, _ = list_entries(frozen_store())
    meta = from_bytes(entries[records.META_KEY].value, records.Meta, "meta")
    assert identity.cluster_id == meta.cluster_id
    of_tasks = [from_bytes(data, TaskRecord, key) for key, data in found.items() if key.startswith("task/")]
    assert {record.status.state for record in of_tasks} == {TaskState.RUNNING}
    worker = Worker(["process"], of_tasks, from_bytes(found["epoch"], Epoch, "epoch"))
    known = {record.assignment.task for record in of_tasks}
    assert known <= {key.removeprefix(records.TASKS) for key in entries}
    nothing_known = Assignments(epoch=Epoch(2, 1), revision=1, full=True)
    worker.handle(nothing_known, Now(1, 1))
    assert all(worker.records[task].orphan for task in known), "a restored state kills nothing"


def test_the_plugin_that_wrote_the_objects_is_the_one_that_is_installed() -> None:
    plugins = PluginHost(Settings(), found=list(entry_points(group="orlop", name="marathon")))
    plugins.load()
    ((_, frameworks),) = plugins.collect("frameworks")
    assert [framework.name for framework in frameworks] == ["marathon"]


def test_the_next_version_reads_it_and_writes_what_changes_in_its_own_form() -> None:
    """In a process of its own, for it changes the classes; see `next_version`."""
    command = [sys.executable, str(Path(__file__).parent / "frozen_reader.py"), str(FROZEN)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    entries, _ = list_entries(frozen_store())
    before = state_of(entries, {"marathon": Marathon})
    assert before is not None
    assert found["tasks"] == {task.id: task.status.sequence for task in before.tasks.values()}
    for task_id, written in found["written"].items():
        stored = orjson.loads(entries[records.TASKS + task_id].value)
        status = stored["status"]
        if "sequence" in status:
            status["number"] = status.pop("sequence")
        assert written == stored | {"v": 2}
    assert any("number" in written["status"] for written in found["written"].values())
    apps = before.framework("marathon").objects["app"]
    assert found["apps"] == {app_id: stored.value.version for app_id, stored in apps.items()}
    for app_id, written in found["apps written"].items():
        assert (written["v"], written["known_as"]) == (2, apps[app_id].value.version)
        assert "version" not in written
    known = frozen_records()
    assert found["records"] == {key: orjson.loads(known[key])["status"]["sequence"] for key in found["records"]}
    assert len(found["records"]) == 3
    assert {written["v"] for written in found["records written"].values()} == {2}


# --- shapes ---


def shape(kind: Any) -> Any:
    """What JSON a type stands for, as far as a reader must know."""
    if attrs.has(kind) and kind not in (Resources, PortSet):
        fields = attrs.fields(attrs.resolve_types(kind))
        return {field.name: shape(field.type) for field in fields}
    arguments = [argument for argument in get_args(kind) if argument not in (type(None), Ellipsis)]
    if nested := [argument for argument in arguments if attrs.has(argument) and argument is not Resources]:
        return [shape(argument) for argument in nested]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return sorted(str(member.value) for member in kind)
    return re.sub(r"[\w.]+\.(\w+)", r"\1", kind.__name__ if isinstance(kind, type) else str(kind))


def stored_kinds() -> dict[str, tuple[int, type]]:
    """Everything that is stored or recorded: name → its version now, its class."""
    core = [*(cls for _, cls in CLASSES), LeaderRecord, LogRecord, TaskRecord, NodeIdentity, Epoch]
    found: dict[str, tuple[int, type]] = {cls.__name__: (VERSIONS.of(cls), cls) for cls in core}
    for framework in (Admission, Marathon, Chronos, Swarm):
        for kind, cls in framework.documents.items():
            found[f"{framework.name}/{kind}"] = (framework.version, cls)
    return found


def test_a_document_that_has_another_shape_has_another_version() -> None:
    """An older program would lose a member that it does not know, when it writes the document."""
    known = json.loads((FROZEN / "shapes.json").read_text())
    for name, (version, cls) in stored_kinds().items():
        recorded = known.get(name, {}).get(str(version))
        assert recorded is not None, f"tests/frozen/shapes.json knows no version {version} of {name}: {shape(cls)}"
        assert shape(cls) == recorded, (
            f"{name} has another shape than its version {version} had: raise its version, add the step or migration "
            "from the one before, and the new shape to tests/frozen/shapes.json"
        )
    assert known.keys() <= stored_kinds().keys(), "what was stored once must be read for ever"
