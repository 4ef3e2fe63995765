"""What goes into the kernel, and what comes out of it.

Events carry everything a decision needs; effects are what shells shall do once the batch is durable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from orlop.kernel.state import State, StoredObject
from orlop.model.asks import Explanation, Request
from orlop.model.facts import NodeFacts
from orlop.model.log_entries import LogEntry
from orlop.model.messages import Epoch, Hello, ToAgent
from orlop.model.tasks import Spec, Status


@attrs.frozen(kw_only=True)
class AgentHello:
    """A session began. session: the shell's name for it; answers go to this session only.

    facts: those that came with the hello, None without.
    """

    session: str
    hello: Hello
    facts: NodeFacts | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class AgentStatuses:
    """News of tasks from a node's current session."""

    session: str
    node: str
    statuses: tuple[Status, ...]


@attrs.frozen(kw_only=True)
class NodeSilent:
    """A node has not been heard of for `unreachable_after`, or, `gone`, for so long that it counts as lost.

    silent_ms: how long it has been silent; it may be told again with more, for tasks that have a time of their own.
    """

    node: str
    gone: bool = False
    silent_ms: int = 0


@attrs.frozen(kw_only=True)
class NodeLeaves:
    """A node's agent is stopped on purpose: it will be back."""

    node: str


@attrs.frozen(kw_only=True)
class DrainNode:
    """No new tasks on this node (`drained`), or again.

    within_ms: after which what still runs there is stopped, so that frameworks replace it elsewhere; None: never.
    """

    node: str
    drained: bool
    cause: str = ""
    within_ms: int | None = None


@attrs.frozen(kw_only=True)
class ForgetNode:
    """An operator's word that a gone node never comes back: what was on it is lost. token: for the answer, True when it
    is forgotten, False when it is not gone, or not known."""

    node: str
    cause: str = ""
    token: str = ""


@attrs.frozen(kw_only=True)
class NodeFactsChanged:
    """What a node's engine knows beside the tasks, all of it. Nothing of it is stored: the next leader is told anew."""

    node: str
    facts: NodeFacts = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class KillKey:
    key: str
    reason: str = ""


@attrs.frozen(kw_only=True)
class Amendment:
    """The live task of this key has this spec from now on."""

    key: str
    spec_id: str
    spec: Spec


@attrs.frozen(kw_only=True)
class FrameworkActions:
    """What a framework's handler wants, all of it or nothing.

    seen: the version of the view it acted on. puts, deletes: its objects by (kind, id). replies: command id → value,
    to be given after the commit. failed: nothing to do but to note the run.
    """

    framework: str
    seen: int
    asks: tuple[Request, ...] = ()
    kills: tuple[KillKey, ...] = ()
    withdrawals: tuple[str, ...] = ()
    amendments: tuple[Amendment, ...] = ()
    puts: Mapping[tuple[str, str], StoredObject] = attrs.field(factory=dict)
    deletes: tuple[tuple[str, str], ...] = ()
    log: tuple[LogEntry, ...] = ()
    live: tuple[Any, ...] = ()
    replies: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class KillTask:
    """An operator's word on one task. token: for the answer, True when there was something to kill."""

    task: str
    reason: str
    token: str = ""


@attrs.frozen(kw_only=True)
class TermBegan:
    """A server leads. server: its URL. since_utc_ms: by its clock. reason: why the last term ended, as far as the
    server knows; empty where there was none."""

    server: str
    since_utc_ms: int
    reason: str = ""


@attrs.frozen(kw_only=True)
class TermEnds:
    """The server that leads gives the lead away on purpose: the last event of its term."""

    server: str
    reason: str


@attrs.frozen(kw_only=True)
class Tick:
    """Time has passed."""


Event = (
    AgentHello
    | AgentStatuses
    | NodeSilent
    | NodeLeaves
    | NodeFactsChanged
    | DrainNode
    | ForgetNode
    | FrameworkActions
    | KillTask
    | TermBegan
    | TermEnds
    | Tick
)


@attrs.frozen(kw_only=True)
class ToNode:
    """A message for a node's session; dropped when it has none, for the next one starts with the full truth."""

    node: str
    message: ToAgent
    session: str = ""


@attrs.frozen(kw_only=True)
class Assign:
    """The node's session shall hear what is wanted of these tasks, or, None, of all that it holds.

    `assignments` makes the message of it. session: as in `ToNode`. state: after the step.
    """

    node: str
    tasks: tuple[str, ...] | None = None
    epoch: Epoch
    session: str = ""
    state: State = attrs.field(repr=False, eq=False)


@attrs.frozen(kw_only=True)
class Notify:
    """A framework's tasks or the nodes may have changed. rejected: now-or-never asks that found no place."""

    framework: str
    keys: frozenset[str] = frozenset()
    nodes: bool = False
    rejected: Mapping[str, Explanation] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Answer:
    """The value for whoever waits under this token."""

    token: str
    value: Any


@attrs.frozen(kw_only=True)
class Unplaced:
    """An ask that was to be placed now or never found no place. cause: the ask's, such as a command's token.

    Released before the answer to that command.
    """

    cause: str
    key: str
    explanation: Explanation


@attrs.frozen(kw_only=True)
class Logged:
    """Entries of the event log that are durable now, under (version, index)."""

    version: int
    entries: tuple[LogEntry, ...]


@attrs.frozen(kw_only=True)
class Published:
    """Things that a framework's routes shall hear of; not stored."""

    framework: str
    items: tuple[Any, ...]


@attrs.frozen(kw_only=True)
class Forgotten:
    """There is no such node any more."""

    node: str


@attrs.frozen(kw_only=True)
class TickAt:
    """The kernel wants a `Tick` at this time."""

    utc_ms: int


Effect = ToNode | Assign | Notify | Answer | Unplaced | Logged | Published | Forgotten | TickAt
