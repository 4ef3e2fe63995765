"""The messages of an agent's session, the same in one process and across the network.

The agent dials and says `Hello` with everything it has. The server answers `Welcome`, then `Assignments` in full,
then deltas. The agent reports `Statuses` and repeats them until a `Received` covers them. Their bytes are `wire`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from orlop.model.facts import FactsChange
from orlop.model.nodes import NodeInfo
from orlop.model.tasks import Desired, Spec, Status


@attrs.frozen(order=True)
class Epoch:
    """The leader's fencing token, compared in this order. Agents refuse a lower one than they have seen."""

    generation: int
    revision: int


@attrs.frozen(kw_only=True)
class Seen:
    """How far into its cluster's history a node has seen: a state that does not reach so far is an older copy.

    cluster_id: whose history. epoch: the highest that it was commanded under. version: of the state that made its
    newest assignment in the same generation.
    """

    cluster_id: str
    epoch: Epoch
    version: int = 0


@attrs.frozen(kw_only=True)
class Hello:
    """First message of a session: the full truth of the node.

    cluster_id: what the agent is bound to; empty on its first contact.
    statuses: of every task that the node has a record of.
    facts: what the node's engine knows beside the tasks, in full; None where nothing is known, where it would make the
    message too large, and from agents of earlier versions.
    understands: kinds of messages that came later than the session's version, and that this agent wants to be sent.
    """

    node: NodeInfo
    cluster_id: str = ""
    statuses: tuple[Status, ...] = ()
    understands: tuple[str, ...] = ()
    facts: FactsChange | None = None


@attrs.frozen(kw_only=True)
class Welcome:
    """The server's answer: whom the agent belongs to, and under which epoch it commands.

    understands: kinds of messages that came later than the session's version, and that the server wants to be sent.
    facts: those of the hello are known. Otherwise they are to be told in full.
    """

    cluster_id: str
    epoch: Epoch
    understands: tuple[str, ...] = ()
    facts: bool = False


@attrs.frozen(kw_only=True)
class Refused:
    """The server will not have this agent, and why. The session ends."""

    reason: str


@attrs.frozen(kw_only=True)
class Assignment:
    """All that a node needs to run one task, kept on its disk.

    environment: what the control plane adds (ports, host, task's own); the payload's own variables win.
    """

    task: str
    framework: str
    key: str
    name: str
    spec: Spec
    desired: Desired
    incarnation: int = 1
    ports: tuple[int, ...] = ()
    environment: Mapping[str, str] = attrs.field(factory=dict)
    labels: Mapping[str, str] = attrs.field(factory=dict)
    reason: str = ""


@attrs.frozen(kw_only=True)
class Assignments:
    """What the node shall run. `full`: nothing else is known to the state; otherwise a delta of upserts.

    A task that a full list does not name is stopped only if it was assigned at or before `revision` within the
    same generation: then this state contains its removal. Anything else is an orphan (a restored backup must not
    kill what runs).

    also: tasks that a full list names besides its items, because they were sent just before it.
    """

    epoch: Epoch
    revision: int
    full: bool = False
    items: tuple[Assignment, ...] = ()
    also: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class OpenStreams:
    """The server would like streams: for each of these ids, to be used once, the agent makes a connection."""

    ids: tuple[str, ...]


@attrs.frozen(kw_only=True)
class RenewCertificate:
    """The node's certificate shall be of the authority `issuer`, and the node trust exactly `trusted` (fingerprints).

    Sent to agents that understand "renew".
    """

    issuer: str
    trusted: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Statuses:
    """News of tasks. Repeated in each new session until acknowledged."""

    items: tuple[Status, ...]


@attrs.frozen(kw_only=True)
class Received:
    """These statuses are durable: (task, incarnation, sequence). The record of a removed task may be dropped."""

    items: tuple[tuple[str, int, int], ...]


@attrs.frozen(kw_only=True)
class Heartbeat:
    """The node is alive. Never stored."""


@attrs.frozen(kw_only=True)
class ClockReading:
    """What the node's clock shows as this is sent. Never stored, and nothing is decided by it.

    Sent to servers that understand "clock".
    """

    utc_ms: int


@attrs.frozen(kw_only=True)
class Facts:
    """What has changed of what the node's engine knows beside the tasks, or all of it. Never stored.

    Sent to servers that understand "facts".
    """

    change: FactsChange


@attrs.frozen(kw_only=True)
class Goodbye:
    """A planned stop of the agent: silence is expected for a while."""


ToServer = Hello | Statuses | Heartbeat | Goodbye | Facts | ClockReading
ToAgent = Welcome | Refused | Assignments | Received | OpenStreams | RenewCertificate

#: What `Hello.understands` calls `RenewCertificate`.
RENEW: Final = "renew"
#: What `Welcome.understands` calls `Facts`.
FACTS: Final = "facts"
#: What `Welcome.understands` calls `ClockReading`.
CLOCK: Final = "clock"
