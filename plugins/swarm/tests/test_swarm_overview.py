"""What the kernel knows of the pool, in `docker info`."""

from __future__ import annotations

from orlop.framework import Candidate, Node, NodeState, Resources
from orlop.model.nodes import NodeInfo
from orlop.model.ports import PortSet
from orlop_swarm.http.overview import KernelOverview
from orlop_swarm.merging import system
from orlop_swarm.settings import Config


def candidate(name: str, state: NodeState = NodeState.READY, **info: object) -> Candidate:
    total = Resources(cpus=4, mem="8GiB")
    said = NodeInfo(id=f"id-{name}", name=name, address="10.0.0.1", resources=total, **info)  # type: ignore[arg-type]
    free = total - Resources(cpus=1, mem="20MiB")
    return Candidate(node=Node(info=said, state=state), free=free, unheld_ports=PortSet())


def test_reserved_is_what_the_tasks_of_all_frameworks_hold() -> None:
    candidates = [
        candidate("one", runtimes=("docker",), attributes={"rack": "r1"}),
        candidate("two", NodeState.UNREACHABLE, runtimes=("docker",)),
        candidate("three", runtimes=("process",), unavailable={"docker": "no such socket"}),
        candidate("four", runtimes=("process",)),
    ]
    overview = KernelOverview(
        lambda: candidates, Config(strategy="binpack"), name="blue", version="0.1", address="10.0.0.7:7370"
    )
    rows = [tuple(row) for row in system.info([], list(overview.members()), overview.about())["SystemStatus"]]
    assert rows[:2] == [("Role", "primary"), ("Primary", "10.0.0.7:7370")]
    assert ("Strategy", "binpack") in rows
    assert ("Nodes", "3") in rows
    assert ("  └ Reserved CPUs", "1 / 4") in rows
    assert ("  └ Reserved Memory", "20 MiB / 8 GiB") in rows
    assert ("  └ Labels", "rack=r1") in rows
    assert [value for name, value in rows if name == "  └ Error"] == ["no such socket", "the node is unreachable"]
