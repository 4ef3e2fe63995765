"""The supervisor as a program: who may die, and what goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from supervised_node import SLEEP, SOURCE, Node, is_alive, pids_in, wait_until

from orlop.agent.cgroups import ControlGroups
from orlop.agent.supervisor import remains, spawn
from orlop.agent.supervisor.journal import Entry, Journal


def test_an_exit_code_is_kept_while_nobody_is_connected(node: Node) -> None:
    client, listed = node.open()
    gate = node.data / "gate"
    os.mkfifo(gate)
    client.send(**node.request("a", "/bin/sh", "-c", f"read -r code < {gate}; exit $code"))
    pid = client.wait_for("started", "a")["task"]["pid"]
    client.socket.close()
    gate.write_text("42\n")
    wait_until(lambda: not is_alive(pid), "the task ends")
    os.kill(listed["pid"], signal.SIGTERM)  # nothing runs, so it goes; the journal stays
    wait_until(lambda: not is_alive(listed["pid"]), "the supervisor ends")
    _, listed = node.open()
    assert listed["tasks"][0]["exit"]["code"] == 42


def test_tasks_outlive_a_killed_supervisor_and_their_code_is_not_invented(node: Node) -> None:
    client, listed = node.open()
    for task in ("stays", "goes"):
        client.send(**node.request(task, "/bin/sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.02; done"))
    stays, goes = (client.wait_for("started", task)["task"]["pid"] for task in ("stays", "goes"))
    os.kill(listed["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(listed["pid"]), "the supervisor is dead")
    os.kill(goes, signal.SIGKILL)
    wait_until(lambda: not is_alive(goes), "a task has ended meanwhile")
    client, again = node.open()
    assert again["pid"] != listed["pid"]
    entries = {entry["task"]: entry for entry in again["tasks"]}
    if "exit" not in entries["goes"]:  # nobody has reaped it yet: adopted as a zombie, told at once
        entries["goes"]["exit"] = client.ended("goes")
    assert entries["goes"]["exit"]["lost"]
    assert entries["goes"]["exit"]["code"] is None
    assert entries["stays"]["pid"] == stays
    assert "exit" not in entries["stays"]
    assert is_alive(stays)
    client.send(do="signal", task="stays", signal=int(signal.SIGTERM))
    ended = client.ended("stays")
    assert (ended["code"], ended["signal"]) == (None, None)
    assert "exit code is unknown" in ended["lost"]


def test_an_adopted_task_takes_its_children_with_it(node: Node) -> None:
    client, listed = node.open()
    client.send(**node.request("a", "/bin/sh", "-c", "sleep 1000 & echo $!; wait"))
    main = client.wait_for("started", "a")["task"]["pid"]
    (child,) = wait_until(lambda: pids_in(node.data / "stdout"), "the child has started")
    os.kill(listed["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(listed["pid"]), "the supervisor is dead")
    client, _ = node.open()
    os.kill(main, signal.SIGKILL)
    assert client.ended("a")["lost"]
    wait_until(lambda: not is_alive(child), "the child is killed")


def test_a_process_that_only_bears_the_same_number_is_left_alone(node: Node) -> None:
    bystander = subprocess.Popen(SLEEP, start_new_session=True)
    try:
        ticks = remains.start_ticks(bystander.pid)
        assert ticks is not None
        entry = Entry("a", 1, bystander.pid, ticks - 1, remains.boot_id(), str(node.data), [])
        Journal(str(node.data / "supervisor.journal")).rewrite({"a": entry})
        client, listed = node.open()
        assert listed["tasks"][0]["exit"]["lost"]
        client.send(do="kill", task="a")
        client.send(do="signal", task="a", signal=9)
        client.send(do="version")
        client.wait_for("version")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_after_a_reboot_tasks_are_lost_whoever_has_their_number_now(node: Node) -> None:
    ticks = remains.start_ticks(os.getpid())
    assert ticks is not None
    entry = Entry("a", 3, os.getpid(), ticks, "an earlier boot", str(node.data), [])
    Journal(str(node.data / "supervisor.journal")).rewrite({"a": entry})
    _, listed = node.open()
    assert listed["tasks"][0]["exit"]["lost"] == "machine rebooted"
    assert listed["tasks"][0]["incarnation"] == 3


def test_a_child_whose_parent_vanishes_before_the_journal_runs_nothing(node: Node) -> None:
    start = spawn.Start(node.request("a", "/usr/bin/touch", "ran"))
    (child,) = spawn.fork_all([start])
    assert isinstance(child, spawn.Child)
    assert is_alive(child.pid)
    child.abandon()
    assert not is_alive(child.pid)
    assert not (node.data / "ran").exists()


def test_reexec_keeps_the_number_the_children_and_their_codes(node: Node) -> None:
    client, listed = node.open()
    script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done"
    client.send(**node.request("a", "/bin/sh", "-c", script))
    client.send(**node.request("b", "/bin/sh", "-c", "exit 4"))
    started = client.wait_for("started", "a")["task"]
    stdout = node.data / "stdout"
    wait_until(lambda: stdout.exists() and stdout.read_text(), "it minds the signal")
    newer = node.data / "newer"
    shutil.copytree(SOURCE, newer / "supervisor")
    client.send(
        do="reexec",
        executable=sys.executable,
        source=str(newer / "supervisor" / "__main__.py"),
        options=node.options(version="second"),
    )
    wait_until(lambda: client.socket.recv(1 << 20) == b"", "the old connection is closed")
    client, again = node.open()
    assert (again["pid"], again["version"]) == (listed["pid"], "second")
    assert str(newer).encode() in Path(f"/proc/{again['pid']}/cmdline").read_bytes()
    entries = {entry["task"]: entry for entry in again["tasks"]}
    assert entries["a"]["pid"] == started["pid"]
    assert is_alive(started["pid"])
    assert entries["b"]["exit"]["code"] == 4
    client.send(do="signal", task="a", signal=int(signal.SIGTERM))
    assert client.ended("a")["code"] == 5


def test_a_reexec_to_nothing_is_refused(node: Node) -> None:
    client, listed = node.open()
    for nothing in (str(node.data / "absent"), str(node.data)):
        client.send(do="reexec", executable=nothing, source=nothing, options={})
        assert "executable: expected the path" in client.wait_for("error")["reason"]
    client.send(do="version")
    assert client.wait_for("version") == {"is": "version", "version": "first", "pid": listed["pid"]}


def test_it_lives_apart_from_whom_it_was_started_by(node: Node, control_groups: ControlGroups) -> None:
    node.groups = control_groups.supervisor()
    _, listed = node.open()
    stat = Path(f"/proc/{listed['pid']}/stat").read_text().rpartition(")")[2].split()
    assert int(stat[3]) == int(stat[2]) != os.getsid(0)
    assert int(stat[1]) != os.getpid()
    assert int(stat[4]) == 0  # no terminal
    for path in control_groups.supervisor():
        assert listed["pid"] in pids_in(Path(path, "cgroup.procs"))
    node.close()


def test_the_socket_is_private_and_there_is_one_supervisor_only(node: Node) -> None:
    _, listed = node.open()
    assert (node.data / "supervisor.sock").stat().st_mode & 0o777 == 0o600
    assert (node.data / "supervisor.journal").stat().st_mode & 0o777 == 0o600
    assert node.launch().returncode == 3
    assert node.open()[1]["pid"] == listed["pid"]


def test_with_nothing_to_do_it_ends_by_itself(node: Node) -> None:
    node.idle_exit_s = 0.1
    client, listed = node.open()
    client.send(**node.request("a", "/bin/true"))
    client.ended("a")
    client.socket.close()
    wait_until(lambda: not is_alive(listed["pid"]), "it ends")
    assert not (node.data / "supervisor.sock").exists()


def test_a_journal_of_a_later_version_is_left_alone(node: Node) -> None:
    path = node.data / "supervisor.journal"
    path.write_text('{"v":99}\n')
    refused = node.launch()
    assert refused.returncode == 1
    assert b"the journal has version 99, and this supervisor knows up to 1" in refused.stderr
    assert path.read_text() == '{"v":99}\n'
    path.unlink()
