"""The one mutator: `step(state, events, now)` → the next state, the documents to write, the effects to release.

A step handles a batch of events in order over one draft, then places what waits, then forgets what is old. It is
pure: the same arguments give the same result. The shell commits the documents in one fenced transaction, and only
then releases the effects and lets the new state be seen; if the transaction is refused it forgets the new state,
and nothing has happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from orlop.kernel import lifecycle, records
from orlop.kernel.draft import Draft
from orlop.kernel.events import (
    AgentHello,
    AgentStatuses,
    Answer,
    Assign,
    DrainNode,
    Effect,
    Event,
    ForgetNode,
    Forgotten,
    FrameworkActions,
    KillTask,
    Logged,
    NodeFactsChanged,
    NodeLeaves,
    NodeSilent,
    Notify,
    Published,
    TermBegan,
    TermEnds,
    Tick,
    TickAt,
    ToNode,
    Unplaced,
)
from orlop.kernel.filters import kernel_filters, kernel_scorers
from orlop.kernel.placement import NodeFilter, NodeScorer
from orlop.kernel.planner import Planner, now_or_never
from orlop.kernel.state import State
from orlop.model.asks import Explanation
from orlop.model.clock import Now, format_utc
from orlop.model.log_entries import LogEntry, LogRecord
from orlop.model.messages import CLOCK, FACTS, Epoch, Hello, Received, Refused, Welcome
from orlop.model.nodes import Node, NodeState
from orlop.model.tasks import Exit, Outcome, Status, Task, TaskState, drain_reason

FORGET_PER_STEP_MAX: Final = 256
MAX_CLOCK_SKEW_MS: Final = 5_000
#: Types of the event log's entries about leaders.
TERM_BEGAN: Final = "leader.began"
TERM_ENDED: Final = "leader.ended"


@attrs.frozen(kw_only=True)
class KernelSettings:
    """ended_tasks_kept: records of ended tasks. log_records_kept: transactions in the event log."""

    ended_tasks_kept: int = 1_000
    log_records_kept: int = 10_000


@attrs.frozen(kw_only=True)
class Step:
    """The result of a batch. puts: key → document (attrs instance). deletes: keys. Nothing to write: both empty."""

    state: State
    puts: Mapping[str, Any]
    deletes: frozenset[str]
    effects: tuple[Effect, ...]


class Kernel:
    """Decisions of one cluster. It holds configuration only."""

    def __init__(
        self,
        filters: Sequence[NodeFilter] | None = None,
        scorers: Sequence[NodeScorer] | None = None,
        settings: KernelSettings | None = None,
        role_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.settings = settings or KernelSettings()
        self._planner = Planner(
            kernel_filters() if filters is None else filters,
            kernel_scorers() if scorers is None else scorers,
            role_weights,
        )

    def step(self, state: State, events: Iterable[Event], now: Now, epoch: Epoch) -> Step:
        """Handles the events in order. See the module."""
        batch = _Batch(self, state, now, epoch)
        for event in events:
            batch.handle(event)
        return batch.finish()

    def explain(self, state: State, task: Task) -> Explanation:
        """Why a task waits: each filter and how many nodes it rules out."""
        return self._planner.explain(state, task)

    @property
    def planner(self) -> Planner:
        return self._planner


def steady_now(state: State, now: Now) -> Now:
    """`now`, never below the last committed time by up to 5 s; a clock that is further back is followed."""
    if state.utc_ms - MAX_CLOCK_SKEW_MS <= now.utc_ms < state.utc_ms:
        return Now(utc_ms=state.utc_ms, monotonic_ms=now.monotonic_ms)
    return now


class _Batch:
    """One step in the making."""

    def __init__(self, kernel: Kernel, state: State, now: Now, epoch: Epoch) -> None:
        self._kernel = kernel
        self._now = steady_now(state, now)
        self._set_back_ms = max(0, state.utc_ms - self._now.utc_ms)
        self._epoch = epoch
        self._draft = Draft(state, self._now)
        self._sessions: dict[str, str] = {}
        self._told: dict[str, bool] = {}
        self._received: dict[tuple[str, str], list[tuple[str, int, int]]] = {}
        self._answers: list[Answer] = []
        self._unplaced: list[Unplaced] = []
        self._published: list[Published] = []
        self._rejected: dict[str, dict[str, Explanation]] = {}

    # Events

    def handle(self, event: Event) -> None:
        match event:
            case AgentStatuses():
                self._statuses(event)
            case FrameworkActions():
                self._actions(event)
            case AgentHello():
                self._hello(event)
            case NodeSilent():
                self._silent(event)
            case NodeLeaves():
                self._leaves(event)
            case NodeFactsChanged():
                self._draft.put_facts(event.node, event.facts)
            case DrainNode():
                self._drain(event)
            case ForgetNode():
                self._forget_node(event)
            case KillTask():
                self._kill_task(event)
            case TermBegan():
                self._note_term(TERM_BEGAN, event.server, event.reason, since=format_utc(event.since_utc_ms))
            case TermEnds():
                self._note_term(TERM_ENDED, event.server, event.reason)
            case Tick():
                pass  # what is due is looked at in every step

    def _note_term(self, kind: str, server: str, reason: str, **details: str) -> None:
        details = {"term": f"{self._epoch.generation}.{self._epoch.revision}", **details}
        self._draft.note(kind, server, **details, **({"reason": reason} if reason else {}))

    def _hello(self, event: AgentHello) -> None:
        hello = event.hello
        if hello.cluster_id not in ("", self._draft.base.cluster_id):
            reason = f"this agent belongs to cluster {hello.cluster_id}, and this is {self._draft.base.cluster_id}"
            self._sessions[hello.node.id] = ""
            self._answers.append(Answer(token=event.session, value=Refused(reason=reason)))
            return
        known = self._draft.find_node(hello.node.id)
        node = Node(
            info=hello.node,
            state=NodeState.READY,
            state_since_utc_ms=known.state_since_utc_ms
            if known is not None and known.state is NodeState.READY
            else self._now.utc_ms,
            drained=known.drained if known is not None else False,
            drain_at_utc_ms=known.drain_at_utc_ms if known is not None else 0,
        )
        if node != known:
            self._draft.put_node(node)
            if known is None or known.state is not NodeState.READY:
                self._draft.note("node.ready", node.id, name=node.info.name)
            if known is not None and known.info.runtimes != node.info.runtimes:
                self._note_runtimes(node)
        # Whatever was known of it is void: another machine may have the node's name now.
        self._draft.put_facts(node.id, event.facts, hello=True)
        self._sessions[node.id] = event.session
        self._told[node.id] = event.facts is not None
        if known is not None and known.state is not NodeState.READY:
            self._reachable_again(node.id)
        self._reported(event.session, node.id, hello)

    def _note_runtimes(self, node: Node) -> None:
        reason = "; ".join(f"{runtime}: {why}" for runtime, why in node.info.unavailable.items())
        runtimes = ", ".join(node.info.runtimes)
        self._draft.note("node.runtimes", node.id, name=node.info.name, runtimes=runtimes, reason=reason)

    def _reachable_again(self, node_id: str) -> None:
        for _, task_id in sorted(self._draft.candidate(node_id).tasks.items()):
            task = self._draft.task(task_id)
            if task is not None and task.unreachable:
                changed = task.changed(unreachable=False)
                self._draft.put_task(changed)
                self._draft.touch(changed)

    def _reported(self, session: str, node_id: str, hello: Hello) -> None:
        for task_id, where in sorted(self._draft.orphans.items()):
            if where == node_id:
                self._draft.set_orphan(task_id, None)
        self._statuses(AgentStatuses(session=session, node=node_id, statuses=hello.statuses))

    def _statuses(self, event: AgentStatuses) -> None:
        received = self._received.setdefault((event.node, event.session), [])
        for status in event.statuses:
            received.append((status.task, status.incarnation, status.sequence))
            task = self._draft.task(status.task)
            if task is None or task.node != event.node:
                self._orphan(event.node, status, task)
                continue
            changed = lifecycle.observe(task, status, self._now.utc_ms)
            if changed is not None:
                self._observed(task, changed)

    def _orphan(self, node_id: str, status: Status, task: Task | None) -> None:
        """task: what the state has under its id, which is not on this node."""
        gone = status.state in (TaskState.ENDED, TaskState.REMOVED)
        if not gone and task is not None and task.live and task.placement is None:
            self._draft.end_started_before(task, node_id)
        if gone or self._draft.orphans.get(status.task) != node_id:
            self._draft.set_orphan(status.task, None if gone else node_id)
            if not gone:
                self._draft.note("task.orphan", status.task, node=node_id)

    def _observed(self, before: Task, after: Task) -> None:
        if after.state is TaskState.REMOVED:
            self._draft.finish_task(after)
            return
        self._draft.put_task(after)
        self._draft.touch(after)
        if after.state is TaskState.RUNNING and before.state is not TaskState.RUNNING:
            self._draft.note("task.running", after.id, after.cause, name=after.name)
        elif after.state is TaskState.PREPARED and after.status.incarnation > before.status.incarnation:
            reason = after.status.exit.reason if after.status.exit is not None else ""
            self._draft.note("task.stopped", after.id, after.cause, name=after.name, reason=reason)
        elif after.healthy is not before.healthy and after.healthy is not None:
            kind = "task.healthy" if after.healthy else "task.unhealthy"
            causes = [probe.last_failure_cause for probe in after.status.probes if probe.alive is False]
            self._draft.note(kind, after.id, after.cause, name=after.name, reason="; ".join(causes))

    def _silent(self, event: NodeSilent) -> None:
        node = self._draft.find_node(event.node)
        if node is None:
            return
        wanted = NodeState.GONE if event.gone else NodeState.UNREACHABLE
        if node.state not in (wanted, NodeState.GONE):
            self._draft.put_node(attrs.evolve(node, state=wanted, state_since_utc_ms=self._now.utc_ms))
            self._draft.note(f"node.{wanted.value}", node.id, name=node.info.name)
        for task in self._tasks_on(node.id):
            if lifecycle.is_lost(self._draft.spec(task.spec).policies.partition, event.gone, event.silent_ms):
                self._lose(task, f"node {node.info.name} is {wanted.value}")
            elif not task.unreachable:
                changed = task.changed(unreachable=True)
                self._draft.put_task(changed)
                self._draft.touch(changed)

    def _tasks_on(self, node_id: str) -> list[Task]:
        """In the order of asking."""
        found = [self._draft.task(task_id) for _, task_id in sorted(self._draft.candidate(node_id).tasks.items())]
        return [task for task in found if task is not None]

    def _lose(self, task: Task, reason: str) -> None:
        exit_ = Exit(outcome=Outcome.LOST, reason=reason)
        status = attrs.evolve(task.status, state=TaskState.REMOVED, exit=exit_)
        self._draft.finish_task(task.changed(status=status))

    def _leaves(self, event: NodeLeaves) -> None:
        node = self._draft.find_node(event.node)
        if node is not None and node.state is NodeState.READY and not node.away:
            self._draft.put_node(attrs.evolve(node, away=True))
            self._draft.note("node.away", node.id, name=node.info.name)

    def _drain(self, event: DrainNode) -> None:
        node = self._draft.find_node(event.node)
        if node is None:
            return
        at = self._now.utc_ms + event.within_ms if event.drained and event.within_ms is not None else 0
        if (node.drained, node.drain_at_utc_ms) != (event.drained, at):
            self._draft.put_node(attrs.evolve(node, drained=event.drained, drain_at_utc_ms=at))
            kind = "node.drained" if event.drained else "node.undrained"
            details = {"until": format_utc(at)} if at else {}
            if event.cause:
                details["by"] = event.cause
            self._draft.note(kind, node.id, event.cause, name=node.info.name, **details)

    def _forget_node(self, event: ForgetNode) -> None:
        node = self._draft.find_node(event.node)
        gone = node is not None and node.state is NodeState.GONE
        self._answers.append(Answer(token=event.token, value=gone))
        if node is None or not gone:
            return
        for task in self._tasks_on(node.id):
            self._lose(task, f"node {node.info.name} is forgotten")
        self._draft.forget_node(node.id)
        details = {"by": event.cause} if event.cause else {}
        self._draft.note("node.forgotten", node.id, event.cause, name=node.info.name, **details)

    def _stop_drained(self) -> None:
        """The time of drained nodes that has come: frameworks replace what is stopped there elsewhere."""
        for node_id, at in sorted(self._draft.draining.items()):
            node = self._draft.find_node(node_id)
            if at > self._now.utc_ms or node is None:
                continue
            self._draft.put_node(attrs.evolve(node, drain_at_utc_ms=0))
            for task in self._tasks_on(node_id):
                self._kill(task, drain_reason(node.info.name))

    def _kill_task(self, event: KillTask) -> None:
        task = self._draft.task(event.task)
        done = task is not None and task.live and self._kill(task, event.reason)
        self._answers.append(Answer(token=event.token, value=done))

    def _kill(self, task: Task, reason: str) -> bool:
        if task.placement is None:
            self._draft.end_unplaced(task, Outcome.KILLED, reason)
            return True
        node = self._draft.find_node(task.placement.node)
        if node is not None and node.state is NodeState.GONE:
            # Nobody is there to stop it; should the node come back, it finds that it shall not run this task.
            self._lose(task, f"{reason}; its node {node.info.name} is gone")
            return True
        stopping = lifecycle.stop(task, reason)
        if stopping is None:
            return False
        self._draft.put_task(stopping)
        self._draft.touch(stopping)
        self._draft.note("task.killing", task.id, task.cause, name=task.name, reason=reason)
        self._draft.send(stopping)
        return True

    def _actions(self, event: FrameworkActions) -> None:
        name = event.framework
        for (kind, object_id), stored in event.puts.items():
            self._draft.put_object(name, kind, object_id, stored)
        for kind, object_id in event.deletes:
            self._draft.delete_object(name, kind, object_id)
        for kill in event.kills:
            task = self._draft.live_task(name, kill.key)
            if task is not None:
                self._kill(task, kill.reason)
        for key in event.withdrawals:
            task = self._draft.live_task(name, key)
            if task is not None and task.placement is None:
                self._draft.end_unplaced(task, Outcome.WITHDRAWN, "withdrawn")
        for amendment in event.amendments:
            task = self._draft.live_task(name, amendment.key)
            if task is not None and task.spec != amendment.spec_id:
                self._draft.amend(task, amendment.spec_id, amendment.spec)
        for request in event.asks:
            self._draft.ask(name, request)
        self._draft.log_all(event.log)
        self._draft.set_cursor(name, event.seen)
        self._answers.extend(Answer(token=token, value=value) for token, value in event.replies.items())
        if event.live:
            self._published.append(Published(framework=name, items=event.live))

    # The end of the batch

    def finish(self) -> Step:
        self._draft.wake_delayed()
        self._stop_drained()
        self._kernel.planner.run(self._draft)
        self._reject()
        self._draft.forget_ended(self._kernel.settings.ended_tasks_kept, FORGET_PER_STEP_MAX)
        # Delayed tasks whose time has come are in no document, but must not be waited for again.
        woken = self._draft.next_due_utc_ms != self._draft.base.next_due_utc_ms
        writes = self._draft.puts or self._draft.deletes or self._draft.log
        if not writes and not woken and not self._tells_nodes():
            return self._unchanged()
        if self._set_back_ms:
            details = {"by_s": f"{self._set_back_ms / 1000:g}"}
            self._draft.log.append(LogEntry(type="clock.set_back", utc_ms=self._now.utc_ms, details=details))
        self._write_log()
        draft = self._draft
        draft.puts[records.META_KEY] = records.Meta(
            cluster_id=draft.base.cluster_id,
            generation=draft.base.generation,
            version=draft.version,
            utc_ms=self._now.utc_ms,
            next_sequence=draft.next_sequence,
        )
        state = draft.finish()
        return Step(
            state=state,
            puts=draft.puts,
            deletes=frozenset(draft.deletes),
            effects=tuple(self._effects(state)),
        )

    def _tells_nodes(self) -> bool:
        """What a node is told must be fenced, as a transaction is: a leader whose own clock has stood still does not
        know yet that another one leads."""
        return any(self._sessions.values()) or any(self._received.values())

    def _unchanged(self) -> Step:
        state = self._draft.remembered()
        return Step(state=state, puts={}, deletes=frozenset(), effects=tuple(self._effects(state)))

    def _reject(self) -> None:
        for task in now_or_never(self._draft):
            explanation = self._kernel.planner.explain_unplaced(self._draft, task)
            self._rejected.setdefault(task.framework, {})[task.key] = explanation
            self._unplaced.append(Unplaced(cause=task.cause, key=task.key, explanation=explanation))
            self._draft.end_unplaced(task, Outcome.WITHDRAWN, f"now or never: {explanation}")

    def _write_log(self) -> None:
        draft = self._draft
        beyond = draft.version - self._kernel.settings.log_records_kept
        if beyond > 0:
            draft.deletes.add(records.log_key(beyond))  # it may have a record although this version has none
        if not draft.log:
            return
        if draft.log_left_out:
            left_out = {"left_out": str(draft.log_left_out)}
            draft.log.append(LogEntry(type="log.truncated", utc_ms=self._now.utc_ms, details=left_out))
        draft.puts[records.log_key(draft.version)] = LogRecord(entries=tuple(draft.log))

    def _effects(self, state: State) -> Iterable[Effect]:
        yield from self._unplaced
        yield from self._answers
        if self._draft.log:
            yield Logged(version=self._draft.version, entries=tuple(self._draft.log))
        yield from self._published
        yield from (Forgotten(node=node_id) for node_id in self._draft.forgotten if state.node(node_id) is None)
        yield from self._to_nodes(state)
        names = set(self._draft.changed_keys) | set(self._rejected)
        if self._draft.nodes_changed:
            names |= set(state.frameworks)
        for name in sorted(names):
            yield Notify(
                framework=name,
                keys=frozenset(self._draft.changed_keys.get(name, ())),
                nodes=self._draft.nodes_changed,
                rejected=self._rejected.get(name, {}),
            )
        if due := state.due_utc_ms:
            yield TickAt(utc_ms=due)

    def _welcome(self, state: State, node_id: str) -> Welcome:
        understands = (FACTS, CLOCK)
        return Welcome(
            cluster_id=state.cluster_id, epoch=self._epoch, understands=understands, facts=self._told[node_id]
        )

    def _to_nodes(self, state: State) -> Iterable[ToNode | Assign]:
        for node_id, session in self._sessions.items():
            if session:
                yield ToNode(node=node_id, message=self._welcome(state, node_id), session=session)
        for (node_id, session), items in self._received.items():
            if items:
                yield ToNode(node=node_id, message=Received(items=tuple(items)), session=session)
        for node_id, session in self._sessions.items():
            if session:
                yield Assign(node=node_id, session=session, epoch=self._epoch, state=state)
        for node_id, task_ids in self._draft.assign.items():
            if node_id not in self._sessions:
                yield Assign(node=node_id, tasks=tuple(task_ids), epoch=self._epoch, state=state)
