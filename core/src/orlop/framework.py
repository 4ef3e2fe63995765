"""What a framework author imports.

A framework is a scheduler: it decides *what* shall run, and the kernel decides where. It is a class with pure,
synchronous handlers. Each gets a read-only `View` of one moment and yields actions: ask for a task, kill one, store
an object of its own, wake me at, say something in the event log, answer a command. All actions of one call are
committed together or not at all, before anything of them can be seen outside.

Handlers are level-triggered. They are told what *may* have changed since they last ran, never *that* something
happened: what is true stands in the view. After a start, a change of leader or a quarantine everything may have
changed. A handler that is called twice with the same view must want the same thing twice.

    class KeepAlive(Framework):
        name = "keepalive"
        config = Config

        def reconcile(self, view: View) -> Iterator[Action]:
            wanted = {f"copy-{i}" for i in range(self.settings.copies)}
            for key in wanted - view.live.keys():
                yield Ask(key, run=Process(self.settings.command), needs=Resources(cpus=0.1, mem="32MiB"))
            for key in view.live.keys() - wanted:
                yield Kill(key)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

import attrs

from orlop.kernel.placement import Candidate, NodeFilter, NodeScorer, PlacementView
from orlop.kernel.view import View
from orlop.model.asks import Explanation, Request, spec_id
from orlop.model.clock import Now, format_utc, parse_utc
from orlop.model.members import are, are_texts, is_a, is_whole, no_texts
from orlop.model.nodes import Node, NodeState
from orlop.model.patterns import Pattern, PatternError
from orlop.model.ports import PortSet
from orlop.model.resources import ResourceError, Resources
from orlop.model.tasks import (
    Constraint,
    Desired,
    Exit,
    Outcome,
    PartitionPolicy,
    Policies,
    PortRequest,
    Probe,
    ProbeKind,
    ProbeResult,
    Spec,
    Task,
    TaskState,
    stopped_by_drain,
)

__all__ = [
    "SANDBOX", "Action", "Amend", "Ask", "Candidate", "Changed", "Constraint", "Delete", "Desired", "Docker", "Emit",
    "Exit", "Explanation", "Framework", "Kill", "Node", "NodeFilter", "NodeScorer", "NodeState", "NotAvailable",
    "NotPlaced", "Now", "Outcome", "PartitionPolicy", "Pattern", "PatternError", "PlacementView", "Policies",
    "PortRequest", "PortSet", "Probe", "ProbeKind", "ProbeResult", "Process", "Put", "Refused", "Reply", "Request",
    "ResourceError", "Resources", "Spec", "Task", "TaskState", "View", "WakeAt", "Withdraw", "format_utc", "parse_utc",
    "spec_id", "stopped_by_drain",
]  # fmt: skip

_TEXT: Final = is_a(str)

#: The folder in containers into which their artefacts are fetched, where Mesos had it.
SANDBOX: Final = "/mnt/mesos/sandbox"


def Process(  # noqa: N802  (reads as a value where it is used)
    command: str | None = None,
    *,
    arguments: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
    directory: str | None = None,
    artefacts: Iterable[Mapping[str, Any]] = (),
) -> Spec:
    """A spec for the `process` runtime: a shell command, or `arguments` executed without a shell.

    artefacts: fetched into the task's folder before the start, each {"uri": "https://…"} and optionally "output_file"
    (its name there; default: the last part of the URI's path), "extract" (archives are unpacked; default: true),
    "executable" and "cache" (may be kept on the node for other tasks).

    Raises TypeError for what no node could run.
    """
    words = arguments if isinstance(arguments, str) else list(arguments)
    if isinstance(words, str) or not all(isinstance(one, str) for one in words):
        raise TypeError(f"Process.arguments: expected several texts, got {words!r}")
    if (command is None) is (not words):
        raise TypeError(f"Process: expected a command or arguments, got {command!r} and {words!r}")
    if not isinstance(command, str | None):
        raise TypeError(f"Process.command: expected a text, got {command!r}")
    variables = dict(environment or {})
    if wrong := no_texts(variables):
        raise TypeError(f"Process.environment: {wrong}")
    payload: dict[str, Any] = {"command": command} if command is not None else {"arguments": words}
    optional: dict[str, Any] = {"environment": variables, "user": user, "directory": directory}
    optional["artefacts"] = [dict(artefact) for artefact in artefacts]
    return Spec(runtime="process", payload=payload | {name: value for name, value in optional.items() if value})


def Docker(image: str, **create_body: Any) -> Spec:  # noqa: N802
    """A spec for the `docker` runtime. `create_body`: members of the Engine API's create request, as they are.

    Nine more are ours: `orlop_pull` ("always", "missing" or "never"); `orlop_name`, the container's name, which is
    `orlop-` and the task's id otherwise; `orlop_platform`, "os/arch" of the image; `orlop_api_version`, in which the
    body is meant; `orlop_exact`: nothing but labels is added to the body, neither limits nor variables; `orlop_labels`,
    names of the task's variables (see `Ask.environment`) that its container shall have as labels too;
    `orlop_shares_are_cpus`: `HostConfig.CpuShares` says how many cpus, and the engine is told that part of 1024 shares
    for all of its own; `orlop_networks`, name → settings of the container's endpoint in a network that it joins once it
    is created, None for one that it leaves; and `orlop_artefacts`, as those of a `Process`, fetched into a folder that
    the container has at `/mnt/mesos/sandbox`, named by its variable `MESOS_SANDBOX`.
    """
    return Spec(runtime="docker", payload={"Image": image, **create_body})


@attrs.frozen
class Ask:
    """Run this. See `orlop.model.asks.Request` for what each member means.

    run: `Process(...)`, `Docker(...)`, or a whole `Spec`. needs, ports, constraints, probes and policies complete the
    spec; those not given here keep what `run` says.
    """

    key: str = attrs.field(validator=_TEXT)
    run: Spec = attrs.field(validator=is_a(Spec))
    needs: Resources | None = attrs.field(default=None, kw_only=True, validator=is_a(Resources, or_none=True))
    ports: tuple[PortRequest, ...] | None = attrs.field(default=None, kw_only=True, validator=are(PortRequest))
    constraints: tuple[Constraint, ...] | None = attrs.field(default=None, kw_only=True, validator=are(Constraint))
    probes: tuple[Probe, ...] | None = attrs.field(default=None, kw_only=True, validator=are(Probe))
    policies: Policies | None = attrs.field(default=None, kw_only=True, validator=is_a(Policies, or_none=True))
    group: str = attrs.field(default="", kw_only=True, validator=_TEXT)
    role: str = attrs.field(default="*", kw_only=True, validator=_TEXT)
    priority: int = attrs.field(default=0, kw_only=True, validator=is_whole())
    name: str = attrs.field(default="", kw_only=True, validator=_TEXT)
    environment: Mapping[str, str] = attrs.field(factory=dict, kw_only=True, validator=are_texts)
    labels: Mapping[str, str] = attrs.field(factory=dict, kw_only=True, validator=are_texts)
    not_before_utc_ms: int = attrs.field(default=0, kw_only=True, validator=is_whole())
    wait_ms: int | None = attrs.field(default=None, kw_only=True, validator=is_whole(or_none=True))
    once: bool = attrs.field(default=False, kw_only=True, validator=is_a(bool))
    desired: Desired = attrs.field(default=Desired.RUNNING, kw_only=True, validator=is_a(Desired))
    cause: str = attrs.field(default="", kw_only=True, validator=_TEXT)

    def spec(self) -> Spec:
        """The complete spec."""
        run = self.run
        return Spec(
            runtime=run.runtime,
            payload=run.payload,
            resources=run.resources if self.needs is None else self.needs,
            ports=run.ports if self.ports is None else tuple(self.ports),
            constraints=run.constraints if self.constraints is None else tuple(self.constraints),
            probes=run.probes if self.probes is None else tuple(self.probes),
            policies=run.policies if self.policies is None else self.policies,
            all_ports_variable=run.all_ports_variable,
            host_variable=run.host_variable,
        )


@attrs.frozen
class Withdraw:
    """Ends the key's task if it is still pending; a placed one goes on."""

    key: str = attrs.field(validator=_TEXT)


@attrs.frozen
class Amend:
    """The key's live task has another spec from now on: what it takes of its node, what the next one is asked for by.

    What runs is not touched: whoever says so has changed it already, as its runtime is the same. Without a live task it
    does nothing. The node is held to more than it has, if that is how it is.
    """

    key: str = attrs.field(validator=_TEXT)
    spec: Spec = attrs.field(validator=is_a(Spec))


@attrs.frozen
class Kill:
    """Stops the key's live task, pending or placed: politely, then surely. Without one it does nothing."""

    key: str = attrs.field(validator=_TEXT)
    reason: str = attrs.field(default="", validator=_TEXT)


@attrs.frozen
class Put:
    """Stores an object of the framework's own, under (kind, id). `value` is of the class in `documents[kind]`."""

    kind: str = attrs.field(validator=_TEXT)
    id: str = attrs.field(validator=_TEXT)
    value: Any


@attrs.frozen
class Delete:
    """Removes an object of the framework's own; a missing one is not an error."""

    kind: str = attrs.field(validator=_TEXT)
    id: str = attrs.field(validator=_TEXT)


@attrs.frozen
class WakeAt:
    """Calls the handler at this time with `token` in `changed.wakeups`. A hint: it may come late, early or twice.

    One time per token: the last one said counts; None forgets it. Wake-ups are not stored: when everything may have
    changed, the handler says all of them again.
    """

    utc_ms: int | None = attrs.field(validator=is_a(int, or_none=True))
    token: str = attrs.field(default="", validator=_TEXT)


@attrs.frozen
class Emit:
    """An entry in the event log, `NAME.type`, and to whoever follows it. details: flat, small texts."""

    type: str = attrs.field(validator=_TEXT)
    subject: str = attrs.field(default="", validator=_TEXT)
    details: Mapping[str, str] = attrs.field(factory=dict, validator=are_texts)
    #: Anything for followers in this process, not stored (a route's event stream, say).
    live: Any = None


@attrs.frozen
class Reply:
    """The answer to the command being handled, given after the commit. The last one counts."""

    value: Any


Action = Ask | Amend | Withdraw | Kill | Put | Delete | WakeAt | Emit | Reply


class Refused(Exception):
    """A command that cannot be done: nothing changes. `reason` is what the caller gets, any value."""

    def __init__(self, reason: Any) -> None:
        super().__init__(str(reason))
        self.reason = reason


class NotPlaced(Exception):
    """An ask of the command that was to be placed now or never (`wait_ms=0`) found no place, and left nothing behind.

    explanation: why. What else the command has stored is there; the framework is told in `Changed.rejected`.
    """

    def __init__(self, key: str, explanation: Explanation) -> None:
        super().__init__(str(explanation))
        self.key = key
        self.explanation = explanation


class NotAvailable(Exception):
    """The command could not be taken or its outcome is not known; the text says why. For a route: 503."""


@attrs.frozen(kw_only=True)
class Changed:
    """What may have changed since the handler last ran.

    everything: look at all of the view. keys: of own tasks. wakeups: tokens whose time has come.
    nodes: some node came, went or changed.
    """

    everything: bool = False
    keys: frozenset[str] = frozenset()
    wakeups: frozenset[str] = frozenset()
    nodes: bool = False
    rejected: Mapping[str, Explanation] = attrs.field(factory=dict)


EVERYTHING: Final = Changed(everything=True, nodes=True)


class Framework:
    """A scheduler. See the module for the rules its handlers live by.

    name: of the framework; also of its `[plugins.NAME]` settings. config: attrs class of these settings, or None.
    documents: kind → attrs class of the objects it stores. version: of these classes; a change of any raises it.
    migrations: version → kind → function from that version's JSON object to the next one's; kinds that are as they were
    need none. See `migrate`.

    Instances may cache what they derive from views; nothing else may be kept between calls.
    """

    name: ClassVar[str]
    config: ClassVar[type | None] = None
    documents: ClassVar[Mapping[str, type]] = {}
    version: ClassVar[int] = 1
    migrations: ClassVar[Mapping[int, Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]]] = {}

    def __init__(self, settings: Any = None) -> None:
        self.settings = settings

    def reconcile(self, view: View) -> Iterable[Action]:
        """What to do so that the world becomes as wanted. Idempotent."""
        raise NotImplementedError(f"{type(self).__name__} has neither reconcile() nor handle()")

    def handle(self, view: View, changed: Changed) -> Iterable[Action]:
        """Like `reconcile`, told where to look: override it when looking at everything is too slow."""
        return self.reconcile(view)

    def command(self, view: View, command: Any) -> Iterable[Action]:
        """Does what a route or a command line asked for. Answer with `Reply`; raise `Refused` to change nothing.

        The framework's own handler runs right after it, on the view that the actions lead to, so a command needs
        only to store what is wanted.
        """
        raise Refused(f"{self.name} takes no commands")

    @classmethod
    def migrate(cls, kind: str, document: dict[str, Any], from_version: int) -> dict[str, Any]:
        """Brings a stored object of an earlier version to `version`. Pure.

        Runs whenever one is read: an object keeps the form in which it was written until it is put again.
        """
        for version in range(from_version, cls.version):
            if version not in cls.migrations:
                raise NotImplementedError(f"{cls.name} has no migration of {kind} from version {version}")
            step = cls.migrations[version].get(kind)
            document = step(document) if step is not None else document
        return document
