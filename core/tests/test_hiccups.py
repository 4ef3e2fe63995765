"""An hour of hiccups of the network, each shorter than the bound that the operator guide states: no node is taken for
dead. One that is dead is noticed within the time that is stated.

What decides is the real thing: heartbeats' intervals, `Lifeline`, `Liveness`, the kernel. Simulated is TCP as Linux
has it: the pauses between its tries double, and are cut short by the user timeout; what comes through late is read in
order; while a try is under way nothing new is sent. Processes are a little late, always.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import pytest

from orlop.agent import lifeline as care
from orlop.agent.agent import HEARTBEAT_S
from orlop.agent.lifeline import Lifeline, Sample
from orlop.framework import Action, Ask, Framework, Process, Resources, View
from orlop.kernel.events import NodeSilent
from orlop.server.liveness import TICK_MS, Liveness, LivenessSettings
from orlop.testing.harness import Cluster
from orlop.testing.simulation.world import World

HOUR_MS: Final = 3_600_000
NODES: Final = 30
#: As in the operator guide.
HICCUP_MS: Final = 5_000
NOTICED_MS: Final = range(7_000, 8_751)
LATE_MS: Final = 40
TASKS: Final = 60
_RTO_MIN_MS: Final = 200
_RTO_MAX_MS: Final = 120_000


class Way:
    """Between one node and the server. An hour of it: in which times nothing, or little, comes through, and how late.

    A packet is lost by chance `loses` of the hiccup it is sent in, and by the direction.
    """

    def __init__(self, world: World, name: str, delay_ms: int) -> None:
        self._chance = world.source(f"way/{name}")
        self._world = world
        self.delay_ms = delay_ms
        self.lost: dict[str, float] = {"up": 0.0, "down": 0.0}
        self.late_until_ms = 0

    def arrives_ms(self, direction: str) -> int | None:
        """When a packet that is sent now arrives; None when it is lost."""
        if self._chance.random() < self.lost[direction]:
            return None
        return max(self._world.now_ms, self.late_until_ms) + self.delay_ms


class Connection:
    """The agent's end of a TCP connection, and what of it the server reads."""

    def __init__(self, world: World, way: Way) -> None:
        self._world = world
        self._way = way
        self._sent = self._acknowledged = self._read = 0
        self._rto_ms = self._base_ms = _RTO_MIN_MS + 2 * way.delay_ms
        self._tries = 0
        self._stamp_ms = 0
        self._timer = 0
        self.user_timeout_ms = 30_000
        self.broken = False
        self.heard_ms: list[int] = []

    def send(self) -> None:
        """One heartbeat."""
        self._sent += 1
        if self._sent - self._acknowledged == 1:
            self._tries, self._rto_ms = 0, self._base_ms
            self._arm(self._rto_ms)
        if not self._tries:
            self._transmit()

    def sample(self) -> Sample:
        return Sample(outstanding=self._sent - self._acknowledged, acknowledged=self._acknowledged, received=self._sent)

    def _transmit(self) -> None:
        upto, first = self._sent, self._acknowledged
        arrives_ms = self._way.arrives_ms("up")
        if arrives_ms is not None:
            self._world.after(arrives_ms - self._world.now_ms, lambda: self._arrived(first, upto))

    def _arrived(self, first: int, upto: int) -> None:
        if first <= self._read < upto:
            self._read = upto
            self.heard_ms.append(self._world.now_ms)
        acknowledged, back_ms = self._read, self._way.arrives_ms("down")
        if back_ms is not None:
            self._world.after(back_ms - self._world.now_ms, lambda: self._came_through(acknowledged))

    def _came_through(self, upto: int) -> None:
        if upto > self._acknowledged:
            self._acknowledged = upto
            self._tries, self._rto_ms = 0, self._base_ms
            self._timer += 1
            if self._sent > upto:
                self._arm(self._rto_ms)
                self._transmit()

    def _arm(self, delay_ms: int) -> None:
        self._timer += 1
        number = self._timer
        self._world.after(delay_ms, lambda: self._due() if number == self._timer and not self.broken else None)

    def _due(self) -> None:
        """The first try again is a probe, after which the pauses double."""
        now_ms = self._world.now_ms
        self._tries += 1
        if self._tries == 2:
            self._stamp_ms = now_ms
        stuck_ms = now_ms - self._stamp_ms if self._tries > 1 else 0
        if stuck_ms >= self.user_timeout_ms:
            self.broken = True
            return
        self._transmit()
        if self._tries > 1:
            self._rto_ms = min(2 * self._rto_ms, _RTO_MAX_MS)
        self._arm(min(self._rto_ms, max(1, self.user_timeout_ms - stuck_ms)))


class Agent:
    """Heartbeats, and the lifeline."""

    def __init__(self, world: World, name: str, delay_ms: int) -> None:
        self.name = name
        self.way = Way(world, name, delay_ms)
        self.connection = Connection(world, self.way)
        self.given_up = ""
        self.dead = False
        self._world = world
        self._chance = world.source(f"agent/{name}")
        self._lifeline = Lifeline(0)
        world.after(self._chance.randrange(1_000), self._beat)
        world.after(self._chance.randrange(250), self._look)

    def _late(self, delay_s: float) -> int:
        return round(delay_s * 1000) + self._chance.randrange(LATE_MS)

    def _beat(self) -> None:
        if not self.dead:
            self.connection.send()
            self._world.after(self._late(HEARTBEAT_S), self._beat)

    def _look(self) -> None:
        if not self.dead:
            advice = self._lifeline.look(self.connection.sample(), self._world.now_ms / 1000)
            self.given_up = self.given_up or advice.give_up
            self.connection.user_timeout_ms = round(advice.unacknowledged_s * 1000)
            self._world.after(self._late(care.LOOK_S), self._look)


class Many(Framework):
    """So many tasks, always."""

    name = "many"

    def reconcile(self, view: View) -> Iterator[Action]:
        for number in range(TASKS):
            if str(number) not in view.live:
                yield Ask(str(number), run=Process("sleep 1000"), needs=Resources(cpus=0.1, mem="32MiB"))


def heal(agents: Iterable[Agent]) -> None:
    for agent in agents:
        agent.way.lost.update(up=0.0, down=0.0)


class Hour:
    """A server with nodes on virtual time. told: when which silence was told."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.chance = self.world.source("hiccups")
        self.cluster = Cluster(Many())
        for number in range(NODES):
            self.cluster.add_node(f"n{number}")
        self.cluster.settle()
        names = list(self.cluster.nodes)
        self.agents = [Agent(self.world, name, self.chance.choice((0, 1, 10, 30, 50))) for name in names]
        self.liveness = Liveness(LivenessSettings(), iter(names), 0)
        self.told: list[tuple[int, NodeSilent]] = []
        self.world.after(TICK_MS, self._tick)

    def _tick(self) -> None:
        """What was read comes first, as on an event loop. Sometimes the server has no time for a moment."""
        for agent in self.agents:
            for heard_ms in agent.connection.heard_ms:
                self.liveness.heard(agent.name, heard_ms)
            agent.connection.heard_ms.clear()
        for event in self.liveness.tick(self.world.now_ms):
            self.told.append((self.world.now_ms, event))
            self.cluster.nodes[event.node].connected = False
            self.cluster.step(event)
        self.world.after(TICK_MS + self.chance.randrange(400 if self.chance.random() < 0.01 else 20), self._tick)

    def hiccups_of(self, agents: list[Agent]) -> None:
        """For ever: one after another, with time to be heard again in between."""
        for_ms = self.chance.choice((HICCUP_MS, self.chance.randrange(1, HICCUP_MS + 1)))
        kind = self.chance.choice(("cut", "up", "down", "loses", "late"))
        loses = self.chance.choice((0.5, 0.8, 0.95))
        for agent in agents:
            match kind:
                case "cut":
                    agent.way.lost.update(up=1.0, down=1.0)
                case "up" | "down":
                    agent.way.lost[kind] = 1.0
                case "loses":
                    agent.way.lost.update(up=loses, down=loses)
                case "late":
                    agent.way.late_until_ms = self.world.now_ms + for_ms
        self.world.after(for_ms, lambda: heal(agents))
        self.world.after(for_ms + self.chance.randrange(3_000, 40_000), lambda: self.hiccups_of(agents))

    def run(self, until_ms: int) -> None:
        self.world.run(until_ms, lambda: None)


@pytest.mark.parametrize("seed", range(4))
def test_an_hour_of_hiccups_is_no_alarm(seed: int) -> None:
    """Some nodes have hiccups of their own; the rest of them have theirs together, as behind one switch."""
    hour = Hour(seed)
    before = {task.id: task.node for task in hour.cluster.running()}
    assert len(before) == TASKS
    alone, together = hour.agents[: NODES // 2], hour.agents[NODES // 2 :]
    for agents in [*([agent] for agent in alone), together]:
        hour.world.after(hour.chance.randrange(5_000), lambda agents=agents: hour.hiccups_of(agents))  # type: ignore[misc]
    hour.run(HOUR_MS)
    assert hour.told == []
    assert {task.id: task.node for task in hour.cluster.running()} == before
    assert [agent.name for agent in hour.agents if agent.connection.broken or agent.given_up] == []


def test_without_the_lifeline_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated network is no kinder than a real one."""
    monkeypatch.setattr(care, "SLACK_S", 30.0)
    hour = Hour(0)
    hour.hiccups_of(hour.agents)
    hour.run(HOUR_MS // 6)
    assert hour.told


@pytest.mark.parametrize("seed", range(4))
def test_dead_nodes_are_noticed_in_time_and_what_was_there_runs_elsewhere(seed: int) -> None:
    hour = Hour(seed)
    dead = hour.chance.sample(hour.agents, 5)
    died: dict[str, int] = {}

    def die(agent: Agent) -> None:
        agent.dead = True
        agent.way.lost.update(up=1.0, down=1.0)
        died[agent.name] = hour.world.now_ms

    for agent in dead:
        hour.world.after(hour.chance.randrange(30_000, 60_000), lambda agent=agent: die(agent))  # type: ignore[misc]
    hour.run(80_000)
    noticed = {event.node: at_ms - died[event.node] for at_ms, event in hour.told if event.gone}
    assert noticed.keys() == died.keys()
    late_ms = 40 * 20  # ticks are late too
    assert all(NOTICED_MS.start - LATE_MS <= took_ms < NOTICED_MS.stop + late_ms for took_ms in noticed.values()), (
        noticed
    )
    hour.cluster.settle()
    where = [task.node for task in hour.cluster.running()]
    assert len(where) == TASKS
    assert not died.keys() & set(where)


@pytest.mark.parametrize("kind", ["up", "down"])
def test_a_cut_that_lasts_is_noticed_by_both_sides(kind: str) -> None:
    """The agent gives its connection up, and dials again; the server counts the node as lost, which it hears until
    then when only the other direction is cut."""
    hour = Hour(1)
    agent = hour.agents[0]
    hour.run(20_000)
    agent.way.lost[kind] = 1.0
    hour.run(20_000 + 9_500)
    assert "has arrived" in agent.given_up
    assert {event.node for _, event in hour.told} == ({agent.name} if kind == "up" else set())
    agent.dead = True
    agent.way.lost["up"] = 1.0
    hour.run(20_000 + 9_500 + 8_500)
    assert {event.node for _, event in hour.told} == {agent.name}
