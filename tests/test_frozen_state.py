"""The state and the records of a node as version 1 wrote them, frozen: every later program must read them.

When a document's shape changes, its version is raised, and these files stay as they are.
"""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import orjson

from orlop.agent.records import NodeIdentity
from orlop.agent.worker import TaskRecord, Worker
from orlop.configuration import Settings
from orlop.kernel import invariants, records
from orlop.kernel.events import AgentHello
from orlop.kernel.kernel import Kernel
from orlop.model.clock import Now
from orlop.model.documents import from_bytes
from orlop.model.messages import Assignments, Epoch, Hello
from orlop.model.tasks import TaskState
from orlop.server import archive
from orlop.server.loading import list_entries, state_of
from orlop.server.plugin_host import PluginHost
from orlop.store.memory import MemoryStore
from orlop_marathon.framework import Marathon

FROZEN = Path(__file__).parent / "frozen"
APPS = {"/shop/api": 2, "/shop/web": 1, "/big": 1}


def frozen_store() -> MemoryStore:
    with (FROZEN / "v1.orlop-backup").open("rb") as file:
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
