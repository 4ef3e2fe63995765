from importlib.metadata import entry_points

from orlop_keepalive import Config, KeepAlive

from orlop.configuration import Settings
from orlop.server.plugin_host import PluginHost
from orlop.testing.harness import Cluster


def cluster_with(copies: int) -> Cluster:
    cluster = Cluster(KeepAlive(Config(command="sleep 1000", copies=copies)))
    for name in ("n1", "n2"):
        cluster.add_node(name, cpus=4, mem="1GiB")
    cluster.settle()
    return cluster


def test_it_keeps_as_many_copies_as_wanted() -> None:
    cluster = cluster_with(copies=3)
    assert [task.key for task in cluster.running()] == ["copy-0", "copy-1", "copy-2"]


def test_it_replaces_a_copy_that_ended() -> None:
    cluster = cluster_with(copies=3)
    cluster.end_task(cluster.running()[0], code=1)
    cluster.settle()
    assert len(cluster.running()) == 3


def test_it_replaces_the_copies_of_a_lost_machine() -> None:
    cluster = cluster_with(copies=4)
    cluster.lose_node("n1")
    cluster.settle()
    assert {task.node for task in cluster.running()} == {"n2"}
    assert len(cluster.running()) == 4


def test_a_restart_keeps_what_runs_and_stops_what_is_too_much() -> None:
    cluster = cluster_with(copies=3)
    before = {task.id for task in cluster.running()}
    cluster.restart(KeepAlive(Config(copies=2)))
    cluster.settle()
    assert {task.id for task in cluster.running()} < before
    assert len(cluster.running()) == 2


def test_installed_but_not_configured_it_does_nothing() -> None:
    host = PluginHost(Settings(), found=list(entry_points(group="orlop", name="keepalive")))
    host.load()
    [record] = host.records()
    assert (record.name, record.state, record.distribution) == ("keepalive", "loaded", "orlop-keepalive")
    [(_, [framework])] = host.collect("frameworks")
    cluster = Cluster(framework(host.settings_of("keepalive")))
    cluster.add_node("n1")
    cluster.settle()
    assert cluster.tasks() == []
