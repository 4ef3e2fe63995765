"""From stored documents to a state and back: the shapes are `records`, the indexes are made anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from immutables import Map

from orlop.kernel import records
from orlop.kernel.state import (
    Candidate,
    FrameworkState,
    SpecRecord,
    State,
    StoredObject,
    WaitingKey,
    waiting_key,
)
from orlop.model.documents import from_bytes, plain_to_bytes, split_version, to_bytes
from orlop.model.nodes import Node, NodeState
from orlop.model.ports import PortSet
from orlop.model.resources import Resources
from orlop.model.tasks import Spec, Task, TaskState

#: Reads one framework object: (framework, kind, id, document bytes) → stored object.
ReadObject = Callable[[str, str, str, bytes], StoredObject]


def encode(document: Any) -> bytes:
    """The stored form of any document that a step writes."""
    if isinstance(document, StoredObject):
        return plain_to_bytes(document.document, document.version)
    return to_bytes(document)


def read_object_plainly(framework: str, kind: str, object_id: str, data: bytes) -> StoredObject:
    """For frameworks that are not installed: the document is kept as it is."""
    version, document = split_version(data, f"{kind} {object_id} of {framework}")
    return StoredObject(document=document, version=version)


#: What the documents below each prefix are.
CLASSES: Final = (
    (records.META_KEY, records.Meta),
    (records.NODES, Node),
    (records.TASKS, Task),
    (records.SPECS, Spec),
    (records.FRAMEWORKS, records.FrameworkRecord),
)


def load(documents: Iterable[tuple[str, bytes]], read_object: ReadObject) -> State | None:
    """The state that these documents describe; None when there is none yet. Raises DocumentError, NewerVersion."""
    meta: records.Meta | None = None
    nodes: dict[str, Node] = {}
    tasks: dict[str, Task] = {}
    specs: dict[str, Spec] = {}
    cursors: dict[str, int] = {}
    objects: dict[str, dict[str, dict[str, StoredObject]]] = {}
    for key, data in documents:
        if key == records.META_KEY:
            meta = from_bytes(data, records.Meta, key)
        elif key.startswith(records.NODES):
            nodes[key.removeprefix(records.NODES)] = from_bytes(data, Node, key)
        elif key.startswith(records.TASKS):
            tasks[key.removeprefix(records.TASKS)] = from_bytes(data, Task, key)
        elif key.startswith(records.SPECS):
            specs[key.removeprefix(records.SPECS)] = from_bytes(data, Spec, key)
        elif key.startswith(records.FRAMEWORKS):
            record = from_bytes(data, records.FrameworkRecord, key)
            cursors[key.removeprefix(records.FRAMEWORKS)] = record.cursor
        elif key.startswith(records.OBJECTS):
            framework, kind, object_id = records.parse_object_key(key)
            stored = read_object(framework, kind, object_id, data)
            objects.setdefault(framework, {}).setdefault(kind, {})[object_id] = stored
    if meta is None:
        return None
    return _assemble(meta, nodes, tasks, specs, cursors, objects)


def _assemble(
    meta: records.Meta,
    nodes: Mapping[str, Node],
    tasks: Mapping[str, Task],
    specs: Mapping[str, Spec],
    cursors: Mapping[str, int],
    objects: Mapping[str, Mapping[str, Mapping[str, StoredObject]]],
) -> State:
    in_order = sorted(tasks.values(), key=attrgetter("sequence"))
    pending = [task for task in in_order if task.placement is None and task.live]
    holding = [task for task in in_order if task.placement is not None and task.state is not TaskState.REMOVED]
    ended = sorted(
        (task for task in in_order if task.state is TaskState.REMOVED),
        key=lambda task: (task.ended_utc_ms or 0, task.sequence),
    )
    delayed = {
        task.sequence: (task.not_before_utc_ms, task.id) for task in pending if task.not_before_utc_ms > meta.utc_ms
    }
    waiting = _waiting(task for task in pending if task.sequence not in delayed)
    ready = (node.info.resources for node in nodes.values() if node.state is NodeState.READY)
    return State(
        cluster_id=meta.cluster_id,
        generation=meta.generation,
        version=meta.version,
        utc_ms=meta.utc_ms,
        node_order=tuple(sorted(nodes)),
        candidates=_candidates(nodes, holding, specs),
        totals=_sum(ready),
        tasks=Map(tasks),
        next_sequence=meta.next_sequence,
        specs=Map(_spec_records(specs, in_order)),
        frameworks=Map(_frameworks(in_order, holding, cursors, objects)),
        waiting=waiting,
        following=Map(dict.fromkeys(waiting)),  # until they are tried, nobody knows
        delayed=Map(delayed),
        next_due_utc_ms=min((due for due, _ in delayed.values()), default=0),
        draining=Map({node_id: node.drain_at_utc_ms for node_id, node in nodes.items() if node.drain_at_utc_ms}),
        ended=Map({number: (meta.version, task.id) for number, task in enumerate(ended, 1)}),
        ended_next=len(ended) + 1,
        role_usage=Map(_role_usage(holding, specs)),
    )


def _sum(bags: Iterable[Resources]) -> Resources:
    total: dict[str, int] = {}
    for bag in bags:
        for kind, amount in bag.units.items():
            total[kind] = total.get(kind, 0) + amount
    return Resources.of(total)


def _candidates(nodes: Mapping[str, Node], holding: Iterable[Task], specs: Mapping[str, Spec]) -> Map[str, Candidate]:
    held: dict[str | None, list[Task]] = {node_id: [] for node_id in nodes}
    for task in holding:
        if task.node in held:
            held[task.node].append(task)
    return Map({node_id: make_candidate(node, held[node_id], specs) for node_id, node in nodes.items()})


def make_candidate(node: Node, held: Sequence[Task], specs: Mapping[str, Spec]) -> Candidate:
    """A node with the tasks that it holds, in the order of their sequences. specs: theirs, by id."""
    used = _sum(specs[task.spec].resources for task in held)
    ports = PortSet(port for task in held for port in task.ports)
    return Candidate(
        node,
        node.info.resources - used,
        node.info.ports - ports,
        Map({task.sequence: task.id for task in held}),
    )


def _spec_records(specs: Mapping[str, Spec], tasks: Iterable[Task]) -> dict[str, SpecRecord]:
    references = dict.fromkeys(specs, 0)
    for task in tasks:
        references[task.spec] += 1
    return {spec_id: SpecRecord(spec=spec, references=references[spec_id]) for spec_id, spec in specs.items()}


def _waiting(tasks: Iterable[Task]) -> Map[WaitingKey, Map[int, str]]:
    groups: dict[WaitingKey, dict[int, str]] = {}
    for task in tasks:
        groups.setdefault(waiting_key(task), {})[task.sequence] = task.id
    return Map({key: Map(members) for key, members in groups.items()})


def _role_usage(holding: Iterable[Task], specs: Mapping[str, Spec]) -> dict[str, Resources]:
    needs: dict[str, list[Resources]] = {}
    for task in holding:
        needs.setdefault(task.role, []).append(specs[task.spec].resources)
    usage = {role: _sum(bags) for role, bags in needs.items()}
    return {role: bag for role, bag in usage.items() if bag}


def _frameworks(
    tasks: Iterable[Task],
    holding: Iterable[Task],
    cursors: Mapping[str, int],
    objects: Mapping[str, Mapping[str, Mapping[str, StoredObject]]],
) -> dict[str, FrameworkState]:
    latest: dict[str, dict[str, Task]] = {}
    names: dict[str, dict[str, str]] = {}
    spread: dict[str, dict[str, Counter[str]]] = {}
    for task in tasks:
        latest.setdefault(task.framework, {})[task.key] = task
        names.setdefault(task.framework, {})[task.name] = task.id
    for task in holding:
        if task.placement is not None:
            spread.setdefault(task.framework, {}).setdefault(task.group, Counter())[task.placement.node] += 1
    made = {}
    for name in {*cursors, *objects, *latest}:
        own = latest.get(name, {})
        groups: dict[str, dict[str, None]] = {}
        for key, task in own.items():
            groups.setdefault(task.group, {})[key] = None
        made[name] = FrameworkState(
            name=name,
            cursor=cursors.get(name, 0),
            objects=Map({kind: Map(of_kind) for kind, of_kind in objects.get(name, {}).items()}),
            latest=Map({key: task.id for key, task in own.items()}),
            live=Map({key: task.id for key, task in own.items() if task.live}),
            groups=Map({group: Map(keys) for group, keys in groups.items()}),
            spread=Map({group: Map(counts) for group, counts in spread.get(name, {}).items()}),
            names=Map(names.get(name, {})),
        )
    return made
