"""Control groups: where they are, what is written to them, how they go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervised_node import SLEEP, Node, is_alive, pids_in, remove_node_groups, wait_until

from orlop.agent import cgroups
from orlop.agent.cgroups import ControlGroups, NoControlGroups
from orlop.agent.supervisor import graves, journal, remains
from orlop.agent.supervisor.journal import Entry, Exit, Journal
from orlop.model.resources import Resources

HYBRID = """\
tmpfs /sys/fs/cgroup tmpfs ro 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup /sys/fs/cgroup/with\\040space cgroup rw,pids 0 0
"""


def test_hierarchies_are_found_in_the_list_of_mounts() -> None:
    first = cgroups.find_hierarchies(HYBRID)
    assert first.version == 1
    assert first.folders["cpu"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert first.folders["pids"] == Path("/sys/fs/cgroup/with space")
    second = cgroups.find_hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n")
    assert second.version == 2
    assert second.distinct == (Path("/sys/fs/cgroup"),)
    with pytest.raises(NoControlGroups, match="no control groups are mounted"):
        cgroups.find_hierarchies("proc /proc proc rw 0 0\n")


@pytest.mark.parametrize("version", [1, 2])
def test_limits_are_written_where_the_kernel_has_a_file_for_them(tmp_path: Path, version: int) -> None:
    folders = {name: tmp_path / (name if version == 1 else "all") for name in cgroups.CONTROLLERS}
    groups = ControlGroups(cgroups.Hierarchies(version, folders), "n1")
    files = {1: ["cpu.shares", "memory.limit_in_bytes"], 2: ["cpu.weight", "memory.max", "memory.swap.max"]}[version]
    for folder in folders.values():
        (folder / "orlop" / "n1" / "task").mkdir(parents=True, exist_ok=True)
    for name in files:
        (folders[name.partition(".")[0]] / "orlop" / "n1" / "task" / name).touch()
    paths = groups.create("task", 1, Resources(cpus=2, mem="64MiB"))
    found = {name: file.read_text() for path in paths for name in files if (file := Path(path, name)).exists()}
    if version == 1:
        assert found == {"cpu.shares": "2048", "memory.limit_in_bytes": str(64 * 2**20)}
        assert len(paths) == 3
    else:
        assert found == {"cpu.weight": "79", "memory.max": str(64 * 2**20), "memory.swap.max": "0"}
        assert len(paths) == 1


@settings(deadline=None)
@given(st.text(), st.integers(1, 5))
def test_a_groups_name_is_one_folder_that_the_kernel_takes_for_no_file(task: str, incarnation: int) -> None:
    name = cgroups.group_name(task, incarnation)
    assert name not in ("", ".", "..", cgroups.SUPERVISOR_GROUP)
    assert "/" not in name
    assert len(name.encode()) <= 255
    assert not name.startswith(("cgroup.", "memory.", "cpu.", "pids."))


def test_a_sweep_removes_what_nobody_knows_and_nothing_that_lives(control_groups: ControlGroups, node: Node) -> None:
    client, _ = node.open()
    kept = control_groups.create("kept", 1, Resources())
    forgotten = control_groups.create("forgotten", 1, Resources())
    busy = control_groups.create("busy", 1, Resources())
    client.send(**node.request("busy", *SLEEP, groups=list(busy)))
    client.wait_for("started", "busy")
    control_groups.sweep([kept])
    assert all(map(os.path.exists, kept + busy))
    assert not any(map(os.path.exists, forgotten))
    cgroups.remove(kept)
    client.send(do="kill", task="busy")
    client.ended("busy")
    wait_until(lambda: not any(map(os.path.exists, busy)), "the control groups are removed")


def test_the_groups_of_a_task_that_has_ended_are_removed_by_the_next_supervisor(
    control_groups: ControlGroups, node: Node
) -> None:
    groups = control_groups.create("a", 1, Resources())
    entry = Entry("a", 1, 1, 1, remains.boot_id(), str(node.data), list(groups))
    entry.exit = Exit(code=3)
    Journal(str(node.data / "supervisor.journal")).rewrite({"a": entry})
    with open(node.data / "supervisor.journal", "ab") as file:
        file.write(json.dumps(journal.exited(entry)).encode() + b"\n")
    _, listed = node.open()
    assert [task["exit"]["code"] for task in listed["tasks"]] == [3]
    wait_until(lambda: not any(map(os.path.exists, groups)), "the control groups are removed")


def test_control_groups_that_cannot_be_removed_yet_are_tried_again_at_intervals(
    control_groups: ControlGroups, node: Node
) -> None:
    table = {}
    for number in range(graves.TOGETHER + 8):
        task = f"t{number}"
        groups = control_groups.create(task, 1, Resources())
        os.mkdir(f"{groups[0]}/inner")
        table[task] = Entry(task, 1, 1, 1, remains.boot_id(), str(node.data), list(groups))
        table[task].exit = Exit(code=3)
    Journal(str(node.data / "supervisor.journal")).rewrite(table)
    client, _ = node.open()
    for _ in range(3 * graves.ATTEMPTS_MAX):  # more turns of its loop than it has attempts
        client.send(do="version")
        client.wait_for("version")
    left = [group for entry in table.values() for group in entry.groups]
    for group in filter(os.path.exists, [f"{group}/inner" for group in left]):
        os.rmdir(group)
    wait_until(lambda: not any(map(os.path.exists, left)), "the control groups are removed")


def test_version_2_kills_and_removes_a_group_as_a_whole(node: Node) -> None:
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"]
    if not mounts:
        pytest.skip("version 2 is not mounted")
    try:
        groups = ControlGroups.open(f"test2-{os.getpid()}", "\n".join(mounts))
    except NoControlGroups as error:
        pytest.skip(str(error))
    (path,) = groups.create("a", 1, Resources())
    client, _ = node.open()
    script = "setsid sh -c 'echo $$; exec sleep 1000' & exec sleep 1000"
    client.send(**node.request("a", "/bin/sh", "-c", script, groups=[path]))
    client.wait_for("started", "a")
    (away,) = wait_until(lambda: pids_in(node.data / "stdout"), "the grandchild has started")
    client.send(do="kill", task="a")
    client.ended("a")
    wait_until(lambda: not is_alive(away) and not os.path.exists(path), "all is gone")
    remove_node_groups(groups)
