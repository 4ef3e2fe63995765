"""What a framework sees of one moment: its own tasks and objects, and the nodes."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orlop.kernel.state import FrameworkState, State
from orlop.model.asks import Explanation
from orlop.model.clock import Now
from orlop.model.nodes import Node
from orlop.model.tasks import Spec, Task


class _Tasks(Mapping[str, Task]):
    """key → task, iterating in the order of keys."""

    def __init__(self, ids: Mapping[str, str], tasks: Mapping[str, Task]) -> None:
        self._ids = ids
        self._tasks = tasks

    def __getitem__(self, key: str) -> Task:
        return self._tasks[self._ids[key]]

    def __contains__(self, key: object) -> bool:
        return key in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._ids))

    def __len__(self) -> int:
        return len(self._ids)


class _Objects(Mapping[str, Any]):
    """id → value of one kind, iterating in the order of ids."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self._stored = stored

    def __getitem__(self, object_id: str) -> Any:
        return self._stored[object_id].value

    def __contains__(self, object_id: object) -> bool:
        return object_id in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._stored))

    def __len__(self) -> int:
        return len(self._stored)


class View:
    """Read-only, of one moment. Making one costs nothing; looking up costs what the look-up costs.

    version: of the state. now: the time of this run. entropy: fresh for each run, see `unique`.
    """

    def __init__(
        self,
        state: State,
        framework: str,
        now: Now,
        entropy: str = "",
        explainer: Callable[[State, Task], Explanation] | None = None,
    ) -> None:
        self._state = state
        self._own: FrameworkState = state.framework(framework)
        self._entropy = entropy
        self._explainer = explainer
        self.framework = framework
        self.now = now

    @property
    def version(self) -> int:
        return self._state.version

    @property
    def cluster_id(self) -> str:
        return self._state.cluster_id

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The latest task of each key; ended ones stay for a while, at least until this framework has seen them."""
        return _Tasks(self._own.latest, self._state.tasks)

    @property
    def live(self) -> Mapping[str, Task]:
        """Keys whose task has not ended: pending, placed, running, on its way out."""
        return _Tasks(self._own.live, self._state.tasks)

    def group(self, group: str) -> dict[str, Task]:
        """key → latest task of a group, ended ones included, in the order of keys."""
        return {key: self._state.tasks[self._own.latest[key]] for key in sorted(self._own.groups.get(group, ()))}

    def groups(self) -> list[str]:
        """Names of all groups that have a recorded task."""
        return sorted(self._own.groups)

    def task_named(self, name: str) -> Task | None:
        """By the external name, or by the id where the ask gave none."""
        task_id = self._own.names.get(name)
        return self._state.tasks[task_id] if task_id is not None else None

    def spec(self, task: Task) -> Spec:
        """The task's spec."""
        return self._state.spec_of(task)

    def objects(self, kind: str) -> Mapping[str, Any]:
        """The framework's own objects of a kind, id → value."""
        return _Objects(self._own.objects.get(kind) or {})

    def node(self, node_id: str | None) -> Node | None:
        """A node by its id."""
        return self._state.node(node_id) if node_id is not None else None

    def nodes(self) -> Iterator[Node]:
        """All nodes, in the order of their ids."""
        return self._state.nodes()

    def explain(self, task: Task) -> Explanation:
        """Why a pending task waits. Looks at every node: for answers to people, not for decisions."""
        if self._explainer is None:
            return Explanation(nodes=0, note="no explanation is available here")
        return self._explainer(self._state, task)

    def unique(self, *parts: str) -> uuid.UUID:
        """A UUID that no other run makes: of the run's entropy and `parts`. The same parts give the same one."""
        material = "\0".join((self._state.cluster_id, self.framework, str(self.version), self._entropy, *parts))
        return uuid.UUID(bytes=hashlib.sha256(material.encode()).digest()[:16], version=4)

    def at(self, state: State) -> View:
        """The same run, on a later state (after a command's own actions)."""
        return View(state, self.framework, self.now, self._entropy, self._explainer)
