"""Parts of a draft: persistent maps opened for changes, and closed into persistent maps again.

Opening costs nothing and a change costs what it touches, however large the map is.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, Final

from immutables import Map, MapMutation

from orlop.kernel import records
from orlop.kernel.state import NOTHING, FrameworkState, SpecRecord, WaitingKey
from orlop.model.resources import Resources
from orlop.model.tasks import Spec

_EMPTY: Final[Map[Any, Any]] = Map()


class Nested:
    """A map of maps, of which few inner ones are changed; those left empty are dropped."""

    def __init__(self, base: Map[Any, Map[Any, Any]]) -> None:
        self._base = base
        self._touched: dict[Any, MapMutation[Any, Any]] = {}

    def change(self, name: Any) -> MapMutation[Any, Any]:
        """The inner map, to be changed."""
        inner = self._touched.get(name)
        if inner is None:
            inner = self._touched[name] = self._base.get(name, _EMPTY).mutate()
        return inner

    def look(self, name: Any) -> Map[Any, Any]:
        """The inner map as it is now. What `change` gave before is not to be used any more."""
        inner = self._touched.get(name)
        if inner is None:
            return self._base.get(name, _EMPTY)
        found = inner.finish()
        self._touched[name] = found.mutate()
        return found

    def size(self, name: Any) -> int:
        """How many the inner map has."""
        inner = self._touched.get(name)
        return len(self._base.get(name, _EMPTY) if inner is None else inner)

    def finish(self) -> Map[Any, Map[Any, Any]]:
        """The whole as it is now; nothing may be changed after it."""
        if not self._touched:
            return self._base
        whole = self._base.mutate()
        for name, inner in self._touched.items():
            if len(inner):
                whole[name] = inner.finish()
            else:
                whole.pop(name, None)
        return whole.finish()


class Documents:
    """What is to be written. puts: documents by their keys. deletes: keys of those that are no more."""

    def __init__(self) -> None:
        self.puts: dict[str, Any] = {}
        self.deletes: set[str] = set()

    def put(self, key: str, document: Any) -> None:
        self.puts[key] = document
        self.deletes.discard(key)

    def drop(self, key: str) -> None:
        self.puts.pop(key, None)
        self.deletes.add(key)


class SpecsOverlay:
    """Specs, and by how many more (or fewer) tasks each is referred to."""

    def __init__(self, base: Map[str, SpecRecord], documents: Documents) -> None:
        self._specs = base.mutate()
        self._documents = documents
        self._more_references: dict[str, int] = {}

    def spec(self, spec_id: str) -> Spec:
        """Raises KeyError."""
        return self._specs[spec_id].spec

    def refer(self, spec_id: str, spec: Spec) -> None:
        """One more task refers to it; the first one brings it."""
        if spec_id not in self._specs:
            self._specs[spec_id] = SpecRecord(spec=spec)
            self._documents.put(records.SPECS + spec_id, spec)
        self._more_references[spec_id] = self._more_references.get(spec_id, 0) + 1

    def release(self, spec_id: str) -> None:
        """One task fewer refers to it."""
        self._more_references[spec_id] = self._more_references.get(spec_id, 0) - 1

    def finish(self) -> Map[str, SpecRecord]:
        """All of them with their references; unreferenced ones are dropped. Nothing may be changed after it."""
        for spec_id, more in self._more_references.items():
            record = self._specs[spec_id]
            references = record.references + more
            if references:
                self._specs[spec_id] = SpecRecord(spec=record.spec, references=references)
            else:
                del self._specs[spec_id]
                self._documents.drop(records.SPECS + spec_id)
        return self._specs.finish()


class DelayedOverlay:
    """Pending tasks whose time has not come. all, next_due_utc_ms: as in `State`."""

    def __init__(self, base: Map[int, tuple[int, str]], next_due_utc_ms: int) -> None:
        self.all = base
        self.next_due_utc_ms = next_due_utc_ms

    def add(self, sequence: int, due_utc_ms: int, task_id: str) -> None:
        self.all = self.all.set(sequence, (due_utc_ms, task_id))
        self.next_due_utc_ms = min(self.next_due_utc_ms, due_utc_ms) if self.next_due_utc_ms else due_utc_ms

    def __contains__(self, sequence: int) -> bool:
        return sequence in self.all

    def drop(self, sequence: int) -> None:
        """Takes it out if it is there."""
        if sequence in self.all:
            self.all = self.all.delete(sequence)

    def take_due(self, utc_ms: int) -> list[tuple[int, str]]:
        """Takes out those whose time has come: (sequence, task id), in the order of asking."""
        if not self.next_due_utc_ms or self.next_due_utc_ms > utc_ms:
            return []
        taken = [(sequence, task_id) for sequence, (due, task_id) in sorted(self.all.items()) if due <= utc_ms]
        for sequence, _ in taken:
            self.all = self.all.delete(sequence)
        self.next_due_utc_ms = min((due for due, _ in self.all.values()), default=0)
        return taken


class FrameworkOverlay:
    """One framework's part, while it is being changed."""

    def __init__(self, base: FrameworkState) -> None:
        self.name = base.name
        self.cursor = base.cursor
        self.latest = base.latest.mutate()
        self.live = base.live.mutate()
        self.names = base.names.mutate()
        self.groups = Nested(base.groups)
        self.spread = Nested(base.spread)
        self.objects = base.objects

    def held(self, group: str, node_id: str, more: int) -> None:
        """So many more (or fewer) of the group's tasks hold resources on the node."""
        counts = self.spread.change(group)
        count = counts.get(node_id, 0) + more
        if count:
            counts[node_id] = count
        else:
            counts.pop(node_id, None)

    def finish(self) -> FrameworkState:
        return FrameworkState(
            name=self.name,
            cursor=self.cursor,
            objects=self.objects,
            latest=self.latest.finish(),
            live=self.live.finish(),
            groups=self.groups.finish(),
            spread=self.spread.finish(),
            names=self.names.finish(),
        )


class UsageOverlay:
    """What each role's placed tasks take."""

    def __init__(self, base: Map[str, Resources]) -> None:
        self._base = base
        self._touched: dict[str, dict[str, int]] = {}

    def of(self, role: str) -> dict[str, int]:
        """Kind → units; to be changed by `count` only."""
        usage = self._touched.get(role)
        if usage is None:
            usage = self._touched[role] = dict(self._base.get(role, NOTHING).units)
        return usage

    def count(self, role: str, amounts: Resources, sign: int = 1) -> None:
        """They take so much more, or with a sign of -1 less."""
        usage = self.of(role)
        for kind, amount in amounts.units.items():
            usage[kind] = usage.get(kind, 0) + sign * amount

    def finish(self) -> Map[str, Resources]:
        """The whole as it is now; nothing may be changed after it."""
        whole = self._base.mutate()
        for role, usage in self._touched.items():
            whole[role] = Resources.of(usage)
            if not whole[role]:
                del whole[role]
        return whole.finish()


class EndedOverlay:
    """Recorded ended tasks in the order of their ends. oldest, next: their numbers, as in `State`."""

    def __init__(self, base: Map[int, tuple[int, str]], oldest: int, next_: int) -> None:
        self.all = base
        self.oldest = oldest
        self.next = next_

    def add(self, version: int, task_id: str) -> None:
        """version: of the end."""
        self.all = self.all.set(self.next, (version, task_id))
        self.next += 1

    def __len__(self) -> int:
        return self.next - self.oldest

    def look(self) -> tuple[int, str]:
        """(version of the end, task id) of the oldest one."""
        return self.all[self.oldest]

    def drop(self) -> None:
        """The oldest one."""
        self.all = self.all.delete(self.oldest)
        self.oldest += 1


class WaitingOverlay:
    """The waiting asks, while they are being placed. fresh: those lined up in this batch; they are tried anywhere."""

    def __init__(self, base: Map[WaitingKey, Map[int, str]]) -> None:
        self._base = base
        self._older = Nested(base)
        self.fresh: dict[WaitingKey, dict[int, str]] = {}

    def add(self, key: WaitingKey, sequence: int, task_id: str) -> None:
        line = self.fresh.get(key)
        if line is None:
            line = self.fresh[key] = {}
        line[sequence] = task_id

    def remove(self, key: WaitingKey, sequences: Iterable[int]) -> None:
        """Takes out those of them that wait."""
        fresh = self.fresh.get(key, {})
        older = self._base.get(key, ())
        for sequence in sequences:
            if fresh.pop(sequence, None) is None and sequence in older:
                self._older.change(key).pop(sequence, None)

    def unchanged_keys(self) -> list[WaitingKey]:
        """Groups of which some have waited since before, and to which this batch has added nothing. In no order."""
        return [key for key in self._base if key not in self.fresh and self._older.size(key)]

    def count(self, key: WaitingKey) -> int:
        """How many wait in a group."""
        return self._older.size(key) + len(self.fresh.get(key, ()))

    def members(self, key: WaitingKey) -> list[int]:
        """Sequences of all that wait in a group, in no order."""
        return [*self._older.look(key), *self.fresh.get(key, ())]

    def oldest(self, key: WaitingKey) -> int:
        """Sequence of the one that waits longest. Raises ValueError when none does."""
        older: Map[int, str] = self._older.look(key)
        fresh = self.fresh.get(key)
        return min(chain(older, fresh)) if fresh else min(older)

    def task_id(self, key: WaitingKey, sequence: int) -> str:
        """The id of one that waits. Raises KeyError."""
        fresh = self.fresh.get(key)
        if fresh is not None and sequence in fresh:
            return fresh[sequence]
        return self._base[key][sequence]

    def finish(self) -> Map[WaitingKey, Map[int, str]]:
        """The whole as it is now; nothing may be changed after it."""
        for key, line in self.fresh.items():
            if line:
                self._older.change(key).update(line)
        return self._older.finish()
