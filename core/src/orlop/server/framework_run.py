"""One run of a framework's handlers: from a state and what is queued, to one event for the kernel.

Pure, so that the server's worker threads and the simulator run the same thing. Commands are handled in order, each
on the state that the earlier ones' objects lead to; then the framework's own handler sees the result. A command that
refuses takes nothing back of the others; neither does one that wants stored what no store takes, which is refused, nor
one that raises, which has failed alone. A framework's own handler that raises, or wants that, voids the whole run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
from immutables import Map

from orlop.framework import (
    Action,
    Amend,
    Ask,
    Changed,
    Delete,
    Emit,
    Framework,
    Kill,
    Put,
    Refused,
    Reply,
    View,
    WakeAt,
    Withdraw,
)
from orlop.kernel.events import Amendment, FrameworkActions, KillKey
from orlop.kernel.state import FrameworkState, State, StoredObject
from orlop.model.asks import Explanation, Request, id_of
from orlop.model.clock import Now
from orlop.model.documents import DocumentError, NewerVersion, from_plain, parse_versioned, to_plain
from orlop.model.log_entries import LogEntry
from orlop.model.tasks import Spec, Task
from orlop.server.storable import Storable, Unstorable

SPEC_IDS_REMEMBERED: Final = 1_000
#: More than a handler can yield before it counts as hung. A thread that is given up for that goes on.
ACTIONS_MAX: Final = 500_000


@attrs.frozen(kw_only=True)
class Command:
    """A command in the queue. token: where its reply goes."""

    token: str
    value: Any


@attrs.frozen(kw_only=True)
class RunResult:
    """actions: for the kernel; None when there is nothing to commit. refusals: token → exception.

    wakeups: token → UTC ms or None, said in this run.
    failures: token → what a command has raised: a bug of the framework.
    """

    actions: FrameworkActions | None
    refusals: Mapping[str, Exception]
    failures: Mapping[str, BaseException]
    wakeups: Mapping[str, int | None]


class InvalidAction(Exception):
    """A framework yielded something that is not an action, or not a valid one: its bug."""


class FrameworkRunner:
    """Runs one framework. It keeps a memory of spec hashes, nothing else."""

    def __init__(
        self,
        framework: Framework,
        explainer: Callable[[State, Task], Explanation] | None = None,
        storable: Storable | None = None,
    ) -> None:
        self.framework = framework
        self.storable = storable if storable is not None else Storable()
        self._explainer = explainer
        self._spec_ids: dict[int, tuple[Spec, str]] = {}

    def view(self, state: State, now: Now, entropy: str = "") -> View:
        """What this framework sees of the state."""
        return View(state, self.framework.name, now, entropy, self._explainer)

    def run(self, state: State, changed: Changed, commands: Sequence[Command], now: Now, entropy: str) -> RunResult:
        """One run. Raises whatever the framework's own handler raises, InvalidAction and Unstorable."""
        collected = _Collected(self, state)
        view = self.view(state, now, entropy)
        refusals: dict[str, Exception] = {}
        failures: dict[str, BaseException] = {}
        for command in commands:
            try:
                actions = collected.checked(self.framework.command(view, command.value), command.token)
            except Refused as refused:
                refusals[command.token] = refused
                continue
            except Unstorable as error:
                refusals[command.token] = Refused(str(error))
                continue
            except (Exception, SystemExit) as error:  # noqa: BLE001  (told to its client, and to nobody else)
                failures[command.token] = error
                continue
            replies = collected.take(actions)
            collected.replies[command.token] = replies[-1] if replies else None
            view = view.at(collected.state())
        if failures:  # something may be half done of what the framework keeps for itself
            changed = attrs.evolve(changed, everything=True, nodes=True)
        collected.take(collected.checked(self.framework.handle(view, changed), ""))
        return RunResult(
            actions=collected.actions(now, changed), refusals=refusals, failures=failures, wakeups=collected.wakeups
        )

    def spec_id(self, spec: Spec, key: str = "") -> str:
        """The content hash, remembered by identity: apps ask for the same spec again and again.

        key: of the ask. Raises Unstorable.
        """
        known = self._spec_ids.get(id(spec))
        if known is not None and known[0] is spec:
            return known[1]
        content = self.storable.spec(key, spec)
        if len(self._spec_ids) >= SPEC_IDS_REMEMBERED:
            self._spec_ids.clear()
        made = id_of(content)
        self._spec_ids[id(spec)] = (spec, made)
        return made

    def store(self, kind: str, value: Any) -> StoredObject:
        """A value as it is stored. Raises InvalidAction for one that is not of the declared class."""
        declared = self.framework.documents.get(kind)
        if declared is None or not isinstance(value, declared):
            raise InvalidAction(f"{self.framework.name} stores no {type(value).__name__} as {kind!r}")
        return StoredObject(document=to_plain(value), version=self.framework.version, value=value)


class ObjectUnreadable(DocumentError):
    """A framework cannot read what it has stored: its plugin's fault, and not that of a later version."""

    def __init__(self, framework: str, text: str) -> None:
        super().__init__(text)
        self.framework = framework


def read_object(framework: type[Framework], kind: str, object_id: str, data: bytes) -> StoredObject:
    """A framework's stored object with its value. Raises ObjectUnreadable, NewerVersion."""
    what = f"{kind} {object_id} of {framework.name}"
    declared = framework.documents.get(kind)
    if declared is None:
        raise ObjectUnreadable(framework.name, f"{what} is of a kind that the framework does not know")
    try:
        document = parse_versioned(
            data,
            what,
            lambda plain, version: framework.migrate(kind, plain, version),
            framework.version,
            f"the installed {framework.name}",
        )
        value: Any = from_plain(document, declared, what)
    except NewerVersion:
        raise
    except DocumentError as error:
        hint = "" if framework.version > 1 else "; a class that has changed needs a new version and a migration"
        raise ObjectUnreadable(framework.name, f"{error}{hint}") from error
    return StoredObject(document=document, version=framework.version, value=value)


class _Collected:
    """The actions of one run, sorted by what the kernel does with them."""

    def __init__(self, runner: FrameworkRunner, state: State) -> None:
        self._runner = runner
        self._state = state
        self._newest = state
        self._name = runner.framework.name
        self._asks: dict[str, Request] = {}
        self._amendments: dict[str, Amendment] = {}
        self._kills: dict[str, KillKey] = {}
        self._withdrawals: dict[str, None] = {}
        self._objects: dict[tuple[str, str], StoredObject | None] = {}
        self._unseen: dict[tuple[str, str], None] = {}
        self._emitted: list[Emit] = []
        self.replies: dict[str, Any] = {}
        self.wakeups: dict[str, int | None] = {}

    def checked(self, actions: Iterable[Action], cause: str) -> list[tuple[Action, Any]]:
        """All of them, each with what is made of it; nothing is taken yet. Raises InvalidAction, Unstorable."""
        if actions is None:
            raise InvalidAction(f"{self._name} returned None where actions were expected: there is no yield in it")
        found = [(action, self._made_of(action, cause)) for action in itertools.islice(actions, ACTIONS_MAX + 1)]
        if len(found) > ACTIONS_MAX:
            raise InvalidAction(f"{self._name} yielded more than {ACTIONS_MAX} actions at once: does its loop end?")
        return found

    def _made_of(self, action: Action, cause: str) -> Request | Amendment | StoredObject | None:
        storable = self._runner.storable
        match action:
            case Ask():
                request = self._request(action, cause)
                storable.ask(request)
                return request
            case Amend():
                spec_id = self._runner.spec_id(action.spec, action.key)
                return Amendment(key=action.key, spec_id=spec_id, spec=action.spec)
            case Put():
                stored = self._runner.store(action.kind, action.value)
                storable.object(self._name, action.kind, action.id, stored)
                return stored
            case Kill():
                storable.reason(action.key, action.reason)
            case Emit():
                storable.event(action)
        return None

    def take(self, checked: Iterable[tuple[Action, Any]]) -> list[Any]:
        """Sorts them; returns the replies among them."""
        replies = []
        for action, made in checked:
            match action:
                case Ask():
                    self._asks[action.key] = made
                case Amend():
                    self._amendments[action.key] = made
                case Kill():
                    self._kills[action.key] = KillKey(key=action.key, reason=action.reason)
                case Withdraw():
                    self._withdrawals[action.key] = None
                case Put():
                    self._objects[action.kind, action.id] = made
                    self._unseen[action.kind, action.id] = None
                case Delete():
                    self._objects[action.kind, action.id] = None
                    self._unseen[action.kind, action.id] = None
                case WakeAt():
                    self.wakeups[action.token] = action.utc_ms
                case Emit():
                    self._emitted.append(action)
                case Reply():
                    replies.append(action.value)
                case _:
                    raise InvalidAction(f"{self._name} yielded {action!r}, which is not an action")
        return replies

    def _request(self, ask: Ask, cause: str) -> Request:
        spec = ask.spec()
        return Request(
            framework=self._name,
            key=ask.key,
            spec_id=self._runner.spec_id(spec, ask.key),
            spec=spec,
            group=ask.group,
            role=ask.role,
            priority=ask.priority,
            name=ask.name,
            environment=ask.environment,
            labels=ask.labels,
            not_before_utc_ms=ask.not_before_utc_ms,
            wait_ms=ask.wait_ms,
            once=ask.once,
            desired=ask.desired,
            cause=ask.cause or cause,
        )

    def state(self) -> State:
        """The state with the objects put and deleted so far. Costs what has come since it was last asked for."""
        if not self._unseen:
            return self._newest
        own = self._newest.framework(self._name)
        objects = own.objects
        for kind, object_id in self._unseen:
            stored = self._objects[kind, object_id]
            of_kind = objects.get(kind) or Map()
            if stored is not None:
                of_kind = of_kind.set(object_id, stored)
            elif object_id in of_kind:
                of_kind = of_kind.delete(object_id)
            objects = objects.set(kind, of_kind)
        self._unseen.clear()
        changed: FrameworkState = attrs.evolve(own, objects=objects)
        self._newest = attrs.evolve(self._newest, frameworks=self._newest.frameworks.set(self._name, changed))
        return self._newest

    def _frees_records(self, changed: Changed) -> bool:
        """Does the cursor have to move although nothing else is to be written? Only what has ended waits for it: its
        record is kept until its owner has seen the end. A commit for each state on the way there would be for nothing.
        """
        state = self._state
        newest = state.ended.get(state.ended_next - 1)
        return bool(changed.keys) and newest is not None and newest[0] > state.framework(self._name).cursor

    def actions(self, now: Now, changed: Changed) -> FrameworkActions | None:
        log = tuple(
            LogEntry(type=f"{self._name}.{one.type}", utc_ms=now.utc_ms, subject=one.subject, details=dict(one.details))
            for one in self._emitted
            if one.type
        )
        of_tasks = self._asks or self._amendments or self._kills or self._withdrawals
        nothing = not (of_tasks or self._objects or self._emitted)
        if nothing and not self.replies and not changed.everything and not self._frees_records(changed):
            return None
        return FrameworkActions(
            framework=self._name,
            seen=self._state.version,
            asks=tuple(self._asks.values()),
            amendments=tuple(self._amendments.values()),
            kills=tuple(self._kills.values()),
            withdrawals=tuple(self._withdrawals),
            puts={key: stored for key, stored in self._objects.items() if stored is not None},
            deletes=tuple(key for key, stored in self._objects.items() if stored is None),
            log=log,
            live=tuple(one.live for one in self._emitted if one.live is not None),
            replies=self.replies,
        )
