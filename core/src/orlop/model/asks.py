"""Asks: what frameworks want run, before it becomes tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import attrs
import orjson

from orlop.model.documents import to_plain
from orlop.model.tasks import Desired, Spec

WAIT_FOREVER: Final = None
NOW_OR_NEVER: Final = 0


def spec_id(spec: Spec) -> str:
    """The content hash under which a spec is stored: 32 hexadecimal digits."""
    return id_of(canonical(to_plain(spec)))


def canonical(document: Mapping[str, Any]) -> bytes:
    """Of a spec's document: the same for equal ones. Raises TypeError: it has no JSON."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def id_of(content: bytes) -> str:
    """See `spec_id`. content: a spec's, `canonical`."""
    return hashlib.sha256(content).hexdigest()[:32]


@attrs.frozen(kw_only=True)
class Request:
    """An ask as the kernel takes it: an upsert by (framework, key).

    framework: filled in by the kernel.
    Asking again for a key whose task is live changes nothing; for one whose last task has ended it makes the next.
    group: tasks that belong together (an app's instances); filters, scorers and views find them by it.
    name: the external name, unique per framework; empty: the task's id.
    not_before_utc_ms: the task waits, pending, until then (back-off). 0: at once.
    wait_ms: None waits for ever; 0 is now or never: rejected in this batch, leaving nothing behind.
    once: the key is for one task of all time, whose id follows from cluster, framework and key alone. So no second one
    can be made, not even by a cluster that was restored from a backup and asks again for what it does not remember: if
    a node says that it runs this task, the new one ends as lost.
    desired: PREPARED makes it ready on its node and does not start it, where its runtime can do that.
    """

    framework: str = ""
    key: str
    spec_id: str
    spec: Spec
    group: str = ""
    role: str = "*"
    priority: int = 0
    name: str = ""
    environment: Mapping[str, str] = attrs.field(factory=dict)
    labels: Mapping[str, str] = attrs.field(factory=dict)
    not_before_utc_ms: int = 0
    wait_ms: int | None = WAIT_FOREVER
    once: bool = False
    desired: Desired = Desired.RUNNING
    cause: str = ""


@attrs.frozen(kw_only=True)
class Explanation:
    """Why an ask waits: each filter in its order, and how many nodes it ruled out.

    nodes: how many there are. ruled_out: (filter, reason, number of nodes), in the filters' order; a node counts for
    the first filter that refuses it. fits: nodes that passed all of them. note: what else holds it back.
    """

    nodes: int
    ruled_out: tuple[tuple[str, str, int], ...] = ()
    fits: int = 0
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return self.note
        if not self.nodes:
            return "there are no nodes"
        if self.fits:
            return f"{self.fits} of {self.nodes} nodes fit; waiting for its turn"
        reasons = ", ".join(f"{reason} ({count})" for _, reason, count in self.ruled_out)
        return f"0 of {self.nodes} nodes fit: {reasons}"
