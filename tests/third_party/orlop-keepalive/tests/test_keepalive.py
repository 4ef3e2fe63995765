import pytest
from orlop_keepalive import Config, KeepAlive

from orlop.framework import Framework
from orlop.testing.pytest_plugin import ClusterFactory, PluginLoader, SimulationRunner
from orlop.testing.scenario import Scenario, SimulatedCluster


def keepalive(copies: int) -> KeepAlive:
    return KeepAlive(Config(command="sleep 1000", copies=copies))


def test_it_keeps_as_many_copies_as_wanted(orlop_cluster: ClusterFactory) -> None:
    cluster = orlop_cluster(keepalive(copies=3))
    assert [task.key for task in cluster.running()] == ["copy-0", "copy-1", "copy-2"]


def test_it_replaces_a_copy_that_ended(orlop_cluster: ClusterFactory) -> None:
    cluster = orlop_cluster(keepalive(copies=3))
    cluster.end_task(cluster.running()[0], code=1)
    cluster.settle()
    assert len(cluster.running()) == 3


def test_it_replaces_the_copies_of_a_lost_machine(orlop_cluster: ClusterFactory) -> None:
    cluster = orlop_cluster(keepalive(copies=4), nodes=2)
    cluster.lose_node("n1")
    cluster.settle()
    assert {task.node for task in cluster.running()} == {"n2"}
    assert len(cluster.running()) == 4


def test_what_has_no_place_waits_and_is_explained(orlop_cluster: ClusterFactory) -> None:
    cluster = orlop_cluster(keepalive(copies=3), nodes=1, mem="64MiB")
    (pending,) = cluster.pending()
    assert str(cluster.explain(pending)) == "0 of 1 nodes fit: not enough mem (1)"


def test_a_new_leader_changes_nothing(orlop_cluster: ClusterFactory) -> None:
    cluster = orlop_cluster(keepalive(copies=3))
    before = {task.id for task in cluster.running()}
    cluster.restart()
    cluster.settle()
    assert {task.id for task in cluster.running()} == before


def test_a_restart_with_fewer_copies_stops_what_is_too_much(orlop_cluster: ClusterFactory) -> None:
    cluster = orlop_cluster(keepalive(copies=3))
    before = {task.id for task in cluster.running()}
    cluster.restart(keepalive(copies=2))
    cluster.settle()
    assert {task.id for task in cluster.running()} < before
    assert len(cluster.running()) == 2


def test_a_thousand_copies_run_on_a_thousand_machines(orlop_cluster: ClusterFactory) -> None:
    cluster = orlop_cluster(keepalive(copies=1_000), nodes=1_000)
    assert len(cluster.running()) == 1_000


class ThreeCopies(Scenario):
    """Whatever happens: never more than three are wanted, and in the end just those run."""

    def frameworks(self) -> list[Framework]:
        return [keepalive(copies=3)]

    def check_step(self, cluster: SimulatedCluster) -> None:
        if cluster.has_leader:
            assert len(cluster.view("keepalive").live) <= 3

    def check_end(self, cluster: SimulatedCluster) -> None:
        assert cluster.running("keepalive") == ["copy-0", "copy-1", "copy-2"]


def test_it_survives_everything(orlop_simulation: SimulationRunner) -> None:
    orlop_simulation(ThreeCopies)


def test_installed_but_not_configured_it_does_nothing(
    orlop_plugin: PluginLoader, orlop_cluster: ClusterFactory
) -> None:
    (framework,) = orlop_plugin("keepalive")
    assert orlop_cluster(framework).tasks() == []


def test_its_settings_are_those_of_its_table(orlop_plugin: PluginLoader, orlop_cluster: ClusterFactory) -> None:
    (framework,) = orlop_plugin("keepalive", copies=2)
    assert len(orlop_cluster(framework).running()) == 2
    with pytest.raises(AssertionError, match="copies"):
        orlop_plugin("keepalive", copies=-1)
