"""A store with many nodes and many tasks of Marathon's apps, all running: made by the real kernel and framework."""

from __future__ import annotations

from typing import Final

from orlop.kernel.events import AgentHello, Effect, Event
from orlop.kernel.loading import encode
from orlop.kernel.records import META_KEY
from orlop.model.messages import Hello
from orlop.store.interface import Put, Store
from orlop.testing.harness import EPOCH, Cluster, SimulatedNode
from orlop_marathon.framework import Marathon
from orlop_marathon.orders import CreateApp
from orlop_marathon.parsing import parse_app
from orlop_marathon.settings import Config

from .emulation import node_info

NODES_PER_STEP: Final = 500


class Populated(Cluster):
    """The harness without its checks, whose work grows with the whole state at each step."""

    def __init__(self, nodes: int, apps: int, tasks: int) -> None:
        super().__init__(Marathon(Config()), check_idempotence=False)
        for first in range(0, nodes, NODES_PER_STEP):
            infos = [node_info(number) for number in range(first, min(nodes, first + NODES_PER_STEP))]
            self.nodes.update((info.id, SimulatedNode(info)) for info in infos)
            self.step(*(AgentHello(session=f"session-{info.id}", hello=Hello(node=info)) for info in infos))
        for number in range(apps):
            instances = tasks // apps + (number < tasks % apps)
            app = {"id": f"/apps/app-{number}", "cmd": "exec sleep 1000", "cpus": 0.01, "mem": 1}
            self.command("marathon", CreateApp(app=parse_app({**app, "instances": instances})))
            self.settle()
        assert sum(task.running for task in self.state.tasks.values()) == tasks

    def _commit(self, *events: Event) -> tuple[Effect, ...]:
        step = self.kernel.step(self.state, events, self.now, EPOCH)
        self.state = step.state
        self.documents.update((key, encode(document)) for key, document in step.puts.items())
        for key in step.deletes:
            self.documents.pop(key, None)
        return step.effects

    def write(self, store: Store) -> int:
        """All documents, the state's own one last. How many bytes."""
        puts = [Put(key, data) for key, data in self.documents.items() if key != META_KEY]
        puts.append(Put(META_KEY, self.documents[META_KEY]))
        at_once = store.limits.operations
        for first in range(0, len(puts), at_once):
            store.transact(puts[first : first + at_once])
        return sum(len(put.value) for put in puts)
